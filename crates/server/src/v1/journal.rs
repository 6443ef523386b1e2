//! The journal, the last lines of the log, and the traffic per day.

use api::{JournalEntry, LogLine, TrafficDay};
use axum::extract::State;
use node::Services;

use super::extract::Json;
use super::ui::Owner;

/// Lists the events of the journal, the oldest first; at most the last 2000.
#[utoipa::path(
    get,
    path = "/journal",
    responses(
        (status = 200, body = Vec<JournalEntry>),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn journal(_: Owner, State(services): State<Services>) -> Json<Vec<JournalEntry>> {
    Json(services.journal.entries())
}

/// Lists the last 1000 lines of the log, the oldest first.
#[utoipa::path(
    get,
    path = "/logs",
    responses(
        (status = 200, body = Vec<LogLine>),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn logs(_: Owner) -> Json<Vec<LogLine>> {
    Json(node::recent_log_lines())
}

/// Lists the bytes sent and received per day, the oldest day first; at most 400 days.
#[utoipa::path(
    get,
    path = "/traffic",
    responses((status = 200, body = Vec<TrafficDay>)),
)]
pub(crate) async fn traffic(State(services): State<Services>) -> Json<Vec<TrafficDay>> {
    Json(services.traffic.days())
}
