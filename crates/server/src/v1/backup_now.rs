//! Scanning and backing up on request.

use std::time::Duration;

use api::{BackupNowReport, BackupNowRequest, FolderChoice, Registered, Step};
use axum::extract::State;
use axum::http::StatusCode;
use node::{Services, folder_name};
use protocols::{BackupNowError, NotifyStep, StepReport, WaitError};
use types::{FolderId, PublishedManifest, SequenceNumber};

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

/// Returns the result of waiting for a receipt. If not every current state `is_registered`, the
/// confirmed snapshot may be an old one.
fn acknowledge(
    waited: Result<SequenceNumber, WaitError>,
    folder_name: &str,
    is_registered: bool,
) -> Step {
    let ok = waited.is_ok();
    let detail = match waited {
        Ok(sequence) => {
            let confirmed =
                format!("the backup server confirmed snapshot {sequence} of {folder_name}");
            match is_registered {
                true => confirmed,
                false => format!("{confirmed}; changes since then may not be backed up"),
            }
        }
        Err(error @ WaitError::Timeout { .. }) => {
            format!("{folder_name}: {error}; the backup continues")
        }
        Err(error) => error.to_string(),
    };
    Step { name: "acknowledge".into(), ok, detail: Some(detail) }
}

/// Returns the requested folder, or all folders that are not paused.
fn chosen(services: &Services, folder: Option<&str>) -> Result<Vec<FolderId>, Problem> {
    if let Some(wanted) = folder {
        let folder = folders::find(services, wanted)?;
        if folder.paused {
            let why = format!(
                "{} is paused and was not backed up; to resume, run `archivist folder resume {}`",
                folder.display_name(),
                folder.id
            );
            return Err(Problem::new(StatusCode::CONFLICT, why));
        }
        return Ok(vec![folder.id]);
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
        (status = 409, description = "No backup server is configured, the folder is paused, or there is \
            no folder to back up",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn backup_now(
    State(services): State<Services>,
    Json(request): Json<BackupNowRequest>,
) -> ApiResult<BackupNowReport> {
    let chosen = chosen(&services, request.folder.as_deref())?;
    let done = match services.backup_service.backup_now(&chosen).await {
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
    let is_failed = |step: &StepReport| step.step == NotifyStep::Register && step.is_warning;
    let is_registered = !done.steps.iter().any(is_failed);
    let mut steps: Vec<Step> = done.steps.iter().map(to_api).collect();
    if let Some(seconds) = request.wait_secs {
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds.min(WAIT_MAX));
        for manifest in &done.manifests {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let waited = services
                .backup_service
                .wait_for_receipt(&manifest.folder_id, manifest.sequence, left)
                .await;
            steps.push(acknowledge(waited, &manifest.folder_name, is_registered));
        }
    }
    let folders =
        done.manifests.iter().filter_map(|manifest| services.registry.get(&manifest.folder_id));
    Ok(Json(BackupNowReport {
        folders: folders.map(|offer| registered(&services, &offer.published)).collect(),
        steps,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_snapshot_is_not_shown_as_the_current_state() {
        let text = |waited, is_registered| {
            let step = acknowledge(waited, "docs", is_registered);
            (step.ok, step.detail.unwrap_or_default())
        };
        let sequence = SequenceNumber(4);
        let confirmed = "the backup server confirmed snapshot 4 of docs";
        assert_eq!(text(Ok(sequence), true), (true, confirmed.to_owned()));
        let old = format!("{confirmed}; changes since then may not be backed up");
        assert_eq!(text(Ok(sequence), false), (true, old));
        let after = Duration::from_secs(2);
        let late = text(Err(WaitError::Timeout { sequence, after }), true);
        assert!(!late.0 && late.1.starts_with("docs: ") && late.1.ends_with("continues"));
    }
}
