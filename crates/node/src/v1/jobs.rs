//! Long work: verifying, and freeing what is not kept any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{Job, PruneReport, PruneRequest, VerifyRequest};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Answer, ApiState, Problem};
use crate::maintenance;

/// Jobs that are remembered after their end.
const ENDED_MAX: usize = 100;

/// The jobs of this instance since it was started. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Jobs(Arc<Mutex<BTreeMap<u64, Arc<Running>>>>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Running {
    id: u64,
    kind: &'static str,
    /// How much is done.
    pub(crate) done: AtomicU64,
    /// Of so much; 0 where it is not known.
    pub(crate) total: AtomicU64,
    started_at: Timestamp,
    end: Mutex<Option<(Timestamp, Result<serde_json::Value, String>)>>,
}

impl Running {
    fn to_api(&self) -> Job {
        let end = self.end.lock().clone();
        let ended_at = end.as_ref().map(|(at, _)| *at);
        let (state, result, error) = match end {
            None => ("running", None, None),
            Some((_, Ok(result))) => ("done", Some(result), None),
            Some((_, Err(error))) => ("failed", None, Some(error)),
        };
        let total = self.total.load(Ordering::Relaxed);
        Job {
            id: self.id,
            kind: self.kind.to_owned(),
            state: state.to_owned(),
            progress_done: self.done.load(Ordering::Relaxed),
            progress_total: (total > 0).then_some(total),
            result,
            error,
            started_at: Some(self.started_at),
            ended_at,
        }
    }

    pub(crate) fn end(&self, result: Result<serde_json::Value, String>) {
        *self.end.lock() = Some((Timestamp::now(), result));
    }
}

impl Jobs {
    fn begin(&self, kind: &'static str) -> Result<Arc<Running>, Problem> {
        let mut jobs = self.0.lock();
        if jobs.values().any(|job| job.kind == kind && job.end.lock().is_none()) {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("another {kind} is running; wait for its end"),
            ));
        }
        while jobs.len() >= ENDED_MAX {
            jobs.pop_first();
        }
        let id = jobs.last_key_value().map_or(1, |(id, _)| id + 1);
        let job = Arc::new(Running {
            id,
            kind,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            started_at: Timestamp::now(),
            end: Mutex::new(None),
        });
        jobs.insert(id, job.clone());
        Ok(job)
    }
}

/// Begins to check every snapshot, in the background.
#[utoipa::path(
    post,
    path = "/verify",
    request_body = VerifyRequest,
    responses(
        (status = 200, description = "It has begun; ask for the job", body = Job),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 409, description = "Another one is running", body = api::ApiProblem),
    )
)]
pub(crate) async fn verify(
    State(state): State<ApiState>,
    Json(request): Json<VerifyRequest>,
) -> Answer<Job> {
    let job = state.jobs.begin("verify")?;
    let answer = job.to_api();
    tokio::spawn(async move {
        let result = maintenance::verify(&state, request, &job).await;
        job.end(
            result
                .and_then(|result| serde_json::to_value(result).map_err(|error| error.to_string())),
        );
    });
    Ok(Json(answer))
}

/// The jobs since the instance was started, the oldest first.
#[utoipa::path(get, path = "/jobs", responses((status = 200, body = Vec<Job>)))]
pub(crate) async fn list(State(state): State<ApiState>) -> Json<Vec<Job>> {
    Json(state.jobs.0.lock().values().map(|job| job.to_api()).collect())
}

/// How a job stands.
#[utoipa::path(
    get,
    path = "/jobs/{id}",
    params(("id" = u64, Path, description = "As it was answered when it began")),
    responses(
        (status = 200, body = Job),
        (status = 404, description = "No such job since the instance was started",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn get(State(state): State<ApiState>, Path(id): Path<u64>) -> Answer<Job> {
    let job = state.jobs.0.lock().get(&id).cloned();
    let job = job.ok_or_else(|| Problem::not_found(format!("there is no job {id}")))?;
    Ok(Json(job.to_api()))
}

/// Removes the snapshots that no rule of `[backup_server.keep]` keeps, and
/// frees what nothing needs any more.
#[utoipa::path(
    post,
    path = "/prune",
    request_body = PruneRequest,
    responses(
        (status = 200, body = PruneReport),
        (status = 401, description = "Without the token", body = api::ApiProblem),
    )
)]
pub(crate) async fn prune(
    State(state): State<ApiState>,
    Json(request): Json<PruneRequest>,
) -> Answer<PruneReport> {
    let report = maintenance::prune(&state, request.dry_run).await;
    report.map(Json).map_err(|message| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message))
}
