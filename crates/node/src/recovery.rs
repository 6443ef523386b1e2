//! Recovery of snapshots and data items that no root names, for a running instance and
//! for the command line: the selection, the report, and the check before the remaining
//! roots are accepted.

use std::path::Path;

use api::{RecoverReport, RecoverRequest};
use backup::{ConfirmedSnapshot, ReceiptsUnreadable};
use config::Config;
use protocols::Confirmation;
use snapshots::{
    FoundState, RecoveryReport, Snapshot, SnapshotReader, SnapshotStore, VerifyProgress, find_lost,
};
use store::{BlockWrite, NodeScan, PackStore, Pin};
use tokio_util::sync::CancellationToken;
use types::{Cid, with_causes};

use crate::data_dir::DataDir;
use crate::names::source_name;
use crate::services::Services;
use crate::snapshot_selector::snapshot_model;

/// Minimum length of the beginning of an id.
const PREFIX_LEN_MIN: usize = 4;

/// Reason why a recovery was not made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// An object that should be taken over does not exist or cannot be; contains the
    /// explanation.
    #[error("{0}")]
    Selection(String),
    /// The store cannot be read or written; contains the reason.
    #[error("{0}")]
    Store(String),
}

/// Objects that are taken over.
#[derive(Debug, Default)]
struct Selected {
    snapshots: Vec<Snapshot>,
    items: Vec<Cid>,
}

/// Searches the store of a running instance, and takes over what the request selects.
///
/// # Errors
///
/// Returns [`RecoverError`] if the selection is not possible, or the store cannot be
/// read or written.
pub async fn recover(
    services: &Services,
    request: RecoverRequest,
) -> Result<RecoverReport, RecoverError> {
    let (store, snapshots) = (services.store.clone(), services.snapshots.clone());
    let (config, stop) = (services.settings.get(), services.stop_token());
    let work = tokio::task::spawn_blocking(move || {
        recover_in(&snapshots, &*store, &config, &request, &stop)
    });
    let report = work.await.map_err(|error| RecoverError::Store(error.to_string()))??;
    if report.recovered > 0 {
        // The daemon decides by the newest snapshot of each folder.
        services.backup_daemon.snapshots_changed().await;
    }
    Ok(report)
}

/// Searches a store, and takes over what the request selects. Blocks the thread.
///
/// # Errors
///
/// Same as [`recover`].
pub fn recover_in(
    snapshots: &SnapshotStore,
    scan: &dyn NodeScan,
    config: &Config,
    request: &RecoverRequest,
    stop: &CancellationToken,
) -> Result<RecoverReport, RecoverError> {
    // Before the search: nothing that was found may be lost by a failed sync until the
    // roots are set.
    let epoch = snapshots.store().write_epoch();
    let pin = snapshots.store().pin();
    if !request.yes {
        return search_in(snapshots, scan, Some(&pin), config, &request.only, stop);
    }
    let (found, selected) = search(snapshots, scan, Some(&pin), &request.only, stop)?;
    let items = selected.items.iter().copied();
    let recovered = snapshots::recover(snapshots, &selected.snapshots, items, epoch)
        .map_err(|error| RecoverError::Store(with_causes(&error)))?;
    Ok(recovery_report(config, found, &selected, recovered))
}

/// Searches a store, which may be open for reading only, and changes nothing. Blocks the
/// thread.
///
/// # Errors
///
/// Same as [`recover`].
pub fn search_in(
    snapshots: &SnapshotReader,
    scan: &dyn NodeScan,
    pin: Option<&Pin>,
    config: &Config,
    only: &[String],
    stop: &CancellationToken,
) -> Result<RecoverReport, RecoverError> {
    let (found, _) = search(snapshots, scan, pin, only, stop)?;
    Ok(recovery_report(config, found, &Selected::default(), 0))
}

