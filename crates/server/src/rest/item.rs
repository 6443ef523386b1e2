//! Data items: listing and deleting them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use node::{Services, roots};
use serde::Serialize;
use store::{Content, Roots as _, RootsRead as _, resolve};
use types::{CHUNK_LEN_MAX, Cid};

use super::{blocking, parse_cid};
use crate::text_error::TextError;

/// A data item in the form that the SDK expects.
#[derive(Debug, Serialize)]
pub(crate) struct DataItem {
    cid: Cid,
    manifest: ItemManifest,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemManifest {
    tree_cid: Cid,
    dataset_size: u64,
    /// Maximum length of a chunk; the chunk boundaries depend on the content.
    block_size: usize,
    protected: bool,
    filename: Option<String>,
    mimetype: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DataList {
    content: Vec<DataItem>,
}

impl DataItem {
    pub(crate) fn new(cid: Cid, content: &Content) -> Self {
        let (filename, mimetype) = match &content.dataset {
            Some(dataset) => (dataset.filename.clone(), dataset.mimetype.clone()),
            None => (None, None),
        };
        Self {
            cid,
            manifest: ItemManifest {
                tree_cid: content.tree,
                dataset_size: content.size,
                block_size: CHUNK_LEN_MAX,
                protected: false,
                filename,
                mimetype,
            },
        }
    }
}

/// Handles `GET /data`.
pub(crate) async fn list(State(services): State<Services>) -> Result<Json<DataList>, TextError> {
    blocking(move || {
        let mut content = Vec::new();
        for (_, root) in services.store.roots(roots::DATA) {
            match resolve(&*services.store, root.cid) {
                Ok(Some(found)) => content.push(DataItem::new(root.cid, &found)),
                // A damaged item must not hide the others.
                Ok(None) => tracing::error!(cid = %root.cid, "the node of a data item is missing"),
                Err(error) => tracing::error!(cid = %root.cid, %error, "cannot read a data item"),
            }
        }
        Ok(Json(DataList { content }))
    })
    .await
}

/// Handles `DELETE /data/{cid}`.
pub(crate) async fn delete(
    State(services): State<Services>,
    Path(cid): Path<String>,
) -> Result<StatusCode, TextError> {
    let cid = parse_cid(&cid)?;
    services.downloads.forget(cid);
    blocking(move || {
        let is_listed = services.store.remove_root(&roots::data(cid))?;
        let was_fetched = services.store.remove_root(&roots::fetch(cid))?;
        if is_listed || was_fetched {
            services.gc.request();
        }
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
