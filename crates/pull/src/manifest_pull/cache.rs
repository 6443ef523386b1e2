//! Cache of complete segments, so that the next manifest of a folder costs no more than its
//! changes.
//!
//! Invariant: a segment is cached only while a root protects it from collection: that of the newest
//! snapshot, or that of the unfinished pull. If that root has changed, or the store has failed or
//! lost blocks since the segment was checked (failed sync, damage), the segment is forgotten and
//! checked again.

use std::collections::HashMap;

use net::PeerId;
use parking_lot::Mutex;
use types::{Cid, FolderId};

use crate::plan::{Summaries, Summary};

/// Maximum memory of the cached segments of all folders, in bytes. A million files are in about a
/// thousand segments of a few hundred bytes each.
const MEMORY_MAX: usize = 32 << 20;

/// The complete segments below one root.
#[derive(Clone, Debug)]
pub(crate) struct CompleteSegments {
    /// CID of the root: a snapshot record or a manifest.
    pub(crate) root: Cid,
    /// The segments, by CID.
    pub(crate) segments: Summaries,
}

/// The cache of one folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct FolderCache {
    /// Loss counter of the store at that time; see [`store::BlockRead::loss_counter`].
    pub(crate) losses: u64,
    /// The segments of the newest snapshot.
    pub(crate) base: Option<CompleteSegments>,
    /// The segments below the root of the unfinished pull.
    pub(crate) partial: Option<CompleteSegments>,
    /// Segments of the last manifest whose entries were checked. Their files may be missing; a CID
    /// always stands for the same entries.
    pub(crate) checked: Summaries,
}

impl FolderCache {
    /// Returns the part of the cache that is still valid, for the current roots and loss counter.
    pub(crate) fn valid(mut self, base: Option<Cid>, partial: Option<Cid>, losses: u64) -> Self {
        let is_lossless = self.losses == losses;
        self.base = self.base.filter(|complete| is_lossless && Some(complete.root) == base);
        self.partial =
            self.partial.filter(|complete| is_lossless && Some(complete.root) == partial);
        self.losses = losses;
        self
    }

    /// Returns all complete segments.
    pub(crate) fn complete(&self) -> Summaries {
        let all = self.base.iter().chain(&self.partial).flat_map(|complete| &complete.segments);
        all.map(|(cid, summary)| (*cid, summary.clone())).collect()
    }

    /// Returns about how much memory the cache takes, in bytes.
    fn memory(&self) -> usize {
        let complete = self.base.iter().chain(&self.partial).flat_map(|one| one.segments.values());
        complete.chain(self.checked.values()).map(|summary| Summary::memory(summary)).sum()
    }
}

/// The caches of all folders.
#[derive(Debug, Default)]
pub(crate) struct Caches(Mutex<HashMap<(PeerId, FolderId), FolderCache>>);

impl Caches {
    /// Removes and returns the cache of a folder. The caller puts it back.
    pub(crate) fn take(&self, source: PeerId, folder: &FolderId) -> FolderCache {
        self.0.lock().remove(&(source, folder.clone())).unwrap_or_default()
    }

    /// Stores the cache of a folder. Beyond the limit, the caches of the other folders are dropped.
    pub(crate) fn put(&self, source: PeerId, folder: &FolderId, cache: FolderCache) {
        let memory = cache.memory();
        if memory > MEMORY_MAX {
            return;
        }
        let mut all = self.0.lock();
        if all.values().map(FolderCache::memory).sum::<usize>() + memory > MEMORY_MAX {
            all.clear();
        }
        all.insert((source, folder.clone()), cache);
    }
}
