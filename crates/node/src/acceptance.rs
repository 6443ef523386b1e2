//! Acceptance of the list of snapshots and data items as complete, after roots were lost: the
//! checks before it, and what the owner gives up with `--discard`.

use std::path::Path;

use backup::{ConfirmedSnapshot, IssuedReceipts};
use config::Config;
use protocols::Confirmation;
use snapshots::{
    DamagedSnapshot, FoundState, RecoveryReport, Snapshot, SnapshotStore, VerifyProgress, find_lost,
};
use store::{BlockWrite as _, NodeScan as _, PackStore};
use tokio_util::sync::CancellationToken;
use types::with_causes;

use crate::confirmed::{Confirmed, discard_lost, issued_receipts, not_removed, supersedes};
use crate::names::source_name;
use crate::recovery::problems;
use crate::services::Services;

/// A store whose list is to be accepted.
#[derive(Debug)]
pub(crate) struct Acceptance<'a> {
    /// The data directory.
    pub(crate) data_dir: &'a Path,
    /// The packs.
    pub(crate) packs: &'a PackStore,
    /// The snapshots in the store.
    pub(crate) snapshots: &'a SnapshotStore,
    /// The configuration, with the names of the sources.
    pub(crate) config: &'a Config,
    /// True to give up everything that is not listed, and every listed snapshot without a record.
    pub(crate) discard: bool,
}

/// Checks that the list of the running instance can be accepted as complete; see
/// [`Acceptance::prepare`].
///
/// # Errors
///
/// Same as [`Acceptance::prepare`].
pub(crate) async fn prepare_acceptance(
    services: &Services,
    discard: bool,
) -> Result<Vec<String>, String> {
    let (services, stop) = (services.clone(), services.stop_token());
    let work = tokio::task::spawn_blocking(move || {
        let config = services.settings.get();
        let acceptance = Acceptance {
            data_dir: &services.data_dir,
            packs: &services.store,
            snapshots: &services.snapshots,
            config: &config,
            discard,
        };
        acceptance.prepare(&stop)
    });
    let discarded = work.await.map_err(|error| error.to_string())?;
    discarded.inspect(|discarded| {
        for one in discarded {
            tracing::warn!("discarded {one}");
        }
    })
}

