//! Reading files: what they are named, and where their blocks are.
//!
//! A file is taken in only if it is as it was before it was read
//! ([`file`]); several threads do it, with many small files handed over at a
//! time ([`pool`]).

mod file;
mod pool;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fstree::{Found, Root};
use store::{BlockStore, InPlaceStore, Pin};
use types::RelPath;

pub(crate) use file::read_file;
pub(crate) use pool::Pool;

use crate::error::SyncError;
use crate::folder::Shared;
use crate::index::{Index, Row, RowStamp};

/// What reading a file takes.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) root: Root,
    pub(crate) index: Arc<Index>,
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) in_place: Arc<InPlaceStore>,
    /// Keeps nodes alive until a manifest does.
    pub(crate) pin: Arc<Pin>,
    pub(crate) shared: Arc<Shared>,
    /// Something was put into the store that is to be committed.
    pub(crate) has_put: AtomicBool,
    /// Something was noted in the index of blocks in place.
    pub(crate) has_noted: AtomicBool,
}

impl Reading {
    pub(crate) fn check_stopped(&self) -> Result<(), SyncError> {
        if self.shared.is_interrupted() { Err(SyncError::Stopped) } else { Ok(()) }
    }

    /// Puts blocks, kept alive from before that.
    fn put(&self, blocks: &[types::EncodedBlock]) -> Result<(), SyncError> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.pin.add(blocks.iter().map(types::EncodedBlock::cid));
        self.has_put.store(true, Ordering::Release);
        Ok(self.store.put(blocks)?)
    }
}

/// How a file is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its blocks stay where they are.
    InPlace,
    /// Its blocks go to the store, as it changes too often to serve them.
    Spool,
    /// As [`Mode::Spool`]; where it only grows, what there was of it at the
    /// first look is taken.
    Prefix,
}

/// A file to be read.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) found: Found,
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