fn search(
    snapshots: &SnapshotReader,
    scan: &dyn NodeScan,
    pin: Option<&Pin>,
    only: &[String],
    stop: &CancellationToken,
) -> Result<(RecoveryReport, Selected), RecoverError> {
    let found = find_lost(snapshots, scan, pin, &VerifyProgress::default(), stop)
        .map_err(|error| RecoverError::Store(with_causes(&error)))?;
    let selected = select(&found, only)?;
    Ok((found, selected))
}

/// Returns the objects that `only` names, or everything that is lost.
fn select(found: &RecoveryReport, only: &[String]) -> Result<Selected, RecoverError> {
    let mut selected = Selected::default();
    if only.is_empty() {
        let lost = found.snapshots.iter().filter(|found| found.state.is_lost());
        selected.snapshots = lost.map(|found| found.snapshot.clone()).collect();
        let lost = found.items.iter().filter(|found| found.state.is_lost());
        selected.items = lost.map(|found| found.cid).collect();
        return Ok(selected);
    }
    let refused = |text: String| Err(RecoverError::Selection(text));
    for name in only {
        if let Some(item) = found.items.iter().find(|item| item.cid.to_string() == *name) {
            match refusal(&item.state) {
                None => selected.items.push(item.cid),
                Some(reason) => return refused(format!("data item {name} {reason}")),
            }
            continue;
        }
        let hex = name.to_ascii_lowercase();
        let is_named = |found: &&snapshots::FoundSnapshot| {
            hex.len() >= PREFIX_LEN_MIN && found.snapshot.cid.hash().to_string().starts_with(&hex)
        };
        let named: Vec<_> = found.snapshots.iter().filter(is_named).collect();
        match named[..] {
            [] => {
                return refused(format!(
                    "the store has no snapshot and no data item {name}; `archivist recover` lists \
                     what was found"
                ));
            }
            [found] => match refusal(&found.state) {
                None => selected.snapshots.push(found.snapshot.clone()),
                Some(reason) => return refused(format!("snapshot {name} {reason}")),
            },
            _ => return refused(format!("several snapshots begin with {name}: use more digits")),
        }
    }
    Ok(selected)
}

/// Returns why an object in this state cannot be taken over, as the end of a sentence.
fn refusal(state: &FoundState) -> Option<String> {
    Some(match state {
        FoundState::Complete | FoundState::Conflict(_) | FoundState::Removed => return None,
        FoundState::Known => "is in the list already".to_owned(),
        FoundState::Incomplete { reason, .. } => format!("is incomplete: {reason}"),
        FoundState::Unreadable(reason) => format!("cannot be read at present: {reason}"),
        FoundState::Duplicate(other) => format!("is the same as snapshot {other}"),
    })
}

/// Returns the result of a search in the form of the API.
fn recovery_report(
    config: &Config,
    found: RecoveryReport,
    selected: &Selected,
    recovered: u64,
) -> RecoverReport {
    let complete = found.is_complete();
    let problems = problems(&found);
    let snapshots = found.snapshots.into_iter().map(|found| {
        let is_selected = selected.snapshots.iter().any(|one| one.cid == found.snapshot.cid);
        let (state, detail) = state_model(&found.state, is_selected);
        let snapshot = snapshot_model(config, backup::remote_snapshot(found.snapshot));
        api::FoundSnapshot { snapshot, state, detail }
    });
    let items = found.items.into_iter().map(|found| {
        let (state, detail) = state_model(&found.state, selected.items.contains(&found.cid));
        api::FoundItem {
            cid: found.cid,
            filename: found.dataset.filename,
            mimetype: found.dataset.mimetype,
            bytes: found.dataset.size,
            state,
            detail,
        }
    });
    let unusable = found.unusable.into_iter();
    RecoverReport {
        complete,
        snapshots: snapshots.collect(),
        items: items.collect(),
        unusable: unusable
            .map(|record| api::UnusableRecord { cid: record.cid, reason: record.reason })
            .collect(),
        manifests: found.manifests,
        problems,
        recovered,
    }
}

