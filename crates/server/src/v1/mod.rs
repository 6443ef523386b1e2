//! The product's own API, `/api/v1`, for the command line, the web UI and other
//! programs. Its OpenAPI document is generated from these handlers.
//!
//! Programs of the user that the instance runs as may read the status. The content of backups
//! and the settings require the token or a session of the web UI ([`ui::Owner`]), and
//! so does every change, or every request if `[node] api_require_token` is set.

mod backup_now;
mod config;
mod connection;
mod contents;
mod directories;
mod events;
mod extract;
mod folders;
mod jobs;
mod journal;
mod manifests;
mod metrics;
mod pairing;
mod peers;
mod receipts;
mod restores;
mod search;
mod snapshots;
mod sources;
mod status;
mod ui;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use types::with_causes;
use utoipa::OpenApi;
use utoipa::openapi::ResponseBuilder;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::extract::Json;
use crate::guard;
use crate::state::ApiState;

/// The parts of the OpenAPI document that belong to no handler.
#[derive(OpenApi)]
#[openapi(info(
    title = "Archivist",
    description = "Continuous, versioned backup of folders from one machine to another. \
                   The API listens on loopback only. Programs of the user that archivist runs as \
                   may read the status. The names and contents of backups, the settings and every \
                   change require `Authorization: Bearer` with the content of the file \
                   `api-token` in the data directory."
))]
struct Document;

/// Returns the handlers and the OpenAPI document that is generated from them.
fn documented() -> (Router<ApiState>, utoipa::openapi::OpenApi) {
    let documented = OpenApiRouter::with_openapi(Document::openapi()).nest("/api/v1", routes());
    let (api, mut document) = documented.split_for_parts();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ] {
            if let Some(operation) = operation {
                operation.operation_id = Some(operation_id(method, path));
                // Errors of every layer have the same form.
                let responses = &mut operation.responses.responses;
                responses.insert("default".to_owned(), problem_response().into());
            }
        }
    }
    (api, document)
}

/// Returns the error answer of every operation for the document.
fn problem_response() -> utoipa::openapi::Response {
    let problem = utoipa::openapi::Ref::from_schema_name("ApiProblem");
    let content = utoipa::openapi::ContentBuilder::new().schema(Some(problem)).build();
    ResponseBuilder::new()
        .description("Any other error")
        .content("application/json", content)
        .build()
}

/// Returns a unique operation id. The names of handlers are not unique across
/// modules.
fn operation_id(method: &str, path: &str) -> String {
    let parts = path.trim_start_matches("/api/v1").split('/').filter(|part| !part.is_empty());
    let parts: Vec<String> =
        parts.map(|part| part.trim_matches(['{', '}']).replace('-', "_")).collect();
    format!("{method}_{}", parts.join("_"))
}

/// Returns the routes.
pub(crate) fn router(state: ApiState) -> Router {
    let (api, document) = documented();
    // The document does not change while the program runs.
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let document = move || {
        let document = document.clone();
        async move {
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], document.to_string())
        }
    };
    api.route("/api/v1/openapi.json", get(document))
        .route("/metrics", get(metrics::metrics))
        .layer(axum::middleware::from_fn_with_state(state.clone(), token))
        .route("/api/v1/{*rest}", axum::routing::any(no_such_thing))
        .method_not_allowed_fallback(no_such_method)
        .with_state(state)
}

async fn no_such_thing() -> Problem {
    Problem::not_found("this path does not exist; see /api/v1/openapi.json for all paths")
}

