//! Comparison of the list of snapshots with the receipts that this backup server has signed.
//!
//! The logs of the roots can lose their last records in a way that the logs do not show: both
//! files were restored from a backup, or an end of zeros was read. Then the receipts, which are
//! outside the store, name a snapshot that the list does not have. The roots are incomplete then,
//! and nothing is collected until the owner has accepted the list
//! (docs/decisions/0010-roots.md, section 4).

use std::path::Path;
use std::sync::{Arc, Weak};

use backup::{ConfirmedSnapshot, IssuedReceipts, ReceiptsUnreadable};
use disk::RealDisk;
use net::PeerId;
use snapshots::{SnapshotError, SnapshotReader, SnapshotRecord};
use store::PackStore;
use types::{Cid, with_causes};

use crate::data_dir::DataDir;
use crate::start_error::StartError;

/// The snapshots that were confirmed last.
pub type Confirmed = Result<Vec<ConfirmedSnapshot>, ReceiptsUnreadable>;

/// Reason why the list of snapshots is not known to be complete.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Confirmed snapshots are neither listed nor superseded.
    #[error("{}", describe(lost, names))]
    Lost {
        /// The snapshots.
        lost: Vec<ConfirmedSnapshot>,
        /// The names of their sources.
        names: Vec<String>,
    },
    /// The signed receipts cannot be read.
    #[error(
        "{0}; so it is not known whether the list of snapshots is complete, and no space is freed; \
         give the file back to the user who runs this program, or move it away if it is damaged"
    )]
    Receipts(ReceiptsUnreadable),
    /// The snapshots cannot be read.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
}

fn describe(lost: &[ConfirmedSnapshot], names: &[String]) -> String {
    let one = |(one, name): (&ConfirmedSnapshot, &String)| {
        let confirmation = &one.confirmation;
        format!("snapshot {} of folder {} of {name}", confirmation.sequence, confirmation.folder_id)
    };
    let named: Vec<String> = lost.iter().zip(names).map(one).collect();
    format!(
        "this backup server has confirmed {} with a signed receipt, and the list has neither this \
         snapshot nor a later one of the folder, so root records are lost and no space is freed; \
         run `archivist recover`, which finds lost snapshots; `archivist prune --accept-roots \
         --discard` gives up the snapshots that cannot be found",
        named.join(", ")
    )
}

/// Reports whether a record is that of the confirmed snapshot, or of one that supersedes it: of
/// the same folder, with a higher number or, after an accepted reset of the source, received
/// later.
pub(crate) fn supersedes(record: &SnapshotRecord, confirmed: &ConfirmedSnapshot) -> bool {
    let ConfirmedSnapshot { source, confirmation } = confirmed;
    (&record.source, &record.folder) == (source, &confirmation.folder_id)
        && (record.manifest == confirmation.manifest_cid
            || record.sequence > confirmation.sequence
            || record.received_at >= confirmation.received_at)
}

/// Reports whether the list has a confirmed snapshot, or one that supersedes it, or a user removed
/// such a one by hand. The newest snapshot of a folder is never removed by the retention.
fn is_listed(
    snapshots: &SnapshotReader,
    confirmed: &ConfirmedSnapshot,
) -> Result<bool, SnapshotError> {
    let folder = &confirmed.confirmation.folder_id;
    snapshots.may_have(&confirmed.source, folder, |record| supersedes(record, confirmed))
}

/// Returns the confirmed snapshots without those that a user removed by hand, themselves or with
/// one that supersedes them.
pub(crate) fn not_removed(snapshots: &SnapshotReader, confirmed: &Confirmed) -> Confirmed {
    let mut confirmed = confirmed.clone()?;
    confirmed.retain(|one| {
        let removed = snapshots.removed_newest(&one.source, Some(&one.confirmation.folder_id));
        !removed.is_ok_and(|all| all.iter().any(|removed| supersedes(&removed.record, one)))
    });
    Ok(confirmed)
}

