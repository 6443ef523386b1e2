//! Pruning: what [`decide`] says of each folder is done.
//!
//! Order: the records' roots go one by one, oldest first, each durably; then
//! the store collects. Whatever ends it in between, what is left is whole, and
//! the next prune goes on. The newest snapshot of a folder is never removed,
//! and in doubt nothing is.

use std::collections::{BTreeMap, HashSet};

use config::Keep;
use jiff::Timestamp;
use net::PeerId;
use store::{GcOptions, GcReport, StoreError};
use tokio_util::sync::CancellationToken;
use types::FolderId;

use crate::retention::{Candidate, Hold, Reason, decide};
use crate::snapshot_store::{DamagedSnapshot, Snapshot, SnapshotError, SnapshotStore};

/// How to prune.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Collect even where nothing was removed: what a prune that was cut short
    /// left behind goes too.
    pub always_collect: bool,
    /// Take the roots as all that there are where records of them were lost,
    /// and collect: see [`GcOptions::accept_roots`].
    pub accept_roots: bool,
    /// Ends it early; what was done is done.
    pub stop: CancellationToken,
}

/// What happens to a snapshot, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneDecision {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The rules that keep it; none, where it is removed, or stays only
    /// because its folder is on hold.
    pub reasons: Vec<Reason>,
}

/// Why nothing is removed in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PruneHold {
    /// The rules themselves say so.
    #[error(transparent)]
    Retention(#[from] Hold),
    /// It cannot be known what the others are worth.
    #[error("the record of one of its snapshots cannot be read")]
    Damaged,
}

/// A folder in which nothing is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFolder {
    /// Whose it is.
    pub source: PeerId,
    /// The folder.
    pub folder: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// Why.
    pub hold: PruneHold,
}

/// What a prune did, or would do.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// Snapshots that stay, by source, folder and order.
    pub kept: Vec<PruneDecision>,
    /// Snapshots that went, or would go.
    pub removed: Vec<PruneDecision>,
    /// Where nothing is removed though a rule would.
    pub held: Vec<HeldFolder>,
    /// Records that cannot be read.
    pub damaged: Vec<DamagedSnapshot>,
    /// What the collection did, where there was one.
    pub collected: Option<GcReport>,
    /// Why there was none, where there should have been one.
    pub not_collected: Option<StoreError>,
    /// Whether it was stopped before its end.
    pub is_stopped: bool,
}

/// Prunes all folders of all sources. Blocks.
///
/// # Errors
///
/// Those of the disk. What was removed before stays removed; the rest is as it
/// was.
pub fn prune(
    snapshots: &SnapshotStore,
    keep: &Keep,
    now: Timestamp,
    options: &PruneOptions,
) -> Result<PruneReport, SnapshotError> {
    let listing = snapshots.list()?;
    let mut report = PruneReport { dry_run: options.dry_run, ..PruneReport::default() };
    let mut folders: BTreeMap<(PeerId, FolderId), Vec<Snapshot>> = BTreeMap::new();
    for snapshot in listing.snapshots {
        let key = (snapshot.record.source, snapshot.record.folder.clone());
        folders.entry(key).or_default().push(snapshot);
    }
    for ((source, folder), all) in folders {
        let is_damaged = listing.damaged.iter().any(|one| is_of(one, &source, &folder));
        plan(&mut report, (source, folder), all, keep, now, is_damaged);
    }
    report.damaged = listing.damaged;
    if options.dry_run {
        return Ok(report);
    }
    let going = std::mem::take(&mut report.removed);
    for decision in going {
        if options.stop.is_cancelled() {
            report.is_stopped = true;
            report.kept.push(decision);
            continue;
        }
        snapshots.remove(&decision.snapshot)?;
        let Snapshot { id, record, .. } = &decision.snapshot;
        tracing::info!(snapshot = %id, folder = %record.folder, "pruned");
        report.removed.push(decision);
    }
    let is_due = options.always_collect || options.accept_roots || !report.removed.is_empty();
    if is_due && !report.is_stopped {
        let how = GcOptions { accept_roots: options.accept_roots, ..GcOptions::default() };
        match snapshots.store().gc(how) {
            Ok(collected) => report.collected = Some(collected),
            Err(error) => report.not_collected = Some(error),
        }
    }
    Ok(report)
}

fn is_of(damaged: &DamagedSnapshot, source: &PeerId, folder: &FolderId) -> bool {
    let name = damaged.root.rsplit_once('/').map(|(name, _)| name);
    name == Some(&format!("{}{source}/{folder}", crate::snapshot_store::PREFIX))
}

/// Decides over one folder.
fn plan(
    report: &mut PruneReport,
    (source, folder): (PeerId, FolderId),
    mut all: Vec<Snapshot>,
    keep: &Keep,
    now: Timestamp,
    is_damaged: bool,
) {
    all.sort_by_key(|snapshot| snapshot.record.order);
    let candidates: Vec<_> = all
        .iter()
        .map(|snapshot| Candidate {
            order: snapshot.record.order,
            received_at: snapshot.record.received_at,
            is_held: snapshot.record.held.is_some(),
        })
        .collect();
    let verdict = decide(&candidates, keep, now);
    let going: HashSet<u64> = if is_damaged { HashSet::new() } else { verdict.removed().collect() };
    let folder_name = all.last().map(|newest| newest.record.folder_name.clone());
    let hold = match verdict.hold {
        Some(hold) => Some(PruneHold::Retention(hold)),
        None => is_damaged.then_some(PruneHold::Damaged),
    };
    let mut would_remove = false;
    // Both are oldest first.
    for (snapshot, decision) in all.into_iter().zip(verdict.decisions) {
        would_remove |= decision.reasons.is_empty();
        let is_going = going.contains(&decision.order);
        let decided = if is_going { &mut report.removed } else { &mut report.kept };
        decided.push(PruneDecision { snapshot, reasons: decision.reasons });
    }
    if let Some(hold) = hold
        && would_remove
    {
        let folder_name = folder_name.unwrap_or_default();
        report.held.push(HeldFolder { source, folder, folder_name, hold });
    }
}
