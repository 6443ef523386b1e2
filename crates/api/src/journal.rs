//! What happened on an instance: its journal, the last lines of its log, and
//! the traffic of each day.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::NoticeLevel;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalEntry {
    /// Grows with each.
    pub id: u64,
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// How pressing it is: `error`, `warning` or `info`.
    pub level: NoticeLevel,
    /// What, in a sentence.
    pub message: String,
    /// The folder, by name.
    pub folder: Option<String>,
    /// The other machine, by name.
    pub device: Option<String>,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LogLine {
    /// Grows with each.
    pub id: u64,
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// What was logged.
    pub text: String,
}

/// What travelled on one day, between this machine and others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transferred {
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes that were received.
    pub received_bytes: u64,
}

/// One day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TrafficDay {
    /// The date, by the clock and the time zone of this machine.
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    /// What travelled.
    #[serde(flatten)]
    pub transferred: Transferred,
}
