//! What happened: the journal, the last lines of the log, and what travelled.

use axum::extract::State;

use super::ApiState;
use super::extract::Json;
use super::ui::Owner;
use crate::journal::JournalEntry;
use crate::recent_log::{self, LogLine};
use crate::traffic::TrafficDay;

/// What happened, in plain words, the oldest first; at most the last 2000.
#[utoipa::path(
    get,
    path = "/journal",
    responses(
        (status = 200, body = Vec<JournalEntry>),
        (status = 401, description = "Without the token", body = api::ApiProblem),
    )
)]
pub(crate) async fn journal(_: Owner, State(state): State<ApiState>) -> Json<Vec<JournalEntry>> {
    Json(state.journal.entries())
}

/// The last 1000 lines of the log, the oldest first.
#[utoipa::path(
    get,
    path = "/logs",
    responses(
        (status = 200, body = Vec<LogLine>),
        (status = 401, description = "Without the token", body = api::ApiProblem),
    )
)]
pub(crate) async fn logs(_: Owner) -> Json<Vec<LogLine>> {
    Json(recent_log::lines())
}

/// What travelled between this machine and others on each day, the oldest first;
/// at most 400 days.
#[utoipa::path(
    get,
    path = "/traffic",
    responses((status = 200, body = Vec<TrafficDay>)),
)]
pub(crate) async fn traffic(State(state): State<ApiState>) -> Json<Vec<TrafficDay>> {
    Json(state.traffic.days())
}
