//! What this instance holds: snapshots, and what is in them.

use std::ops::ControlFlow;

use api::{ListedEntry, from_text};
use axum::Json;
use axum::extract::{Path, Query, State};
use backup::{Depth, RemoteSnapshot, SnapshotError, SnapshotTree, TreeError};
use jiff::Timestamp;
use serde::Deserialize;
use types::RelPath;
use utoipa::IntoParams;

use super::{Answer, ApiState, Problem, blocking, reading};
use crate::rest::with_causes;

/// Entries in one answer, at most.
const ENTRIES_MAX: usize = 10_000;
const ENTRIES_DEFAULT: usize = 1000;

impl From<SnapshotError> for Problem {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::None => Self::not_found(error.to_string()),
            SnapshotError::Folders(_) | SnapshotError::Ambiguous(_) => Self::conflict(&error),
            SnapshotError::Id(_) => Self::bad(error.to_string()),
            _ => Self::internal(&error),
        }
    }
}

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Panicked(_) => Self::internal(&error),
            _ => Self::not_found(with_causes(&error)),
        }
    }
}

/// Which snapshots are meant.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Choice {
    /// Of this source: its name or its peer id.
    pub(crate) source: Option<String>,
    /// Of this folder: its id or its name.
    pub(crate) folder: Option<String>,
    /// Those that the backup server holds of this instance's folders, instead
    /// of those that this instance holds.
    #[serde(default)]
    pub(crate) from_backup_server: bool,
}

impl Choice {
    fn takes(&self, state: &ApiState, snapshot: &RemoteSnapshot) -> bool {
        let is_source = self.source.as_ref().is_none_or(|wanted| {
            *wanted == snapshot.source || *wanted == source_name(state, &snapshot.source)
        });
        let is_folder = self.folder.as_ref().is_none_or(|wanted| {
            wanted == snapshot.folder_id.as_str() || *wanted == snapshot.folder_name
        });
        is_source && is_folder
    }
}

/// The snapshots, by source and folder, the oldest first.
#[utoipa::path(
    get,
    path = "/snapshots",
    params(Choice),
    responses(
        (status = 200, body = Vec<api::Snapshot>),
        (status = 409, description = "There is no backup server to ask", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be asked", body = api::ApiProblem),
    )
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Query(choice): Query<Choice>,
) -> Answer<Vec<api::Snapshot>> {
    let snapshots = chosen(&state, &choice).await?;
    Ok(Json(snapshots.into_iter().map(|snapshot| to_api(&state, snapshot)).collect()))
}

/// All snapshots that are meant, by source, folder and order.
pub(crate) async fn chosen(
    state: &ApiState,
    choice: &Choice,
) -> Result<Vec<RemoteSnapshot>, Problem> {
    let all = if choice.from_backup_server {
        super::restores::remote_snapshots(state).await?
    } else {
        let snapshots = state.snapshots.clone();
        blocking(move || {
            let all = snapshots.list()?.snapshots;
            Ok(all.into_iter().map(RemoteSnapshot::from).collect())
        })
        .await?
    };
    Ok(all.into_iter().filter(|snapshot| choice.takes(state, snapshot)).collect())
}

/// The one snapshot that is meant: by the beginning of its id, or the newest
/// of the one folder that fits.
pub(crate) async fn find(
    state: &ApiState,
    choice: &Choice,
    id: Option<&str>,
    at: Option<Timestamp>,
) -> Result<RemoteSnapshot, Problem> {
    let mut fitting = chosen(state, choice).await?;
    if let Some(id) = id {
        fitting.retain(|snapshot| snapshot.id.starts_with(id));
        if fitting.len() > 1 {
            return Err(Problem::bad(format!("more than one snapshot begins with {id}")));
        }
    }
    if let Some(at) = at {
        fitting.retain(|snapshot| snapshot.received_at <= at);
    }
    let mut folders: Vec<String> = fitting
        .iter()
        .map(|one| format!("{} of {}", one.folder_name, source_name(state, &one.source)))
        .collect();
    folders.dedup();
    let is_other = |pair: &[RemoteSnapshot]| {
        (&pair[0].source, &pair[0].folder_id) != (&pair[1].source, &pair[1].folder_id)
    };
    if fitting.windows(2).any(is_other) {
        return Err(Problem::from(SnapshotError::Folders(folders)));
    }
    // They come in the backup server's order.
    fitting.pop().ok_or_else(|| Problem::from(SnapshotError::None))
}

