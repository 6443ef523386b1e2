//! Complete manifests.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use node::Services;
use restore::{Blocks, Manifest};
use store::BlockRead;

use super::extract::Path;
use super::ui::Owner;
use super::{Problem, blocking};
use crate::body_stream;
use crate::rest::parse_cid;
use types::with_causes;

/// Returns a manifest as one JSON document with all its entries.
#[utoipa::path(
    get,
    path = "/manifests/{cid}",
    params(("cid" = String, Path, description = "The CID of the manifest")),
    responses(
        (status = 200, description = "The header, and `files` with every entry", body = Object),
        (status = 400, description = "The CID is malformed", body = api::ApiProblem),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
        (status = 404, description = "No such manifest is stored here", body = api::ApiProblem),
    )
)]
pub(crate) async fn show(
    _: Owner,
    State(services): State<Services>,
    Path(cid): Path<String>,
) -> Result<Response, Problem> {
    let cid = parse_cid(&cid).map_err(|error| Problem::bad(error.message()))?;
    let store: Arc<dyn BlockRead> = Arc::new(services.blocks);
    let manifest = blocking(move || {
        let blocks: Arc<dyn Blocks> = Arc::new(store);
        Manifest::open(blocks, cid).map_err(|error| Problem::not_found(with_causes(&error)))
    })
    .await?;
    let mut response =
        body_stream::body("a manifest", move |out| manifest.write_json(out)).into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
