//! Manifests, whole.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use restore::{Blocks, Manifest};
use store::BlockStore;
use tokio::sync::mpsc;

use super::ui::Owner;
use super::{ApiState, Problem, blocking};
use crate::rest::parse_cid;
use types::with_causes;

/// Bytes that are sent at once.
const PIECE_LEN: usize = 64 * 1024;

/// A manifest as one JSON document, with all its files.
#[utoipa::path(
    get,
    path = "/manifests/{cid}",
    params(("cid" = String, Path, description = "The CID of the manifest")),
    responses(
        (status = 200, description = "The header, and `files` with every entry", body = Object),
        (status = 400, description = "Not a CID", body = api::ApiProblem),
        (status = 401, description = "Without the token or a session", body = api::ApiProblem),
        (status = 404, description = "It is not here, or is no manifest", body = api::ApiProblem),
    )
)]
pub(crate) async fn show(
    _: Owner,
    State(state): State<ApiState>,
    Path(cid): Path<String>,
) -> Result<Response, Problem> {
    let cid = parse_cid(&cid).map_err(|error| Problem::bad(error.message()))?;
    let store: Arc<dyn BlockStore> = Arc::new(state.node.blocks);
    let manifest = blocking(move || {
        let blocks: Arc<dyn Blocks> = Arc::new(store);
        Manifest::open(blocks, cid).map_err(|error| Problem::not_found(with_causes(&error)))
    })
    .await?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { buffer: Vec::new(), sender };
        let written = manifest.write_json(&mut pieces);
        let end = match written {
            Ok(()) => pieces.flush(),
            Err(error) => Err(io::Error::other(with_causes(&error))),
        };
        if let Err(error) = end {
            // The connection breaks off, so that nobody takes a part for all.
            let _ = pieces.sender.blocking_send(Err(error));
        }
    });
    let body = futures::stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let mut response = (StatusCode::OK, Body::from_stream(body)).into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// Sends what is written to it.
struct Pieces {
    buffer: Vec<u8>,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_LEN {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
