//! The way into the web UI: links that count once, and sessions.

use api::UiLink;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use node::Services;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Json;
use super::{Answer, Problem};
use crate::guard::is_owner;
use crate::session::{LoginKeys, Sessions};
use crate::state::ApiState;

/// What a browser is told of its session.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    /// Whether it has one, and carries in `X-CSRF-Token` what belongs to it.
    signed_in: bool,
}

/// What a browser is told once, when its session begins.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct SignedIn {
    /// What every change has to carry in `X-CSRF-Token`.
    csrf: String,
}

/// Proof that a request has the token or a session: for what is to be read by
/// the instance's owner alone, such as what is in the backups.
pub(crate) struct Owner;

impl FromRequestParts<ApiState> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        if is_owner(&parts.method, &parts.headers, &state.services.token) {
            return Ok(Self);
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "this takes a session of the web UI (`archivist ui` makes a link), or the token in \
             `Authorization: Bearer`",
        ))
    }
}

/// Makes a link that opens the web UI once, within ten minutes.
#[utoipa::path(
    post,
    path = "/ui/link",
    responses(
        (status = 200, body = UiLink),
        (status = 401, description = "Without the token", body = api::ApiProblem),
    )
)]
pub(crate) async fn link(
    State(login_keys): State<LoginKeys>,
    headers: HeaderMap,
) -> Answer<UiLink> {
    // The guard has checked it: it is a name of loopback.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.ok_or_else(|| Problem::bad("a request has exactly one Host header"))?;
    let key = login_keys.make();
    Ok(Json(UiLink { url: format!("http://{host}/ui/login?key={key}") }))
}

/// Whether this browser has a session, and what its changes have to carry.
#[utoipa::path(get, path = "/ui/session", responses((status = 200, body = Session)))]
pub(crate) async fn session(State(services): State<Services>, headers: HeaderMap) -> Response {
    let sessions = Sessions::new(&services.token);
    let session = Session { signed_in: sessions.allows_change(&headers, Timestamp::now()) };
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(session)).into_response()
}

fn with_cookie(cookie: &str, answer: impl IntoResponse) -> Response {
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match HeaderValue::from_str(cookie) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie), no_store], answer).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// Begins a session of this browser; it takes the token.
#[utoipa::path(
    post,
    path = "/ui/session",
    responses(
        (status = 200, description = "The cookie is set", body = SignedIn),
        (status = 401, description = "Without the token", body = api::ApiProblem),
    )
)]
pub(crate) async fn sign_in(State(services): State<Services>) -> Response {
    let begun = Sessions::new(&services.token).begin(Timestamp::now());
    with_cookie(&begun.cookie, Json(SignedIn { csrf: begun.csrf }))
}

/// Ends the session of this browser.
#[utoipa::path(
    delete,
    path = "/ui/session",
    responses(
        (status = 204, description = "The cookie is gone"),
        (status = 401, description = "Without the token", body = api::ApiProblem),
    )
)]
pub(crate) async fn sign_out(State(services): State<Services>) -> Response {
    with_cookie(&Sessions::new(&services.token).end(), StatusCode::NO_CONTENT)
}
