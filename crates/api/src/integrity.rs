//! The integrity of the stored data: scrubs, damage, the last verification.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::Cid;
use utoipa::ToSchema;

/// Integrity of the stored data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Integrity {
    /// Scrubs: the regular reading of every stored block.
    pub scrub: Scrub,
    /// Blocks that were found damaged or missing, and their healing.
    pub healing: Healing,
    /// The last verification, also of an earlier run of the instance.
    #[serde(default)]
    pub last_verification: Option<LastVerification>,
    /// True if records of roots are lost, so that the list of snapshots may be incomplete.
    #[serde(default)]
    pub roots_incomplete: bool,
    /// Snapshots in the list whose record cannot be read, at most 100.
    #[serde(default)]
    pub unreadable_snapshots: Vec<UnreadableSnapshot>,
}

/// Snapshot in the list whose record is missing, is damaged, or was written by a newer
/// version of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnreadableSnapshot {
    /// Name of its root: source, folder and number.
    pub root: String,
    /// Reason why the record cannot be read.
    pub reason: String,
}

/// State of the scrubs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Scrub {
    /// Value of the setting `scrub_days`: every block is read within this many days.
    /// Never if 0.
    pub days: u32,
    /// True if a pack is being read.
    pub is_running: bool,
    /// Number of packs.
    pub packs: u64,
    /// Length of all packs in bytes.
    pub bytes: u64,
    /// Length in bytes of the packs that were read within the last `days` days.
    pub scrubbed_bytes: u64,
    /// Number of packs that were not read yet.
    pub never_scrubbed: u64,
    /// Time of the oldest reading of a pack. Absent if no pack was read yet.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub oldest: Option<Timestamp>,
    /// Number of blocks that were read and checked since the start of the instance.
    pub blocks_checked: u64,
    /// Number of bytes that were read since the start of the instance.
    pub bytes_read: u64,
    /// Number of blocks that the disk could not deliver at the last attempt. Further
    /// attempts follow.
    pub unreadable: u64,
}

/// State of the healing of damaged and missing blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Healing {
    /// Number of blocks that were found damaged or missing, over all runs of the
    /// instance.
    pub found: u64,
    /// Number of blocks that were fetched again, over all runs of the instance.
    pub healed: u64,
    /// Number of blocks that are damaged or missing now.
    pub outstanding: u64,
    /// The blocks that are damaged or missing now, at most 100.
    pub blocks: Vec<OutstandingBlock>,
}

/// Block that is damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutstandingBlock {
    /// CID of the block.
    #[schema(value_type = String)]
    pub cid: Cid,
    /// Description of the fault.
    pub reason: String,
    /// Finder of the fault: `reading` (a scrub, a restore, any other reader), `verify`,
    /// `presence check` (whether all needed blocks exist) or `healing` (of a block that
    /// refers to it).
    pub found_by: String,
    /// Time at which the fault was found.
    #[schema(value_type = String)]
    pub found_at: Timestamp,
    /// Number of attempts to fetch the block again.
    pub attempts: u64,
    /// True if every source has answered that it does not have the block.
    pub is_lost: bool,
    /// Reason why the last attempt failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Snapshots (by id), paths of files and data items (by CID) that need the block, as
    /// far as they are known.
    #[serde(default)]
    pub concerns: Vec<String>,
}

/// Result of the last verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastVerification {
    /// End of the verification.
    #[schema(value_type = String)]
    pub ended_at: Timestamp,
    /// True if every block was read and hashed.
    pub is_full: bool,
    /// The result. Its list of problems is cut after 100 entries.
    pub result: VerifyResult,
    /// Number of blocks that were damaged or missing.
    pub problems: u64,
}

/// Result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyResult {
    /// Number of snapshots and data items that were checked.
    pub checked: u64,
    /// Number of needed blocks that are present.
    pub blocks: u64,
    /// Number of bytes that were read.
    pub read_bytes: u64,
    /// Blocks that are damaged or missing.
    pub problems: Vec<VerifyProblem>,
    /// Snapshots (by id or root) and data items (by CID) that were not checked
    /// completely, because a newer version of the program wrote them.
    #[serde(default)]
    pub newer: Vec<String>,
    /// Number of blocks that were pulled again.
    pub repaired: u64,
    /// True if records of roots are lost: snapshots that are not in the list were not
    /// checked.
    #[serde(default)]
    pub roots_incomplete: bool,
}

/// Block that is needed but damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyProblem {
    /// CID of the block.
    #[schema(value_type = String)]
    pub cid: Cid,
    /// Description of the problem.
    pub reason: String,
    /// Snapshots (by id), paths of files and data items (by CID) that need the block.
    pub concerns: Vec<String>,
}
