//! Reading files: what they are named, and where their blocks are.
//!
//! A file is taken in only if it is as it was before it was read
//! ([`file`]), chunk by chunk ([`chunks`]); several threads do it, with
//! many small files handed over at a time ([`pool`]).

mod chunks;
mod file;
mod pool;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fstree::{FoundEntry, SourceTree};
use parking_lot::Mutex;
use store::{BlockWrite, FileId, InPlaceChunk, InPlaceStore, Pin};
use types::{BlockScheme, RelPath};

pub(crate) use file::read_files;
pub(crate) use pool::Pool;

use crate::error::SyncError;
use crate::index::{Index, Row, RowStamp};
use crate::settings::Clock;
use crate::work_monitor::WorkMonitor;

/// What reading a file takes.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) root: SourceTree,
    pub(crate) index: Arc<Index>,
    pub(crate) store: Arc<dyn BlockWrite>,
    pub(crate) in_place: Arc<InPlaceStore>,
    pub(crate) scheme: BlockScheme,
    /// Keeps nodes alive until a manifest does.
    pub(crate) pin: Arc<Pin>,
    pub(crate) monitor: Arc<WorkMonitor>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What was put into the store.
    pub(crate) put: Unsaved,
    /// What was noted in the index of blocks in place.
    pub(crate) noted: Unsaved,
    /// Held while a long file is read by two threads.
    pub(crate) second_reader: Mutex<()>,
}

/// Whether something was written that is not durable yet.
///
/// **Invariant**: what was written is noted when it is written, and before
/// anybody hears of it. Noted any sooner, a commit in between would cover the
/// note, and not what it stands for.
#[derive(Debug, Default)]
pub(crate) struct Unsaved(AtomicBool);

impl Unsaved {
    /// Writes, and notes it.
    fn write<E>(&self, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        write()?;
        self.0.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether there is something that the commit that follows has to save.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Reading {
    /// Puts blocks, kept alive by `pin` from before that.
    fn put(&self, blocks: &[types::EncodedBlock], pin: &Pin) -> Result<(), SyncError> {
        if blocks.is_empty() {
            return Ok(());
        }
        pin.add(blocks.iter().map(types::EncodedBlock::cid));
        Ok(self.put.write(|| self.store.put(blocks))?)
    }

    /// Notes where the chunks of a file are.
    fn note(&self, id: FileId, chunks: &[InPlaceChunk]) -> Result<(), SyncError> {
        if chunks.is_empty() {
            return Ok(());
        }
        Ok(self.noted.write(|| self.in_place.add(id, chunks))?)
    }
}

/// How a file is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its blocks stay where they are.
    InPlace,
    /// Its blocks go to the store, as it changes too often to serve them.
    Spool,
    /// As [`Mode::Spool`]; where it grows, what there was of it at the first
    /// look is taken, and marked as no whole file: whether it was written to
    /// elsewhere, too, cannot be told.
    Prefix,
}

/// A file to be read.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) found: FoundEntry,
    /// The row that this was decided upon.
    pub(crate) before: Option<RowStamp>,
    pub(crate) mode: Mode,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) path: RelPath,
    pub(crate) before: Option<RowStamp>,
    pub(crate) outcome: Outcome,
}

/// What reading a file came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// This is what it is.
    Row(Box<Row>),
    /// It is another thing each time one looks.
    Changing,
    /// It is not there any more, or no file any more.
    Gone,
    /// It cannot be read.
    Failed(String),
    /// Nothing can be read: the store or the index failed.
    Broken(SyncError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another thread commits while one writes: what is written then has to be
    /// committed again before a row may name it.
    #[test]
    fn what_is_written_during_a_commit_is_saved_by_the_next() {
        let unsaved = Unsaved::default();
        let written: Result<(), ()> = unsaved.write(|| {
            assert!(!unsaved.take(), "nothing is there to be committed yet");
            Ok(())
        });
        written.unwrap();
        assert!(unsaved.take());
        assert!(!unsaved.take());
        unsaved.write(|| Err("a fault")).unwrap_err();
        assert!(!unsaved.take());
    }
}
