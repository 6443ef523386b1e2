//! Blocks that are moved from one pack to another, and records of later versions.
//!
//! Their number and their total length are bounded, so that a pack is never in
//! memory as a whole.

use super::Inner;
use super::write::Writer;
use crate::error::StoreError;
use crate::pack::PackKind;
use crate::record::{Record, ToRecord};

/// Maximum number of blocks that are moved with one write.
const BLOCKS_MAX: usize = 64;
/// Total length of blocks, in bytes, at which they are written.
const BYTES_MAX: usize = 4 << 20;

/// Blocks to be written to another pack; see the module.
#[derive(Debug, Default)]
pub(super) struct RelocationBatch {
    blocks: Vec<Record>,
    len: usize,
}

impl RelocationBatch {
    pub(super) fn push(&mut self, block: Record) {
        self.len += block.payload().len();
        self.blocks.push(block);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Reports whether the blocks must be written now.
    pub(super) fn is_full(&self) -> bool {
        self.blocks.len() >= BLOCKS_MAX || self.len >= BYTES_MAX
    }
}

impl Inner {
    /// Appends the blocks of the batch, which is empty then. Returns their length
    /// in bytes.
    pub(super) fn append_batch(
        &self,
        batch: &mut RelocationBatch,
        writer: &mut Writer,
        kind: PackKind,
    ) -> Result<u64, StoreError> {
        let RelocationBatch { blocks, len } = std::mem::take(batch);
        self.append(writer, kind, &blocks.iter().collect::<Vec<_>>())?;
        Ok(len as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use types::{Block, Codec, EncodedBlock};

    use super::*;

    /// Returns how many blocks of this length are moved with one write.
    fn blocks_per_write(len: usize) -> usize {
        let block = EncodedBlock::plain(Block::new(Codec::Raw, vec![7; len]).unwrap());
        let mut batch = RelocationBatch::default();
        (1..)
            .find(|_| {
                batch.push(Record::Block(block.clone()));
                batch.is_full()
            })
            .unwrap()
    }

    #[test]
    fn neither_many_blocks_nor_long_ones_are_in_memory_together() {
        assert_eq!(blocks_per_write(100), 64);
        assert_eq!(blocks_per_write(1 << 20), 4);
        assert_eq!(blocks_per_write(types::MAX_BLOCK_LEN), 1);
    }
}
