//! Request and report of a prune.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Options of a prune.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PruneRequest {
    /// Only report what would be removed.
    #[serde(default)]
    pub dry_run: bool,
    /// After the loss of records about stored snapshots: keep only the snapshots
    /// that are still known, and delete the rest. Refused (409) if one of the known
    /// snapshots is not complete, or if the store has complete snapshots that are not
    /// known (see `POST /recover`).
    #[serde(default)]
    pub accept_roots: bool,
    /// With `accept_roots`: also delete complete snapshots and data items that are not
    /// known, and remove known snapshots that have no record, or that were removed before and
    /// are incomplete. Snapshots that this backup server has confirmed and that are lost are
    /// given up.
    #[serde(default)]
    pub discard: bool,
    /// Also compress blocks that were stored uncompressed. An instance does this
    /// automatically while it is idle. Ignored with `dry_run`.
    #[serde(default)]
    pub recompress: bool,
}

/// Result of a prune, or of a dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneReport {
    /// True for a dry run: nothing was removed.
    pub dry_run: bool,
    /// Snapshots that are kept, each with the rules that keep it.
    pub kept: Vec<PruneDecision>,
    /// Snapshots that were removed, or would be.
    pub removed: Vec<PruneDecision>,
    /// Folders from which nothing is removed, each with the reason.
    pub holds: Vec<String>,
    /// Number of bytes that were freed on the disk.
    pub freed_bytes: u64,
    /// Reason for which no disk space could be freed, if so. The removed snapshots
    /// still use their space.
    #[serde(default)]
    pub not_collected: Option<String>,
    /// Known snapshots that were removed because of `discard`, each with the reason why nothing
    /// can restore it completely.
    #[serde(default)]
    pub discarded: Vec<String>,
    /// Result of the compression, if it was requested.
    #[serde(default)]
    pub recompressed: Option<Recompressed>,
}

/// Result of the compression of stored blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recompressed {
    /// Number of packs (files of blocks) that were rewritten.
    pub packs: u64,
    /// Total length of these packs before, in bytes.
    pub before_bytes: u64,
    /// Total length of these packs after, in bytes.
    pub after_bytes: u64,
    /// Reasons for which packs could not be compressed.
    pub problems: Vec<String>,
}

/// Decision about one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneDecision {
    /// Id of the snapshot.
    pub snapshot: String,
    /// Name of the folder.
    pub folder_name: String,
    /// Time at which the snapshot was complete on this computer.
    #[schema(value_type = String)]
    pub received_at: Timestamp,
    /// Rules that keep the snapshot.
    pub reasons: Vec<String>,
}
