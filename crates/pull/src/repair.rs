//! Repair: fetches again the blocks that a verification found missing or damaged.

use std::collections::BTreeSet;

use net::PeerId;
use protocols::blocking;
use snapshots::{Snapshot, SnapshotError, SnapshotStore, VerifyReport};
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
    /// Snapshots (by id or root) and data items (by root) that could not be pulled again,
    /// with the error.
    pub failed: Vec<(String, String)>,
}

/// Fetches again the blocks that `report` found missing or damaged: first the records of
/// snapshots, then the blocks of snapshots, newest snapshots first, then those of data items.
/// `puller` creates a puller for the peers that may have the blocks of a source, or for all peers.
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
    mut puller: impl FnMut(Option<&PeerId>) -> Puller,
) -> Result<RepairReport, PullError> {
    let store = snapshots.store().clone();
    let epoch = store.write_epoch();
    let mut repaired = RepairReport::default();
    let mut named: Vec<Cid> = report.problems.iter().map(|problem| problem.cid).collect();

    let mut records = BTreeSet::new();
    for damaged in &report.damaged {
        let Some(root) = store.root(&damaged.root) else { continue };
        records.insert(root.cid);
        let fetched = puller(None).block(root.cid).await;
        note(&mut repaired, &damaged.root, fetched.map(|_| ()))?;
    }
    named.extend(&records);

    let list = snapshots.clone();
    let listing = blocking(move || list.list().map_err(as_pull_error)).await?;
    let mut broken: Vec<Snapshot> = listing.snapshots;
    broken.retain(|snapshot| {
        report.broken.contains(&snapshot.cid) || records.contains(&snapshot.cid)
    });
    broken.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.record.order));
    for snapshot in broken {
        let mut puller = puller(Some(&snapshot.record.source));
        let pulled = puller.tree(snapshot.record.manifest).await;
        note(&mut repaired, &snapshot.id.to_string(), pulled.map(|_| ()))?;
    }

    for name in &report.broken_items {
        let Some(root) = store.root(name) else { continue };
        let pulled = puller(None).tree(root.cid).await;
        note(&mut repaired, name, pulled.map(|_| ()))?;
    }

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

/// Adds a failed pull to the report. Returns the errors that end a repair.
fn note(
    repaired: &mut RepairReport,
    name: &str,
    result: Result<(), PullError>,
) -> Result<(), PullError> {
    match result {
        Ok(()) => Ok(()),
        Err(error @ (PullError::Store(_) | PullError::Stopped | PullError::Panicked(_))) => {
            Err(error)
        }
        Err(error) => {
            repaired.failed.push((name.to_owned(), error.to_string()));
            Ok(())
        }
    }
}

fn as_pull_error(error: SnapshotError) -> PullError {
    match error {
        SnapshotError::Store(error) => PullError::Store(error),
        // Listing fails only if the store fails.
        other => PullError::Store(StoreError::Source(std::io::Error::other(other.to_string()))),
    }
}