impl Acceptance<'_> {
    /// Checks that every listed snapshot and data item is complete, that the packs have no
    /// complete snapshot and no data item that is not in the list, that all packs could be read,
    /// and that every snapshot that was confirmed last is known: otherwise a collection would
    /// delete blocks of lost snapshots when the list is accepted.
    ///
    /// With [`Acceptance::discard`], only the listed snapshots with a record must be complete. The
    /// roots of the others are removed, and lost snapshots are not demanded any more. Returns the
    /// descriptions of the removed roots. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns a message with what is incomplete or lost, and what to do.
    pub(crate) fn prepare(&self, stop: &CancellationToken) -> Result<Vec<String>, String> {
        let unusable = self.check_complete(stop)?;
        let issued = issued_receipts(self.data_dir).map_err(|error| with_causes(&error))?;
        if !self.discard {
            self.check_nothing_lost(issued.as_ref(), stop)?;
            return Ok(Vec::new());
        }
        let Unusable { damaged, removed } = unusable;
        let mut discarded = Vec::new();
        for one in damaged {
            self.snapshots.store().remove_root(&one.root).map_err(|error| with_causes(&error))?;
            discarded.push(format!("{}: {}", one.root, one.reason));
        }
        for one in removed {
            self.snapshots.remove(&one).map_err(|error| with_causes(&error))?;
            discarded.push(format!(
                "snapshot {} of folder {}: it had been removed, and blocks of it are missing",
                one.id, one.record.folder
            ));
        }
        if let Some(issued) = &issued {
            discard_lost(self.snapshots, issued)?;
        }
        Ok(discarded)
    }

    /// Checks that every listed snapshot and data item is complete, except for those that may be
    /// discarded, which it returns.
    fn check_complete(&self, stop: &CancellationToken) -> Result<Unusable, String> {
        let report = snapshots::verify(self.snapshots, false, &VerifyProgress::default(), stop);
        let report = report.map_err(|error| with_causes(&error))?;
        let mut removed = Vec::new();
        if !report.broken.is_empty() {
            let listing = self.snapshots.list().map_err(|error| with_causes(&error))?;
            removed.extend(listing.snapshots.into_iter().filter(|one| {
                // A block that cannot be read at present may be intact.
                report.broken.contains(&one.cid)
                    && !report.unreadable.contains(&one.cid.to_string())
                    && self.packs.was_removed(&one.cid)
            }));
        }
        let unusable = Unusable { damaged: report.damaged, removed };
        let mut incomplete = report.broken.len() - unusable.removed.len();
        if !self.discard {
            incomplete += unusable.len();
        }
        if incomplete + report.broken_items.len() > 0 {
            let discard = match unusable.len() {
                0 => String::new(),
                _ if self.discard => String::new(),
                count => format!(
                    "; {count} of them have no record or were removed before: if no peer has the \
                     blocks, `archivist prune --accept-roots --discard` removes them from the list"
                ),
            };
            return Err(format!(
                "{} incomplete, so the remaining root records are not accepted; run `archivist \
                 verify --repair` to pull the missing blocks again{discard}",
                counted(incomplete, report.broken_items.len())
            ));
        }
        Ok(unusable)
    }

    fn check_nothing_lost(
        &self,
        issued: Option<&IssuedReceipts>,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        // Before the search, which then finds what was confirmed.
        let confirmed = issued.map_or(Ok(Vec::new()), IssuedReceipts::confirmed);
        let confirmed = not_removed(self.snapshots, &confirmed);
        let pin = self.packs.pin();
        let progress = VerifyProgress::default();
        let found = find_lost(self.snapshots, self.packs, Some(&pin), &progress, stop);
        let found = found.map_err(|error| with_causes(&error))?;
        refuse_lost(&found, confirmed, self.config)
    }
}

/// Listed snapshots that nothing can restore completely, and that no other command removes.
struct Unusable {
    /// The record is missing or damaged.
    damaged: Vec<DamagedSnapshot>,
    /// The snapshot was removed on purpose, and an older log of roots has listed it again after a
    /// collection had deleted a part of its blocks.
    removed: Vec<Snapshot>,
}

impl Unusable {
    fn len(&self) -> usize {
        self.damaged.len() + self.removed.len()
    }
}

/// Returns the numbers of snapshots and data items with a verb, as the start of a sentence.
fn counted(snapshots: usize, items: usize) -> String {
    let counted = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    };
    let parts = [counted(snapshots, "snapshot"), counted(items, "data item")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let verb = if snapshots + items == 1 { "is" } else { "are" };
    format!("{} {verb}", parts.join(" and "))
}

fn refuse_lost(
    found: &RecoveryReport,
    confirmed: Confirmed,
    config: &Config,
) -> Result<(), String> {
    let discard = "`archivist prune --accept-roots --discard` deletes";
    let (snapshots, items) = found.lost();
    if snapshots + items > 0 {
        return Err(format!(
            "{} stored but not listed, so the list is not accepted: `archivist recover` shows \
             them, `archivist recover --yes` lists them again, {discard} them",
            counted(snapshots, items)
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
    found.snapshots.iter().any(|found| {
        matches!(found.state, FoundState::Known | FoundState::Removed)
            && supersedes(&found.snapshot.record, confirmed)
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use manifest::Signature;
    use net::PeerId;
    use snapshots::{FoundSnapshot, Signs, SnapshotId, SnapshotRecord};
    use types::{Cid, Codec, SequenceNumber};

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
            signs: Signs::default(),
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
