//! Long work: verifying, and freeing what is not kept any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{Job, PruneReport, PruneRequest, VerifyRequest};
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::extract::{Json, Path};
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

    fn end(&self, result: Result<serde_json::Value, String>) {
        self.end.lock().get_or_insert_with(|| (Timestamp::now(), result));
    }
}

/// A job that goes on for as long as this lives: however its work ends, a panic
/// included, it is not shown as running any more, and the next may begin.
struct Work(Arc<Running>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.end(Err("it broke off; the log tells why".into()));
    }
}

impl Jobs {
    /// Whether one is under way.
    pub(crate) fn is_any_running(&self) -> bool {
        self.0.lock().values().any(|job| job.end.lock().is_none())
    }

    fn begin(&self, kind: &'static str) -> Result<Work, Problem> {
        let mut jobs = self.0.lock();
        if jobs.values().any(|job| job.kind == kind && job.end.lock().is_none()) {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("another {kind} is running; wait for its end"),
            ));
        }
        if jobs.len() >= ENDED_MAX
            && let Some(id) =
                jobs.iter().find(|(_, job)| job.end.lock().is_some()).map(|(id, _)| *id)
        {
            jobs.remove(&id);
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
        Ok(Work(job))
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
    let work = state.jobs.begin("verify")?;
    let answer = work.0.to_api();
    let (tasks, stop) = (state.node.tasks.clone(), state.stop.clone());
    tasks.spawn("verify", async move {
        let result = tokio::select! {
            result = maintenance::verify(&state, request, &work.0) => result,
            () = stop.cancelled() => Err("the instance is stopping".into()),
        };
        work.0
            .end(result.and_then(|result| {
                serde_json::to_value(result).map_err(|error| error.to_string())
            }));
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
        (status = 409, description = "What is known is not whole, and is not accepted so",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn prune(
    State(state): State<ApiState>,
    Json(request): Json<PruneRequest>,
) -> Answer<PruneReport> {
    if request.accept_roots {
        maintenance::check_whole(&state)
            .await
            .map_err(|message| Problem::new(StatusCode::CONFLICT, message))?;
    }
    let report = maintenance::prune(&state, request).await;
    report.map(Json).map_err(|message| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_has_failed_and_the_next_may_begin() {
        let jobs = Jobs::default();
        let work = jobs.begin("verify").unwrap();
        let running = work.0.clone();
        assert!(jobs.begin("verify").is_err());
        let broken = tokio::spawn(async move {
            let _work = work;
            panic!("on purpose");
        });
        assert!(broken.await.is_err());
        let told = running.to_api();
        assert_eq!(told.state, "failed");
        assert!(told.error.unwrap().contains("broke off") && told.ended_at.is_some());
        let next = jobs.begin("verify").unwrap();
        next.0.end(Ok(serde_json::Value::Null));
        let ended = next.0.clone();
        drop(next);
        assert_eq!(ended.to_api().state, "done");
    }
}
