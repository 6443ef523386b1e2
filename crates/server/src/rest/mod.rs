//! The node's REST API, `/api/archivist/v1`: the data and node parts of the
//! Archivist node's public API (SPEC section 7), so that its SDK works with
//! this node unchanged.
//!
//! Bodies stream both ways; no file is ever in memory as a whole. Errors are
//! plain text that says what to do: the SDK shows it as it is.

mod download;
mod info;
mod item;
mod network;
mod upload;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use node::Services;

use crate::guard;
use crate::text_error::TextError;

/// The routes.
pub(crate) fn router(services: Services) -> Router {
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
        .layer(axum::middleware::from_fn_with_state(services.clone(), guard::token))
        .with_state(services)
}

/// The CID of a path.
pub(crate) fn parse_cid(text: &str) -> Result<types::Cid, TextError> {
    text.parse().map_err(|error: types::CidError| {
        TextError::new(StatusCode::BAD_REQUEST, format!("the CID cannot be used: {error}"))
    })
}

/// Runs what may block where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TextError> + Send + 'static,
) -> Result<T, TextError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            // The panic hook has logged it.
            Err(TextError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
        }
    }
}
