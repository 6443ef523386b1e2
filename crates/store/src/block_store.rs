//! What every store of blocks does: the trait, and what goes in and out of it.
//!
//! [`crate::MemStore`] is the plain statement of these semantics; the tests
//! hold [`crate::PackStore`] to it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use types::{Cid, EncodedBlock};

use crate::error::StoreError;
use crate::pins::Pin;
use crate::root_log::Root;

/// A moment in the life of a store; see [`BlockStore::epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// How many syncs had failed.
    pub(crate) failures: u64,
    /// What is put from then on goes to this pack or to later ones.
    pub(crate) first_pack: u32,
}

/// A store of blocks: write-once, named by content, verified on every read.
///
/// Every call blocks until it is done, so async code makes it on a thread that
/// may block. Blocks are *visible* to everyone when `put` returns, and
/// *durable* when a `commit` that began later has returned.
///
/// Nothing deletes a block but [`BlockStore::gc`], and it deletes only what no
/// root and no pin leads to.
pub trait BlockStore: Send + Sync + fmt::Debug {
    /// The moment now: to be taken before the first `put` of a unit of work,
    /// and given to the `commit` that ends it.
    fn epoch(&self) -> Epoch;

    /// Stores blocks; those that are there already cost nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`], [`StoreError::Io`]. Some of the blocks may have
    /// been stored then.
    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError>;

    /// Makes everything durable that was put before, by anyone. Many callers
    /// share one sync.
    ///
    /// # Errors
    ///
    /// [`StoreError::LostWrites`] where a sync failed since `epoch`: what was
    /// put since then has to be put again.
    fn commit(&self, epoch: Epoch) -> Result<(), StoreError>;

    /// The block as it is stored, checked against its name.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] where it is there and is not what it was: it
    /// counts as absent from then on, and can be put again.
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError>;

    /// The bytes of a block, checked against its name.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::get_encoded`].
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        match self.get_encoded(cid)? {
            Some(block) => Ok(Some(block.decode()?)),
            None => Ok(None),
        }
    }

    /// Whether a block is there, without reading it. While it is pinned, or
    /// reachable from a root, it stays.
    ///
    /// # Errors
    ///
    /// Those of reading the index.
    fn has(&self, cid: &Cid) -> Result<bool, StoreError>;

    /// How often blocks were lost that were there: with a sync that failed, by
    /// damage that was found, with a pack that has vanished. Whoever remembers
    /// that a block is there looks again when this is another number than it
    /// was before the block was looked for.
    fn losses(&self) -> u64;

    /// The length of a block in bytes, where it is there; as
    /// [`BlockStore::has`].
    ///
    /// # Errors
    ///
    /// As [`BlockStore::has`]; where the block has to be read, as
    /// [`BlockStore::get`].
    fn len_of(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.get(cid)?.map(|bytes| bytes.len() as u64))
    }

    /// Sets a root, durably, after everything that was put before is durable:
    /// a name never refers to what a power cut can take.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::commit`]; the root is as it was then.
    fn set_root(&self, name: &str, root: Root, epoch: Epoch) -> Result<(), StoreError>;

    /// Removes a root, durably; tells whether it was there. It works on a full
    /// disk. What it kept alive goes with the next [`BlockStore::gc`].
    ///
    /// # Errors
    ///
    /// Those of the disk.
    fn remove_root(&self, name: &str) -> Result<bool, StoreError>;

    /// The root of this name.
    fn root(&self, name: &str) -> Option<Root>;

    /// The roots whose names begin with `prefix`, sorted by name.
    fn roots(&self, prefix: &str) -> Vec<(String, Root)>;

    /// A pin: keeps what it is given, and all that it refers to, until it is
    /// dropped. Pin a block before you put it.
    fn pin(&self) -> Pin;

    /// Deletes what nothing refers to, as far as it pays.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotCollected`] where it cannot be known what is alive: a
    /// block is needed and cannot be read, or records of roots are lost and are
    /// not given up with [`GcOptions::accept_roots`].
    fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError>;

    /// Checks that every block is there that a root leads to.
    ///
    /// # Errors
    ///
    /// Those of the disk; what is missing or damaged is in the report.
    fn verify(&self, depth: VerifyDepth) -> Result<VerifyReport, StoreError>;

    /// What is used, and what may be.
    ///
    /// # Errors
    ///
    /// Those of asking the disk.
    fn usage(&self) -> Result<Usage, StoreError>;
}

/// How hard to collect.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// A pack with less than this percentage of live bytes is written anew
    /// without the rest. 0 removes only packs that are wholly dead, 100
    /// leaves nothing dead.
    pub min_live_percent: u8,
    /// Where records of roots are lost, take the roots that are known as all
    /// that there are, durably: what only a lost root kept alive goes. Not
    /// before everything is known to be there that those lead to.
    pub accept_roots: bool,
    /// Look only where something was put since then.
    pub since: Option<Epoch>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { min_live_percent: 70, accept_roots: false, since: None }
    }
}

impl GcOptions {
    /// Leaves nothing dead behind.
    pub const EVERYTHING: Self = Self { min_live_percent: 100, accept_roots: false, since: None };

    /// Leaves nothing behind of work that was given up.
    pub fn undo(since: Epoch) -> Self {
        Self { since: Some(since), ..Self::EVERYTHING }
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blocks that something refers to.
    pub live_blocks: u64,
    /// Blocks that were deleted.
    pub deleted_blocks: u64,
    /// Bytes that the disk has back.
    pub freed_bytes: u64,
    /// Bytes that had to be written for it.
    pub rewritten_bytes: u64,
    /// Dead bytes that stay, in packs that are mostly alive.
    pub left_bytes: u64,
    /// Blocks that are damaged; their packs were left alone.
    pub damaged: Vec<String>,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Every block that is needed is in the index, and its pack is there.
    Present,
    /// Every block that is needed is read and hashed.
    Full,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Roots that were checked.
    pub roots: u64,
    /// Blocks that are needed and there (and intact, if they were read).
    pub blocks: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Whether every root is whole.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A block that is needed and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The block.
    pub cid: Cid,
    /// Why it cannot be had.
    pub reason: String,
    /// The names of the roots that need it.
    pub roots: Vec<String>,
}

/// What a store uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks in the store, dead ones included.
    pub blocks: u64,
    /// Bytes of all packs.
    pub used_bytes: u64,
    /// What `max_storage` allows; `None`: only the disk is the limit.
    pub max_bytes: Option<u64>,
    /// What may still be written until a limit is reached.
    pub available_bytes: u64,
}

/// A unit of work on a store: what it puts is pinned until the batch is
/// dropped, and durable when it is committed.
#[derive(Debug)]
pub struct Batch {
    store: Arc<dyn BlockStore>,
    epoch: Epoch,
    pin: Pin,
}

impl Batch {
    /// Begins a unit of work.
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        let epoch = store.epoch();
        let pin = store.pin();
        Self { store, epoch, pin }
    }

    /// Puts blocks; they are pinned from before that.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::put`].
    pub fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        self.pin.add(blocks.iter().map(EncodedBlock::cid));
        self.store.put(blocks)
    }

    /// When it began.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What keeps the blocks of this batch alive.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// The store that it works on.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// Makes everything durable that was put.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::commit`].
    pub fn commit(&self) -> Result<(), StoreError> {
        self.store.commit(self.epoch)
    }

    /// Ends the work with a root.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::set_root`].
    pub fn commit_root(self, name: &str, root: Root) -> Result<(), StoreError> {
        self.store.set_root(name, root, self.epoch)
    }
}
