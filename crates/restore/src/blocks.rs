//! The supplier of a restore's blocks.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use store::{BlockRead, StoreError};
use types::Cid;

/// The reason why blocks could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The block store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another supplier failed.
    #[error("cannot read the blocks")]
    Elsewhere(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A required block is missing.
    #[error("block {0} is missing")]
    Missing(Cid),
}

/// Supplies blocks. Several threads call it, and it may block them.
pub trait Blocks: Send + Sync + fmt::Debug {
    /// Returns the content of blocks, each verified against its CID, in the order of
    /// `wanted`; `None` for a missing or damaged block.
    ///
    /// # Errors
    ///
    /// Returns [`BlocksError::Store`] or [`BlocksError::Elsewhere`] if no further block
    /// can be read.
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError>;
}

impl Blocks for Arc<dyn BlockRead> {
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError> {
        wanted
            .iter()
            .map(|cid| match BlockRead::get(&**self, cid) {
                // The store has logged the damage; for this file the block is missing.
                Err(StoreError::Damaged { .. }) => Ok(None),
                result => Ok(result?),
            })
            .collect()
    }
}

/// Returns one required block.
pub(crate) fn get_one(blocks: &dyn Blocks, cid: Cid) -> Result<Bytes, BlocksError> {
    blocks.get(&[cid])?.into_iter().next().flatten().ok_or(BlocksError::Missing(cid))
}
