//! Listing snapshots and their entries, and decisions of the owner about snapshots.

use std::ops::ControlFlow;

use api::{ListedEntry, from_text};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use node::{
    SelectError, Services, SnapshotSelector, SnapshotSourceError, snapshot_model, snapshot_source,
};
use protocols::RemoteSnapshot;
use serde::Deserialize;
use snapshots::{Depth, Removal, RemoveError, SnapshotError, SnapshotTree, TreeError};
use types::RelPath;
use utoipa::IntoParams;

use super::extract::{Json, Path, Query};
use super::ui::Owner;
use super::{ApiResult, Problem, blocking};
use crate::guard;
use types::with_causes;

/// Maximum number of entries in an answer.
const ENTRIES_MAX: usize = 10_000;
/// Number of entries in an answer if the request has no limit.
const ENTRIES_DEFAULT: usize = 1000;

impl From<SelectError> for Problem {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::NotFound(_) | SelectError::UnknownName(_) => {
                Self::not_found(error.to_string())
            }
            SelectError::SeveralFolders(_) | SelectError::AmbiguousId(_) => Self::conflict(&error),
            SelectError::InvalidId(_) => Self::bad(error.to_string()),
        }
    }
}

impl From<SnapshotSourceError> for Problem {
    fn from(error: SnapshotSourceError) -> Self {
        match error {
            SnapshotSourceError::NoBackupServer => Self::conflict(&error),
            SnapshotSourceError::Unreachable(_) | SnapshotSourceError::List(_) => {
                Self::new(StatusCode::BAD_GATEWAY, with_causes(&error))
            }
            SnapshotSourceError::Local(_) | SnapshotSourceError::Panicked(_) => {
                Self::internal(&error)
            }
        }
    }
}

impl From<RemoveError> for Problem {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::Locked(_) | RemoveError::Newest => Self::conflict(&error),
            RemoveError::Gone => Self::not_found(error.to_string()),
            RemoveError::Snapshot(error) => Self::internal(&error),
        }
    }
}

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        Self::not_found(with_causes(&error))
    }
}

/// The snapshots to select.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Choice {
    /// The name or the peer id of the source.
    pub(crate) source: Option<String>,
    /// The id or the name of the folder.
    pub(crate) folder: Option<String>,
    /// True for the snapshots of this instance's folders on the backup server; false for
    /// the snapshots that this instance stores.
    #[serde(default)]
    pub(crate) from_backup_server: bool,
}

impl Choice {
    fn as_selector(&self) -> SnapshotSelector<'_> {
        SnapshotSelector {
            source: self.source.as_deref(),
            folder: self.folder.as_deref(),
            ..SnapshotSelector::default()
        }
    }
}

/// Lists the snapshots by source and folder, the oldest first.
#[utoipa::path(
    get,
    path = "/snapshots",
    params(Choice),
    responses(
        (status = 200, body = Vec<api::Snapshot>),
        (status = 409, description = "No backup server is configured", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be reached, or did not answer", body = api::ApiProblem),
    )
)]
pub(crate) async fn list(
    State(services): State<Services>,
    Query(choice): Query<Choice>,
) -> ApiResult<Vec<api::Snapshot>> {
    let selected = select(&services, &choice).await?;
    let config = services.settings.get();
    Ok(Json(selected.into_iter().map(|snapshot| snapshot_model(&config, snapshot)).collect()))
}

/// Decides that a suspicious snapshot of this instance, and the earlier ones of its folder, are
/// intended.
#[utoipa::path(
    post,
    path = "/snapshots/{id}/confirm",
    params(("id" = String, Path, description = "The id of the snapshot, or the beginning of its id")),
    responses(
        (status = 200, body = api::Snapshot),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such snapshot", body = api::ApiProblem),
    )
)]
pub(crate) async fn confirm(
    State(services): State<Services>,
    Path(id): Path<String>,
) -> ApiResult<api::Snapshot> {
    let found = find(&services, &Choice::default(), Some(&id), None).await?;
    blocking(move || {
        let internal = |error: SnapshotError| Problem::internal(&error);
        let all = services.snapshots.list().map_err(internal)?.snapshots;
        let snapshot = all.iter().find(|one| one.id.to_string() == found.id);
        let snapshot = snapshot.ok_or_else(|| Problem::not_found("the snapshot was removed"))?;
        services.snapshots.confirm(snapshot).map_err(internal)?;
        let all = services.snapshots.list().map_err(internal)?.snapshots;
        let now = all.into_iter().find(|one| one.id.to_string() == found.id);
        let now = now.map_or(found, backup::remote_snapshot);
        Ok(Json(snapshot_model(&services.settings.get(), now)))
    })
    .await
}

/// The confirmation of a removal.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemovalQuery {
    /// True to remove the snapshot even if it is the newest of its folder.
    #[serde(default)]
    newest: bool,
}

