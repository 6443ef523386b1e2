//! The disk space that the pulls of one source may still use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use net::PeerId;
use snapshots::{SnapshotStore, source_prefix};
use store::StoreError;

/// Prefix of the names of the partial roots of pulls.
pub(crate) const PULL_PREFIX: &str = "pull/";

/// A limit of the disk space of one source, which its pulls share. Each pull adds the blocks that
/// it stores; what is no longer needed is subtracted by a new measurement.
#[derive(Debug)]
pub struct StorageBudget {
    limit: u64,
    used: AtomicU64,
    is_exhausted: AtomicBool,
}

/// A batch of blocks does not fit into a [`StorageBudget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the quota is used up")]
pub(crate) struct Exhausted;

impl StorageBudget {
    /// Creates a budget of `limit` bytes, of which none is used.
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), is_exhausted: AtomicBool::new(false) }
    }

    /// Returns the number of used bytes.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Reports whether a batch did not fit since the last measurement, or nothing is left.
    pub fn is_exhausted(&self) -> bool {
        self.is_exhausted.load(Ordering::SeqCst) || self.used() >= self.limit
    }

    /// Sets the number of used bytes to a measured number. `before` is [`StorageBudget::used`] at
    /// the start of the measurement: bytes that were added since then are added to the result.
    pub fn set_measured(&self, before: u64, measured: u64) {
        let update = |used: u64| Some(measured.saturating_add(used.saturating_sub(before)));
        let _ = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update);
        self.is_exhausted.store(false, Ordering::SeqCst);
    }

    /// Takes bytes out of the budget, before they are stored.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Exhausted> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits);
        taken.map(drop).map_err(|_| {
            self.is_exhausted.store(true, Ordering::SeqCst);
            Exhausted
        })
    }
}

/// Measures the disk space that the snapshots and the unfinished pulls of a source need. A block
/// that several sources need counts for each of them. Blocks the thread, and reads every node.
///
/// # Errors
///
/// Returns [`StoreError::Io`] if the store cannot be read.
pub fn measure_source(snapshots: &SnapshotStore, source: &PeerId) -> Result<u64, StoreError> {
    let prefixes = [source_prefix(source), format!("{PULL_PREFIX}{source}/")];
    snapshots.store().reached_bytes(&prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_exhausts_a_budget_until_it_is_measured_again() {
        let budget = StorageBudget::new(100);
        budget.take(60).unwrap();
        assert_eq!(budget.take(41), Err(Exhausted));
        assert!(budget.is_exhausted() && budget.used() == 60);
        // Meanwhile another pull adds 10 bytes.
        let before = budget.used();
        budget.take(10).unwrap();
        budget.set_measured(before, 30);
        assert!(!budget.is_exhausted() && budget.used() == 40);
        budget.take(60).unwrap();
        assert!(budget.is_exhausted(), "nothing is left");
        assert_eq!(budget.take(u64::MAX), Err(Exhausted));
    }
}