/// Returns the signed receipts of the instance with this data directory; `None` if it has no
/// identity, so that nothing was ever confirmed.
///
/// # Errors
///
/// Returns [`StartError::Identity`] if the key cannot be read.
pub fn issued_receipts(data_dir: &Path) -> Result<Option<IssuedReceipts>, StartError> {
    let identity = DataDir(data_dir).identity()?;
    Ok(identity.map(|key| IssuedReceipts::new(Arc::new(RealDisk), data_dir, key)))
}

/// Checks that the list of snapshots has every snapshot that was confirmed last, or one that
/// supersedes it. A confirmed snapshot whose record is damaged is in the list: its root keeps what
/// is left of it. `name_of` returns the name of a source. Blocks the thread.
///
/// # Errors
///
/// Returns [`ListError`] if a snapshot is missing, or if that is not known.
pub fn check_list(
    snapshots: &SnapshotReader,
    issued: &IssuedReceipts,
    name_of: impl Fn(&PeerId) -> String,
) -> Result<(), ListError> {
    // First: a snapshot that is removed meanwhile is superseded by one that is listed already.
    let confirmed = issued.confirmed().map_err(ListError::Receipts)?;
    let mut lost = Vec::new();
    for one in confirmed {
        if !is_listed(snapshots, &one)? {
            lost.push(one);
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    let names = lost.iter().map(|one| name_of(&one.source)).collect();
    Err(ListError::Lost { lost, names })
}

/// Holds the collections of a store that is open for writing while a confirmed snapshot is
/// missing in its list. Checks the list once: after the check, newer snapshots cannot hide that
/// older ones are lost. `name_of` returns the name of a source. Blocks the thread.
///
/// # Errors
///
/// Returns [`ListError`] if a snapshot is missing, or if that is not known.
pub fn guard_collections(
    packs: &Arc<PackStore>,
    issued: IssuedReceipts,
    name_of: impl Fn(&PeerId) -> String + Send + Sync + 'static,
) -> Result<(), ListError> {
    let checked = check_writable(packs, &issued, &name_of);
    // The store contains the guard, so the guard does not keep the store open.
    let packs_of_guard: Weak<PackStore> = Arc::downgrade(packs);
    packs.guard_collections(move || {
        let Some(packs) = packs_of_guard.upgrade() else {
            return Err("the store is being closed".to_owned());
        };
        check_writable(&packs, &issued, &name_of).map_err(|error| with_causes(&error))
    });
    checked
}

fn check_writable(
    packs: &Arc<PackStore>,
    issued: &IssuedReceipts,
    name_of: &impl Fn(&PeerId) -> String,
) -> Result<(), ListError> {
    let snapshots = SnapshotReader::new(packs.clone());
    let is_back = |source: &PeerId, folder: &types::FolderId, manifest: &Cid| {
        let has = snapshots.may_have(source, folder, |record| record.manifest == *manifest);
        // A snapshot that may be there is missed if it is lost again.
        has.unwrap_or(true)
    };
    if let Err(error) = issued.demand_listed(is_back) {
        let error = with_causes(&error);
        tracing::warn!(error, "cannot change the list of discarded snapshots");
    }
    let checked = check_list(&snapshots, issued, name_of);
    if let Err(ListError::Lost { .. }) = &checked
        && let Err(error) = packs.report_lost_roots()
    {
        let error = with_causes(&error);
        tracing::warn!(error, "cannot record that roots are lost; each collection checks it again");
    }
    checked
}

/// Gives up the confirmed snapshots that the list does not have, durably: collections are not held
/// because of them any more. Blocks the thread.
///
/// # Errors
///
/// Returns a message if that cannot be recorded.
pub(crate) fn discard_lost(
    snapshots: &SnapshotReader,
    issued: &IssuedReceipts,
) -> Result<(), String> {
    let is_lost = |one: &ConfirmedSnapshot| is_listed(snapshots, one).is_ok_and(|listed| !listed);
    issued.discard(is_lost).map_err(|error| with_causes(&error))
}
