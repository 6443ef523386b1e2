//! The traits of a store of blocks, and the values that their methods use.
//!
//! [`BlockRead`] serves readers, [`BlockWrite`] also stores blocks,
//! [`RootsRead`] and [`Roots`] read and change the names that keep blocks alive,
//! and [`StoreAdmin`] deletes and measures. A function asks for the narrowest
//! that it needs; [`StoreRead`] has everything that a reader needs, and
//! [`BlockStore`] is all of them.
//!
//! [`crate::MemStore`] states these semantics in the fewest words; the tests
//! compare [`crate::PackStore`] with it.

use std::fmt;

use bytes::Bytes;
use types::{Cid, EncodedBlock};

use crate::error::StoreError;
use crate::pins::Pin;
use crate::root_log::Root;

/// Reads blocks. Every block is checked against its name when it is read.
///
/// Every call of a store blocks until it is done: async code makes it on a
/// thread that may block.
pub trait BlockRead: Send + Sync + fmt::Debug {
    /// Returns the block as it is stored, or `None` if it is absent.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Damaged`] if the stored bytes do not match the name
    /// (the block counts as absent from then on and can be put again), and
    /// [`StoreError::Io`] if it cannot be read.
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError>;

    /// Returns the bytes of the block, or `None` if it is absent.
    ///
    /// # Errors
    ///
    /// Same as [`BlockRead::get_encoded`].
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        match self.get_encoded(cid)? {
            Some(block) => Ok(Some(block.decode()?)),
            None => Ok(None),
        }
    }

    /// Reports whether the block is present, without reading it. It stays
    /// present while it is pinned or reachable from a root.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the index cannot be read.
    fn has(&self, cid: &Cid) -> Result<bool, StoreError>;

    /// Returns the length of the block in bytes, or `None` if it is absent.
    ///
    /// # Errors
    ///
    /// Same as [`BlockRead::has`], or as [`BlockRead::get`] if the block has to
    /// be read.
    fn len_of(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.get(cid)?.map(|bytes| bytes.len() as u64))
    }

    /// Returns the number of times that stored blocks became unavailable: by a
    /// failed sync, by damage that was found, with a pack that vanished.
    ///
    /// A caller that remembers that a block is present reads this counter before
    /// it looks the block up, and looks it up again when the counter has
    /// changed. A writer uses [`BlockWrite::write_epoch`] instead, which covers
    /// its own writes only.
    fn loss_counter(&self) -> u64;
}

/// Writes blocks. A writer can also read: it asks for what is present before it
/// writes.
///
/// Blocks are *visible* to everyone when [`BlockWrite::put`] returns, and
/// *durable* when a [`BlockWrite::commit`] that started later has returned. A
/// block is never changed, and only [`StoreAdmin::gc`] deletes blocks.
pub trait BlockWrite: BlockRead {
    /// Returns the current moment. A unit of work takes it before its first
    /// [`BlockWrite::put`] and passes it to the [`BlockWrite::commit`] at its
    /// end, which then knows whether a sync failed in between.
    fn write_epoch(&self) -> WriteEpoch;

    /// Stores blocks. Blocks that are present already cost nothing.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Full`] if there is no room and [`StoreError::Io`]
    /// if a pack cannot be written. Some of the blocks may have been stored.
    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError>;

    /// Makes every block durable that anyone has put before. Many callers share
    /// one sync.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::LostWrites`] if a sync has failed since `epoch`:
    /// the blocks put since then must be put again. Returns [`StoreError::Io`]
    /// if the sync itself fails.
    fn commit(&self, epoch: WriteEpoch) -> Result<(), StoreError>;

    /// Creates an empty pin. It keeps the blocks that are added to it, and all
    /// that they refer to, until it is dropped. Pin a block before you put it.
    fn pin(&self) -> Pin;
}

/// Reads roots: names that keep blocks alive.
pub trait RootsRead: Send + Sync + fmt::Debug {
    /// Returns the root with this name.
    fn root(&self, name: &str) -> Option<Root>;

    /// Returns the roots whose names start with `prefix`, sorted by name.
    fn roots(&self, prefix: &str) -> Vec<(String, Root)>;
}

