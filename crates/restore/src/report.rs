//! Progress and result of a restore.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use types::RelPath;

/// Maximum length of each list in a report.
pub const LISTED_MAX: usize = 10_000;

/// Progress of a restore. Other threads can read it, and stop the restore.
#[derive(Debug, Default)]
pub struct Progress {
    entries_done: AtomicU64,
    entries_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    is_stopped: AtomicBool,
}

impl Progress {
    /// Returns the number of entries that were created or already existed.
    pub fn entries_done(&self) -> u64 {
        self.entries_done.load(Ordering::Relaxed)
    }

    /// Returns the number of entries to restore, as far as known.
    pub fn entries_total(&self) -> u64 {
        self.entries_total.load(Ordering::Relaxed)
    }

    /// Returns the number of file bytes that were written or already existed.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// Returns the number of file bytes to restore, as far as known.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total.load(Ordering::Relaxed)
    }

    /// Stops the restore soon. A new run with the same target resumes it.
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

    /// Sets the totals from the header of the manifest.
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

/// Result of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of created entries.
    pub made: u64,
    /// Number of entries that already existed as required.
    pub same: u64,
    /// Number of file bytes written.
    pub bytes: u64,
    /// Existing entries that were not replaced.
    pub in_the_way: Vec<String>,
    /// Attributes that could not be set: owners, permissions, times, extended
    /// attributes.
    pub not_set: Vec<String>,
    /// Number of entries that belong to another owner than in the snapshot, because this
    /// process may not set owners.
    pub owners_not_set: u64,
    /// Number of entries whose privileges were left out, because the source is not trusted. They
    /// are in `skipped`, too.
    pub privileges_left_out: u64,
    /// Parts that are not restored on purpose: the permissions and time of a target that was not
    /// empty, and entries that cannot be restored: sockets, and devices without the privilege.
    pub skipped: Vec<String>,
    /// Entries whose restore failed.
    pub failed: Vec<String>,
    /// True if the snapshot contains only a part of its folder.
    pub is_part: bool,
    /// True if a list reached [`LISTED_MAX`] and further items are missing.
    pub is_cut_short: bool,
    /// Selected paths that the snapshot does not contain.
    pub not_found: Vec<RelPath>,
}

impl Report {
    /// Reports whether every selected entry now exists in the target.
    pub fn is_complete(&self) -> bool {
        self.in_the_way.is_empty() && self.failed.is_empty() && self.not_found.is_empty()
    }

    /// Adds a text to one of the lists.
    pub(crate) fn list(&mut self, kind: ReportKind, text: String) {
        let list = match kind {
            ReportKind::InTheWay => &mut self.in_the_way,
            ReportKind::NotSet => &mut self.not_set,
            ReportKind::Skipped => &mut self.skipped,
            ReportKind::Failed => &mut self.failed,
        };
        if list.len() < LISTED_MAX {
            list.push(text);
        } else {
            self.is_cut_short = true;
        }
    }
}

/// Selects a list of a report.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReportKind {
    InTheWay,
    NotSet,
    Skipped,
    Failed,
}
