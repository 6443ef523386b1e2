//! Pairing with another computer.

use api::{JoinReport, JoinRequest, PairingCode, PairingState};
use axum::extract::State;
use axum::http::StatusCode;
use node::Services;
use node::pairing::{CodeState, PairError};

use super::extract::Json;
use super::{ApiResult, Problem};
use types::with_causes;

/// Makes a code to enter on the backup server. An earlier code is no longer valid.
#[utoipa::path(
    post,
    path = "/pairing",
    responses(
        (status = 200, body = PairingCode),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn open(State(services): State<Services>) -> Json<PairingCode> {
    let (code, expires_at) = services.pairing.open();
    Json(PairingCode { code, expires_at })
}

/// Returns the state of the newest code.
#[utoipa::path(get, path = "/pairing", responses((status = 200, body = PairingState)))]
pub(crate) async fn state(State(services): State<Services>) -> Json<PairingState> {
    let plain = |state: &str| PairingState {
        state: state.to_owned(),
        expires_at: None,
        peer_id: None,
        detail: None,
    };
    Json(match services.pairing.code_state() {
        CodeState::None => plain("none"),
        CodeState::Waiting { until } => {
            PairingState { expires_at: Some(until), ..plain("waiting") }
        }
        CodeState::Joining => plain("joining"),
        CodeState::Joined { peer, changes } => PairingState {
            peer_id: Some(peer.to_string()),
            detail: Some(changes.join("; ")),
            ..plain("joined")
        },
        CodeState::Expired => PairingState {
            detail: Some("the code has expired; make a new one".into()),
            ..plain("expired")
        },
        CodeState::Failed(reason) => PairingState { detail: Some(reason), ..plain("failed") },
    })
}

/// Enters a code that another computer has shown. This computer becomes its backup
/// server.
#[utoipa::path(
    post,
    path = "/pairing/join",
    request_body = JoinRequest,
    responses(
        (status = 200, description = "Both sides are paired", body = JoinReport),
        (status = 400, description = "The code is not valid", body = api::ApiProblem),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 409, description = "The configuration cannot be changed", body = api::ApiProblem),
        (status = 502, description = "The other computer cannot be reached, or refused the code",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn join(
    State(services): State<Services>,
    Json(request): Json<JoinRequest>,
) -> ApiResult<JoinReport> {
    let joined = services.pairing.join(&request.code).await.map_err(|error| {
        let status = match &error {
            PairError::Code(_) | PairError::Own => StatusCode::BAD_REQUEST,
            PairError::Config(_) => StatusCode::CONFLICT,
            _ => StatusCode::BAD_GATEWAY,
        };
        Problem::new(status, with_causes(&error))
    })?;
    let waiting = services.settings.waiting_for_restart();
    Ok(Json(JoinReport {
        name: joined.name,
        peer_id: joined.peer.to_string(),
        manifest_server_url: joined.manifest_server_url,
        addresses: joined.addresses.iter().map(ToString::to_string).collect(),
        changes: joined.changes,
        needs_restart: waiting.into_iter().map(|change| change.key.to_string()).collect(),
    }))
}
