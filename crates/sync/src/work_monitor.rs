//! The work on one folder as seen from outside: how far it has come, whether it still
//! moves, and the flag that interrupts it.
//!
//! The folder's thread and the threads that read files count here; the status reads the
//! counters.
//!
//! Absent: the work itself, and its requesters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::SyncError;
use crate::status::Progress;

/// Work that has not advanced for this long is reported as stalled.
const STALL: Duration = Duration::from_secs(30);

/// Counters of the work on one folder, and the flag that interrupts it.
#[derive(Debug)]
pub(crate) struct WorkMonitor {
    /// Totals since the monitor was made.
    entries: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    /// Files that wait to be read or are being read.
    in_work: AtomicU64,
    /// The totals when the current work began.
    base: Mutex<Progress>,
    is_working: AtomicBool,
    is_interrupted: AtomicBool,
    created: Instant,
    /// When the work last asked whether it is interrupted, in milliseconds after `created`.
    advanced_ms: AtomicU64,
}

impl WorkMonitor {
    pub(crate) fn new() -> Self {
        Self {
            entries: AtomicU64::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            in_work: AtomicU64::new(0),
            base: Mutex::default(),
            is_working: AtomicBool::new(false),
            is_interrupted: AtomicBool::new(false),
            created: Instant::now(),
            advanced_ms: AtomicU64::new(0),
        }
    }

    /// Counts a directory entry that was examined.
    pub(crate) fn add_entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a file of which the content is read.
    pub(crate) fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that were read.
    pub(crate) fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a file that waits to be read.
    pub(crate) fn add_job(&self) {
        self.in_work.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a file that no longer waits to be read.
    pub(crate) fn end_job(&self) {
        self.in_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// Drops all files that wait to be read.
    pub(crate) fn end_all_jobs(&self) {
        self.in_work.store(0, Ordering::Relaxed);
    }

    /// Has the work stop as soon as it can.
    pub(crate) fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::Release);
    }

    /// Lets work run again.
    pub(crate) fn clear_interrupt(&self) {
        self.is_interrupted.store(false, Ordering::Release);
    }

    /// Reports whether the work must stop. The call also notes that the work advances.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.note_advance();
        self.is_interrupted.load(Ordering::Acquire)
    }

    /// Returns [`SyncError::Stopped`] if the work must stop.
    pub(crate) fn check(&self) -> Result<(), SyncError> {
        if self.is_interrupted() { Err(SyncError::Stopped) } else { Ok(()) }
    }

    /// Notes that work begins or ends.
    pub(crate) fn set_working(&self, is_working: bool) {
        if is_working {
            *self.base.lock() = self.totals();
        }
        self.note_advance();
        self.is_working.store(is_working, Ordering::Release);
    }

    fn note_advance(&self) {
        let ms = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.advanced_ms.store(ms, Ordering::Relaxed);
    }

    fn totals(&self) -> Progress {
        Progress {
            entries: self.entries.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            in_work: self.in_work.load(Ordering::Relaxed),
        }
    }

    /// Returns how far the current work is, or how far the last one came.
    pub(crate) fn progress(&self) -> Progress {
        // The base first: work that begins in between moves it.
        let base = *self.base.lock();
        let totals = self.totals();
        Progress {
            entries: totals.entries.saturating_sub(base.entries),
            files: totals.files.saturating_sub(base.files),
            bytes: totals.bytes.saturating_sub(base.bytes),
            in_work: totals.in_work,
        }
    }

    /// Returns the number of files that were read since the start.
    pub(crate) fn files_read(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Returns for how long the current work has not advanced, if that is at least 30 s.
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        if !self.is_working.load(Ordering::Acquire) {
            return None;
        }
        let advanced = Duration::from_millis(self.advanced_ms.load(Ordering::Relaxed));
        let stalled = self.created.elapsed().saturating_sub(advanced);
        Some(stalled).filter(|stalled| *stalled >= STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_goes_below_nothing() {
        let monitor = WorkMonitor::new();
        (0..3).for_each(|_| monitor.add_file());
        // Work that begins while the progress is requested.
        *monitor.base.lock() = Progress { entries: 1, files: 1, bytes: 1, in_work: 0 };
        assert_eq!(monitor.progress(), Progress { files: 2, ..Progress::default() });
    }

    #[test]
    fn an_interruption_stays_until_it_is_cleared() {
        let monitor = WorkMonitor::new();
        monitor.check().unwrap();
        monitor.interrupt();
        for _ in 0..2 {
            assert!(matches!(monitor.check(), Err(SyncError::Stopped)));
        }
        monitor.clear_interrupt();
        monitor.check().unwrap();
    }
}
