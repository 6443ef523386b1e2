//! Where the blocks of a restore come from.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use store::{BlockRead, StoreError};
use types::Cid;

/// Why blocks could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where else they come from.
    #[error("the blocks cannot be had")]
    Elsewhere(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A block that is needed is not there.
    #[error("block {0} is missing")]
    Missing(Cid),
}

/// A source of blocks. Called from several threads, which may block.
pub trait Blocks: Send + Sync + fmt::Debug {
    /// The bytes of blocks, each checked against its name, in the order of
    /// `wanted`; `None` for what is not there or is damaged.
    ///
    /// # Errors
    ///
    /// [`BlocksError`] where nothing more can be expected.
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError>;
}

impl Blocks for Arc<dyn BlockRead> {
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError> {
        wanted
            .iter()
            .map(|cid| match BlockRead::get(&**self, cid) {
                // The store has logged it; for this file it is gone.
                Err(StoreError::Damaged { .. }) => Ok(None),
                result => Ok(result?),
            })
            .collect()
    }
}

/// One block that has to be there.
pub(crate) fn one(blocks: &dyn Blocks, cid: Cid) -> Result<Bytes, BlocksError> {
    blocks.get(&[cid])?.into_iter().next().flatten().ok_or(BlocksError::Missing(cid))
}