async fn no_such_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not support the method; see the Allow header",
    )
}

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(events::events))
        .routes(routes!(folders::list, folders::add))
        .routes(routes!(folders::remove, folders::update))
        .routes(routes!(folders::pause))
        .routes(routes!(folders::resume))
        .routes(routes!(folders::confirm))
        .routes(routes!(folders::errors))
        .routes(routes!(backup_now::sync_now))
        .routes(routes!(backup_now::backup_now))
        .routes(routes!(pairing::open, pairing::state))
        .routes(routes!(pairing::join))
        .routes(routes!(snapshots::list))
        .routes(routes!(snapshots::confirm))
        .routes(routes!(snapshots::remove))
        .routes(routes!(snapshots::entries))
        .routes(routes!(restores::start, restores::list))
        .routes(routes!(restores::get, restores::cancel))
        .routes(routes!(jobs::verify))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::prune))
        .routes(routes!(jobs::recover))
        .routes(routes!(sources::list, sources::add))
        .routes(routes!(sources::remove))
        .routes(routes!(sources::accept))
        .routes(routes!(sources::poll_one))
        .routes(routes!(sources::poll))
        .routes(routes!(receipts::list))
        .routes(routes!(receipts::export))
        .routes(routes!(receipts::accept))
        .routes(routes!(peers::list))
        .routes(routes!(peers::connect))
        .routes(routes!(manifests::show))
        .routes(routes!(config::all, config::set))
        .routes(routes!(config::keys))
        .routes(routes!(ui::link))
        .routes(routes!(ui::session, ui::sign_in, ui::sign_out))
        .routes(routes!(ui::sign_out_all))
        .routes(routes!(ui::ticket))
        .routes(routes!(directories::list))
        .routes(routes!(directories::preview))
        .routes(routes!(search::search))
        .routes(routes!(search::of_file))
        .routes(routes!(contents::file))
        .routes(routes!(contents::zip))
        .routes(routes!(connection::test))
        .routes(routes!(journal::journal))
        .routes(routes!(journal::logs))
        .routes(routes!(journal::traffic))
}

/// Path by which a browser finds out that it has no session: anybody may read it.
const SESSION_PATH: &str = "/api/v1/ui/session";
/// Paths that every program of this computer may read, unless the token is required.
const OPEN_PATHS: [&str; 2] = ["/api/v1/openapi.json", "/metrics"];

/// Requires the token, or a session of the web UI, for every request that changes something.
/// Requests that read may come from any program of the user of this instance, and the metrics
/// from any program of this computer, unless the configuration requires the token.
async fn token(
    State(ApiState { services, sign_in }): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_read_only = guard::is_read_only(request.method());
    if guard::has_credentials(request.headers(), &services.token, &sign_in.sessions)
        || ui::use_ticket(&request, &sign_in.tickets)
    {
        request.extensions_mut().insert(ui::Owner);
        return next.run(request).await;
    }
    let path = request.uri().path();
    let is_open = path == SESSION_PATH
        || (OPEN_PATHS.contains(&path) && !services.settings.get().node.api_require_token);
    let caller = request.extensions().get().cloned();
    if is_read_only && (is_open || guard::is_own_program(&services, caller).await) {
        return next.run(request).await;
    }
    let subject = if is_read_only { "this API" } else { "a change" };
    Problem::new(StatusCode::UNAUTHORIZED, guard::unauthorized(subject)).into_response()
}

/// An error answer in JSON.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    message: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// A state that prevents the request and that the user can change.
    pub(crate) fn conflict(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::CONFLICT, with_causes(error))
    }

    /// An unexpected error, which is logged too.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = with_causes(error), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, with_causes(error))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, Json(::api::ApiProblem { message: self.message })).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

type ApiResult<T> = Result<Json<T>, Problem>;

/// Runs blocking work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Problem::internal(&error)),
    }
}

#[cfg(test)]
mod tests {
    /// The types of the web UI are generated from this file (`npm run api` in `web`).
    /// `UPDATE_DOCS=1 cargo test -p server openapi` updates the file.
    #[test]
    fn the_openapi_document_of_the_web_ui_is_current() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/src/api/openapi.json");
        let document = super::documented().1.to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &document).unwrap();
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(known == document, "{} is not current; UPDATE_DOCS=1 updates it", path.display());
    }
}
