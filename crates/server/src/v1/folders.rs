//! The watched folders.

use std::path::Path as FsPath;
use std::time::Duration;

use api::{AddFolder, FileError, Folder, LeftOutDir};
use axum::extract::State;
use axum::http::StatusCode;
use config::{FolderConfig, FolderUpdate};
use node::{Services, check_new_folder, preview_rules, unknown_name};
use serde::Deserialize;
use sync::{
    FolderState, FolderStatus, LeftOut, LeftOutReason, PreviewLimits, SyncError, WatchMode,
};
use types::FolderId;
use utoipa::ToSchema;

use super::extract::{Json, Path};
use super::{ApiResult, Problem, blocking};
use types::with_causes;

/// Time within which the source side must watch a new folder.
const WATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Limits of the search for other file systems and caches in a new folder. The first scan
/// finds all.
const FIRST_LOOK: PreviewLimits =
    PreviewLimits { time: Duration::from_secs(2), entries: 200_000, named: 100 };

impl From<SyncError> for Problem {
    fn from(error: SyncError) -> Self {
        match &error {
            SyncError::UnknownFolder(_) => Self::not_found(error.to_string()),
            SyncError::Paused(_)
            | SyncError::Alarm { .. }
            | SyncError::Refused { .. }
            | SyncError::StillConfigured(_) => Self::conflict(&error),
            _ => Self::internal(&error),
        }
    }
}

fn changed(error: &config::ConfigError) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, with_causes(error))
}

/// Lists the watched folders.
#[utoipa::path(get, path = "/folders", responses((status = 200, body = Vec<Folder>)))]
pub(crate) async fn list(State(services): State<Services>) -> Json<Vec<Folder>> {
    Json(all(&services))
}

/// Returns every configured folder, in the order of the configuration.
pub(crate) fn all(services: &Services) -> Vec<Folder> {
    let config = services.settings.get();
    config.sync.folders.iter().map(|folder| one(services, folder)).collect()
}

fn one(services: &Services, folder: &FolderConfig) -> Folder {
    let mut shown = match services.sync.folder(&folder.id) {
        Some(status) => to_api(&status),
        // The source side does not watch the new folder yet.
        None => Folder {
            id: folder.id.clone(),
            name: folder.display_name(),
            path: folder.path.to_string(),
            state: if folder.paused { "paused" } else { "scanning" }.to_owned(),
            detail: None,
            sequence: None,
            manifest_cid: None,
            files: 0,
            dirs: 0,
            bytes: 0,
            pending_changes: 0,
            backed_up_sequence: None,
            backed_up_at: None,
            published_at: None,
            up_to: None,
            last_scan: None,
            watched_dirs: 0,
            dirs_to_watch: 0,
            file_system: String::new(),
            is_polled: false,
            held: None,
            hook_error: None,
            errors: Vec::new(),
            error_count: 0,
            one_file_system: true,
            exclude_caches: false,
            left_out: Vec::new(),
        },
    };
    (shown.one_file_system, shown.exclude_caches) = (folder.one_file_system, folder.exclude_caches);
    // A file system that is a folder of its own is backed up.
    let config = services.settings.get();
    shown.left_out.retain(|dir| {
        let path = folder.path.as_path().join(&dir.path);
        !config.sync.folders.iter().any(|other| other.path.as_path() == path)
    });
    shown
}

fn left_out(dir: &LeftOut) -> LeftOutDir {
    let kind = match dir.reason {
        LeftOutReason::Mount(_) => "mount",
        LeftOutReason::Remote(_) => "remote",
        LeftOutReason::Subvolume => "subvolume",
        LeftOutReason::Cache => "cache",
    };
    LeftOutDir {
        path: String::from_utf8_lossy(dir.path.as_bytes()).into_owned(),
        kind: kind.to_owned(),
        reason: dir.reason.to_string(),
    }
}

/// Returns the name of a state in the API.
pub(crate) fn word(state: &FolderState) -> &'static str {
    match state {
        FolderState::Idle => "idle",
        FolderState::Scanning => "scanning",
        FolderState::Waiting => "waiting",
        FolderState::Publishing => "publishing",
        FolderState::Paused => "paused",
        FolderState::Alarm { .. } => "alarm",
        FolderState::Error { .. } => "error",
    }
}

