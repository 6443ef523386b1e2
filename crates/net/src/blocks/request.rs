//! Types of a fetch: requests ([`Want`], [`BlockRequest`]), answers ([`Fetched`])
//! and totals ([`FetchStats`]).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use types::{Block, Cid, EncodedBlock};

use super::link_speed;
use super::sketch::Sketch;

/// Block to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Name of the block.
    pub cid: Cid,
    /// Length of the block in bytes, if known. Only used to decide how many blocks
    /// to request in advance.
    pub len: Option<u32>,
}

impl From<Cid> for Want {
    fn from(cid: Cid) -> Self {
        Self { cid, len: None }
    }
}

/// Local block that is likely to be similar to a requested one.
///
/// The client sends its [`Sketch`] with the request. The peer may then answer with
/// the difference to the local block instead of the complete block.
pub struct SimilarBlock {
    sketch: Sketch,
    base: Box<dyn Fn() -> Option<Bytes> + Send + Sync>,
}

impl SimilarBlock {
    /// Creates a hint from the sketch of a local block and a function that reads
    /// the block.
    ///
    /// The function is called only if the peer sends a difference, on a thread that
    /// may block. It returns `None` if the block is not available any more.
    pub fn new(sketch: Sketch, base: impl Fn() -> Option<Bytes> + Send + Sync + 'static) -> Self {
        Self { sketch, base: Box::new(base) }
    }

    pub(super) fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    /// Applies `patch` to the local block. Returns the result, compressed for
    /// storage, or `None` if it is not the block `cid`.
    pub(super) fn reconstruct(&self, cid: Cid, patch: &[u8]) -> Option<EncodedBlock> {
        let base = (self.base)()?;
        let bytes = self.sketch.apply(&base, patch).ok()?;
        let block = Block::verify(cid, bytes).ok()?;
        Some(EncodedBlock::compress(block, link_speed::COMPRESSION_LEVEL))
    }
}

impl fmt::Debug for SimilarBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimilarBlock").field("sketch", &self.sketch).finish_non_exhaustive()
    }
}

/// Request for one block, with an optional similarity hint.
#[derive(Clone, Debug)]
pub struct BlockRequest {
    /// Block to fetch.
    pub want: Want,
    /// Local block that is similar to it, if any.
    pub similar: Option<Arc<SimilarBlock>>,
}

impl From<Want> for BlockRequest {
    fn from(want: Want) -> Self {
        Self { want, similar: None }
    }
}

/// Result of the request for one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The block, verified. The payloads of a batch share one buffer; copy a payload
    /// to keep it in memory.
    Block(EncodedBlock),
    /// The peer does not have the block.
    Missing,
    /// The file that contained the block has changed on the peer. The next manifest
    /// replaces it.
    Changed,
    /// The peer sent a difference from which the block could not be reconstructed.
    /// Request the block again without a hint.
    PatchFailed,
}

/// Answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Name of the requested block.
    pub cid: Cid,
    /// Result of the request.
    pub outcome: FetchOutcome,
    /// Number of bytes that were received for the block, without frame headers.
    pub wire_len: u64,
}

/// Totals of a fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Number of blocks that were received and verified.
    pub blocks: u64,
    /// Number of bytes that were received for blocks, without frame headers.
    pub bytes: u64,
    /// Number of blocks that the peer does not have.
    pub missing: u64,
    /// Number of blocks whose files have changed.
    pub changed: u64,
    /// Number of blocks that came as differences; included in
    /// [`FetchStats::blocks`].
    pub patched: u64,
}
