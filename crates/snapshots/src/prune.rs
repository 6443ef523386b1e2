//! Pruning: applies the retention rules ([`decide`]) to every folder.
//!
//! Order: the roots of the snapshots are removed one by one, oldest first, each durably; then the
//! store collects. If a prune is interrupted anywhere, the remaining snapshots are complete, and
//! the next prune continues. The newest snapshot of a folder is never removed; in doubt, none is.

use std::collections::BTreeMap;

use config::Keep;
use jiff::Timestamp;
use net::PeerId;
use store::{GcOptions, GcReport, StoreError};
use tokio_util::sync::CancellationToken;
use types::FolderId;

use crate::retention::{Candidate, Reason, Suspension, decide};
use crate::snapshot_reader::{DamagedSnapshot, PREFIX, Snapshot, SnapshotError};
use crate::snapshot_store::SnapshotStore;

/// Options of a prune.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// True to report what would be removed, and remove nothing.
    pub dry_run: bool,
    /// True to collect even if nothing was removed. This also deletes blocks that an interrupted
    /// prune has left.
    pub always_collect: bool,
    /// True to accept the known roots as complete after some were lost, and to collect; see
    /// [`GcOptions::accept_roots`].
    pub accept_roots: bool,
    /// Ends the prune early; snapshots that were removed stay removed.
    pub stop: CancellationToken,
}

/// The decision about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneDecision {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The reasons to keep it. Empty if it is removed, or kept only because pruning of its folder
    /// is suspended.
    pub reasons: Vec<Reason>,
}

/// Reason why no snapshot of a folder is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PruneSuspension {
    /// The retention rules remove nothing at present.
    #[error(transparent)]
    Retention(#[from] Suspension),
    /// A record cannot be read, so the rules cannot be applied to the folder.
    #[error("the record of one of its snapshots cannot be read; run `archivist verify`")]
    Damaged,
    /// A newer version of the program wrote a record, so the rules cannot be applied to the folder.
    #[error(
        "one of its snapshots was written by a newer version of this program; use that version"
    )]
    Newer,
}

/// A folder in which pruning is suspended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspendedFolder {
    /// Peer id of the source.
    pub source: PeerId,
    /// The folder.
    pub folder: FolderId,
    /// Display name of the folder.
    pub folder_name: String,
    /// Reason for the suspension.
    pub suspension: PruneSuspension,
}

/// Result of a prune.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// True if nothing was removed because of [`PruneOptions::dry_run`].
    pub dry_run: bool,
    /// Snapshots that are kept, by source, folder and order.
    pub kept: Vec<PruneDecision>,
    /// Snapshots that were removed, or would be in a dry run.
    pub removed: Vec<PruneDecision>,
    /// Folders in which the rules would remove a snapshot, but pruning is suspended.
    pub suspended: Vec<SuspendedFolder>,
    /// Snapshots whose record cannot be read.
    pub damaged: Vec<DamagedSnapshot>,
    /// Result of the collection, if there was one.
    pub collected: Option<GcReport>,
    /// Error of the collection, if it failed.
    pub not_collected: Option<StoreError>,
    /// The snapshot that could not be removed, and the error. No further snapshot was removed.
    pub not_removed: Option<(Snapshot, SnapshotError)>,
    /// True if the prune was stopped early.
    pub is_stopped: bool,
}

/// Prunes all folders of all sources. Blocks the thread.
///
/// # Errors
///
/// Returns [`SnapshotError::Store`] if the snapshots cannot be listed. A snapshot that cannot be
/// removed is part of the report.
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
        let mut damaged = listing.damaged.iter().filter(|one| is_of(one, &source, &folder));
        let unread = damaged.next().map(|one| match one.is_newer {
            true => PruneSuspension::Newer,
            false => PruneSuspension::Damaged,
        });
        plan_folder(&mut report, (source, folder), all, keep, now, unread);
    }
    report.damaged = listing.damaged;
    if options.dry_run {
        return Ok(report);
    }
    let to_remove = std::mem::take(&mut report.removed);
    for decision in to_remove {
        report.is_stopped |= options.stop.is_cancelled();
        if report.is_stopped || report.not_removed.is_some() {
            report.kept.push(decision);
            continue;
        }
        if let Err(error) = snapshots.remove(&decision.snapshot) {
            tracing::error!(snapshot = %decision.snapshot.id, %error, "cannot remove a snapshot");
            report.not_removed = Some((decision.snapshot.clone(), error));
            report.kept.push(decision);
            continue;
        }
        let Snapshot { id, record, .. } = &decision.snapshot;
        tracing::info!(snapshot = %id, folder = %record.folder, "pruned a snapshot");
        report.removed.push(decision);
    }
    let is_due = options.always_collect
        || options.accept_roots
        || !report.removed.is_empty()
        || report.not_removed.is_some();
    if is_due && !report.is_stopped {
        let gc = GcOptions { accept_roots: options.accept_roots, ..GcOptions::default() };
        match snapshots.store().gc(gc) {
            Ok(collected) => report.collected = Some(collected),
            Err(error) => report.not_collected = Some(error),
        }
    }
    Ok(report)
}

/// Reports whether a damaged snapshot belongs to a folder, by the name of its root.
fn is_of(damaged: &DamagedSnapshot, source: &PeerId, folder: &FolderId) -> bool {
    let name = damaged.root.rsplit_once('/').map(|(name, _)| name);
    name == Some(&format!("{}{source}/{folder}", PREFIX))
}

/// Adds the decisions about one folder to the report.
fn plan_folder(
    report: &mut PruneReport,
    (source, folder): (PeerId, FolderId),
    mut all: Vec<Snapshot>,
    keep: &Keep,
    now: Timestamp,
    unread: Option<PruneSuspension>,
) {
    all.sort_by_key(|snapshot| snapshot.record.order);
    let candidates: Vec<_> = all
        .iter()
        .map(|snapshot| Candidate {
            order: snapshot.record.order,
            received_at: snapshot.record.received_at,
            is_suspicious: snapshot.record.is_suspicious(),
        })
        .collect();
    let plan = decide(&candidates, keep, now);
    let is_suspended = plan.suspension.is_some() || unread.is_some();
    let folder_name = all.last().map(|newest| newest.record.folder_name.clone());
    let suspension = match plan.suspension {
        Some(suspension) => Some(PruneSuspension::Retention(suspension)),
        None => unread,
    };
    let mut would_remove = false;
    // Both are oldest first; two snapshots may have the same number.
    for (snapshot, decision) in all.into_iter().zip(plan.decisions) {
        let is_unwanted = decision.reasons.is_empty();
        would_remove |= is_unwanted;
        let is_removed = is_unwanted && !is_suspended;
        let decided = if is_removed { &mut report.removed } else { &mut report.kept };
        decided.push(PruneDecision { snapshot, reasons: decision.reasons });
    }
    if let Some(suspension) = suspension
        && would_remove
    {
        let folder_name = folder_name.unwrap_or_default();
        report.suspended.push(SuspendedFolder { source, folder, folder_name, suspension });
    }
}
