//! Reading files: computes the CID of each file and records where its blocks are.
//!
//! A file is read chunk by chunk ([`chunks`]), and the result is used only if the stamp of the
//! file is the same before and after ([`file`]). Several threads read, each a group of small
//! files at a time ([`pool`]). Long files are read beside the scans ([`lane`]).
//!
//! Absent: the choice of the files, and the writing of rows.

mod chunks;
mod clone;
mod file;
mod lane;
mod pool;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fstree::{FoundEntry, SourceTree};
use parking_lot::Mutex;
use store::{BlockWrite, FileId, InPlaceChunk, InPlaceStore, Pin};
use types::{BlockScheme, RelPath};

pub(crate) use file::read_files;
pub(crate) use lane::{Lane, LaneReader, LaneResult};
pub(crate) use pool::Pool;

use crate::error::SyncError;
use crate::index::{Index, Row, RowStamp};
use crate::settings::Clock;
use crate::work_monitor::WorkMonitor;

/// Reads the files of one folder.
#[derive(Debug)]
pub(crate) struct FileReader {
    pub(crate) root: Arc<SourceTree>,
    pub(crate) index: Arc<Index>,
    pub(crate) store: Arc<dyn BlockWrite>,
    pub(crate) scheme: BlockScheme,
    pub(crate) in_place: Arc<InPlaceStore>,
    /// Keeps nodes alive until a manifest names them.
    pub(crate) pin: Arc<Pin>,
    pub(crate) monitor: Arc<WorkMonitor>,
    pub(crate) clock: Arc<dyn Clock>,
    /// See [`crate::Tuning::settle`].
    pub(crate) settle: Duration,
    /// Directory of the clones of files that keep changing.
    pub(crate) clone_dir: PathBuf,
    /// Set while blocks were put into the store and not committed.
    pub(crate) unsaved_blocks: Unsaved,
    /// Set while locations were added to the index of blocks in place and not committed.
    pub(crate) unsaved_locations: Unsaved,
    /// True if the file system tells where the holes of a file are, see [`tells_holes`].
    pub(crate) has_true_holes: bool,
    /// Locked while two threads read one long file.
    pub(crate) second_reader: Mutex<()>,
}

/// Reports whether the answers of a file system about holes can be relied on. Others answer
/// without asking the owner of the data (network file systems), leave the answer to a program
/// (FUSE), or gave wrong answers in published versions (ZFS before 2.2.2).
pub(crate) fn tells_holes(file_system: &str) -> bool {
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "tmpfs"].contains(&file_system)
}

/// A flag: true if something was written that is not durable yet.
///
/// **Invariant.** The flag is set after the write, and before any other thread learns about
/// it. If it were set before the write, a commit in between would clear the flag without
/// covering the write.
#[derive(Debug, Default)]
pub(crate) struct Unsaved(AtomicBool);

impl Unsaved {
    /// Writes, and then sets the flag.
    fn write<E>(&self, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        write()?;
        self.0.store(true, Ordering::Release);
        Ok(())
    }

    /// Clears the flag. Returns true if it was set: then a commit has to follow.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl FileReader {
    /// Puts blocks into the store. `pin` keeps them alive; it gets their CIDs before.
    fn put(&self, blocks: &[types::EncodedBlock], pin: &Pin) -> Result<(), SyncError> {
        if blocks.is_empty() {
            return Ok(());
        }
        pin.add(blocks.iter().map(types::EncodedBlock::cid));
        Ok(self.unsaved_blocks.write(|| self.store.put(blocks))?)
    }

    /// Reports whether [`FileReader::settle`] has passed since `ctime`. `now_ns` is the time of
    /// the clock that stamps files, in nanoseconds since 1970.
    pub(crate) fn has_settled(&self, ctime: (i64, i64), now_ns: i128) -> bool {
        let since = i128::from(ctime.0) * 1_000_000_000 + i128::from(ctime.1);
        now_ns.saturating_sub(since) > self.settle.as_nanos().cast_signed()
    }

    /// Records the locations of the chunks of a file.
    fn add_locations(&self, id: FileId, chunks: &[InPlaceChunk]) -> Result<(), SyncError> {
        if chunks.is_empty() {
            return Ok(());
        }
        Ok(self.unsaved_locations.write(|| self.in_place.add(id, chunks))?)
    }
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadMode {
    /// The blocks stay in the file.
    InPlace,
    /// The file changed while it was read. It is read as it is at one instant, from a clone, and
    /// its blocks are copied to the store. If the file system cannot clone files, the same as
    /// [`ReadMode::InPlace`].
    Clone,
    /// The blocks are copied to the store, since the file changes too often to be served.
    Spool,
    /// Same as [`ReadMode::Spool`]. If the file grows meanwhile, the part that existed at the
    /// beginning is used and marked as incomplete, since the file may have been changed in
    /// other places, too.
    Prefix,
}

/// A file to be read.
#[derive(Clone, Debug)]
pub(crate) struct ReadJob {
    pub(crate) found: FoundEntry,
    /// The stamp of the row from which the scan decided to read the file.
    pub(crate) before: Option<RowStamp>,
    pub(crate) mode: ReadMode,
}

/// The result of a job.
#[derive(Debug)]
pub(crate) struct ReadResult {
    pub(crate) path: RelPath,
    /// See [`ReadJob::before`].
    pub(crate) before: Option<RowStamp>,
    /// The inode that the scan found.
    pub(crate) inode: u64,
    pub(crate) outcome: ReadOutcome,
}

/// The outcome of reading a file.
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// The new row of the file.
    Row(Box<Row>),
    /// The file kept changing while it was read.
    Changing,
    /// The file no longer exists, or is not a regular file any more.
    Gone,
    /// The file cannot be read.
    Failed(String),
    /// No file can be read: the store or the index failed.
    Broken(SyncError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write during the commit of another thread has to be committed again before a row may
    /// name it.
    #[test]
    fn what_is_written_during_a_commit_is_saved_by_the_next() {
        let unsaved = Unsaved::default();
        let written: Result<(), ()> = unsaved.write(|| {
            assert!(!unsaved.take(), "nothing was written before");
            Ok(())
        });
        written.unwrap();
        assert!(unsaved.take());
        assert!(!unsaved.take());
        unsaved.write(|| Err("a fault")).unwrap_err();
        assert!(!unsaved.take());
    }
}
