//! Repair: what a verification found missing or damaged is pulled again.

use net::PeerId;
use protocols::blocking;
use snapshots::{Snapshot, SnapshotError, SnapshotId, SnapshotStore, VerifyReport};
use store::StoreError;
use types::Cid;

use crate::puller::{PullError, Puller};

/// What a repair brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Blocks of the report that are here now.
    pub repaired: u64,
    /// Blocks of the report that are still not here.
    pub missing: Vec<Cid>,
    /// Why a snapshot could not be repaired, where its peers could not be
    /// asked.
    pub failed: Vec<(SnapshotId, String)>,
}

/// Pulls again what `report` found missing or damaged, newest snapshots first.
/// `puller` makes one that asks those who may have blocks of a source.
///
/// What is pulled is durable when it returns. Nothing is removed.
///
/// # Errors
///
/// Those of the own disk; a peer that cannot be asked is in the report.
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
        // Listing fails by the disk alone.
        other => PullError::Store(StoreError::Source(std::io::Error::other(other.to_string()))),
    }
}
