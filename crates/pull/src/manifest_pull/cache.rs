//! What is remembered of segments that are complete, so that the next manifest
//! of a folder costs no more than what has changed.
//!
//! Invariant: a segment is remembered only as long as a root that was seen
//! keeps it: the newest snapshot's, or that of the pull that was not finished.
//! When the root is another one, or the store has failed or lost anything since
//! before it was looked at (a sync that failed, damage that was found), it is
//! forgotten, and everything is looked at again.

use std::collections::HashMap;

use net::PeerId;
use parking_lot::Mutex;
use types::{Cid, FolderId};

use crate::plan::Summary;

/// Segments that are remembered, of all folders; each takes some 300 bytes.
/// A million files are in about a thousand segments.
const SEGMENTS_MAX: usize = 100_000;

/// The segments that one root keeps.
#[derive(Clone, Debug)]
pub(crate) struct Complete {
    /// The block that the root names: a record, or a manifest.
    pub(crate) root: Cid,
    /// What is complete below it.
    pub(crate) segments: HashMap<Cid, Summary>,
}

/// What is remembered of a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct FolderCache {
    /// What the store had lost by then; see [`store::BlockRead::loss_counter`].
    pub(crate) losses: u64,
    /// Below the newest snapshot.
    pub(crate) base: Option<Complete>,
    /// Below the root of the pull.
    pub(crate) partial: Option<Complete>,
    /// Segments of the last manifest whose entries were checked, whether their
    /// files are here or not: the same name, the same entries, for ever.
    pub(crate) checked: HashMap<Cid, Summary>,
}

impl FolderCache {
    /// What is still kept, given what the roots are now and what the store has
    /// lost.
    pub(crate) fn valid(mut self, base: Option<Cid>, partial: Option<Cid>, losses: u64) -> Self {
        let is_whole = self.losses == losses;
        self.base = self.base.filter(|complete| is_whole && Some(complete.root) == base);
        self.partial = self.partial.filter(|complete| is_whole && Some(complete.root) == partial);
        self.losses = losses;
        self
    }

    /// Everything that is complete.
    pub(crate) fn complete(&self) -> HashMap<Cid, Summary> {
        let all = self.base.iter().chain(&self.partial).flat_map(|complete| &complete.segments);
        all.map(|(cid, summary)| (*cid, summary.clone())).collect()
    }

    fn len(&self) -> usize {
        let complete = self.base.iter().chain(&self.partial);
        complete.map(|complete| complete.segments.len()).sum::<usize>() + self.checked.len()
    }
}

/// The caches of all folders.
#[derive(Debug, Default)]
pub(crate) struct Caches(Mutex<HashMap<(PeerId, FolderId), FolderCache>>);

impl Caches {
    /// Takes what is known of a folder out; whoever takes it puts it back.
    pub(crate) fn take(&self, source: PeerId, folder: &FolderId) -> FolderCache {
        self.0.lock().remove(&(source, folder.clone())).unwrap_or_default()
    }

    /// Remembers; where it becomes too much, the other folders are forgotten.
    pub(crate) fn put(&self, source: PeerId, folder: &FolderId, cache: FolderCache) {
        let len = cache.len();
        if len > SEGMENTS_MAX {
            return;
        }
        let mut all = self.0.lock();
        if all.values().map(FolderCache::len).sum::<usize>() + len > SEGMENTS_MAX {
            all.clear();
        }
        all.insert((source, folder.clone()), cache);
    }
}
