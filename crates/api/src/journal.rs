//! Records of past activity: the journal of an instance, the last lines of its
//! log, and the traffic of each day.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::NoticeLevel;

/// Entry of the journal: an event that concerns the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalEntry {
    /// Number of the entry. Later entries have higher numbers.
    pub id: u64,
    /// Time of the event.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Urgency: `error`, `warning` or `info`.
    pub level: NoticeLevel,
    /// Description of the event.
    pub message: String,
    /// Name of the folder that the event concerns, if any.
    pub folder: Option<String>,
    /// Name of the other computer that the event concerns, if any.
    pub device: Option<String>,
}

/// Line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LogLine {
    /// Number of the line. Later lines have higher numbers.
    pub id: u64,
    /// Time of the line.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Level: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// Text of the line.
    pub text: String,
}

/// Amount of data that this computer exchanged with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transferred {
    /// Number of bytes that were sent.
    pub sent_bytes: u64,
    /// Number of bytes that were received.
    pub received_bytes: u64,
}

/// Traffic of one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TrafficDay {
    /// Date by the clock and the time zone of this computer.
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    /// Amount of data on that day.
    #[serde(flatten)]
    pub transferred: Transferred,
}
