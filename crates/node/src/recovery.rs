//! Recovery of snapshots and data items that no root names, for a running instance and
//! for the command line: the selection and the report.

use api::{RecoverReport, RecoverRequest};
use backup::ConfirmedSnapshot;
use config::Config;
use protocols::Confirmation;
use snapshots::{
    FoundState, RecoveryReport, Snapshot, SnapshotReader, SnapshotStore, VerifyProgress, find_lost,
};
use store::{NodeScan, Pin};
use tokio_util::sync::CancellationToken;
use types::{Cid, with_causes};

use crate::confirmed::{Confirmed, not_removed, supersedes};
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
    let backup = services.backup_daemon.clone();
    let work = tokio::task::spawn_blocking(move || {
        // Before the search, which then finds what was confirmed.
        let confirmed = backup.confirmed();
        recover_in(&snapshots, &*store, &confirmed, &config, &request, &stop)
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
    confirmed: &Confirmed,
    config: &Config,
    request: &RecoverRequest,
    stop: &CancellationToken,
) -> Result<RecoverReport, RecoverError> {
    // Before the search: nothing that was found may be lost by a failed sync until the
    // roots are set.
    let epoch = snapshots.store().write_epoch();
    let pin = snapshots.store().pin();
    if !request.yes {
        return search_in(snapshots, scan, Some(&pin), confirmed, config, &request.only, stop);
    }
    let (found, selected) = search(snapshots, scan, Some(&pin), &request.only, stop)?;
    let items = selected.items.iter().copied();
    let recovered = snapshots::recover(snapshots, &selected.snapshots, items, epoch)
        .map_err(|error| RecoverError::Store(with_causes(&error)))?;
    let confirmed = &not_removed(snapshots, confirmed);
    Ok(recovery_report(config, found, confirmed, &selected, recovered))
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
    confirmed: &Confirmed,
    config: &Config,
    only: &[String],
    stop: &CancellationToken,
) -> Result<RecoverReport, RecoverError> {
    let (found, _) = search(snapshots, scan, pin, only, stop)?;
    let confirmed = &not_removed(snapshots, confirmed);
    Ok(recovery_report(config, found, confirmed, &Selected::default(), 0))
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
    confirmed: &Confirmed,
    selected: &Selected,
    recovered: u64,
) -> RecoverReport {
    let not_found = confirmed_and_not_found(config, &found, confirmed);
    let complete = found.is_complete() && not_found.is_empty();
    let mut problems = problems(&found);
    problems.extend(not_found);
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

/// Describes the confirmed snapshots that are neither listed nor superseded, and that the search
/// has not found complete.
fn confirmed_and_not_found(
    config: &Config,
    found: &RecoveryReport,
    confirmed: &Confirmed,
) -> Vec<String> {
    let confirmed = match confirmed {
        Ok(confirmed) => confirmed,
        Err(error) => return vec![error.to_string()],
    };
    let is_found = |one: &&ConfirmedSnapshot| {
        found.snapshots.iter().any(|found| {
            let record = &found.snapshot.record;
            let is_here = matches!(found.state, FoundState::Known | FoundState::Removed)
                || found.state.is_lost();
            is_here && supersedes(record, one)
        })
    };
    let lost = confirmed.iter().filter(|one| !is_found(one));
    let describe = |one: &ConfirmedSnapshot| {
        let Confirmation { folder_id, sequence, .. } = &one.confirmation;
        let source = source_name(config, &one.source.to_string());
        format!(
            "this backup server has confirmed snapshot {sequence} of folder {folder_id} of \
             {source} with a signed receipt, and the store has neither this snapshot nor a later \
             one of the folder that is complete"
        )
    };
    lost.map(describe).collect()
}

/// Describes the parts of the store that were not read.
pub(crate) fn problems(found: &RecoveryReport) -> Vec<String> {
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

/// Continues the numbers of snapshots after those in the packs, if roots are lost: of two
/// snapshots with one number, only one keeps its place in the list.
pub(crate) fn continue_numbers(snapshots: &SnapshotStore, scan: &dyn NodeScan) {
    snapshots.use_order(snapshots::last_order(scan));
}
