//! Pruning, as it goes over the API.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How to prune.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PruneRequest {
    /// Only tell what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// Where records of what is kept were lost: whatever is known now is all
    /// that is kept. Refused where that is not whole.
    #[serde(default)]
    pub accept_roots: bool,
    /// Also compress what was stored as it came, at once: an instance does so
    /// by itself while it is idle. Not where it is only told what would go.
    #[serde(default)]
    pub recompress: bool,
}

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneReport {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// Snapshots that stay, and which rule keeps each.
    pub kept: Vec<PruneDecision>,
    /// Snapshots that went, or would go.
    pub removed: Vec<PruneDecision>,
    /// Why nothing is removed in some folders.
    pub holds: Vec<String>,
    /// Bytes that the disk has back.
    pub freed_bytes: u64,
    /// Why nothing could be freed, where that is so: what was removed still
    /// takes its place on the disk.
    #[serde(default)]
    pub not_collected: Option<String>,
    /// What was compressed, where that was asked for.
    #[serde(default)]
    pub recompressed: Option<Recompressed>,
}

/// What was stored as it came, and is compressed now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recompressed {
    /// Files of blocks that were written anew.
    pub packs: u64,
    /// Their lengths before, in bytes.
    pub before_bytes: u64,
    /// And after.
    pub after_bytes: u64,
    /// What kept it from compressing everything.
    pub problems: Vec<String>,
}

/// What happens to a snapshot, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneDecision {
    /// The snapshot.
    pub snapshot: String,
    /// The folder.
    pub folder_name: String,
    /// When all of it was here.
    #[schema(value_type = String)]
    pub received_at: Timestamp,
    /// Which rules keep it.
    pub reasons: Vec<String>,
}
