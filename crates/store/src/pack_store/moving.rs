//! Blocks on their way from one pack to another: a bounded number, and a
//! bounded length, so that a pack of long blocks is not in memory whole.

use types::EncodedBlock;

use super::Inner;
use super::write::Writer;
use crate::error::StoreError;
use crate::pack::PackKind;

/// Blocks that are moved with one write …
const MOVED_AT_ONCE: usize = 64;
/// … or as many as come to so many bytes.
const MOVED_BYTES: usize = 4 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Moving {
    blocks: Vec<EncodedBlock>,
    len: usize,
}

impl Moving {
    pub(super) fn push(&mut self, block: EncodedBlock) {
        self.len += block.payload().len();
        self.blocks.push(block);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether it is time to write them.
    pub(super) fn is_full(&self) -> bool {
        self.blocks.len() >= MOVED_AT_ONCE || self.len >= MOVED_BYTES
    }
}

impl Inner {
    /// Appends what was gathered, which is none then; tells its bytes.
    pub(super) fn append_moving(
        &self,
        moving: &mut Moving,
        writer: &mut Writer,
        kind: PackKind,
    ) -> Result<u64, StoreError> {
        let Moving { blocks, len } = std::mem::take(moving);
        self.append(writer, kind, &blocks.iter().collect::<Vec<_>>())?;
        Ok(len as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use types::{Block, Codec};

    use super::*;

    /// How many blocks of this length are moved at once.
    fn at_once(len: usize) -> usize {
        let block = EncodedBlock::plain(Block::new(Codec::Raw, vec![7; len]).unwrap());
        let mut moving = Moving::default();
        (1..)
            .find(|_| {
                moving.push(block.clone());
                moving.is_full()
            })
            .unwrap()
    }

    #[test]
    fn neither_many_blocks_nor_long_ones_are_in_memory_together() {
        assert_eq!(at_once(100), 64);
        assert_eq!(at_once(1 << 20), 4);
        assert_eq!(at_once(types::MAX_BLOCK_LEN), 1);
    }
}
