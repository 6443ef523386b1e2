//! How far the pull of a manifest is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::plan::Counts;
use crate::puller::Progress;

/// How far the pull of a manifest is; can be read from elsewhere.
#[derive(Debug, Default)]
pub struct ManifestProgress {
    files_done: AtomicU64,
    files_total: AtomicU64,
    /// Bytes that were here before anything was asked for.
    bytes_here: AtomicU64,
    bytes_total: AtomicU64,
    blocks: Arc<Progress>,
}

/// The numbers of a [`ManifestProgress`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PullNumbers {
    /// Files that are here. Everything but directories counts as a file.
    pub files_done: u64,
    /// All files; what the source says until the manifest itself is here.
    pub files_total: u64,
    /// Bytes of files that are here.
    pub bytes_done: u64,
    /// Bytes of all files; as `files_total`.
    pub bytes_total: u64,
    /// Bytes that came over the network, as they came.
    pub fetched_bytes: u64,
    /// Blocks that came over the network.
    pub fetched_blocks: u64,
}

impl ManifestProgress {
    /// Nothing is here; the source says that there is so much.
    pub fn new(files_total: u64, bytes_total: u64) -> Self {
        let progress = Self::default();
        progress.files_total.store(files_total, Ordering::Relaxed);
        progress.bytes_total.store(bytes_total, Ordering::Relaxed);
        progress
    }

    /// The numbers now. What is done is never more than all.
    pub fn numbers(&self) -> PullNumbers {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (files_total, bytes_total) = (get(&self.files_total), get(&self.bytes_total));
        PullNumbers {
            files_done: get(&self.files_done).min(files_total),
            files_total,
            bytes_done: get(&self.bytes_here).saturating_add(self.blocks.bytes()).min(bytes_total),
            bytes_total,
            fetched_bytes: self.blocks.fetched_bytes(),
            fetched_blocks: self.blocks.blocks(),
        }
    }

    /// The progress of the blocks.
    pub(super) fn blocks(&self) -> &Arc<Progress> {
        &self.blocks
    }

    /// Now that every segment has been looked at: so much there is.
    pub(super) fn set_total(&self, total: &Counts) {
        self.files_total.store(total.files, Ordering::Relaxed);
        self.bytes_total.store(total.bytes, Ordering::Relaxed);
    }

    /// These are here.
    pub(super) fn add_files(&self, files: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
    }

    /// These were here before.
    pub(super) fn add_bytes_here(&self, bytes: u64) {
        self.bytes_here.fetch_add(bytes, Ordering::Relaxed);
    }
}