fn state_model(state: &FoundState, is_selected: bool) -> (api::FoundState, Option<String>) {
    match state {
        FoundState::Complete | FoundState::Conflict(_) | FoundState::Removed if is_selected => {
            (api::FoundState::Recovered, None)
        }
        FoundState::Known => (api::FoundState::Known, None),
        FoundState::Complete => (api::FoundState::Lost, None),
        FoundState::Removed => (api::FoundState::Removed, None),
        FoundState::Incomplete { blocks, reason, was_removed: _ } => {
            let more = blocks.saturating_sub(1);
            let text = if more > 0 { format!("{reason}, and {more} more") } else { reason.clone() };
            (api::FoundState::Incomplete, Some(text))
        }
        FoundState::Unreadable(reason) => (api::FoundState::Unreadable, Some(reason.clone())),
        FoundState::Duplicate(other) => (api::FoundState::Duplicate, Some(other.to_string())),
        FoundState::Conflict(other) => (api::FoundState::Conflict, Some(other.to_string())),
    }
}

/// Describes the parts of the store that were not read.
fn problems(found: &RecoveryReport) -> Vec<String> {
    let scan = &found.scan;
    let without_record = found.without_record.iter();
    let mut problems: Vec<String> = without_record
        .map(|(root, reason)| format!("the listed snapshot {root} has no record: {reason}"))
        .collect();
    for faults in [&scan.unreadable, &scan.damaged] {
        problems.extend(faults.descriptions.iter().cloned());
        let more = faults.count.saturating_sub(faults.descriptions.len() as u64);
        if more > 0 {
            problems.push(format!("{more} more parts of the store cannot be read"));
        }
    }
    if scan.newer > 0 {
        problems.push(format!(
            "{} records were written by a newer version of this program; use that version",
            scan.newer
        ));
    }
    if found.failed_reads > 0 {
        problems.push(format!(
            "{} blocks could not be read; snapshots that need them count as incomplete",
            found.failed_reads
        ));
    }
    if found.is_cut_short {
        problems.push("the store has more records than a search lists".to_owned());
    }
    problems
}

/// Checks that the packs have no complete snapshot and no data item that is not in the
/// list, that all packs could be read, and that every snapshot that was confirmed last is
/// known: otherwise a collection would delete blocks of lost snapshots when the list is
/// accepted.
///
/// # Errors
///
/// Returns a message with what is lost, and what to do.
pub async fn check_nothing_lost(services: &Services) -> Result<(), String> {
    let (store, snapshots) = (services.store.clone(), services.snapshots.clone());
    let (backup, stop) = (services.backup_daemon.clone(), services.stop_token());
    let config = services.settings.get();
    let work = tokio::task::spawn_blocking(move || {
        // Before the search, which then finds what was confirmed.
        let confirmed = backup.confirmed();
        nothing_lost(&store, &snapshots, confirmed, &config, &stop)
    });
    work.await.map_err(|error| error.to_string())?
}

/// Same as [`check_nothing_lost`], in the store of an instance that is not running, whose data
/// is in `data_dir`. Blocks the thread.
///
/// # Errors
///
/// Same as [`check_nothing_lost`].
pub fn check_nothing_lost_in(
    data_dir: &Path,
    packs: &PackStore,
    snapshots: &SnapshotStore,
    config: &Config,
    stop: &CancellationToken,
) -> Result<(), String> {
    let identity = DataDir(data_dir).identity().map_err(|error| with_causes(&error))?;
    let confirmed = match identity {
        Some(identity) => backup::confirmed_in(data_dir, identity),
        // Without an identity, nothing was ever confirmed.
        None => Ok(Vec::new()),
    };
    nothing_lost(packs, snapshots, confirmed, config, stop)
}

