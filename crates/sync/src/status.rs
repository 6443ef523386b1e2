//! The status of a folder as the rest of the program sees it.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, RelPath, SequenceNumber};

use crate::left_out::LeftOut;

/// Maximum number of errors in the status of a folder; [`crate::SyncHandle::errors`] returns
/// all.
pub const STATUS_ERRORS_MAX: usize = 100;

/// The current activity of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FolderState {
    /// No work: the last manifest contains everything.
    Idle,
    /// A scan is running.
    Scanning,
    /// There are unpublished changes; the folder waits until no further ones arrive.
    Waiting,
    /// A manifest is being made.
    Publishing,
    /// The user has paused the folder.
    Paused,
    /// The folder publishes nothing until the user acts.
    Alarm {
        /// The guard that raised the alarm.
        kind: AlarmKind,
        /// The reason, and what to do.
        text: String,
        /// When the alarm was raised.
        since: Timestamp,
    },
    /// The work failed, and will be retried.
    Error {
        /// The reason, and what to do.
        text: String,
        /// When the work first failed.
        since: Timestamp,
    },
}

/// The reason for an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// The directory of the folder does not exist or cannot be opened.
    RootGone,
    /// Another directory is at the path of the folder.
    RootReplaced,
    /// The directory of the folder is empty.
    RootEmpty,
}

/// How changes in a folder are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchMode {
    /// The system reports every change.
    Watching,
    /// Some directories cannot be watched; the folder is scanned at short intervals.
    Scanning,
    /// The file system does not report every change, because changes can pass by this computer
    /// or by the mount; the folder is scanned at short intervals.
    Polling,
}

/// How much of a folder is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WatchStatus {
    /// Number of watched directories.
    pub watched: u64,
    /// Number of directories that should be watched. `fs.inotify.max_user_watches` must be
    /// greater than the sum over all folders.
    pub needed: u64,
    /// How changes are noticed.
    pub mode: WatchMode,
    /// Type of the file system of the folder, as the system names it; empty before the first
    /// scan, and if it is unknown.
    pub file_system: String,
}

/// Progress of the work on a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Number of directory entries examined.
    pub entries: u64,
    /// Number of files read.
    pub files: u64,
    /// Number of bytes read.
    pub bytes: u64,
    /// Number of files that wait to be read or are being read.
    pub in_work: u64,
}

/// An entry of a folder's error list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The path in the folder.
    pub path: RelPath,
    /// The problem, in words.
    pub what: String,
    /// When it was first noticed.
    pub since: Timestamp,
}

/// The newest snapshot that the backup server has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The sequence number of the manifest.
    pub sequence: SequenceNumber,
    /// The CID of the manifest.
    pub manifest_cid: Cid,
    /// When the receipt of the backup server arrived.
    pub at: Timestamp,
}

/// The status of a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderStatus {
    /// The id of the folder.
    pub id: FolderId,
    /// The display name.
    pub name: String,
    /// The absolute path.
    pub path: PathBuf,
    /// The current activity.
    pub state: FolderState,
    /// The sequence number of the last manifest; 0 before the first.
    pub sequence: SequenceNumber,
    /// The CID of the last manifest.
    pub manifest_cid: Option<Cid>,
    /// When the last manifest was made.
    pub published_at: Option<Timestamp>,
    /// The last manifest contains everything that was saved before this time, except for
    /// paths on the error list. `None` until the first full scan since the start has ended.
    pub covers_until: Option<Timestamp>,
    /// Number of known entries that are not directories.
    pub files: u64,
    /// Number of known directories.
    pub dirs: u64,
    /// Sum of the lengths of all files, in bytes.
    pub bytes: u64,
    /// Number of changes that no manifest contains yet.
    pub pending_changes: u64,
    /// Number of paths on the error list.
    pub error_count: u64,
    /// The first [`STATUS_ERRORS_MAX`] entries of the error list.
    pub errors: Vec<FileProblem>,
    /// Directories whose contents are left out although no pattern excludes them: other file
    /// systems and caches. A list for people; it has a maximum length.
    pub left_out: Vec<LeftOut>,
    /// How changes are noticed.
    pub watch: WatchStatus,
    /// Why the user should check the folder and confirm it: many files were deleted or
    /// rewritten. Manifests carry this text as `held` until then.
    pub awaiting_confirmation: Option<String>,
    /// The newest snapshot that the backup server has confirmed.
    pub receipt: Option<Receipt>,
    /// When the last full scan ended.
    pub last_scan: Option<Timestamp>,
    /// The error of the last run of the folder's programs ([`crate::HookSettings`]).
    pub hook_error: Option<String>,
    /// Progress of the current work, or of the last one.
    pub progress: Progress,
    /// Number of files read since the service was started.
    pub files_read: u64,
    /// For how long the current work has not advanced, if that is at least 30 s: usually a
    /// file system does not answer.
    pub stalled_for: Option<Duration>,
}
