//! The way into the web UI: links that count once, and sessions.

use api::UiLink;
use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Answer, ApiState, Problem};
use crate::rest::has_token;
use crate::web::Sessions;

/// What a browser is told of its session.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    /// Whether it has one.
    signed_in: bool,
    /// What every change has to carry in `X-CSRF-Token`, where it has one.
    csrf: Option<String>,
}

/// Proof that a request has the token or a session: for what is to be read by
/// the instance's owner alone, the names in other directories say.
pub(crate) struct Owner;

impl FromRequestParts<ApiState> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let token = &state.node.token;
        let sessions = Sessions::new(token);
        if has_token(&parts.headers, token)
            || sessions.csrf(&parts.headers, Timestamp::now()).is_some()
        {
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
pub(crate) async fn link(State(state): State<ApiState>, headers: HeaderMap) -> Answer<UiLink> {
    // The guard has checked it: it is a name of loopback.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.ok_or_else(|| Problem::bad("a request has exactly one Host header"))?;
    let key = state.login_keys.make();
    Ok(Json(UiLink { url: format!("http://{host}/ui/login?key={key}") }))
}

/// Whether this browser has a session.
#[utoipa::path(get, path = "/ui/session", responses((status = 200, body = Session)))]
pub(crate) async fn session(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let csrf = Sessions::new(&state.node.token).csrf(&headers, Timestamp::now());
    let session = Session { signed_in: csrf.is_some(), csrf };
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(session)).into_response()
}

fn with_cookie(cookie: &str) -> Response {
    match HeaderValue::from_str(cookie) {
        Ok(cookie) => (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// Begins a session of this browser; it takes the token.
#[utoipa::path(
    post,
    path = "/ui/session",
    responses(
        (status = 204, description = "The cookie is set"),
        (status = 401, description = "Without the token", body = api::ApiProblem),
    )
)]
pub(crate) async fn sign_in(State(state): State<ApiState>) -> Response {
    with_cookie(&Sessions::new(&state.node.token).begin(Timestamp::now()))
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
pub(crate) async fn sign_out(State(state): State<ApiState>) -> Response {
    with_cookie(&Sessions::new(&state.node.token).end())
}