fn nothing_lost(
    packs: &PackStore,
    snapshots: &SnapshotStore,
    confirmed: Result<Vec<ConfirmedSnapshot>, ReceiptsUnreadable>,
    config: &Config,
    stop: &CancellationToken,
) -> Result<(), String> {
    let pin = packs.pin();
    let found = find_lost(snapshots, packs, Some(&pin), &VerifyProgress::default(), stop);
    let found = found.map_err(|error| with_causes(&error))?;
    refuse_lost(&found, confirmed, config)
}

fn refuse_lost(
    found: &RecoveryReport,
    confirmed: Result<Vec<ConfirmedSnapshot>, ReceiptsUnreadable>,
    config: &Config,
) -> Result<(), String> {
    let discard = "`archivist prune --accept-roots --discard` deletes";
    let (snapshots, items) = found.lost();
    if snapshots + items > 0 {
        let counted = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            count => Some(format!("{count} {what}s")),
        };
        let parts = [counted(snapshots, "snapshot"), counted(items, "data item")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let verb = if snapshots + items == 1 { "is" } else { "are" };
        return Err(format!(
            "{} {verb} stored but not listed, so the list is not accepted: `archivist recover` \
             shows them, `archivist recover --yes` lists them again, {discard} them",
            parts.join(" and ")
        ));
    }
    if let Some(first) = problems(found).first() {
        return Err(format!(
            "parts of the store are missing or cannot be read, so it is not known whether the list \
             is complete ({first}), and the list is not accepted; bring back the missing files, or \
             repair the cause, and try again; {discard} everything that is not in the list"
        ));
    }
    if !found.is_complete() {
        return Err(format!(
            "blocks of snapshots that are not in the list cannot be read at present, so the list \
             is not accepted; repair the cause and try again; {discard} them"
        ));
    }
    let confirmed = confirmed.map_err(|error| {
        format!(
            "{error}; so it is not known whether the list is complete, and the list is not \
             accepted; give the file back to the user who runs this program, or move it away if \
             it is damaged, and try again; {discard} everything that is not in the list"
        )
    })?;
    let Some(lost) = confirmed.iter().find(|one| !is_known(one, found)) else {
        return match found.incomplete() {
            0 => Ok(()),
            count => Err(format!(
                "snapshots that are not in the list are incomplete, but not removed ({count}), so \
                 the list is not accepted: `archivist recover` shows them; {discard} what is left \
                 of them"
            )),
        };
    };
    let Confirmation { folder_id, sequence, .. } = &lost.confirmation;
    let source = source_name(config, &lost.source.to_string());
    Err(format!(
        "this backup server has confirmed snapshot {sequence} of folder {folder_id} of {source} \
         with a signed receipt, and the store has neither this snapshot nor a later one, so the \
         list is not accepted; bring back the missing files of the store, or let the source back \
         up again, and try again; {discard} everything that is not in the list"
    ))
}

/// Reports whether the snapshot, or a later one of the folder, is in the list, or was
/// removed on purpose. The newest snapshot of a folder is never removed by the retention.
fn is_known(confirmed: &ConfirmedSnapshot, found: &RecoveryReport) -> bool {
    let ConfirmedSnapshot { source, confirmation } = confirmed;
    found.snapshots.iter().any(|found| {
        let record = &found.snapshot.record;
        matches!(found.state, FoundState::Known | FoundState::Removed)
            && (&record.source, &record.folder) == (source, &confirmation.folder_id)
            && (record.manifest == confirmation.manifest_cid
                || record.sequence > confirmation.sequence
                || record.received_at >= confirmation.received_at)
    })
}

