//! Watching directories: the interface to the operating system, and the choice of the
//! implementation for the platform.
//!
//! A watcher delivers hints: places where something may have changed. A hint starts a scan
//! of that place; only the scan decides what has changed. A superfluous hint costs a scan,
//! a missing one costs time until the next full scan.
//!
//! A scan watches each directory before it lists it, so that a change in between is hinted
//! or listed. It watches new directories below, and unwatches those that are gone.
//!
//! To add a platform, implement [`Watcher`] in a module of its own and name it in
//! [`start`]. An implementation that watches a folder as one stream (FSEvents,
//! `ReadDirectoryChangesW`) may start the stream when the root is watched, and count the
//! directories below.
//!
//! Absent: scanning, and the decision which scan a hint causes.

#[cfg(any(test, feature = "sim"))]
pub(crate) mod fake;
#[cfg(target_os = "linux")]
mod inotify;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fstree::SourceTree;
use types::RelPath;

use crate::path_key::FolderNumber;

/// A place where something may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hint {
    /// This directory: its list of entries, a file in it, or its own metadata.
    Dirty(RelPath),
    /// This directory and everything below it: it was created or moved here, or is no
    /// longer watched.
    DirtyBelow(RelPath),
    /// Any place in the folder: events were lost.
    Overflow,
    /// The root was moved, deleted or unmounted.
    RootGone,
}

/// Result of a request to watch a directory.
#[derive(Debug)]
pub(crate) enum WatchResult {
    /// The directory is watched, from now on or already before.
    Watched,
    /// The limit of watched directories is reached: the configured one, or that of the
    /// system (`fs.inotify.max_user_watches` on Linux).
    LimitReached,
    /// The directory no longer exists.
    Gone,
    /// The system refused, usually because the directory may not be read.
    Failed(io::Error),
}

/// Receives hints with the number of their folder.
pub(crate) type HintSink = Box<dyn Fn(FolderNumber, Hint) + Send + Sync>;

/// Posts a hint that does not come from the watcher.
#[derive(Clone)]
pub(crate) struct PostHint(pub(crate) Arc<dyn Fn(FolderNumber, Hint) + Send + Sync>);

impl fmt::Debug for PostHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostHint")
    }
}

/// Watches the directories of all folders and delivers hints to the [`HintSink`] that it was
/// started with. Dropping it ends the delivery.
///
/// **Invariants.** A change in a watched directory leads to a hint for that directory, or to
/// one that covers more. If events were lost, every folder receives [`Hint::Overflow`]. A
/// directory that is not watched is never counted as watched.
pub(crate) trait Watcher: fmt::Debug + Send + Sync {
    /// Watches the directory `dir` of the folder at `root`. If another directory was watched
    /// at this path, it no longer is. Call it before the directory is listed.
    fn watch_dir(&self, folder: FolderNumber, root: &SourceTree, dir: &RelPath) -> WatchResult;

    /// Notes that another file system is mounted on a directory. If the mounts of the computer
    /// change later, the directory gets a hint: it may have been unmounted, and the directory
    /// below it is not watched.
    fn note_mount(&self, _folder: FolderNumber, _dir: &RelPath) {}

    /// Returns the age of the oldest change that may not have become a hint yet: zero if every
    /// change until now has been delivered. It is long if this process did not run for a while.
    fn unread_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Stops watching a directory and all directories below it. A mount that was noted at the
    /// directory itself stays noted.
    fn unwatch_below(&self, folder: FolderNumber, dir: &RelPath);

    /// Returns the number of watched directories of a folder.
    fn watched(&self, folder: FolderNumber) -> u64;

    /// Stops watching a folder.
    fn unwatch_folder(&self, folder: FolderNumber) {
        self.unwatch_below(folder, &RelPath::root());
    }
}

/// Starts the watcher of this platform, for at most `limit` directories.
///
/// # Errors
///
/// The error of the system: usually, the user has too many inotify instances.
/// [`io::ErrorKind::Unsupported`] on a platform without an implementation.
pub(crate) fn start(limit: Option<usize>, sink: HintSink) -> io::Result<Box<dyn Watcher>> {
    #[cfg(target_os = "linux")]
    return Ok(Box::new(inotify::InotifyWatcher::start(limit, sink)?));
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (limit, sink);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Watches nothing: used if the system provides no watcher. Changes are found by scans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoWatcher;

impl Watcher for NoWatcher {
    fn watch_dir(&self, _: FolderNumber, _: &SourceTree, _: &RelPath) -> WatchResult {
        WatchResult::LimitReached
    }

    fn unwatch_below(&self, _: FolderNumber, _: &RelPath) {}

    fn watched(&self, _: FolderNumber) -> u64 {
        0
    }
}
