//! Progress of pulling a manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::plan::Counts;
use crate::progress::PullProgress;

/// Progress of pulling a manifest. Can be read while it runs.
#[derive(Debug, Default)]
pub struct ManifestProgress {
    files_done: AtomicU64,
    files_total: AtomicU64,
    /// Bytes that were stored before.
    bytes_stored: AtomicU64,
    bytes_total: AtomicU64,
    blocks: Arc<PullProgress>,
}

/// The numbers of a [`ManifestProgress`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PullNumbers {
    /// Number of complete files. All entries except directories are counted as files.
    pub files_done: u64,
    /// Number of all files, as announced by the source until the manifest was fetched.
    pub files_total: u64,
    /// Length of the stored parts of files, in bytes.
    pub bytes_done: u64,
    /// Total length of all files, in bytes; announced like `files_total`.
    pub bytes_total: u64,
    /// Number of bytes that were received over the network.
    pub fetched_bytes: u64,
    /// Number of blocks that were received over the network.
    pub fetched_blocks: u64,
}

impl ManifestProgress {
    /// Creates the progress of a pull with the totals that the source announced.
    pub fn new(files_total: u64, bytes_total: u64) -> Self {
        let progress = Self::default();
        progress.files_total.store(files_total, Ordering::Relaxed);
        progress.bytes_total.store(bytes_total, Ordering::Relaxed);
        progress
    }

    /// Returns the current numbers. The finished parts never exceed the totals.
    pub fn numbers(&self) -> PullNumbers {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (files_total, bytes_total) = (get(&self.files_total), get(&self.bytes_total));
        PullNumbers {
            files_done: get(&self.files_done).min(files_total),
            files_total,
            bytes_done: get(&self.bytes_stored)
                .saturating_add(self.blocks.bytes())
                .min(bytes_total),
            bytes_total,
            fetched_bytes: self.blocks.fetched_bytes(),
            fetched_blocks: self.blocks.blocks(),
        }
    }

    /// Returns the progress of the blocks.
    pub(super) fn blocks(&self) -> &Arc<PullProgress> {
        &self.blocks
    }

    /// Sets the totals, after all segments were checked.
    pub(super) fn set_total(&self, total: &Counts) {
        self.files_total.store(total.files, Ordering::Relaxed);
        self.bytes_total.store(total.bytes, Ordering::Relaxed);
    }

    /// Adds complete files.
    pub(super) fn add_files(&self, files: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
    }

    /// Adds bytes that were stored before.
    pub(super) fn add_bytes_stored(&self, bytes: u64) {
        self.bytes_stored.fetch_add(bytes, Ordering::Relaxed);
    }
}