/// Continues the numbers of snapshots after those in the packs, if roots are lost: of two
/// snapshots with one number, only one keeps its place in the list.
pub(crate) fn continue_numbers(snapshots: &SnapshotStore, scan: &dyn NodeScan) {
    snapshots.use_order(snapshots::last_order(scan));
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use manifest::Signature;
    use net::PeerId;
    use snapshots::{FoundSnapshot, SnapshotId, SnapshotRecord};
    use types::{Codec, SequenceNumber};

    use super::*;

    fn manifest(sequence: u64) -> Cid {
        Cid::of(Codec::DagCbor, &sequence.to_le_bytes())
    }

    fn record(source: PeerId, sequence: u64, second: i64) -> SnapshotRecord {
        let at = Timestamp::from_second(second).unwrap();
        SnapshotRecord {
            source,
            folder: "docs".parse().unwrap(),
            folder_name: "Documents".into(),
            sequence: SequenceNumber(sequence),
            manifest: manifest(sequence),
            signature: Signature::from_bytes(vec![1]).unwrap(),
            order: sequence,
            received_at: at,
            created_at: at,
            files: 1,
            dirs: 0,
            bytes: 1,
            held: None,
        }
    }

    /// Returns the refusal for what was found: the source, the number, the time and the state
    /// of each snapshot. Number 5 was confirmed at the time 50.
    fn refusal(source: PeerId, found: &[(PeerId, u64, i64, FoundState)]) -> Option<String> {
        let snapshots = found.iter().map(|(source, sequence, second, state)| {
            let record = record(*source, *sequence, *second);
            let cid = manifest(*sequence);
            let snapshot = Snapshot { id: SnapshotId::of(&cid), cid, record };
            FoundSnapshot { snapshot, state: state.clone() }
        });
        let found = RecoveryReport { snapshots: snapshots.collect(), ..RecoveryReport::default() };
        let SnapshotRecord { folder, sequence, manifest, signature, received_at, .. } =
            record(source, 5, 50);
        let confirmation = Confirmation {
            folder_id: folder,
            sequence,
            manifest_cid: manifest,
            manifest_signature: signature,
            received_at,
        };
        let confirmed = Ok(vec![ConfirmedSnapshot { source, confirmation }]);
        refuse_lost(&found, confirmed, &Config::default()).err()
    }

    #[test]
    fn what_was_confirmed_last_must_be_known_or_superseded() {
        let (source, other) = (PeerId::random(), PeerId::random());
        let incomplete = |was_removed| FoundState::Incomplete {
            blocks: 1,
            reason: "missing".into(),
            was_removed,
        };
        let gone = || incomplete(false);
        let known = [
            (source, 5, 50, FoundState::Known),
            (source, 5, 50, FoundState::Removed),
            // A later one, with a clock that was set back, and one after an accepted reset of
            // the source.
            (source, 6, 40, FoundState::Known),
            (source, 1, 60, FoundState::Known),
        ];
        for found in known {
            assert_eq!(refusal(source, std::slice::from_ref(&found)), None, "{found:?}");
        }
        let lost = [
            (source, 4, 40, FoundState::Known),
            (source, 5, 50, gone()),
            (source, 6, 60, gone()),
            (other, 6, 60, FoundState::Known),
        ];
        for found in lost {
            let refusal = refusal(source, std::slice::from_ref(&found)).unwrap();
            let is_named = refusal.contains("snapshot 5 of folder docs of")
                && refusal.contains(&source.to_string())
                && refusal.contains("--discard");
            assert!(is_named, "{found:?}: {refusal}");
        }
        // An older snapshot of which something is left.
        let newest = (source, 6, 60, FoundState::Known);
        let refused = refusal(source, &[(source, 4, 40, gone()), newest.clone()]).unwrap();
        assert!(refused.contains("incomplete, but not removed (1)"), "{refused}");
        assert_eq!(refusal(source, &[(source, 4, 40, incomplete(true)), newest]), None);
        // A lost snapshot that can be recovered has another advice.
        let refusal = refusal(source, &[(source, 5, 50, FoundState::Complete)]).unwrap();
        assert!(refusal.contains("recover --yes"), "{refusal}");
    }
}
