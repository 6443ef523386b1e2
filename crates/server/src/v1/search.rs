//! Finding things in snapshots: names, and the versions of one file.

use std::ops::ControlFlow;

use ::snapshots::{Depth, SnapshotTree};
use api::{ListedEntry, to_text};
use axum::extract::State;
use jiff::Timestamp;
use node::{Services, snapshot_source};
use serde::{Deserialize, Serialize};
use types::{EntryKind, RelPath, SequenceNumber};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Json, Path, Query};
use super::snapshots::{self, Choice, rel_path};
use super::ui::Owner;
use super::{Answer, Problem, blocking};

/// Names in one answer, at most.
const FOUND_MAX: usize = 500;
/// Snapshots that are looked into for the versions of a file, at most, the
/// newest first.
const LOOKED_AT_MAX: usize = 2000;

/// What to look for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Search {
    /// A part of a name, whatever its case.
    text: String,
    /// In the snapshot as the backup server has it.
    #[serde(default)]
    from_backup_server: bool,
}

/// What was found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Found {
    /// The entries, in order.
    entries: Vec<ListedEntry>,
    /// Whether there are more.
    is_cut_short: bool,
}

/// The entries of a snapshot whose last name has a text in it.
#[utoipa::path(
    get,
    path = "/snapshots/{id}/search",
    params(("id" = String, Path, description = "The id, or its beginning"), Search),
    responses(
        (status = 200, body = Found),
        (status = 401, description = "Without the token or a session", body = api::ApiProblem),
        (status = 400, description = "Not such an id", body = api::ApiProblem),
        (status = 404, description = "No such snapshot", body = api::ApiProblem),
        (status = 409, description = "There is no backup server to ask", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be asked", body = api::ApiProblem),
    )
)]
pub(crate) async fn search(
    _: Owner,
    State(services): State<Services>,
    Path(id): Path<String>,
    Query(search): Query<Search>,
) -> Answer<Found> {
    let choice = Choice { from_backup_server: search.from_backup_server, ..Choice::default() };
    let snapshot = snapshots::find(&services, &choice, Some(&id), None).await?;
    let blocks = snapshot_source::blocks(&services, search.from_backup_server)?;
    let wanted = search.text.to_lowercase();
    blocking(move || {
        let tree = SnapshotTree::open(blocks, snapshot.manifest_cid)?;
        let mut found = Found { entries: Vec::new(), is_cut_short: false };
        tree.list(&RelPath::root(), Depth::All, |entry| {
            let name = entry.path.as_bytes().rsplit(|byte| *byte == b'/').next();
            if !to_text(name.unwrap_or_default()).0.to_lowercase().contains(&wanted) {
                return ControlFlow::Continue(());
            }
            if found.entries.len() >= FOUND_MAX {
                found.is_cut_short = true;
                return ControlFlow::Break(());
            }
            found.entries.push(ListedEntry::from(&entry));
            ControlFlow::Continue(())
        })?;
        Ok(Json(found))
    })
    .await
}

/// Which file.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhichFile {
    /// Of this source: its name or its peer id.
    source: Option<String>,
    /// Of this folder: its id or its name.
    folder: String,
    /// Where it is in the folder.
    path: Option<String>,
    /// The same in base64, where it is not UTF-8.
    path_base64: Option<String>,
    /// In the snapshots that the backup server holds.
    #[serde(default)]
    from_backup_server: bool,
}

/// A state that a file had.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FileVersion {
    /// The newest snapshot that has it so.
    snapshot: String,
    /// Its number.
    #[schema(value_type = u64)]
    sequence: SequenceNumber,
    /// When the source made it, by its clock.
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// When it was whole on the backup server, by that one's clock.
    #[schema(value_type = String)]
    received_at: Timestamp,
    /// The file in it.
    entry: ListedEntry,
}

/// The states that a file had in the snapshots of a folder, the newest first;
/// where it was the same in many, the newest of those.
#[utoipa::path(
    get,
    path = "/file-versions",
    params(WhichFile),
    responses(
        (status = 200, body = Vec<FileVersion>),
        (status = 401, description = "Without the token or a session", body = api::ApiProblem),
        (status = 400, description = "Not such a path", body = api::ApiProblem),
        (status = 409, description = "There is no backup server to ask", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be asked", body = api::ApiProblem),
    )
)]
pub(crate) async fn of_file(
    _: Owner,
    State(services): State<Services>,
    Query(which): Query<WhichFile>,
) -> Answer<Vec<FileVersion>> {
    let path = rel_path(which.path.as_deref(), which.path_base64.as_deref())?
        .ok_or_else(|| Problem::bad("name the file: `path` or `path_base64`"))?;
    let choice = Choice {
        source: which.source,
        folder: Some(which.folder),
        from_backup_server: which.from_backup_server,
    };
    let mut snapshots = snapshots::chosen(&services, &choice).await?;
    // They come in the backup server's order; the source may have begun to
    // count anew.
    snapshots.reverse();
    let blocks = snapshot_source::blocks(&services, which.from_backup_server)?;
    blocking(move || {
        let mut versions: Vec<FileVersion> = Vec::new();
        let (mut last, mut failed) = (None, None);
        for snapshot in snapshots.into_iter().take(LOOKED_AT_MAX) {
            let tree = SnapshotTree::open(blocks.clone(), snapshot.manifest_cid);
            let entry = match tree.and_then(|tree| tree.lookup(&path)) {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    last = None;
                    continue;
                }
                // One that is damaged does not hide the others.
                Err(error) => {
                    tracing::warn!(snapshot = snapshot.id, %error, "it cannot be looked into");
                    failed.get_or_insert(error);
                    continue;
                }
            };
            // The content makes a version; of what has none, the time.
            let state = match &entry.kind {
                EntryKind::File { cid, .. } => (Some(*cid), 0),
                _ => (None, entry.metadata.mtime_ns),
            };
            if last == Some(state) {
                continue;
            }
            last = Some(state);
            versions.push(FileVersion {
                snapshot: snapshot.id.clone(),
                sequence: snapshot.sequence,
                created_at: snapshot.created_at,
                received_at: snapshot.received_at,
                entry: ListedEntry::from(&entry),
            });
        }
        match failed {
            Some(error) if versions.is_empty() => Err(error.into()),
            _ => Ok(Json(versions)),
        }
    })
    .await
}