pub(crate) fn to_api(status: &FolderStatus) -> Folder {
    let mut detail = match &status.state {
        FolderState::Alarm { text, .. } | FolderState::Error { text, .. } => Some(text.clone()),
        FolderState::Scanning => {
            let progress = status.progress;
            Some(format!("{} entries scanned, {} files read", progress.entries, progress.files))
        }
        _ => None,
    };
    if let Some(stalled) = status.stalled_for {
        detail = Some(format!("the file system has not responded for {} s", stalled.as_secs()));
    }
    Folder {
        id: status.id.clone(),
        name: status.name.clone(),
        path: status.path.display().to_string(),
        state: word(&status.state).to_owned(),
        detail,
        sequence: status.manifest_cid.map(|_| status.sequence),
        manifest_cid: status.manifest_cid,
        files: status.files,
        dirs: status.dirs,
        bytes: status.bytes,
        pending_changes: status.pending_changes,
        backed_up_sequence: status.receipt.map(|receipt| receipt.sequence),
        backed_up_at: status.receipt.map(|receipt| receipt.at),
        published_at: status.published_at,
        up_to: up_to(status),
        last_scan: status.last_scan,
        watched_dirs: status.watch.watched,
        dirs_to_watch: status.watch.needed,
        file_system: status.watch.file_system.clone(),
        is_polled: status.watch.mode == WatchMode::Polling,
        held: status.awaiting_confirmation.clone(),
        errors: status.errors.iter().map(problem).collect(),
        error_count: status.error_count,
        hook_error: status.hook_error.clone(),
        one_file_system: true,
        exclude_caches: false,
        left_out: status.left_out.iter().map(left_out).collect(),
    }
}

/// Returns the time before which every change is on the backup server: the time that
/// the newest manifest covers, once it is confirmed.
fn up_to(status: &FolderStatus) -> Option<jiff::Timestamp> {
    let receipt = status.receipt?;
    status.covers_until.filter(|_| receipt.sequence >= status.sequence)
}

fn problem(problem: &sync::FileProblem) -> FileError {
    FileError {
        path: String::from_utf8_lossy(problem.path.as_bytes()).into_owned(),
        error: problem.what.clone(),
        since: Some(problem.since),
    }
}

/// Returns the folder with this id or this name.
pub(crate) fn find(services: &Services, wanted: &str) -> Result<FolderConfig, Problem> {
    let config = services.settings.get();
    let folders = &config.sync.folders;
    if let Some(folder) = folders.iter().find(|folder| folder.id.as_str() == wanted) {
        return Ok(folder.clone());
    }
    let mut named = folders.iter().filter(|folder| folder.display_name() == wanted);
    match (named.next(), named.next()) {
        (Some(folder), None) => Ok(folder.clone()),
        (Some(_), Some(_)) => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("several folders have the name {wanted:?}; use the id"),
        )),
        (None, _) => {
            let known = folders.iter().map(FolderConfig::display_name);
            Err(Problem::not_found(unknown_name("folder", wanted, known)))
        }
    }
}

/// Adds a folder.
#[utoipa::path(
    post,
    path = "/folders",
    request_body = AddFolder,
    responses(
        (status = 200, body = Folder),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 422, description = "Not a directory, or the name or a pattern is not valid",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn add(
    State(services): State<Services>,
    Json(request): Json<AddFolder>,
) -> ApiResult<Folder> {
    let mut changes = services.sync.subscribe();
    let sync = services.sync.clone();
    let Json(folder) = note(services, request).await?;
    // The client may request the folder immediately.
    let watched = async {
        while sync.folder(&folder.id).is_none() {
            let _ = changes.recv().await;
        }
    };
    let _ = tokio::time::timeout(WATCH_TIMEOUT, watched).await;
    Ok(Json(folder))
}

async fn note(services: Services, request: AddFolder) -> ApiResult<Folder> {
    blocking(move || {
        let bad = |message: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message);
        let path = FsPath::new(&request.path);
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(bad(format!("{} is not a directory", path.display()))),
            Err(error) => return Err(bad(format!("cannot use {}: {error}", path.display()))),
        }
        let value = |what: &str, error: &dyn std::error::Error| bad(format!("{what}: {error}"));
        check(&request.exclude)?;
        let mut exclude = Vec::new();
        for pattern in &request.exclude {
            let parsed = pattern.parse();
            exclude.push(parsed.map_err(|error: config::ValueError| value(pattern, &error))?);
        }
        let name = match request.name.as_deref() {
            Some(name) => {
                let parsed = name.parse();
                Some(parsed.map_err(|error: config::ValueError| value(name, &error))?)
            }
            None => None,
        };
        let parsed = request.path.parse();
        let folder = FolderConfig {
            id: FolderId::from_random(rand::random()),
            path: parsed.map_err(|error: config::ValueError| value(&request.path, &error))?,
            name,
            exclude,
            paused: false,
            one_file_system: request.one_file_system.unwrap_or(true),
            exclude_caches: request.exclude_caches.unwrap_or(false),
            before_publish: Vec::new(),
            after_publish: Vec::new(),
        };
        check_new_folder(&services.settings.get(), &folder)
            .map_err(|error| bad(error.to_string()))?;
        let edited = services.settings.edit(|draft| draft.add_folder(&folder));
        edited.map_err(|error| changed(&error))?;
        let mut answer = one(&services, &folder);
        if let Ok(found) = sync::find_left_out(path, &preview_rules(&folder), FIRST_LOOK) {
            answer.left_out = found.iter().map(left_out).collect();
        }
        Ok(Json(answer))
    })
    .await
}