/// What a source is called here.
fn source_name(state: &ApiState, peer: &str) -> String {
    let config = state.node.settings.get();
    let sources = &config.backup_server.source_peers;
    sources
        .iter()
        .find(|source| source.peer_id.to_string() == peer)
        .map_or_else(|| peer.to_owned(), |source| source.name.as_str().to_owned())
}

fn to_api(state: &ApiState, snapshot: RemoteSnapshot) -> api::Snapshot {
    api::Snapshot {
        source: source_name(state, &snapshot.source),
        source_peer_id: snapshot.source,
        id: snapshot.id,
        folder_id: snapshot.folder_id,
        folder_name: snapshot.folder_name,
        sequence: snapshot.sequence,
        created_at: snapshot.created_at,
        received_at: snapshot.received_at,
        files: snapshot.files,
        bytes: snapshot.bytes,
        manifest_cid: snapshot.manifest_cid,
        held: snapshot.held,
    }
}

/// Which entries of a snapshot are meant.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Below this directory; everything, where none is named.
    path: Option<String>,
    /// The same in base64, where it is not UTF-8.
    path_base64: Option<String>,
    /// All that is below it, not only what is directly in it.
    #[serde(default)]
    recursive: bool,
    /// Only what comes after this path.
    after: Option<String>,
    /// The same in base64.
    after_base64: Option<String>,
    /// At most so many, up to 10,000.
    limit: Option<usize>,
    /// Of the snapshot as the backup server has it.
    #[serde(default)]
    from_backup_server: bool,
}

pub(crate) fn rel_path(
    text: Option<&str>,
    base64: Option<&str>,
) -> Result<Option<RelPath>, Problem> {
    if text.is_none() && base64.is_none() {
        return Ok(None);
    }
    let bytes = from_text(text.unwrap_or_default(), base64)
        .ok_or_else(|| Problem::bad("a path that is no base64"))?;
    let trimmed = bytes.strip_suffix(b"/").unwrap_or(&bytes);
    if trimmed.is_empty() || trimmed == b"." {
        return Ok(Some(RelPath::root()));
    }
    RelPath::new(trimmed).map(Some).map_err(|error| Problem::bad(with_causes(&error)))
}

/// The entries of a snapshot, in order, page by page: a page with as many as
/// its `limit` is followed by the one `after` its last path.
#[utoipa::path(
    get,
    path = "/snapshots/{id}/entries",
    params(("id" = String, Path, description = "The id, or its beginning"), Which),
    responses(
        (status = 200, body = Vec<ListedEntry>),
        (status = 400, description = "Not such an id or path", body = api::ApiProblem),
        (status = 404, description = "No such snapshot, or nothing there", body = api::ApiProblem),
        (status = 409, description = "There is no backup server to ask", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be asked", body = api::ApiProblem),
    )
)]
pub(crate) async fn entries(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Answer<Vec<ListedEntry>> {
    let path = rel_path(which.path.as_deref(), which.path_base64.as_deref())?;
    let after = rel_path(which.after.as_deref(), which.after_base64.as_deref())?;
    let path = path.unwrap_or_else(RelPath::root);
    let limit = which.limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX);
    let depth = if which.recursive { Depth::All } else { Depth::Children };
    let choice = Choice { from_backup_server: which.from_backup_server, ..Choice::default() };
    let snapshot = find(&state, &choice, Some(&id), None).await?;
    let store = reading::blocks(&state, which.from_backup_server)?;
    blocking(move || {
        let tree = SnapshotTree::open(store, snapshot.manifest_cid)?;
        let at = tree
            .lookup(&path)?
            .ok_or_else(|| Problem::not_found(format!("the snapshot has nothing at {path:?}")))?;
        let mut found = Vec::new();
        if !matches!(at.kind, types::EntryKind::Dir) {
            found.extend(after.is_none().then(|| ListedEntry::from(&at)));
            return Ok(Json(found));
        }
        tree.list_after(&path, after.as_ref(), depth, |entry| {
            found.push(ListedEntry::from(&entry));
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(Json(found))
    })
    .await
}
