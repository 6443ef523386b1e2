//! Login links and sessions of the web UI.

use api::{DownloadLink, UiLink};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::Json;
use super::{ApiResult, Problem, blocking};
use crate::session::OneTimeKeys;
use crate::state::{ApiState, SignIn};

/// Beginnings of the paths that a browser may download with a ticket.
const DOWNLOADS: [&str; 2] = ["/api/v1/snapshots/", "/api/v1/receipts/export"];
/// Name of the query parameter with a ticket, which is the last one.
const TICKET: &str = "ticket=";

/// The session of a browser.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    /// True if the request has a valid session and its CSRF token in `X-CSRF-Token`.
    signed_in: bool,
}

/// The CSRF token of a new session, which is sent once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct SignedIn {
    /// The value of `X-CSRF-Token`, which every request of the session must carry.
    csrf: String,
}

/// Proof that a request has the token, a session or a ticket, as an extension of the request.
/// Handlers require it for data that only the owner of the instance may read, such as the content
/// of backups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner;

impl FromRequestParts<ApiState> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        parts.extensions.get().copied().ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "this request requires a session of the web UI (run `archivist ui` for a link) or \
                 the token in `Authorization: Bearer`",
            )
        })
    }
}

/// Reports whether the request has a ticket for its address, and uses it up. A `HEAD` does not
/// use a ticket up, and has none.
pub(crate) fn use_ticket(request: &Request, tickets: &OneTimeKeys) -> bool {
    if request.method() != Method::GET {
        return false;
    }
    let address = request.uri().path_and_query().map_or("", |address| address.as_str());
    let Some((before, ticket)) = address.rsplit_once(TICKET) else { return false };
    before.strip_suffix(['?', '&']).is_some_and(|purpose| tickets.use_key(ticket, purpose))
}

/// A download of a browser.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct DownloadRequest {
    /// The path and the query of the download, such as `/api/v1/snapshots/ID/file?path=a.txt`.
    path: String,
}

/// Makes an address that a browser can download without a header. It is valid once and expires
/// after a minute.
#[utoipa::path(
    post,
    path = "/ui/ticket",
    request_body = DownloadRequest,
    responses(
        (status = 200, body = DownloadLink),
        (status = 400, description = "The path is not one of a download", body = api::ApiProblem),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
    )
)]
pub(crate) async fn ticket(
    State(SignIn { tickets, .. }): State<SignIn>,
    Json(DownloadRequest { path }): Json<DownloadRequest>,
) -> ApiResult<DownloadLink> {
    if !DOWNLOADS.iter().any(|download| path.starts_with(download)) {
        return Err(Problem::bad(format!("{path:?} is not the path of a download")));
    }
    let ticket = tickets.make(&path);
    let separator = if path.contains('?') { '&' } else { '?' };
    Ok(Json(DownloadLink { url: format!("{path}{separator}{TICKET}{ticket}") }))
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
    State(SignIn { links, .. }): State<SignIn>,
    headers: HeaderMap,
) -> ApiResult<UiLink> {
    // The guard has checked that it is a name of loopback.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.ok_or_else(|| Problem::bad("a request must have exactly one Host header"))?;
    let key = links.make("");
    Ok(Json(UiLink { url: format!("http://{host}/ui/login?key={key}") }))
}

/// Reports whether this browser has a session.
#[utoipa::path(get, path = "/ui/session", responses((status = 200, body = Session)))]
pub(crate) async fn session(
    State(SignIn { sessions, .. }): State<SignIn>,
    headers: HeaderMap,
) -> Response {
    let session = Session { signed_in: sessions.allow(&headers, Timestamp::now()) };
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(session)).into_response()
}

fn with_cookie(cookie: &str, answer: impl IntoResponse) -> Response {
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match HeaderValue::from_str(cookie) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie), no_store], answer).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// Says that the list of sessions cannot be written, and what follows.
fn not_written(consequence: &str) -> impl Fn(std::io::Error) -> Problem {
    move |error| {
        let error = std::io::Error::new(
            error.kind(),
            format!("cannot write the list of browser sessions, so {consequence}: {error}"),
        );
        Problem::internal(&error)
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
pub(crate) async fn sign_in(
    State(SignIn { sessions, .. }): State<SignIn>,
) -> Result<Response, Problem> {
    let start = move || sessions.start(Timestamp::now()).map_err(not_written("nobody signed in"));
    let session = blocking(start).await?;
    Ok(with_cookie(&session.cookie, Json(SignedIn { csrf: session.csrf })))
}

/// Ends the session of this browser.
#[utoipa::path(
    delete,
    path = "/ui/session",
    responses(
        (status = 204, description = "The session has ended, and the cookie was removed"),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
    )
)]
pub(crate) async fn sign_out(
    State(SignIn { sessions, .. }): State<SignIn>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let end = move || sessions.end(&headers).map_err(not_written(REVIVED));
    let cookie = blocking(end).await?;
    Ok(with_cookie(&cookie, StatusCode::NO_CONTENT))
}

/// Consequence of a session that was ended in memory only.
const REVIVED: &str = "the session is valid again after a restart";

/// Ends the sessions of all browsers.
#[utoipa::path(
    delete,
    path = "/ui/sessions",
    responses(
        (status = 204, description = "All sessions have ended"),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
    )
)]
pub(crate) async fn sign_out_all(
    State(SignIn { sessions, .. }): State<SignIn>,
) -> Result<StatusCode, Problem> {
    blocking(move || sessions.end_all().map_err(not_written(REVIVED))).await?;
    Ok(StatusCode::NO_CONTENT)
}
