//! The options of a scan, and what it returns beside the rows.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use parking_lot::MutexGuard;
use types::{FolderId, RelPath};

use super::{HintedFiles, Targets};
use crate::error::SyncError;
use crate::hash::{Lane, LaneReader, ReadMode};
use crate::index::RowStamp;
use crate::path_key::FolderNumber;

/// The options of a scan.
pub(crate) struct ScanOptions<'a> {
    pub(crate) folder: &'a FolderId,
    pub(crate) number: FolderNumber,
    pub(crate) targets: Targets,
    /// The exclude patterns of the configuration.
    pub(crate) exclude: &'a [String],
    /// Directories that are never scanned.
    pub(crate) own_dirs: &'a HashSet<RelPath>,
    /// Directories in the folder that are folders of their own.
    pub(crate) own_folders: &'a HashSet<RelPath>,
    /// True if a missing mount means that it was removed on purpose.
    pub(crate) are_mounts_confirmed: bool,
    /// See [`crate::FolderSettings`].
    pub(crate) one_file_system: bool,
    /// See [`crate::FolderSettings`].
    pub(crate) exclude_caches: bool,
    /// Kind of the file system of the root.
    pub(crate) ground: fstree::GroundKind,
    /// True if every file is read.
    pub(crate) is_rehash: bool,
    /// Files whose ctime is not older, in nanoseconds since 1970, are read even if their stamp
    /// has not changed.
    pub(crate) distrusted_since: Option<i128>,
    /// Files to be read even if their stamp has not changed.
    pub(crate) suspects: &'a HashSet<RelPath>,
    /// Files that changed while they were read before.
    pub(crate) retried: &'a HashSet<RelPath>,
    /// Files of `retried` that are not due yet; the scan skips them.
    pub(crate) resting: &'a HashSet<RelPath>,
    /// True if every file is read once more that was changed shortly before it was read.
    pub(crate) reads_unsettled: bool,
    /// The files of this kind that are read otherwise.
    pub(crate) hinted: Option<&'a HintedFiles>,
    /// Files of this kind that are due.
    pub(crate) settled: &'a HashSet<RelPath>,
    /// How files are read that are not served from their place.
    pub(crate) modes: &'a BTreeMap<RelPath, ReadMode>,
    /// True if an empty root means that everything was deleted on purpose.
    pub(crate) may_be_empty: bool,
    /// The stamps of ignore files that differ from their rows and were applied nevertheless:
    /// an unreadable file gets no row, and one that keeps changing has an old row. Without this
    /// memory, each scan would treat such a file as a new change.
    pub(crate) applied_rules: &'a mut BTreeMap<RelPath, Option<RowStamp>>,
    /// Maximum time until a result is durable.
    pub(crate) batch_time: Duration,
    /// Reads long files beside the scan.
    pub(crate) lane: MutexGuard<'a, Lane>,
    /// The reader that the lane uses.
    pub(crate) lane_reader: LaneReader,
    /// Called during the scan after some of the results have become durable.
    pub(crate) on_saved: &'a mut dyn FnMut() -> Result<(), SyncError>,
}

/// The results of a scan that are not in the index.
#[derive(Debug, Default)]
pub(crate) struct ScanReport {
    /// Files that changed while they were read.
    pub(crate) changing: Vec<RelPath>,
    /// Files of [`ScanOptions::retried`] that need no further attempt.
    pub(crate) resolved: Vec<RelPath>,
    /// Files whose content was taken over from another name, and which must be read.
    pub(crate) unread: Vec<RelPath>,
    /// Files that have to be read once more after [`crate::Tuning::settle`].
    pub(crate) unsettled: Vec<RelPath>,
    /// Files of this kind that were passed over.
    pub(crate) hinted: Vec<RelPath>,
    /// Directories that have to be scanned again.
    pub(crate) rescan: Vec<RelPath>,
    /// Some of the files that got another content, and whether no manifest has the former one.
    pub(crate) replaced: Vec<(RelPath, bool)>,
    /// Further names of files that are in the lane.
    pub(crate) long_names: Vec<RelPath>,
    /// Number of scanned directories that cannot be watched.
    pub(crate) unwatched: u64,
}

/// The reason why a scan was given up.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// The root is empty, and was not before.
    Empty,
    /// Any other reason.
    Other(SyncError),
}

impl From<SyncError> for ScanError {
    fn from(error: SyncError) -> Self {
        Self::Other(error)
    }
}

impl From<fstree::RootError> for ScanError {
    fn from(error: fstree::RootError) -> Self {
        Self::Other(error.into())
    }
}
