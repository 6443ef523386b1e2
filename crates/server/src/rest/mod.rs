//! The node API, `/api/archivist/v1`: the data and node parts of the public API
//! of the Archivist node, so that the Archivist SDK works with this program
//! unchanged.
//!
//! Bodies are streamed in both directions; no file is completely in memory. Errors
//! are plain text, which the SDK shows unchanged.

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

/// Returns the routes.
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
        // The store limits the length of bodies.
        .layer(axum::extract::DefaultBodyLimit::disable());
    Router::new()
        .nest("/api/archivist/v1", api)
        .layer(axum::middleware::from_fn_with_state(services.clone(), guard::owner))
        .with_state(services)
}

/// Parses the CID in a path.
pub(crate) fn parse_cid(text: &str) -> Result<types::Cid, TextError> {
    text.parse().map_err(|error: types::CidError| {
        TextError::new(StatusCode::BAD_REQUEST, format!("the CID is not valid: {error}"))
    })
}

/// Runs blocking work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TextError> + Send + 'static,
) -> Result<T, TextError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            // The panic hook has logged the panic.
            Err(TextError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
        }
    }
}
