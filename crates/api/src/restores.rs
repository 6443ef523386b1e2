//! Restores, as the API describes them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Request to restore a snapshot or a part of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RestoreRequest {
    /// Id of the snapshot. The newest one that matches `folder` and `at` if absent.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Id or name of the folder.
    #[serde(default)]
    pub folder: Option<String>,
    /// Restore the newest snapshot that existed at this time.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub at: Option<Timestamp>,
    /// Paths in the folder to restore. The complete folder if `paths` and
    /// `paths_base64` are empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Further paths to restore, in base64, for paths that are not UTF-8.
    #[serde(default)]
    pub paths_base64: Vec<String>,
    /// Absolute path of the target directory. Created if it does not exist.
    pub target: String,
    /// Target directory in base64, for a path that is not UTF-8. Takes precedence
    /// over `target`.
    #[serde(default)]
    pub target_base64: Option<String>,
    /// Replace existing files.
    #[serde(default)]
    pub overwrite: bool,
    /// Fetch the snapshot from the backup server instead of the store of this
    /// instance.
    #[serde(default)]
    pub from_backup_server: bool,
    /// Set the numbers of owners as they were on the source. Otherwise owners are set by
    /// name if the names exist on this computer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub numeric_owner: bool,
    /// Restore devices, setuid and setgid bits, and attributes that grant privileges, too. They are
    /// always restored from the backup server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_it_was: bool,
}

/// Progress or result of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreReport {
    /// Id of the restore, valid until the instance stops.
    pub id: u64,
    /// State: `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// Id of the snapshot.
    pub snapshot: String,
    /// Number of entries that were restored.
    pub entries_done: u64,
    /// Number of entries to restore.
    pub entries_total: u64,
    /// Number of bytes that were written.
    pub bytes_done: u64,
    /// Number of bytes to write.
    pub bytes_total: u64,
    /// Paths that already existed and were not replaced.
    pub in_the_way: Vec<String>,
    /// Metadata that could not be set, such as owners and attributes.
    pub not_set: Vec<String>,
    /// Number of entries that belong to another owner than in the snapshot, because the
    /// instance does not run as root.
    #[serde(default)]
    pub owners_not_set: u64,
    /// Entries that could not be restored.
    pub failed: Vec<String>,
    /// Number of entries whose privileges were left out: devices, setuid and setgid bits,
    /// `security.*` and `trusted.*` attributes.
    #[serde(default)]
    pub privileges_left_out: u64,
    /// Entries that are not restored on purpose: sockets, and devices without the
    /// privilege to create them.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// Requested paths that are not in the snapshot.
    #[serde(default)]
    pub not_found: Vec<String>,
    /// True if the snapshot contains only a part of the folder, because its first scan had
    /// not ended. Known when the restore has ended.
    #[serde(default)]
    pub is_part: bool,
    /// A newer snapshot that was not chosen, because it is a part or suspicious, and why.
    #[serde(default)]
    pub passed_over: Option<String>,
    /// True if some of these lists are incomplete.
    #[serde(default)]
    pub is_cut_short: bool,
    /// Reason for which the restore failed as a whole.
    pub error: Option<String>,
}
