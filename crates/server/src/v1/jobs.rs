//! Jobs: verifying and pruning.

use api::{Job, PruneReport, PruneRequest, VerifyRequest};
use axum::extract::State;
use axum::http::StatusCode;
use node::Services;

use super::extract::{Json, Path};
use super::{Answer, Problem};

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
    State(services): State<Services>,
    Json(request): Json<VerifyRequest>,
) -> Answer<Job> {
    let job = node::start_verify(&services, request);
    job.map(Json).map_err(|error| Problem::conflict(&error))
}

/// The jobs since the instance was started, the oldest first.
#[utoipa::path(get, path = "/jobs", responses((status = 200, body = Vec<Job>)))]
pub(crate) async fn list(State(services): State<Services>) -> Json<Vec<Job>> {
    Json(services.jobs.list())
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
pub(crate) async fn get(State(services): State<Services>, Path(id): Path<u64>) -> Answer<Job> {
    let job = services.jobs.get(id);
    job.map(Json).ok_or_else(|| Problem::not_found(format!("there is no job {id}")))
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
    State(services): State<Services>,
    Json(request): Json<PruneRequest>,
) -> Answer<PruneReport> {
    if request.accept_roots {
        node::check_complete(&services)
            .await
            .map_err(|message| Problem::new(StatusCode::CONFLICT, message))?;
    }
    let report = node::prune(&services, request).await;
    report.map(Json).map_err(|message| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message))
}
