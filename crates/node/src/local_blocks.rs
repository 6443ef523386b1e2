//! All blocks of this computer: the blocks of the store, and the blocks that are
//! ranges of watched files.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use net::{BlockAnswer, BlockProvider, PeerId};
use store::{BlockRead, BlockWrite, InPlaceAnswer, PackStore, Pin, StoreError, WriteEpoch};
use tokio_util::sync::CancellationToken;
use types::{Cid, EncodedBlock};

/// Blocks that are ranges of files.
pub trait InPlace: Send + Sync + fmt::Debug {
    /// Opens the file of a block. Returns `None` if no file is known to contain
    /// it.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError`] if the index of block places cannot be read.
    fn open(&self, cid: &Cid) -> Result<Option<OpenInPlace<'_>>, StoreError>;

    /// Reads and verifies a block.
    ///
    /// # Errors
    ///
    /// Same as [`InPlace::open`].
    fn get(&self, cid: &Cid) -> Result<InPlaceAnswer, StoreError> {
        self.open(cid)?.map_or(Ok(InPlaceAnswer::Missing), |open| (open.read)())
    }

    /// Reports whether a file is known to contain the block. The file may have
    /// changed since.
    ///
    /// # Errors
    ///
    /// Same as [`InPlace::open`].
    fn has(&self, cid: &Cid) -> Result<bool, StoreError>;
}

/// A block whose file is open, so that the operating system can read ahead.
pub struct OpenInPlace<'a> {
    /// Expected length in bytes; 0 if not known.
    pub len_hint: usize,
    /// Reads and verifies the block.
    pub read: Box<dyn FnOnce() -> Result<InPlaceAnswer, StoreError> + 'a>,
}

/// The blocks of a store and of watched files, for reading.
#[derive(Clone, Debug)]
pub struct LocalBlocks {
    store: Arc<PackStore>,
    in_place: Arc<dyn InPlace>,
}

impl LocalBlocks {
    /// Combines a store and the blocks in files.
    pub fn new(store: Arc<PackStore>, in_place: Arc<dyn InPlace>) -> Self {
        Self { store, in_place }
    }

    /// Returns the store.
    pub(crate) fn store(&self) -> &Arc<PackStore> {
        &self.store
    }

    /// Starts to read one block. A block in a file is opened and not read yet.
    fn start_read(&self, cid: &Cid) -> PendingRead<'_> {
        // The store logs a damaged block, which may still be in a file.
        if let Ok(Some(block)) = self.store.get_encoded(cid) {
            return PendingRead::Done(BlockAnswer::Block(block));
        }
        match self.in_place.open(cid) {
            Ok(Some(open)) => PendingRead::Open(*cid, open),
            Ok(None) => PendingRead::Done(BlockAnswer::Missing),
            Err(error) => PendingRead::Done(not_found(cid, &error)),
        }
    }
}

/// Maximum number of files that are open while the first of them is read: enough
/// to keep a disk busy that serves many requests at a time, and few of the files
/// that a process may open.
const OPEN_MAX: usize = 32;

/// A block that is being read.
enum PendingRead<'a> {
    Done(BlockAnswer),
    Open(Cid, OpenInPlace<'a>),
}

impl PendingRead<'_> {
    /// Returns the expected length of the payload in bytes.
    fn len(&self) -> usize {
        match self {
            Self::Done(BlockAnswer::Block(block)) => block.payload().len(),
            Self::Done(_) => 0,
            Self::Open(_, open) => open.len_hint,
        }
    }

    fn finish(self) -> BlockAnswer {
        match self {
            Self::Done(answer) => answer,
            Self::Open(cid, open) => match (open.read)() {
                Ok(InPlaceAnswer::Block(block)) => BlockAnswer::Block(block),
                Ok(InPlaceAnswer::Changed(_)) => BlockAnswer::Changed,
                Ok(InPlaceAnswer::Missing) => BlockAnswer::Missing,
                Err(error) => not_found(&cid, &error),
            },
        }
    }
}

fn not_found(cid: &Cid, error: &StoreError) -> BlockAnswer {
    tracing::error!(%cid, %error, "cannot look up a block");
    BlockAnswer::Missing
}

impl BlockRead for LocalBlocks {
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

    fn loss_counter(&self) -> u64 {
        self.store.loss_counter()
    }
}

/// The blocks of this computer, for content that must stay complete. A file may
/// change at any time, so a requested block that is only in a file is copied into
/// the store first. A block that [`BlockRead::has`] reports here stays.
#[derive(Clone, Debug)]
pub(crate) struct CopyingBlocks {
    local: LocalBlocks,
    stop: CancellationToken,
}

impl CopyingBlocks {
    /// Copies blocks until `stop`, and fails afterwards.
    pub(crate) fn new(local: LocalBlocks, stop: CancellationToken) -> Self {
        Self { local, stop }
    }
}

