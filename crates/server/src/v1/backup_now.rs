//! Backing up now.

use std::time::Duration;

use api::{BackupNowReport, BackupNowRequest, FolderChoice, Registered, Step};
use axum::extract::State;
use axum::http::StatusCode;
use node::{Services, folder_name};
use protocols::{BackupNowError, NotifyStep, StepReport, WaitError};
use types::{FolderId, PublishedManifest};

use super::extract::Json;
use super::{Answer, Problem, folders};
use types::with_causes;

/// The longest time that a request waits for the backup server.
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

/// The folders that are meant; those that are paused only where they are
/// named.
fn chosen(services: &Services, folder: Option<&str>) -> Result<Vec<FolderId>, Problem> {
    if let Some(folder) = folder {
        return Ok(vec![folders::find(services, folder)?.id]);
    }
    let config = services.settings.get();
    let running = config.sync.folders.iter().filter(|folder| !folder.paused);
    let ids: Vec<FolderId> = running.map(|folder| folder.id.clone()).collect();
    if ids.is_empty() {
        let why = if config.sync.folders.is_empty() {
            "no folder is watched; `archivist folder add PATH` adds one"
        } else {
            "all folders are paused; `archivist folder resume ID` goes on with one"
        };
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    Ok(ids)
}

/// Looks through folders and publishes what has changed; answers when the
/// manifests are registered. A folder that fails keeps none of the others from
/// it, and is named.
#[utoipa::path(
    post,
    path = "/sync",
    request_body = FolderChoice,
    responses(
        (status = 200, body = Vec<Registered>),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
        (status = 409, description = "Paused, or in alarm, or there is none; of several, which \
            are not registered", body = api::ApiProblem),
    )
)]
pub(crate) async fn sync_now(
    State(services): State<Services>,
    Json(choice): Json<FolderChoice>,
) -> Answer<Vec<Registered>> {
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
        format!("{} of {count} folders are not registered: {}", failed.len(), failed.join("; ")),
    ))
}

/// Has folders backed up now: registers their manifests, connects to the
/// backup server and triggers it; with `wait_secs`, waits for its receipts.
#[utoipa::path(
    post,
    path = "/backup-now",
    request_body = BackupNowRequest,
    responses(
        (status = 200, description = "Every step, and whether it went well",
            body = BackupNowReport),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 404, description = "No such folder", body = api::ApiProblem),
        (status = 409, description = "No backup server, or nothing to back up",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn backup_now(
    State(services): State<Services>,
    Json(request): Json<BackupNowRequest>,
) -> Answer<BackupNowReport> {
    let chosen = chosen(&services, request.folder.as_deref())?;
    let one = request.folder.as_ref().and_then(|_| chosen.first().cloned());
    let done = match services.backup_service.backup_now(one).await {
        Ok(done) => done,
        Err(ref error @ BackupNowError::Connect { ref steps, .. }) => {
            // It is told as a step: what is registered stays so, and the
            // backup server finds it when it asks.
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
                        format!("the backup server has {} at {sequence}", manifest.folder_name)
                    }
                    Err(error @ WaitError::Timeout { .. }) => {
                        format!("{}: {error}; it goes on by itself", manifest.folder_name)
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