/// Removes a folder. Its snapshots stay on the backup server.
#[utoipa::path(
    delete,
    path = "/folders/{id}",
    params(("id" = String, Path, description = "The id or the name of the folder")),
    responses(
        (status = 200, description = "The folder was removed from the configuration"),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
    )
)]
pub(crate) async fn remove(
    State(services): State<Services>,
    Path(id): Path<String>,
) -> ApiResult<()> {
    let folder = find(&services, &id)?;
    let (removed, settings) = (services.removed_folders.clone(), services.settings.clone());
    let folder_id = folder.id.clone();
    blocking(move || {
        removed.note(&folder_id).map_err(|error| Problem::internal(&error))?;
        let edited = settings.edit(|draft| draft.remove_folder(&folder_id));
        edited.map_err(|error| changed(&error))
    })
    .await?;
    node::forget_folder(&services, folder.id);
    Ok(Json(()))
}

/// Checks that the source side can use the patterns.
fn check(exclude: &[String]) -> Result<(), Problem> {
    sync::check_patterns(exclude)
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, with_causes(&error)))
}

/// The new values of a folder; an absent field stays unchanged.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct FolderChanges {
    /// The name.
    #[serde(default)]
    name: Option<String>,
    /// The exclude patterns, in the syntax of .gitignore.
    #[serde(default)]
    exclude: Option<Vec<String>>,
    /// True if file systems that are mounted in the folder, and btrfs subvolumes in it,
    /// are left out.
    #[serde(default)]
    one_file_system: Option<bool>,
    /// True if the contents of directories with a `CACHEDIR.TAG` are left out.
    #[serde(default)]
    exclude_caches: Option<bool>,
}

/// Changes the settings of a folder.
#[utoipa::path(
    patch,
    path = "/folders/{id}",
    params(("id" = String, Path, description = "The id or the name of the folder")),
    request_body = FolderChanges,
    responses(
        (status = 200, body = Folder),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
        (status = 409, description = "Several folders have this name",
            body = api::ApiProblem),
        (status = 422, description = "The name or a pattern is not valid", body = api::ApiProblem),
    )
)]
pub(crate) async fn update(
    State(services): State<Services>,
    Path(id): Path<String>,
    Json(changes): Json<FolderChanges>,
) -> ApiResult<Folder> {
    blocking(move || {
        let folder = find(&services, &id)?;
        check(changes.exclude.as_deref().unwrap_or_default())?;
        let bad = |what: &str, error: &config::ValueError| {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{what}: {error}"))
        };
        let name = changes.name.as_deref();
        let name = name.map(|name| name.parse().map_err(|error| bad(name, &error))).transpose()?;
        let parse = |text: &String| text.parse().map_err(|error| bad(text, &error));
        let exclude =
            changes.exclude.map(|all| all.iter().map(parse).collect::<Result<Vec<_>, _>>());
        let exclude = exclude.transpose()?;
        let (one_file_system, exclude_caches) = (changes.one_file_system, changes.exclude_caches);
        let update = FolderUpdate {
            name,
            exclude,
            one_file_system,
            exclude_caches,
            ..FolderUpdate::default()
        };
        let edited = services.settings.edit(|draft| draft.update_folder(&folder.id, &update));
        edited.map_err(|error| changed(&error))?;
        let folder = find(&services, folder.id.as_str())?;
        let mut answer = one(&services, &folder);
        answer.name = folder.display_name();
        Ok(Json(answer))
    })
    .await
}