impl BlockRead for CopyingBlocks {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        self.local.get_encoded(cid)
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        let store = &self.local.store;
        if store.has(cid)? {
            return Ok(true);
        }
        // Without this check a long file could not be interrupted, since this
        // is called for each of its blocks.
        if self.stop.is_cancelled() {
            return Err(StoreError::Io {
                action: "copy a block from a file",
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

    fn loss_counter(&self) -> u64 {
        self.local.loss_counter()
    }
}

impl BlockWrite for CopyingBlocks {
    fn write_epoch(&self) -> WriteEpoch {
        self.local.store.write_epoch()
    }

    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        self.local.store.put(blocks)
    }

    fn commit(&self, epoch: WriteEpoch) -> Result<(), StoreError> {
        self.local.store.commit(epoch)
    }

    fn pin(&self) -> Pin {
        self.local.store.pin()
    }
}

impl BlockProvider for LocalBlocks {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let mut answers = Vec::new();
        let mut len = 0;
        let mut next = wanted.iter();
        let (mut pending, mut pending_len) = (VecDeque::new(), 0);
        loop {
            while pending.len() < OPEN_MAX && (pending.is_empty() || len + pending_len <= budget) {
                let Some(cid) = next.next() else { break };
                let read = self.start_read(cid);
                pending_len += read.len();
                pending.push_back(read);
            }
            let Some(first) = pending.pop_front() else { return answers };
            pending_len -= first.len();
            // A block that does not fit into the answer is not read.
            if !answers.is_empty() && len + first.len() > budget {
                return answers;
            }
            let answer = first.finish();
            if let BlockAnswer::Block(block) = &answer {
                len += block.payload().len();
            }
            answers.push(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::HashMap;

    use parking_lot::Mutex;
    use store::StoreOptions;
    use types::{Block, Codec};

    use super::*;

    /// Blocks in files, and how they were used.
    #[derive(Debug, Default)]
    struct Files {
        blocks: HashMap<Cid, EncodedBlock>,
        uses: Mutex<Uses>,
    }

    #[derive(Debug, Default)]
    struct Uses {
        /// Opened and not read yet.
        open: Vec<Cid>,
        /// The highest number of open blocks.
        open_most: usize,
        /// In the order of reading.
        read: Vec<Cid>,
    }

    impl InPlace for Files {
        fn open(&self, cid: &Cid) -> Result<Option<OpenInPlace<'_>>, StoreError> {
            let Some(block) = self.blocks.get(cid) else { return Ok(None) };
            let mut uses = self.uses.lock();
            uses.open.push(*cid);
            uses.open_most = uses.open_most.max(uses.open.len());
            let cid = *cid;
            let read = move || {
                let mut uses = self.uses.lock();
                uses.open.retain(|open| *open != cid);
                uses.read.push(cid);
                Ok(InPlaceAnswer::Block(block.clone()))
            };
            Ok(Some(OpenInPlace { len_hint: block.payload().len(), read: Box::new(read) }))
        }

        fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
            Ok(self.blocks.contains_key(cid))
        }
    }

    struct Setup {
        _dir: tempfile::TempDir,
        files: Arc<Files>,
        local: LocalBlocks,
        cids: Vec<Cid>,
    }

    fn setup(count: usize, len: usize) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = PackStore::open(dir.path(), &StoreOptions::default()).unwrap();
        let block = |n: usize| {
            let mut bytes = vec![0; len];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            EncodedBlock::plain(Block::new(Codec::Raw, bytes).unwrap())
        };
        let blocks: Vec<_> = (0..count).map(block).collect();
        let cids = blocks.iter().map(EncodedBlock::cid).collect();
        let blocks = blocks.into_iter().map(|block| (block.cid(), block)).collect();
        let files = Arc::new(Files { blocks, ..Files::default() });
        let local = LocalBlocks::new(Arc::new(store), files.clone());
        Setup { _dir: dir, files, local, cids }
    }

    impl Setup {
        /// Reads one batch, and returns the blocks that it contains.
        fn read(&self, wanted: &[Cid], budget: usize) -> Vec<Option<Cid>> {
            let answers = self.local.read(&PeerId::random(), wanted, budget);
            let cid = |answer: &BlockAnswer| match answer {
                BlockAnswer::Block(block) => Some(block.cid()),
                BlockAnswer::Missing | BlockAnswer::Changed => None,
            };
            answers.iter().map(cid).collect()
        }
    }

    #[test]
    fn small_files_are_opened_ahead_and_read_in_order() {
        let setup = setup(500, 100);
        let all: Vec<_> = setup.cids.iter().copied().map(Some).collect();
        assert_eq!(setup.read(&setup.cids, 1 << 20), all);
        let uses = setup.files.uses.lock();
        assert_eq!((uses.open_most, uses.read.len()), (OPEN_MAX, 500));
    }

    #[test]
    fn nothing_is_read_that_does_not_fit() {
        let setup = setup(10, 1000);
        assert_eq!(setup.read(&setup.cids, 3500).len(), 3);
        assert_eq!(setup.files.uses.lock().read, setup.cids[..3]);
        // At most one more is open: the next batch begins with it.
        assert!(setup.files.uses.lock().open_most <= 4);
        // The first block is read however long it is.
        assert_eq!(setup.read(&setup.cids[3..], 10), [Some(setup.cids[3])]);
        assert_eq!(setup.files.uses.lock().read, setup.cids[..4]);
    }

    #[test]
    fn blocks_of_the_store_and_what_is_nowhere_keep_their_place() {
        let setup = setup(3, 1000);
        let stored = EncodedBlock::plain(Block::new(Codec::Raw, vec![7; 1000]).unwrap());
        setup.local.store.put(std::slice::from_ref(&stored)).unwrap();
        let nowhere = Cid::of(Codec::Raw, b"nowhere");
        let wanted = [setup.cids[0], stored.cid(), nowhere, setup.cids[1]];
        let found = [Some(setup.cids[0]), Some(stored.cid()), None, Some(setup.cids[1])];
        assert_eq!(setup.read(&wanted, 1 << 20), found);
    }
}
