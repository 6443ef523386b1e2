//! Login links and sessions of the web UI.

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
use super::{ApiResult, Problem};
use crate::guard::is_owner;
use crate::session::{LoginKeys, Sessions};
use crate::state::ApiState;

/// The session of a browser.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    /// True if the request has a valid session and its CSRF token in `X-CSRF-Token`.
    signed_in: bool,
}

/// The CSRF token of a new session, which is sent once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct SignedIn {
    /// The value of `X-CSRF-Token`, which every change must carry.
    csrf: String,
}

/// Proof that a request has the token or a session. Handlers require it for data that
/// only the owner of the instance may read, such as the content of backups.
pub(crate) struct Owner;

impl FromRequestParts<ApiState> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        if is_owner(&parts.method, &parts.headers, &state.services.token) {
            return Ok(Self);
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "this request requires a session of the web UI (run `archivist ui` for a link) or \
             the token in `Authorization: Bearer`",
        ))
    }
}

/// Makes a link to the web UI. The link is valid once and expires after ten minutes.
#[utoipa::path(
    post,
    path = "/ui/link",
    responses(
        (status = 200, body = UiLink),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn link(
    State(login_keys): State<LoginKeys>,
    headers: HeaderMap,
) -> ApiResult<UiLink> {
    // The guard has checked that it is a name of loopback.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.ok_or_else(|| Problem::bad("a request must have exactly one Host header"))?;
    let key = login_keys.make();
    Ok(Json(UiLink { url: format!("http://{host}/ui/login?key={key}") }))
}

/// Reports whether this browser has a session.
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

/// Starts a session of this browser. Requires the token.
#[utoipa::path(
    post,
    path = "/ui/session",
    responses(
        (status = 200, description = "The answer sets the cookie", body = SignedIn),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn sign_in(State(services): State<Services>) -> Response {
    let session = Sessions::new(&services.token).start(Timestamp::now());
    with_cookie(&session.cookie, Json(SignedIn { csrf: session.csrf }))
}

/// Ends the session of this browser.
#[utoipa::path(
    delete,
    path = "/ui/session",
    responses(
        (status = 204, description = "The cookie was removed"),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn sign_out(State(services): State<Services>) -> Response {
    with_cookie(&Sessions::new(&services.token).end(), StatusCode::NO_CONTENT)
}
