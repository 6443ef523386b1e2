//! Restores: from the snapshots of this instance, or from the snapshots on the
//! backup server of its folders.

use std::path::PathBuf;

use api::{RestoreReport, RestoreRequest, from_text};
use axum::extract::State;
use node::{RestoreJob, Services};
use restore::{RestoreOptions, Selection};
use types::{RelPath, with_causes};

use super::extract::{Json, Path};
use super::snapshots::{self, Choice};
use super::ui::Owner;
use super::{ApiResult, Problem, blocking};

/// Starts a restore in the background.
#[utoipa::path(
    post,
    path = "/restores",
    request_body = RestoreRequest,
    responses(
        (status = 200, description = "The restore has started; poll it by its id", body = RestoreReport),
        (status = 400, description = "A path or the id of the snapshot is malformed", body = api::ApiProblem),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such snapshot", body = api::ApiProblem),
        (status = 409, description = "Snapshots of several folders match, or no backup server is configured",
            body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be reached, or did not answer", body = api::ApiProblem),
    )
)]
pub(crate) async fn start(
    State(services): State<Services>,
    Json(request): Json<RestoreRequest>,
) -> ApiResult<RestoreReport> {
    let target = target(&request).await?;
    let selection = selection(&request)?;
    let choice = Choice {
        source: None,
        folder: request.folder.clone(),
        from_backup_server: request.from_backup_server,
    };
    let (snapshot, passed_over) =
        snapshots::find_and_compare(&services, &choice, request.snapshot.as_deref(), request.at)
            .await?;
    let job = RestoreJob {
        snapshot: snapshot.id,
        passed_over,
        manifest: snapshot.manifest_cid,
        target,
        options: RestoreOptions {
            selection,
            overwrite: request.overwrite,
            owners: restore::OwnerPolicy::for_this_process(!request.numeric_owner),
            as_it_was: request.as_it_was || request.from_backup_server,
            protected: vec![services.data_dir.to_path_buf()],
            ..RestoreOptions::default()
        },
        from_backup_server: request.from_backup_server,
    };
    Ok(Json(node::start_restore(&services, job)?))
}

async fn target(request: &RestoreRequest) -> Result<PathBuf, Problem> {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = from_text(&request.target, request.target_base64.as_deref())
        .ok_or_else(|| Problem::bad("target_base64 is not base64"))?;
    let target = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    if !target.is_absolute() {
        return Err(Problem::bad(format!(
            "the target {} is not an absolute path",
            target.display()
        )));
    }
    // The disk may be slow, or a network file system.
    blocking(move || {
        if std::fs::metadata(&target).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Problem::bad(format!(
                "the target {} is not a directory",
                target.display()
            )));
        }
        Ok(target)
    })
    .await
}

fn selection(request: &RestoreRequest) -> Result<Selection, Problem> {
    let mut paths = Vec::new();
    let texts = request.paths.iter().map(|path| from_text(path, None));
    let coded = request.paths_base64.iter().map(|path| from_text("", Some(path)));
    for bytes in texts.chain(coded) {
        let bytes = bytes.ok_or_else(|| Problem::bad("a path is not base64"))?;
        let trimmed = bytes.strip_suffix(b"/").unwrap_or(&bytes);
        let path = RelPath::new(trimmed).map_err(|error| Problem::bad(with_causes(&error)))?;
        paths.push(path);
    }
    Ok(if paths.is_empty() { Selection::default() } else { Selection::new(paths) })
}

/// Lists the restores since the start of the instance.
#[utoipa::path(
    get,
    path = "/restores",
    responses(
        (status = 200, body = Vec<RestoreReport>),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
    )
)]
pub(crate) async fn list(_: Owner, State(services): State<Services>) -> Json<Vec<RestoreReport>> {
    Json(services.restores.list())
}

/// Returns the state of a restore.
#[utoipa::path(
    get,
    path = "/restores/{id}",
    params(("id" = u64, Path, description = "The id in the answer to its start")),
    responses(
        (status = 200, body = RestoreReport),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
        (status = 404, description = "No such restore since the start of the instance",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn get(
    _: Owner,
    State(services): State<Services>,
    Path(id): Path<u64>,
) -> ApiResult<RestoreReport> {
    services.restores.get(id).map(Json).ok_or_else(|| unknown(id))
}

/// Cancels a restore. The restored files stay; the same restore, run again, continues
/// with the rest.
#[utoipa::path(
    delete,
    path = "/restores/{id}",
    params(("id" = u64, Path, description = "The id in the answer to its start")),
    responses(
        (status = 200, description = "The restore ends soon", body = RestoreReport),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such restore since the start of the instance",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn cancel(
    State(services): State<Services>,
    Path(id): Path<u64>,
) -> ApiResult<RestoreReport> {
    services.restores.cancel(id).map(Json).ok_or_else(|| unknown(id))
}

fn unknown(id: u64) -> Problem {
    Problem::not_found(format!("there is no restore {id}"))
}