/// Removes a snapshot of this instance for good. Requires the token; a session of the web UI is
/// not enough. The backup server does not pull the same state of the folder again.
#[utoipa::path(
    delete,
    path = "/snapshots/{id}",
    params(("id" = String, Path, description = "The complete id of the snapshot"), RemovalQuery),
    responses(
        (status = 200, description = "The snapshot was removed", body = api::Snapshot),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such snapshot", body = api::ApiProblem),
        (status = 409, description = "The snapshot is locked, or is the newest of its folder",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn remove(
    State(services): State<Services>,
    Path(id): Path<String>,
    Query(query): Query<RemovalQuery>,
    headers: HeaderMap,
) -> ApiResult<api::Snapshot> {
    if !guard::has_token(&headers, &services.token) {
        let message = guard::unauthorized("the removal of a snapshot");
        return Err(Problem::new(StatusCode::UNAUTHORIZED, message));
    }
    let worker = services.clone();
    let removed = blocking(move || {
        let config = worker.settings.get();
        let all = worker.snapshots.list().map_err(|error| Problem::internal(&error))?.snapshots;
        let snapshot = all.into_iter().find(|one| one.id.as_str() == id);
        let snapshot = snapshot.ok_or_else(|| Problem::not_found("no such snapshot"))?;
        let now = Timestamp::now();
        let lock_days = worker.rules.in_force(&config.backup_server, now).0.lock_days;
        let removal = Removal { lock_days, newest_too: query.newest, now };
        worker.snapshots.remove_by_hand(&snapshot, &removal)?;
        Ok(Json(snapshot_model(&config, backup::remote_snapshot(snapshot))))
    })
    .await?;
    services.gc.request();
    // The daemon decides by the newest snapshot of each folder.
    services.backup_daemon.snapshots_changed().await;
    Ok(removed)
}

/// Returns the selected snapshots, in the order of arrival.
pub(crate) async fn select(
    services: &Services,
    choice: &Choice,
) -> Result<Vec<RemoteSnapshot>, Problem> {
    let all = snapshot_source::list(services, choice.from_backup_server).await?;
    Ok(choice.as_selector().matching(&services.settings.get(), all)?)
}

/// Returns the selected snapshot: by the beginning of its id, or the newest one of the
/// selected folder.
pub(crate) async fn find(
    services: &Services,
    choice: &Choice,
    id: Option<&str>,
    at: Option<Timestamp>,
) -> Result<RemoteSnapshot, Problem> {
    Ok(find_and_compare(services, choice, id, at).await?.0)
}

/// Same as [`find`]. Also describes a newer snapshot that was passed over.
pub(crate) async fn find_and_compare(
    services: &Services,
    choice: &Choice,
    id: Option<&str>,
    at: Option<Timestamp>,
) -> Result<(RemoteSnapshot, Option<String>), Problem> {
    let all = snapshot_source::list(services, choice.from_backup_server).await?;
    let selector = SnapshotSelector { id, at, ..choice.as_selector() };
    let config = services.settings.get();
    let found = selector.newest(&config, all.clone())?;
    let passed_over = selector.passed_over(&config, all, &found.id);
    Ok((found, passed_over))
}

/// The entries to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EntriesQuery {
    /// The directory; without a path, the folder itself.
    path: Option<String>,
    /// The path in base64, for a path that is not UTF-8.
    path_base64: Option<String>,
    /// True to list all levels below the directory, false for its direct entries.
    #[serde(default)]
    recursive: bool,
    /// Lists only entries after this path.
    after: Option<String>,
    /// The path `after` in base64.
    after_base64: Option<String>,
    /// Maximum number of entries, up to 10,000.
    limit: Option<usize>,
    /// True to read the snapshot from the backup server.
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
        .ok_or_else(|| Problem::bad("a path is not base64"))?;
    let trimmed = bytes.strip_suffix(b"/").unwrap_or(&bytes);
    if trimmed.is_empty() || trimmed == b"." {
        return Ok(Some(RelPath::root()));
    }
    RelPath::new(trimmed).map(Some).map_err(|error| Problem::bad(with_causes(&error)))
}

/// Lists the entries of a snapshot in order, page by page: if an answer has `limit`
/// entries, the next page is the one `after` its last path.
#[utoipa::path(
    get,
    path = "/snapshots/{id}/entries",
    params(("id" = String, Path, description = "The id of the snapshot, or the beginning of it"), EntriesQuery),
    responses(
        (status = 200, body = Vec<ListedEntry>),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
        (status = 400, description = "The id or the path is malformed", body = api::ApiProblem),
        (status = 404, description = "No such snapshot, or no such path in it", body = api::ApiProblem),
        (status = 409, description = "No backup server is configured", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be reached, or did not answer", body = api::ApiProblem),
    )
)]
pub(crate) async fn entries(
    _: Owner,
    State(services): State<Services>,
    Path(id): Path<String>,
    Query(query): Query<EntriesQuery>,
) -> ApiResult<Vec<ListedEntry>> {
    let path = rel_path(query.path.as_deref(), query.path_base64.as_deref())?;
    let after = rel_path(query.after.as_deref(), query.after_base64.as_deref())?;
    let path = path.unwrap_or_else(RelPath::root);
    let limit = query.limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX);
    let depth = if query.recursive { Depth::All } else { Depth::Children };
    let choice = Choice { from_backup_server: query.from_backup_server, ..Choice::default() };
    let snapshot = find(&services, &choice, Some(&id), None).await?;
    let store = snapshot_source::blocks(&services, query.from_backup_server)?;
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
