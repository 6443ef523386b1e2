//! How far a restore is, and what came of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use types::RelPath;

/// Of each kind of trouble, so much is listed.
pub const LISTED_MAX: usize = 10_000;

/// How far a restore is; can be watched, and stopped, from elsewhere.
#[derive(Debug, Default)]
pub struct Progress {
    entries_done: AtomicU64,
    entries_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    is_stopped: AtomicBool,
}

impl Progress {
    /// Entries that are made, or were there.
    pub fn entries_done(&self) -> u64 {
        self.entries_done.load(Ordering::Relaxed)
    }

    /// All entries that are wanted, as far as it is known.
    pub fn entries_total(&self) -> u64 {
        self.entries_total.load(Ordering::Relaxed)
    }

    /// Bytes of files that are written, or were there.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// All bytes of files that are wanted, as far as it is known.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total.load(Ordering::Relaxed)
    }

    /// Ends the restore soon. Begun again, it goes on where it was.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn expect(&self, entries: u64, bytes: u64) {
        self.entries_total.fetch_add(entries, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes what the header says for everything.
    pub(crate) fn expect_all(&self, entries: u64, bytes: u64) {
        self.entries_total.store(entries, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, entries: u64) {
        self.entries_done.fetch_add(entries, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Things that were made.
    pub made: u64,
    /// Things that were there already, as they should be.
    pub same: u64,
    /// Bytes of files that were written.
    pub bytes: u64,
    /// What was in the way, and was left as it is.
    pub in_the_way: Vec<String>,
    /// What could not be set: owners, attributes, times.
    pub not_set: Vec<String>,
    /// What is never made again: sockets, and devices without the right to.
    pub skipped: Vec<String>,
    /// What could not be restored.
    pub failed: Vec<String>,
    /// Whether there is more of these than is listed.
    pub is_cut_short: bool,
    /// Paths that were asked for and are not in the snapshot.
    pub not_found: Vec<RelPath>,
}

impl Report {
    /// Whether everything that was asked for is there now.
    pub fn is_complete(&self) -> bool {
        self.in_the_way.is_empty() && self.failed.is_empty() && self.not_found.is_empty()
    }

    pub(crate) fn list(&mut self, kind: Trouble, text: String) {
        let list = match kind {
            Trouble::InTheWay => &mut self.in_the_way,
            Trouble::NotSet => &mut self.not_set,
            Trouble::Skipped => &mut self.skipped,
            Trouble::Failed => &mut self.failed,
        };
        if list.len() < LISTED_MAX {
            list.push(text);
        } else {
            self.is_cut_short = true;
        }
    }
}

/// A kind of trouble.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    InTheWay,
    NotSet,
    Skipped,
    Failed,
}
