//! What is asked for, and what comes of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use types::{Block, Cid, EncodedBlock};

use super::pace;
use super::sketch::Sketch;

/// A block that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its name.
    pub cid: Cid,
    /// Its length, where it is known: it only makes the pipeline fit better.
    pub len: Option<u32>,
}

impl From<Cid> for Want {
    fn from(cid: Cid) -> Self {
        Self { cid, len: None }
    }
}

/// Something that is here and likely to be like a block that is wanted: it may
/// come as the difference to that.
pub struct SimilarBlock {
    sketch: Sketch,
    base: Box<dyn Fn() -> Option<Bytes> + Send + Sync>,
}

impl SimilarBlock {
    /// `sketch` is that of what `base` reads. It is called on a thread that may
    /// block, where a difference has come.
    pub fn new(sketch: Sketch, base: impl Fn() -> Option<Bytes> + Send + Sync + 'static) -> Self {
        Self { sketch, base: Box::new(base) }
    }

    pub(super) fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    /// The block that is `patch` away from it, in the form in which it is kept.
    pub(super) fn block(&self, cid: Cid, patch: &[u8]) -> Option<EncodedBlock> {
        let base = (self.base)()?;
        let bytes = self.sketch.apply(&base, patch).ok()?;
        let block = Block::verify(cid, bytes).ok()?;
        Some(EncodedBlock::compress(block, pace::LEVEL))
    }
}

impl fmt::Debug for SimilarBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimilarBlock").field("sketch", &self.sketch).finish_non_exhaustive()
    }
}

/// A want, as it is asked.
#[derive(Clone, Debug)]
pub struct BlockRequest {
    /// What is wanted.
    pub want: Want,
    /// What is like it, where something is.
    pub similar: Option<Arc<SimilarBlock>>,
}

impl From<Want> for BlockRequest {
    fn from(want: Want) -> Self {
        Self { want, similar: None }
    }
}

/// What the peer answered about a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The block; its bytes were hashed. The payloads of a batch share one
    /// buffer, so copy what you keep in memory.
    Block(EncodedBlock),
    /// The peer does not have it.
    Missing,
    /// The file that held it has changed; the next manifest supersedes it.
    Changed,
    /// It came as a difference that does not make it: ask for it whole.
    PatchFailed,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// What was asked for.
    pub cid: Cid,
    /// What came.
    pub outcome: FetchOutcome,
    /// What of the block travelled, in bytes.
    pub travelled: u64,
}

/// What a fetch brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Blocks that came and were checked.
    pub blocks: u64,
    /// Their bytes, as they travelled.
    pub bytes: u64,
    /// Blocks that the peer does not have.
    pub missing: u64,
    /// Blocks whose files have changed.
    pub changed: u64,
    /// Blocks that came as differences, of [`FetchStats::blocks`].
    pub patched: u64,
}
