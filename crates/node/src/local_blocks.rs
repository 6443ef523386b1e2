//! All blocks that are on this machine: those of the store, and those that
//! are ranges of watched files.

use std::fmt;
use std::sync::Arc;

use net::{Answer, BlockProvider, PeerId};
use store::{BlockStore, InPlaceAnswer, PackStore, StoreError};
use tokio_util::sync::CancellationToken;
use types::{Cid, EncodedBlock};

/// What a store does besides telling of blocks, done by the store in a field.
macro_rules! delegate_to_store {
    ($field:ident) => {
        fn epoch(&self) -> ::store::Epoch {
            self.$field.epoch()
        }

        fn put(&self, blocks: &[::types::EncodedBlock]) -> Result<(), ::store::StoreError> {
            self.$field.put(blocks)
        }

        fn commit(&self, epoch: ::store::Epoch) -> Result<(), ::store::StoreError> {
            self.$field.commit(epoch)
        }

        fn losses(&self) -> u64 {
            self.$field.losses()
        }

        fn set_root(
            &self,
            name: &str,
            root: ::store::Root,
            epoch: ::store::Epoch,
        ) -> Result<(), ::store::StoreError> {
            self.$field.set_root(name, root, epoch)
        }

        fn remove_root(&self, name: &str) -> Result<bool, ::store::StoreError> {
            self.$field.remove_root(name)
        }

        fn root(&self, name: &str) -> Option<::store::Root> {
            self.$field.root(name)
        }

        fn roots(&self, prefix: &str) -> Vec<(String, ::store::Root)> {
            self.$field.roots(prefix)
        }

        fn pin(&self) -> ::store::Pin {
            self.$field.pin()
        }

        fn gc(
            &self,
            options: ::store::GcOptions,
        ) -> Result<::store::GcReport, ::store::StoreError> {
            self.$field.gc(options)
        }

        fn verify(
            &self,
            depth: ::store::VerifyDepth,
        ) -> Result<::store::VerifyReport, ::store::StoreError> {
            self.$field.verify(depth)
        }

        fn usage(&self) -> Result<::store::Usage, ::store::StoreError> {
            self.$field.usage()
        }
    };
}
pub(crate) use delegate_to_store;

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

    delegate_to_store!(store);
}

/// The blocks of this machine, for what is to be kept whole: a file may change
/// at any time, so a block that is asked after and is in a file only is taken
/// into the store first. What this says is here stays here.
#[derive(Clone, Debug)]
pub(crate) struct TakingOver {
    local: LocalBlocks,
    stop: CancellationToken,
}

impl TakingOver {
    /// Takes blocks over until `stop`, and fails from then on.
    pub(crate) fn new(local: LocalBlocks, stop: CancellationToken) -> Self {
        Self { local, stop }
    }
}

impl BlockStore for TakingOver {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        self.local.get_encoded(cid)
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        let store = &self.local.store;
        if store.has(cid)? {
            return Ok(true);
        }
        // A long file would not end otherwise: this is asked block by block.
        if self.stop.is_cancelled() {
            return Err(StoreError::Io {
                action: "take over a block",
                path: cid.to_string().into(),
                source: std::io::ErrorKind::Interrupted.into(),
            });
        }
        match self.local.in_place.get(cid)? {
            InPlaceAnswer::Block(block) => {
                store.put(&[block])?;
                Ok(true)
            }
            InPlaceAnswer::Changed(_) | InPlaceAnswer::Missing => Ok(false),
        }
    }

    delegate_to_store!(local);
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
