//! All blocks that are on this machine: those of the store, and those that
//! are ranges of watched files.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use net::{BlockAnswer, BlockProvider, PeerId};
use store::{BlockRead, BlockWrite, InPlaceAnswer, PackStore, Pin, StoreError, WriteEpoch};
use tokio_util::sync::CancellationToken;
use types::{Cid, EncodedBlock};

/// Blocks that are in no store, but in files.
pub trait InPlace: Send + Sync + fmt::Debug {
    /// Begins to read a block. `None`: no file is known to have it.
    ///
    /// # Errors
    ///
    /// Those of the index of places.
    fn open(&self, cid: &Cid) -> Result<Option<OpenInPlace<'_>>, StoreError>;

    /// The block, read and checked.
    ///
    /// # Errors
    ///
    /// As [`InPlace::open`].
    fn get(&self, cid: &Cid) -> Result<InPlaceAnswer, StoreError> {
        self.open(cid)?.map_or(Ok(InPlaceAnswer::Missing), |open| (open.read)())
    }

    /// Whether a file is known to have it; it may have changed since.
    ///
    /// # Errors
    ///
    /// As [`InPlace::open`].
    fn has(&self, cid: &Cid) -> Result<bool, StoreError>;
}

/// A block whose file is open, and which the system may read meanwhile.
pub struct OpenInPlace<'a> {
    /// How long it is, where that is known; in bytes.
    pub len_hint: usize,
    /// Reads and checks it.
    pub read: Box<dyn FnOnce() -> Result<InPlaceAnswer, StoreError> + 'a>,
}

/// The blocks of a store and of watched files, to read.
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

    /// Returns the store.
    pub(crate) fn store(&self) -> &Arc<PackStore> {
        &self.store
    }

    /// Begins to answer for one block; a block in a file is not read yet.
    fn begin(&self, cid: &Cid) -> Begun<'_> {
        // A block of the store that is damaged is logged there, and may still
        // be in a file.
        if let Ok(Some(block)) = self.store.get_encoded(cid) {
            return Begun::Done(BlockAnswer::Block(block));
        }
        match self.in_place.open(cid) {
            Ok(Some(open)) => Begun::Open(*cid, open),
            Ok(None) => Begun::Done(BlockAnswer::Missing),
            Err(error) => Begun::Done(not_found(cid, &error)),
        }
    }
}

/// Files that are open while the first of them is read: enough to keep a disk
/// busy that answers many at once, and few of what a process may have.
const OPEN_MAX: usize = 32;

/// An answer on the way.
enum Begun<'a> {
    Done(BlockAnswer),
    Open(Cid, OpenInPlace<'a>),
}

impl Begun<'_> {
    /// Bytes of payload that it is expected to take.
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
    tracing::error!(%cid, %error, "a block cannot be looked up");
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

impl BlockRead for TakingOver {
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

    fn loss_counter(&self) -> u64 {
        self.local.loss_counter()
    }
}

impl BlockWrite for TakingOver {
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
        let (mut begun, mut begun_len) = (VecDeque::new(), 0);
        loop {
            while begun.len() < OPEN_MAX && (begun.is_empty() || len + begun_len <= budget) {
                let Some(cid) = next.next() else { break };
                let one = self.begin(cid);
                begun_len += one.len();
                begun.push_back(one);
            }
            let Some(first) = begun.pop_front() else { return answers };
            begun_len -= first.len();
            // What does not fit any more need not be read.
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

    /// Files, and what is done with them: what was opened and not yet read, at
    /// most, and the order of what was read.
    #[derive(Debug, Default)]
    struct Files {
        blocks: HashMap<Cid, EncodedBlock>,
        done: Mutex<Done>,
    }

    #[derive(Debug, Default)]
    struct Done {
        open: Vec<Cid>,
        open_most: usize,
        read: Vec<Cid>,
    }

    impl InPlace for Files {
        fn open(&self, cid: &Cid) -> Result<Option<OpenInPlace<'_>>, StoreError> {
            let Some(block) = self.blocks.get(cid) else { return Ok(None) };
            let mut done = self.done.lock();
            done.open.push(*cid);
            done.open_most = done.open_most.max(done.open.len());
            let cid = *cid;
            let read = move || {
                let mut done = self.done.lock();
                done.open.retain(|open| *open != cid);
                done.read.push(cid);
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
        /// Reads one batch; tells which blocks it brought.
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
        let done = setup.files.done.lock();
        assert_eq!((done.open_most, done.read.len()), (OPEN_MAX, 500));
    }

    #[test]
    fn nothing_is_read_that_does_not_fit() {
        let setup = setup(10, 1000);
        assert_eq!(setup.read(&setup.cids, 3500).len(), 3);
        assert_eq!(setup.files.done.lock().read, setup.cids[..3]);
        // One more is open at most: the next batch begins with it.
        assert!(setup.files.done.lock().open_most <= 4);
        // The first comes, however long it is.
        assert_eq!(setup.read(&setup.cids[3..], 10), [Some(setup.cids[3])]);
        assert_eq!(setup.files.done.lock().read, setup.cids[..4]);
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
