//! Progress of a pull.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Progress of a pull. Can be read and watched while it runs.
#[derive(Debug)]
pub struct PullProgress {
    bytes: AtomicU64,
    blocks: AtomicU64,
    fetched_bytes: AtomicU64,
    changed: watch::Sender<u64>,
}

impl Default for PullProgress {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        }
    }
}

impl PullProgress {
    /// Returns the length of the chunks that are stored, fetched or found, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the number of fetched blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes that were received over the network.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Returns a receiver that is notified of each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Records blocks that were received.
    pub(crate) fn fetched(&self, blocks: u64, bytes: u64) {
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.notify();
    }

    /// Records chunks that are stored.
    pub(crate) fn found(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notifies the receivers of [`PullProgress::watch`].
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}
