//! Repair: fetches again the blocks that a verification found missing or damaged.

use net::PeerId;
use protocols::blocking;
use snapshots::{Snapshot, SnapshotError, SnapshotId, SnapshotStore, VerifyReport};
use store::StoreError;
use types::Cid;

use crate::error::PullError;
use crate::puller::Puller;

/// Result of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Number of blocks of the report that are stored now.
    pub repaired: u64,
    /// Blocks of the report that are still missing.
    pub missing: Vec<Cid>,
    /// Snapshots that could not be pulled again, with the error.
    pub failed: Vec<(SnapshotId, String)>,
}

/// Fetches again the blocks of snapshots that `report` found missing or damaged, newest snapshots
/// first. `puller` creates a puller for the peers that may have the blocks of a source.
///
/// The fetched blocks are durable on return. Nothing is removed.
///
/// # Errors
///
/// Returns [`PullError::Store`] if the local store fails, and [`PullError::Stopped`] if the repair
/// is stopped. Peers that cannot be reached are part of the report.
pub async fn repair(
    snapshots: &SnapshotStore,
    report: &VerifyReport,
    mut puller: impl FnMut(&PeerId) -> Puller,
) -> Result<RepairReport, PullError> {
    let epoch = snapshots.store().write_epoch();
    let list = snapshots.clone();
    let listing = blocking(move || list.list().map_err(as_pull_error)).await?;
    let mut broken: Vec<Snapshot> = listing.snapshots;
    broken.retain(|snapshot| report.broken.contains(&snapshot.cid));
    broken.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.record.order));
    let mut repaired = RepairReport::default();
    for snapshot in broken {
        let mut puller = puller(&snapshot.record.source);
        match puller.tree(snapshot.record.manifest).await {
            Ok(_) => {}
            Err(error @ (PullError::Store(_) | PullError::Stopped | PullError::Panicked(_))) => {
                return Err(error);
            }
            Err(error) => repaired.failed.push((snapshot.id, error.to_string())),
        }
    }
    let store = snapshots.store().clone();
    let named: Vec<Cid> = report.problems.iter().map(|problem| problem.cid).collect();
    blocking(move || {
        store.commit(epoch)?;
        for cid in named {
            if store.has(&cid)? {
                repaired.repaired += 1;
            } else {
                repaired.missing.push(cid);
            }
        }
        Ok(repaired)
    })
    .await
}

fn as_pull_error(error: SnapshotError) -> PullError {
    match error {
        SnapshotError::Store(error) => PullError::Store(error),
        // Listing fails only if the store fails.
        other => PullError::Store(StoreError::Source(std::io::Error::other(other.to_string()))),
    }
}