async fn set_paused(services: Services, id: String, paused: bool) -> ApiResult<Folder> {
    blocking(move || {
        let folder = find(&services, &id)?;
        let update = FolderUpdate { paused: Some(paused), ..FolderUpdate::default() };
        let edited = services.settings.edit(|draft| draft.update_folder(&folder.id, &update));
        edited.map_err(|error| changed(&error))?;
        let mut answer = one(&services, &folder);
        if paused {
            answer.state = "paused".to_owned();
        }
        Ok(Json(answer))
    })
    .await
}

/// Pauses a folder: nothing of it is published until it is resumed.
#[utoipa::path(
    post,
    path = "/folders/{id}/pause",
    params(("id" = String, Path, description = "The id or the name of the folder")),
    responses(
        (status = 200, body = Folder),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
    )
)]
pub(crate) async fn pause(
    State(services): State<Services>,
    Path(id): Path<String>,
) -> ApiResult<Folder> {
    set_paused(services, id, true).await
}

/// Resumes a paused folder.
#[utoipa::path(
    post,
    path = "/folders/{id}/resume",
    params(("id" = String, Path, description = "The id or the name of the folder")),
    responses(
        (status = 200, body = Folder),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
    )
)]
pub(crate) async fn resume(
    State(services): State<Services>,
    Path(id): Path<String>,
) -> ApiResult<Folder> {
    set_paused(services, id, false).await
}

/// Confirms that a change which stopped a folder, or which makes its snapshots suspicious, was
/// intended: the directory is another one or is empty, or many files were deleted or
/// rewritten.
#[utoipa::path(
    post,
    path = "/folders/{id}/confirm",
    params(("id" = String, Path, description = "The id or the name of the folder")),
    responses(
        (status = 200, body = Folder),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
        (status = 409, description = "The folder cannot continue nevertheless", body = api::ApiProblem),
    )
)]
pub(crate) async fn confirm(
    State(services): State<Services>,
    Path(id): Path<String>,
) -> ApiResult<Folder> {
    let folder = find(&services, &id)?;
    services.sync.confirm(&folder.id).await?;
    Ok(Json(one(&services, &folder)))
}

/// Lists everything in a folder that could not be read.
#[utoipa::path(
    get,
    path = "/folders/{id}/errors",
    params(("id" = String, Path, description = "The id or the name of the folder")),
    responses(
        (status = 200, body = Vec<FileError>),
        (status = 404, description = "No such folder", body = api::ApiProblem),
    )
)]
pub(crate) async fn errors(
    State(services): State<Services>,
    Path(id): Path<String>,
) -> ApiResult<Vec<FileError>> {
    blocking(move || {
        let folder = find(&services, &id)?;
        let errors = services.sync.errors(&folder.id)?;
        Ok(Json(errors.iter().map(problem).collect()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use sync::{Progress, Receipt, WatchStatus};
    use types::SequenceNumber;

    use super::*;

    /// A reader relies on `up_to`: it is the time that a confirmed manifest covers,
    /// neither the time of publishing nor the time of the receipt.
    #[test]
    fn up_to_is_said_only_of_what_is_acknowledged() {
        let moment = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let covered = moment("2026-11-22T12:00:00Z");
        let status = |sequence, receipt: Option<u64>| FolderStatus {
            id: "docs".parse().unwrap(),
            name: "docs".into(),
            path: "/docs".into(),
            state: FolderState::Idle,
            sequence: SequenceNumber(sequence),
            manifest_cid: None,
            published_at: Some(moment("2026-11-22T12:00:01Z")),
            covers_until: Some(covered),
            files: 1,
            dirs: 1,
            bytes: 1,
            pending_changes: 0,
            error_count: 0,
            errors: Vec::new(),
            left_out: Vec::new(),
            watch: WatchStatus {
                watched: 1,
                needed: 1,
                mode: WatchMode::Watching,
                file_system: "ext4".to_owned(),
            },
            hook_error: None,
            awaiting_confirmation: None,
            receipt: receipt.map(|sequence| Receipt {
                sequence: SequenceNumber(sequence),
                manifest_cid: types::Cid::of(types::Codec::DagCbor, b"manifest"),
                at: moment("2026-11-22T12:00:09Z"),
            }),
            last_scan: Some(moment("2026-11-22T12:00:05Z")),
            progress: Progress::default(),
            files_read: 1,
            stalled_for: None,
        };
        assert_eq!(to_api(&status(7, Some(7))).up_to, Some(covered));
        assert_eq!(to_api(&status(7, Some(6))).up_to, None);
        assert_eq!(to_api(&status(7, None)).up_to, None);
        let unseen = FolderStatus { covers_until: None, ..status(7, Some(7)) };
        assert_eq!(to_api(&unseen).up_to, None);
    }
}
