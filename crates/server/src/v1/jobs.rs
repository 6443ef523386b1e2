//! Jobs: verifying, pruning and recovering.

use api::{Job, PruneReport, PruneRequest, RecoverReport, RecoverRequest, VerifyRequest};
use axum::extract::State;
use axum::http::StatusCode;
use node::{PruneError, RecoverError, Services};

use super::extract::{Json, Path};
use super::{ApiResult, Problem};

/// Starts to verify every snapshot in the background.
#[utoipa::path(
    post,
    path = "/verify",
    request_body = VerifyRequest,
    responses(
        (status = 200, description = "The verification has started; poll the job", body = Job),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 409, description = "Another verification is running", body = api::ApiProblem),
    )
)]
pub(crate) async fn verify(
    State(services): State<Services>,
    Json(request): Json<VerifyRequest>,
) -> ApiResult<Job> {
    let job = node::start_verify(&services, request);
    job.map(Json).map_err(|error| Problem::conflict(&error))
}

/// Lists the jobs since the start of the instance, the oldest first.
#[utoipa::path(get, path = "/jobs", responses((status = 200, body = Vec<Job>)))]
pub(crate) async fn list(State(services): State<Services>) -> Json<Vec<Job>> {
    Json(services.jobs.list())
}

/// Returns the state of a job.
#[utoipa::path(
    get,
    path = "/jobs/{id}",
    params(("id" = u64, Path, description = "The id in the answer to its start")),
    responses(
        (status = 200, body = Job),
        (status = 404, description = "No such job since the start of the instance",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn get(State(services): State<Services>, Path(id): Path<u64>) -> ApiResult<Job> {
    let job = services.jobs.get(id);
    job.map(Json).ok_or_else(|| Problem::not_found(format!("there is no job {id}")))
}

/// Removes the snapshots that no rule of `[backup_server.keep]` keeps, and frees the
/// blocks that nothing needs any more.
#[utoipa::path(
    post,
    path = "/prune",
    request_body = PruneRequest,
    responses(
        (status = 200, body = PruneReport),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 409, description = "A known snapshot is incomplete, or a complete snapshot is not \
            known, so the root records are not accepted", body = api::ApiProblem),
    )
)]
pub(crate) async fn prune(
    State(services): State<Services>,
    Json(request): Json<PruneRequest>,
) -> ApiResult<PruneReport> {
    let status = |error: &PruneError| match error {
        PruneError::NotAccepted(_) => StatusCode::CONFLICT,
        PruneError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let report = node::prune(&services, request).await;
    report.map(Json).map_err(|error| Problem::new(status(&error), error.to_string()))
}

/// Searches the store for snapshots and data items that are not in the list any more, and
/// takes them over if the request wants that.
#[utoipa::path(
    post,
    path = "/recover",
    request_body = RecoverRequest,
    responses(
        (status = 200, body = RecoverReport),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 409, description = "A named snapshot or data item cannot be taken over",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn recover(
    State(services): State<Services>,
    Json(request): Json<RecoverRequest>,
) -> ApiResult<RecoverReport> {
    let status = |error: &RecoverError| match error {
        RecoverError::Selection(_) => StatusCode::CONFLICT,
        RecoverError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let report = node::recover(&services, request).await;
    report.map(Json).map_err(|error| Problem::new(status(&error), error.to_string()))
}
