//! Request and report of a recovery.

use serde::{Deserialize, Serialize};
use types::Cid;
use utoipa::ToSchema;

use crate::model::Snapshot;

/// Options of a recovery.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RecoverRequest {
    /// List again what was found. Without it, the store is only searched.
    #[serde(default)]
    pub yes: bool,
    /// List only these again: ids of snapshots, or the beginning of ids, and CIDs of
    /// data items. Empty: everything that is complete and was not removed on purpose.
    #[serde(default)]
    pub only: Vec<String>,
}

/// Result of a search of the store for snapshots and data items that are not in the
/// list any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoverReport {
    /// True if the complete store was read, and each listed snapshot has a record. If false,
    /// there may be more snapshots; see `problems`.
    pub complete: bool,
    /// The snapshots that were found, known ones included.
    pub snapshots: Vec<FoundSnapshot>,
    /// The data items that were found, known ones included.
    pub items: Vec<FoundItem>,
    /// Records that cannot be used: forged, malformed, or of a newer version.
    pub unusable: Vec<UnusableRecord>,
    /// Manifests without a record: left by an unfinished pull, or their record is
    /// damaged.
    #[schema(value_type = Vec<String>)]
    pub manifests: Vec<Cid>,
    /// Parts of the store that could not be read or are damaged.
    pub problems: Vec<String>,
    /// Number of snapshots and data items that were listed again.
    pub recovered: u64,
}

/// A snapshot that was found in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundSnapshot {
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// State of the snapshot.
    pub state: FoundState,
    /// Explanation of the state, if there is more to say.
    #[serde(default)]
    pub detail: Option<String>,
}

/// A data item that was found in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundItem {
    /// CID of the data item.
    #[schema(value_type = String)]
    pub cid: Cid,
    /// File name, if the item has one.
    #[serde(default)]
    pub filename: Option<String>,
    /// MIME type, if the item has one.
    #[serde(default)]
    pub mimetype: Option<String>,
    /// Length of the content in bytes.
    pub bytes: u64,
    /// State of the data item.
    pub state: FoundState,
    /// Explanation of the state, if there is more to say.
    #[serde(default)]
    pub detail: Option<String>,
}

/// State of something that was found in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundState {
    /// Listed.
    Known,
    /// Not listed, and complete.
    Lost,
    /// Removed on purpose, and still complete.
    Removed,
    /// Blocks are missing or damaged.
    Incomplete,
    /// Blocks cannot be read at present.
    Unreadable,
    /// Another record describes the same snapshot.
    Duplicate,
    /// Not listed, complete, and with the number of another snapshot. A recovery lists the
    /// snapshot before the other one.
    Conflict,
    /// Listed again by this request.
    Recovered,
}

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnusableRecord {
    /// CID of the record.
    #[schema(value_type = String)]
    pub cid: Cid,
    /// Reason.
    pub reason: String,
}
