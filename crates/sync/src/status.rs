//! What others see of a folder.

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use types::{Cid, FolderId, RelPath, SequenceNumber};

/// How many errors of a folder are in its status; [`crate::SyncHandle::errors`]
/// has all.
pub const STATUS_ERRORS_MAX: usize = 100;

/// What a folder does at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FolderState {
    /// Nothing: everything is in the last manifest.
    Idle,
    /// It looks at files.
    Scanning,
    /// There are changes; it waits until they have come to an end.
    Waiting,
    /// It makes a manifest.
    Publishing,
    /// It was told to do nothing.
    Paused,
    /// It publishes nothing until somebody has looked.
    Alarm {
        /// Which guard said no.
        kind: AlarmKind,
        /// What is wrong, and what to do.
        text: String,
        /// Since when.
        since: Timestamp,
    },
    /// It cannot go on by itself at the moment; it tries again.
    Error {
        /// What is wrong, and what to do.
        text: String,
        /// Since when.
        since: Timestamp,
    },
}

/// Why a folder stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Its directory is not there, or cannot be opened.
    RootGone,
    /// Another directory is where it was.
    RootReplaced,
    /// It has nothing in it any more.
    RootEmpty,
}

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchMode {
    /// The system tells of every change.
    Watching,
    /// Not all directories could be watched: the folder is looked through at
    /// short intervals.
    Scanning,
}

/// How well a folder is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WatchStatus {
    /// Directories that are watched.
    pub watched: u64,
    /// Directories that are to be watched: `fs.inotify.max_user_watches` has
    /// to be greater than this, for all folders together.
    pub needed: u64,
    /// What follows from it.
    pub mode: WatchMode,
}

/// How far work on a folder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Entries that were looked at.
    pub entries: u64,
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files that are waiting to be read, or being read.
    pub in_work: u64,
}

/// An entry of a folder's error list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// Where.
    pub path: RelPath,
    /// What.
    pub what: String,
    /// Since when.
    pub since: Timestamp,
}

/// What the backup peer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The newest manifest that it has whole.
    pub sequence: SequenceNumber,
    /// When it said so.
    pub at: Timestamp,
}

/// What there is to know about a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderStatus {
    /// The folder.
    pub id: FolderId,
    /// What people call it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it does.
    pub state: FolderState,
    /// The number of the last manifest; 0 before the first.
    pub sequence: SequenceNumber,
    /// The last manifest.
    pub manifest_cid: Option<Cid>,
    /// When it was made.
    pub published_at: Option<Timestamp>,
    /// Whatever was saved before this is in the last manifest, but for what is
    /// on the error list. Not known before everything was looked at once since
    /// the start.
    pub covers_until: Option<Timestamp>,
    /// Everything in the folder but directories, as far as it was taken in.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// The lengths of all files together, in bytes.
    pub bytes: u64,
    /// Changes that are in no manifest yet.
    pub pending_changes: u64,
    /// How many paths are on the error list.
    pub error_count: u64,
    /// The first [`STATUS_ERRORS_MAX`] of them.
    pub errors: Vec<FileProblem>,
    /// How changes are noticed.
    pub watch: WatchStatus,
    /// Why manifests are published as held: the user is to look at what was
    /// deleted or rewritten, and to confirm.
    pub held: Option<String>,
    /// What the backup peer has.
    pub receipt: Option<Receipt>,
    /// When the folder was last looked through whole.
    pub last_scan: Option<Timestamp>,
    /// How far the work is that is under way, or how far the last one came.
    pub progress: Progress,
    /// How many files were read since the service was started.
    pub files_read: u64,
    /// Since when that work has come no further, where that is long ago: a
    /// file system that does not answer.
    pub stalled_for: Option<Duration>,
}

/// The statuses of all folders.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    statuses: Arc<Mutex<BTreeMap<FolderId, Arc<FolderStatus>>>>,
    changes: broadcast::Sender<Arc<FolderStatus>>,
}

/// How many changes wait for a subscriber that is slow; it then has to look at
/// the whole again.
const CHANGES_MAX: usize = 256;

impl Board {
    pub(crate) fn new() -> Self {
        Self { statuses: Arc::default(), changes: broadcast::Sender::new(CHANGES_MAX) }
    }

    /// Shows a status, where it is a new one.
    pub(crate) fn show(&self, status: FolderStatus) {
        let status = Arc::new(status);
        let before = self.statuses.lock().insert(status.id.clone(), status.clone());
        if before.as_ref() != Some(&status) {
            // Nobody has to listen.
            let _ = self.changes.send(status);
        }
    }

    /// Changes what is shown of a folder.
    pub(crate) fn change(&self, folder: &FolderId, change: impl FnOnce(&mut FolderStatus)) {
        let found = self.statuses.lock().get(folder).cloned();
        if let Some(status) = found {
            let mut status = FolderStatus::clone(&status);
            change(&mut status);
            self.show(status);
        }
    }

    pub(crate) fn remove(&self, folder: &FolderId) {
        self.statuses.lock().remove(folder);
    }

    pub(crate) fn get(&self, folder: &FolderId) -> Option<Arc<FolderStatus>> {
        self.statuses.lock().get(folder).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<FolderStatus>> {
        self.statuses.lock().values().cloned().collect()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<FolderStatus>> {
        self.changes.subscribe()
    }
}
