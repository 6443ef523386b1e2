//! Scanning and backing up on request.

use std::time::Duration;

use api::{BackupNowReport, BackupNowRequest, FolderChoice, Registered, Step};
use axum::extract::State;
use axum::http::StatusCode;
use node::{Services, folder_name};
use protocols::{BackupNowError, NotifyStep, StepReport, WaitError};
use types::{FolderId, PublishedManifest};

use super::extract::Json;
use super::{ApiResult, Problem, folders};
use types::with_causes;

/// Maximum time in seconds that a request waits for receipts.
const WAIT_MAX: u64 = 24 * 3600;

fn registered(services: &Services, published: &PublishedManifest) -> Registered {
    let receipt = services.sync.folder(&published.folder_id).and_then(|status| status.receipt);
    Registered {
        folder_id: published.folder_id.clone(),
        folder_name: published.folder_name.clone(),
        sequence: published.sequence_number,
        manifest_cid: published.manifest_cid,
        backed_up_sequence: receipt.map(|receipt| receipt.sequence),
    }
}

fn to_api(step: &StepReport) -> Step {
    let name = match step.step {
        NotifyStep::Register => "register",
        NotifyStep::Connect => "connect",
        NotifyStep::Trigger => "trigger",
    };
    Step { name: name.into(), ok: !step.is_warning, detail: Some(step.message.clone()) }
}

/// Returns the requested folder, or all folders that are not paused.
fn chosen(services: &Services, folder: Option<&str>) -> Result<Vec<FolderId>, Problem> {
    if let Some(folder) = folder {
        return Ok(vec![folders::find(services, folder)?.id]);
    }
    let config = services.settings.get();
    let running = config.sync.folders.iter().filter(|folder| !folder.paused);
    let ids: Vec<FolderId> = running.map(|folder| folder.id.clone()).collect();
    if ids.is_empty() {
        let why = if config.sync.folders.is_empty() {
            "there is no folder; add one with `archivist folder add PATH`"
        } else {
            "all folders are paused; resume one with `archivist folder resume ID`"
        };
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    Ok(ids)
}

/// Scans folders and publishes their changes. The answer is sent when the manifests
/// are registered. A folder that fails does not stop the others; the error names
/// it.
#[utoipa::path(
    post,
    path = "/sync",
    request_body = FolderChoice,
    responses(
        (status = 200, body = Vec<Registered>),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
        (status = 409, description = "A folder is paused or in alarm, or there is no folder; the \
            message names the folders that are not registered", body = api::ApiProblem),
    )
)]
pub(crate) async fn sync_now(
    State(services): State<Services>,
    Json(choice): Json<FolderChoice>,
) -> ApiResult<Vec<Registered>> {
    let chosen = chosen(&services, choice.folder.as_deref())?;
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for folder in &chosen {
        match services.sync.scan_now(folder).await {
            Ok(published) => all.push(registered(&services, &published)),
            Err(error) if chosen.len() == 1 => return Err(error.into()),
            Err(error) => {
                failed.push(format!(
                    "{}: {}",
                    folder_name(&services.sync, folder),
                    with_causes(&error)
                ));
            }
        }
    }
    if failed.is_empty() {
        return Ok(Json(all));
    }
    let count = chosen.len();
    Err(Problem::new(
        StatusCode::CONFLICT,
        format!("cannot register {} of {count} folders: {}", failed.len(), failed.join("; ")),
    ))
}

/// Backs up folders now: registers their manifests, connects to the backup server
/// and triggers it. With `wait_secs`, waits for the receipts.
#[utoipa::path(
    post,
    path = "/backup-now",
    request_body = BackupNowRequest,
    responses(
        (status = 200, description = "Every step with its result",
            body = BackupNowReport),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
        (status = 409, description = "No backup server is configured, or there is no folder to back up",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn backup_now(
    State(services): State<Services>,
    Json(request): Json<BackupNowRequest>,
) -> ApiResult<BackupNowReport> {
    let chosen = chosen(&services, request.folder.as_deref())?;
    let one = request.folder.as_ref().and_then(|_| chosen.first().cloned());
    let done = match services.backup_service.backup_now(one).await {
        Ok(done) => done,
        Err(ref error @ BackupNowError::Connect { ref steps, .. }) => {
            // The error is reported as a step: the manifests stay registered, and
            // the backup server finds them when it polls.
            let connect =
                Step { name: "connect".into(), ok: false, detail: Some(with_causes(error)) };
            let folders = chosen.iter().filter_map(|id| services.registry.get(id));
            return Ok(Json(BackupNowReport {
                folders: folders.map(|offer| registered(&services, &offer.published)).collect(),
                steps: steps.iter().map(to_api).chain([connect]).collect(),
            }));
        }
        Err(error) => return Err(Problem::conflict(&error)),
    };
    let mut steps: Vec<Step> = done.steps.iter().map(to_api).collect();
    if let Some(seconds) = request.wait_secs {
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds.min(WAIT_MAX));
        for manifest in &done.manifests {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let waited = services
                .backup_service
                .wait_for_receipt(&manifest.folder_id, manifest.sequence, left)
                .await;
            steps.push(Step {
                name: "acknowledge".into(),
                ok: waited.is_ok(),
                detail: Some(match waited {
                    Ok(sequence) => {
                        format!(
                            "the backup server confirmed snapshot {sequence} of {}",
                            manifest.folder_name
                        )
                    }
                    Err(error @ WaitError::Timeout { .. }) => {
                        format!("{}: {error}; the backup continues", manifest.folder_name)
                    }
                    Err(error) => error.to_string(),
                }),
            });
        }
    }
    let folders =
        done.manifests.iter().filter_map(|manifest| services.registry.get(&manifest.folder_id));
    Ok(Json(BackupNowReport {
        folders: folders.map(|offer| registered(&services, &offer.published)).collect(),
        steps,
    }))
}
