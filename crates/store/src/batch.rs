//! A unit of work on a store.

use std::sync::Arc;

use types::EncodedBlock;

use crate::block_store::{BlockWrite, Roots, WriteEpoch};
use crate::error::StoreError;
use crate::file_reader::is_complete;
use crate::pins::Pin;
use crate::root_log::Root;

/// A unit of work on a store. Its blocks are pinned until the batch is dropped,
/// and durable when it is committed.
#[derive(Debug)]
pub struct Batch {
    store: Arc<dyn BlockWrite>,
    epoch: WriteEpoch,
    /// Loss counter of the store when the batch started.
    losses: u64,
    pin: Pin,
}

impl Batch {
    /// Starts a unit of work.
    pub fn new(store: Arc<dyn BlockWrite>) -> Self {
        let epoch = store.write_epoch();
        let losses = store.loss_counter();
        let pin = store.pin();
        Self { store, epoch, losses, pin }
    }

    /// Pins blocks, then stores them.
    ///
    /// # Errors
    ///
    /// Same as [`BlockWrite::put`].
    pub fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        self.pin.add(blocks.iter().map(EncodedBlock::cid));
        self.store.put(blocks)
    }

    /// Returns the moment at which the batch started.
    pub fn epoch(&self) -> WriteEpoch {
        self.epoch
    }

    /// Returns the pin that keeps the blocks of this batch alive.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Makes the blocks of this batch durable.
    ///
    /// # Errors
    ///
    /// Same as [`BlockWrite::commit`].
    pub fn commit(&self) -> Result<(), StoreError> {
        self.store.commit(self.epoch)
    }

    /// Ends the batch with a root in `roots`, which belong to the same store.
    ///
    /// # Errors
    ///
    /// Same as [`Roots::set_root`], and [`StoreError::LostWrites`] if the store has lost
    /// a block since the batch started, which may be one that the root needs: a block
    /// that the batch found present, or has put.
    pub fn commit_root(
        self,
        roots: &(impl Roots + ?Sized),
        name: &str,
        root: Root,
    ) -> Result<(), StoreError> {
        // Blocks below a partial root may be missing, so it is not known which were
        // lost.
        if self.store.loss_counter() != self.losses
            && (root.partial || !is_complete(&*self.store, root.cid)?)
        {
            return Err(StoreError::LostWrites);
        }
        roots.set_root(name, root, self.epoch)
    }
}
