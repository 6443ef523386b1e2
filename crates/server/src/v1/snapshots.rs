//! What this instance holds: snapshots, and what is in them.

use std::ops::ControlFlow;

use api::{ListedEntry, from_text};
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use node::{
    SelectError, Services, SnapshotSelector, SnapshotSourceError, snapshot_model, snapshot_source,
};
use protocols::RemoteSnapshot;
use serde::Deserialize;
use snapshots::{Depth, SnapshotTree, TreeError};
use types::RelPath;
use utoipa::IntoParams;

use super::extract::{Json, Path, Query};
use super::ui::Owner;
use super::{Answer, Problem, blocking};
use types::with_causes;

/// Entries in one answer, at most.
const ENTRIES_MAX: usize = 10_000;
const ENTRIES_DEFAULT: usize = 1000;

impl From<SelectError> for Problem {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::NotFound(_) => Self::not_found(error.to_string()),
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

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        Self::not_found(with_causes(&error))
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
    fn as_selector(&self) -> SnapshotSelector<'_> {
        SnapshotSelector {
            source: self.source.as_deref(),
            folder: self.folder.as_deref(),
            ..SnapshotSelector::default()
        }
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
    State(services): State<Services>,
    Query(choice): Query<Choice>,
) -> Answer<Vec<api::Snapshot>> {
    let fitting = chosen(&services, &choice).await?;
    let config = services.settings.get();
    Ok(Json(fitting.into_iter().map(|one| snapshot_model(&config, one)).collect()))
}

/// Those that are meant, in the same order.
pub(crate) async fn chosen(
    services: &Services,
    choice: &Choice,
) -> Result<Vec<RemoteSnapshot>, Problem> {
    let all = snapshot_source::list(services, choice.from_backup_server).await?;
    Ok(choice.as_selector().fitting(&services.settings.get(), all)?)
}

/// The one snapshot that is meant: by the beginning of its id, or the newest
/// of the one folder that fits.
pub(crate) async fn find(
    services: &Services,
    choice: &Choice,
    id: Option<&str>,
    at: Option<Timestamp>,
) -> Result<RemoteSnapshot, Problem> {
    let all = snapshot_source::list(services, choice.from_backup_server).await?;
    let meant = SnapshotSelector { id, at, ..choice.as_selector() };
    Ok(meant.newest(&services.settings.get(), all)?)
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
        (status = 401, description = "Without the token or a session", body = api::ApiProblem),
        (status = 400, description = "Not such an id or path", body = api::ApiProblem),
        (status = 404, description = "No such snapshot, or nothing there", body = api::ApiProblem),
        (status = 409, description = "There is no backup server to ask", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be asked", body = api::ApiProblem),
    )
)]
pub(crate) async fn entries(
    _: Owner,
    State(services): State<Services>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Answer<Vec<ListedEntry>> {
    let path = rel_path(which.path.as_deref(), which.path_base64.as_deref())?;
    let after = rel_path(which.after.as_deref(), which.after_base64.as_deref())?;
    let path = path.unwrap_or_else(RelPath::root);
    let limit = which.limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX);
    let depth = if which.recursive { Depth::All } else { Depth::Children };
    let choice = Choice { from_backup_server: which.from_backup_server, ..Choice::default() };
    let snapshot = find(&services, &choice, Some(&id), None).await?;
    let store = snapshot_source::blocks(&services, which.from_backup_server)?;
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
