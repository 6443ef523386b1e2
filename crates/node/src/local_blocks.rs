//! All blocks that are on this machine: those of the store, and those that
//! are ranges of watched files.

use std::fmt;
use std::sync::Arc;

use net::{Answer, BlockProvider, PeerId};
use store::{
    BlockStore, Epoch, GcOptions, GcReport, InPlaceAnswer, PackStore, Pin, Root, StoreError, Usage,
    VerifyDepth, VerifyReport,
};
use types::{Cid, EncodedBlock};

/// Blocks that are in no store, but in files.
pub trait InPlace: Send + Sync + fmt::Debug {
    /// The block, read and checked.
    ///
    /// # Errors
    ///
    /// Those of the index of places.
    fn get(&self, cid: &Cid) -> Result<InPlaceAnswer, StoreError>;

    /// Whether a file is known to have it; it may have changed since.
    ///
    /// # Errors
    ///
    /// As [`InPlace::get`].
    fn has(&self, cid: &Cid) -> Result<bool, StoreError>;
}

/// The blocks of a store and of files, as one store. What is put goes to the
/// store.
#[derive(Clone, Debug)]
pub struct LocalBlocks {
    store: Arc<PackStore>,
    in_place: Arc<dyn InPlace>,
}

impl LocalBlocks {
    /// Both.
    pub fn new(store: Arc<PackStore>, in_place: Arc<dyn InPlace>) -> Self {
        Self { store, in_place }
    }

    fn answer(&self, cid: &Cid) -> Answer {
        // A block of the store that is damaged is logged there, and may still
        // be in a file.
        if let Ok(Some(block)) = self.store.get_encoded(cid) {
            return Answer::Block(block);
        }
        match self.in_place.get(cid) {
            Ok(InPlaceAnswer::Block(block)) => Answer::Block(block),
            Ok(InPlaceAnswer::Changed(_)) => Answer::Changed,
            Ok(InPlaceAnswer::Missing) => Answer::Missing,
            Err(error) => {
                tracing::error!(%cid, %error, "a block cannot be looked up");
                Answer::Missing
            }
        }
    }
}

impl BlockStore for LocalBlocks {
    fn epoch(&self) -> Epoch {
        self.store.epoch()
    }

    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        self.store.put(blocks)
    }

    fn commit(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.store.commit(epoch)
    }

    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        let stored = self.store.get_encoded(cid);
        if let Ok(Some(_)) = &stored {
            return stored;
        }
        match self.in_place.get(cid)? {
            InPlaceAnswer::Block(block) => Ok(Some(block)),
            InPlaceAnswer::Changed(_) | InPlaceAnswer::Missing => stored,
        }
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.store.has(cid)? || self.in_place.has(cid)?)
    }

    fn losses(&self) -> u64 {
        self.store.losses()
    }

    fn set_root(&self, name: &str, root: Root, epoch: Epoch) -> Result<(), StoreError> {
        self.store.set_root(name, root, epoch)
    }

    fn remove_root(&self, name: &str) -> Result<bool, StoreError> {
        self.store.remove_root(name)
    }

    fn root(&self, name: &str) -> Option<Root> {
        self.store.root(name)
    }

    fn roots(&self, prefix: &str) -> Vec<(String, Root)> {
        self.store.roots(prefix)
    }

    fn pin(&self) -> Pin {
        self.store.pin()
    }

    fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        self.store.gc(options)
    }

    fn verify(&self, depth: VerifyDepth) -> Result<VerifyReport, StoreError> {
        self.store.verify(depth)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.store.usage()
    }
}

impl BlockProvider for LocalBlocks {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut len = 0;
        for cid in wanted {
            let answer = self.answer(cid);
            if let Answer::Block(block) = &answer {
                len += block.payload().len();
                if len > budget && !answers.is_empty() {
                    break;
                }
            }
            answers.push(answer);
        }
        answers
    }
}
