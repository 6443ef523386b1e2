//! The node's REST API, `/api/archivist/v1`: the data and node parts of the
//! Archivist node's public API (SPEC section 7), so that its SDK works with
//! this node unchanged.
//!
//! Bodies stream both ways; no file is ever in memory as a whole. Errors are
//! plain text that says what to do: the SDK shows it as it is.

mod disposition;
mod download;
mod guard;
mod info;
mod item;
mod network;
mod upload;

pub(crate) use self::disposition::attachment;
pub(crate) use self::guard::{is_owner, only_looks};

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use store::{Limit, PackStore, StoreError};
use types::with_causes;

use crate::collector::Collector;
use crate::downloads::Downloads;
use crate::local_blocks::LocalBlocks;
use crate::log_level::LogLevel;
use crate::settings::Settings;
use crate::tasks::Tasks;

/// What the API works with.
#[derive(Clone)]
pub struct NodeState {
    /// Where blocks are kept.
    pub store: Arc<PackStore>,
    /// All that is on this machine: the store's, and those in watched files.
    pub blocks: LocalBlocks,
    /// The network.
    pub net: net::Handle,
    /// Fetches that are under way.
    pub downloads: Downloads,
    /// Frees what is deleted.
    pub collector: Collector,
    /// What is logged.
    pub log_level: LogLevel,
    /// The data directory, for `/debug/info`.
    pub repo: Arc<str>,
    /// What `Authorization: Bearer` has to carry, where it is asked for.
    pub token: Arc<str>,
    /// The configuration.
    pub settings: Settings,
    /// For work that goes on after its answer.
    pub tasks: Tasks,
}

/// The routes.
pub fn router(state: NodeState) -> Router {
    let api = Router::new()
        .route("/data", get(item::list).post(upload::upload))
        .route("/data/{cid}", get(download::local).delete(item::delete))
        .route("/data/{cid}/network", post(network::fetch).get(network::stream))
        .route("/data/{cid}/network/progress", get(network::progress))
        .route("/data/{cid}/network/stream", get(network::stream))
        .route("/data/{cid}/network/manifest", get(network::manifest))
        .route("/space", get(info::space))
        .route("/peerid", get(info::peer_id))
        .route("/node/peerid", get(info::peer_id))
        .route("/spr", get(info::spr))
        .route("/debug/info", get(info::debug))
        .route("/debug/chronicles/loglevel", post(info::set_log_level))
        .route("/connect/{peer_id}", get(info::connect))
        // Bodies are bounded by the store, not by a number.
        .layer(axum::extract::DefaultBodyLimit::disable());
    Router::new()
        .nest("/api/archivist/v1", api)
        .layer(axum::middleware::from_fn_with_state(state.clone(), guard::token))
        .with_state(state)
}

/// All that is served on the API's port, behind the rule of hosts and origins.
pub(crate) fn guarded(router: Router) -> Router {
    router
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is no such path here") })
        .layer(axum::middleware::from_fn(guard::origin))
}

/// An answer that says what is wrong.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} is not here"))
    }

    /// What is wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Something that should not happen: the log has it whole.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, with_causes(error))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Full { limit, .. } => {
                let status = match limit {
                    Limit::Quota | Limit::Reserve | Limit::Disk => StatusCode::INSUFFICIENT_STORAGE,
                };
                Self::new(status, error.to_string())
            }
            StoreError::Missing(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            StoreError::Node { .. } => Self::new(StatusCode::NOT_FOUND, with_causes(&error)),
            _ => Self::internal(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.message).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// The CID of a path.
pub(crate) fn parse_cid(text: &str) -> Result<types::Cid, ApiError> {
    text.parse().map_err(|error: types::CidError| {
        ApiError::new(StatusCode::BAD_REQUEST, format!("the CID cannot be used: {error}"))
    })
}

/// Runs what may block where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            // The panic hook has logged it.
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
        }
    }
}