/// Changes roots.
pub trait Roots: RootsRead {
    /// Sets a root durably, after it has committed all blocks put before: a
    /// root never refers to a block that a power cut can take.
    ///
    /// # Errors
    ///
    /// Same as [`BlockWrite::commit`], and [`StoreError::RootName`] if the name
    /// is not valid. The root is unchanged then.
    fn set_root(&self, name: &str, root: Root, epoch: WriteEpoch) -> Result<(), StoreError>;

    /// Removes a root durably and reports whether it existed. This works on a
    /// full disk. The next [`StoreAdmin::gc`] deletes the blocks that only this
    /// root kept alive.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the record of roots cannot be written.
    fn remove_root(&self, name: &str) -> Result<bool, StoreError>;
}

/// Administers a store: deletes and measures.
pub trait StoreAdmin: Send + Sync + fmt::Debug {
    /// Deletes the blocks that no root and no pin leads to, as far as the
    /// options ask for it.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::NotCollected`] if it is not known which blocks are
    /// needed: a needed block cannot be read, or records of roots are lost and
    /// [`GcOptions::accept_roots`] is not set. Returns [`StoreError::Io`],
    /// [`StoreError::Full`] or [`StoreError::LostWrites`] if a pack cannot be
    /// rewritten.
    fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError>;

    /// Measures the used and the available space.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the file system does not report its space.
    fn usage(&self) -> Result<Usage, StoreError>;

    /// Returns the stored length of the blocks that the roots with these prefixes lead to. A block
    /// is counted once; a missing block is not counted. Reads every node on the way, and waits for
    /// a running collection.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the store cannot be read.
    fn reached_bytes(&self, prefixes: &[String]) -> Result<u64, StoreError>;
}

/// A store that can be read: its blocks and its roots. Every type that
/// implements both traits is one.
pub trait StoreRead: BlockRead + RootsRead {}

impl<S: BlockRead + RootsRead + ?Sized> StoreRead for S {}

/// A complete store: reading, writing, roots and administration. Every type
/// that implements these traits is one.
pub trait BlockStore: StoreRead + BlockWrite + Roots + StoreAdmin {}

impl<S: BlockWrite + Roots + StoreAdmin + ?Sized> BlockStore for S {}

/// A moment in the life of a store; see [`BlockWrite::write_epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteEpoch {
    /// Number of syncs that had failed.
    pub(crate) failed_syncs: u64,
    /// Blocks put from then on go to the pack with this number or to later ones.
    pub(crate) first_pack: u32,
}

/// Options of a collection.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// A pack with less than this percentage of live bytes is rewritten without
    /// its dead blocks. 0 removes only packs without live blocks, 100 leaves no
    /// dead block.
    pub min_live_percent: u8,
    /// If records of roots are lost, regard the known roots as all that exist,
    /// durably: blocks that only a lost root kept alive are deleted. This
    /// happens only if every block that the known roots need is present.
    pub accept_roots: bool,
    /// Collect only from packs to which blocks were put since then.
    pub since: Option<WriteEpoch>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { min_live_percent: 70, accept_roots: false, since: None }
    }
}

impl GcOptions {
    /// Deletes every dead block.
    pub const EVERYTHING: Self = Self { min_live_percent: 100, accept_roots: false, since: None };

    /// Deletes every dead block of a unit of work that was given up.
    pub fn undo(since: WriteEpoch) -> Self {
        Self { since: Some(since), ..Self::EVERYTHING }
    }
}

/// Result of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Number of blocks that a root or a pin leads to.
    pub live_blocks: u64,
    /// Number of deleted blocks.
    pub deleted_blocks: u64,
    /// Number of bytes that were given back to the disk.
    pub freed_bytes: u64,
    /// Number of bytes that were written to move live blocks.
    pub rewritten_bytes: u64,
    /// Number of dead bytes that remain, in packs that are mostly alive.
    pub left_bytes: u64,
    /// Descriptions of damaged blocks. Their packs were not changed.
    pub damaged: Vec<String>,
}

/// Space that a store uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of blocks in the store, dead ones included.
    pub blocks: u64,
    /// Length of all packs in bytes.
    pub used_bytes: u64,
    /// Limit set by `max_storage` in bytes; `None` if only the disk limits the
    /// store.
    pub max_bytes: Option<u64>,
    /// Number of bytes that can be written before a limit is reached.
    pub available_bytes: u64,
}
