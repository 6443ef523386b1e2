//! Searching snapshots: by a part of a name, and for the history of one file.

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
use super::{ApiResult, Problem, blocking};

/// Maximum number of entries in an answer.
const FOUND_MAX: usize = 500;
/// Maximum number of snapshots that are read for the history of a file; the newest
/// are read.
const SNAPSHOTS_MAX: usize = 2000;

/// The search.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Search {
    /// A part of the name; the case is ignored.
    text: String,
    /// True to search the snapshot on the backup server.
    #[serde(default)]
    from_backup_server: bool,
}

/// The result of a search.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Found {
    /// The matching entries, in order.
    entries: Vec<ListedEntry>,
    /// True if more entries match.
    is_cut_short: bool,
}

/// Finds the entries of a snapshot whose last name contains a text.
#[utoipa::path(
    get,
    path = "/snapshots/{id}/search",
    params(("id" = String, Path, description = "The id of the snapshot, or the beginning of it"), Search),
    responses(
        (status = 200, body = Found),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
        (status = 400, description = "The id is malformed", body = api::ApiProblem),
        (status = 404, description = "No such snapshot", body = api::ApiProblem),
        (status = 409, description = "No backup server is configured", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be reached, or did not answer", body = api::ApiProblem),
    )
)]
pub(crate) async fn search(
    _: Owner,
    State(services): State<Services>,
    Path(id): Path<String>,
    Query(search): Query<Search>,
) -> ApiResult<Found> {
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

/// The file.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FileQuery {
    /// The name or the peer id of the source.
    source: Option<String>,
    /// The id or the name of the folder.
    folder: String,
    /// The path in the folder.
    path: Option<String>,
    /// The path in base64, for a path that is not UTF-8.
    path_base64: Option<String>,
    /// True to search the snapshots on the backup server.
    #[serde(default)]
    from_backup_server: bool,
}

/// A version of a file.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FileVersion {
    /// The id of the newest snapshot with this version.
    snapshot: String,
    /// The sequence number of the snapshot.
    #[schema(value_type = u64)]
    sequence: SequenceNumber,
    /// The time of the manifest, by the clock of the source.
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// The time when the snapshot was complete, by the clock of the backup server.
    #[schema(value_type = String)]
    received_at: Timestamp,
    /// The file in the snapshot.
    entry: ListedEntry,
}

/// Lists the versions of a file in the snapshots of a folder, the newest first. Of
/// several snapshots with the same version, the newest is listed.
#[utoipa::path(
    get,
    path = "/file-versions",
    params(FileQuery),
    responses(
        (status = 200, body = Vec<FileVersion>),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
        (status = 400, description = "The path is malformed", body = api::ApiProblem),
        (status = 409, description = "No backup server is configured", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be reached, or did not answer", body = api::ApiProblem),
    )
)]
pub(crate) async fn of_file(
    _: Owner,
    State(services): State<Services>,
    Query(query): Query<FileQuery>,
) -> ApiResult<Vec<FileVersion>> {
    let path = rel_path(query.path.as_deref(), query.path_base64.as_deref())?
        .ok_or_else(|| Problem::bad("the parameter `path` or `path_base64` is missing"))?;
    let choice = Choice {
        source: query.source,
        folder: Some(query.folder),
        from_backup_server: query.from_backup_server,
    };
    let mut snapshots = snapshots::select(&services, &choice).await?;
    // The list is in the order of arrival. Sequence numbers may have started again.
    snapshots.reverse();
    let blocks = snapshot_source::blocks(&services, query.from_backup_server)?;
    blocking(move || {
        let mut versions: Vec<FileVersion> = Vec::new();
        let (mut last, mut failed) = (None, None);
        for snapshot in snapshots.into_iter().take(SNAPSHOTS_MAX) {
            let tree = SnapshotTree::open(blocks.clone(), snapshot.manifest_cid);
            let entry = match tree.and_then(|tree| tree.lookup(&path)) {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    last = None;
                    continue;
                }
                // A damaged snapshot must not hide the others.
                Err(error) => {
                    tracing::warn!(snapshot = snapshot.id, %error, "cannot read a snapshot");
                    failed.get_or_insert(error);
                    continue;
                }
            };
            // A version is a change of the content or, for an entry without content,
            // of its time.
            let version = match &entry.kind {
                EntryKind::File { cid, .. } => (Some(*cid), 0),
                _ => (None, entry.metadata.mtime_ns),
            };
            if last == Some(version) {
                continue;
            }
            last = Some(version);
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
