//! The state of one folder of a source.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use manifest::{FolderHistory, Offer};
use pull::{ManifestProgress, ManifestPullError};
use snapshots::Snapshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Cid, FolderId, SequenceNumber, with_causes};

use crate::backoff::Backoff;
use crate::effects::StoredFolder;
use crate::status::{FolderStatus, ProcessedManifest, PullStatus};

/// A running attempt.
#[derive(Debug)]
pub(super) struct RunningPull {
    pub(super) offer: Offer,
    pub(super) stop: CancellationToken,
    pub(super) progress: Arc<ManifestProgress>,
    pub(super) started_at: Timestamp,
}

/// State of the receipt for the newest snapshot.
#[derive(Debug, Default)]
pub(super) struct ReceiptState {
    /// The manifest whose receipt the source has received.
    pub(super) confirmed: Option<Cid>,
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) is_sending: bool,
    /// Reason why the receipt was not accepted, if a user has to act.
    pub(super) error: Option<String>,
}

/// Error of the last attempt.
#[derive(Debug)]
struct LastFailure {
    manifest: Cid,
    text: String,
    /// True if another manifest will probably succeed.
    is_of_manifest: bool,
}

/// The state of one folder of a source.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// The newest snapshot that is stored.
    pub(super) newest: Option<Snapshot>,
    /// The snapshot that was taken last, if a user removed it by hand.
    removed: Option<Snapshot>,
    /// The manifests of the other snapshots.
    pub(super) older: BTreeSet<Cid>,
    /// The offer to pull, if there is one.
    pub(super) wanted: Option<Offer>,
    /// True if the source offers the manifest that was taken last.
    pub(super) is_same: bool,
    /// The running attempt.
    pub(super) running: Option<RunningPull>,
    /// A bad manifest, with the reason. It is not pulled again.
    pub(super) bad: Option<(Cid, String)>,
    /// State of the receipt for the newest snapshot.
    pub(super) receipt: ReceiptState,
    /// The manifest of the last receipt that the source has stored, and the time since which this
    /// is known. It stays if the source connects again.
    acknowledged: Option<(Cid, Instant)>,
    /// True if the offer of the source was refused because the source was set back. The receipt for
    /// the newest snapshot tells the source so.
    pub(super) is_set_back: bool,
    last_failure: Option<LastFailure>,
    /// True if the running attempt was stopped because of a newer manifest.
    is_superseded: bool,
    /// True if the attempt before was stopped so. The running one then continues to its end.
    was_superseded: bool,
    failures: u32,
    /// Number of attempts in a row during which files changed on the source.
    changes: u32,
    retry_at: Option<Instant>,
}

impl Folder {
    /// Creates the state of a folder with these snapshots.
    pub(super) fn of(stored: StoredFolder) -> Self {
        let mut folder = Self::default();
        folder.set_snapshots(stored);
        folder
    }

    /// Replaces the snapshots. A running pull continues.
    pub(super) fn set_snapshots(&mut self, stored: StoredFolder) {
        let StoredFolder { mut snapshots, removed } = stored;
        self.newest = snapshots.pop();
        self.older = snapshots.into_iter().map(|snapshot| snapshot.record.manifest).collect();
        if removed.is_some() {
            self.older.extend(self.newest.iter().map(|newest| newest.record.manifest));
        }
        self.removed = removed;
    }

    /// Returns the snapshot that was taken last, also if a user removed it by hand.
    pub(super) fn last_taken(&self) -> Option<&Snapshot> {
        self.removed.as_ref().or(self.newest.as_ref())
    }

    /// Returns the history for [`manifest::check`], or `None` without a snapshot.
    pub(super) fn history(
        &self,
        accepted: Option<(SequenceNumber, Cid)>,
        set_back: Option<SequenceNumber>,
    ) -> Option<FolderHistory> {
        let newest = &self.last_taken()?.record;
        Some(FolderHistory {
            sequence: newest.sequence,
            manifest: newest.manifest,
            older: self.older.clone(),
            accepted,
            set_back,
            is_lost: false,
        })
    }

    /// Records that the source has stored the receipt of a manifest.
    pub(super) fn acknowledged(&mut self, manifest: Cid, now: Instant) {
        if self.acknowledged.is_none_or(|(known, _)| known != manifest) {
            self.acknowledged = Some((manifest, now));
        }
    }

    /// Reports whether an answer of the source to a request that was sent at `asked_at` shows that
    /// it has lost the receipt of the newest snapshot: `confirmed` is the number of the newest
    /// receipt that it has, 0 if it has none.
    pub(super) fn has_lost_receipt(&self, confirmed: SequenceNumber, asked_at: Instant) -> bool {
        let Some(newest) = self.last_taken().map(|newest| &newest.record) else { return false };
        // Without any receipt, the source may have lost them alone.
        let has_older = confirmed.0 != 0 && confirmed < newest.sequence;
        let is_known =
            |(manifest, since): (Cid, Instant)| manifest == newest.manifest && since <= asked_at;
        has_older && self.acknowledged.is_some_and(is_known)
    }

    /// Records that the source offers a new manifest.
    pub(super) fn offered(&mut self, offer: Offer) {
        let manifest = offer.published.manifest_cid;
        if self.last_failure.as_ref().is_some_and(|t| t.is_of_manifest && t.manifest != manifest) {
            // Pulled immediately if the blocks of the one before were not available.
            self.retry_at = None;
        }
        // Not twice in a row, or a folder that changes all the time would never get a snapshot.
        if let Some(running) = &self.running
            && !self.was_superseded
            && offer.published.sequence_number > running.offer.published.sequence_number
        {
            running.stop.cancel();
            self.is_superseded = true;
        }
        self.is_same = false;
        self.is_set_back = false;
        self.wanted = Some(offer);
    }

    /// Records that the source offers nothing new: the newest snapshot (`is_same`), or nothing.
    pub(super) fn nothing_offered(&mut self, is_same: bool) {
        self.is_same = is_same;
        self.is_set_back = false;
        self.wanted = None;
        if self.running.is_none() {
            self.clear_failure();
        }
    }

    fn clear_failure(&mut self) {
        (self.failures, self.changes) = (0, 0);
        (self.retry_at, self.last_failure) = (None, None);
    }

    /// Returns the offer to pull now, if any.
    pub(super) fn due(&self, now: Instant) -> Option<&Offer> {
        let wanted = self.startable()?;
        self.retry_at.is_none_or(|at| at <= now).then_some(wanted)
    }

    /// Returns the time of the next retry, if one is scheduled.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.startable()?;
        self.retry_at
    }

    /// Returns the offer, if it is neither being pulled nor bad.
    fn startable(&self) -> Option<&Offer> {
        let wanted = self.wanted.as_ref()?;
        let manifest = &wanted.published.manifest_cid;
        let is_bad = self.bad.as_ref().is_some_and(|(bad, _)| bad == manifest);
        (self.running.is_none() && !is_bad).then_some(wanted)
    }

    /// Ends the waiting times of retries after a hint.
    pub(super) fn hint(&mut self) {
        self.retry_at = None;
        self.receipt.retry_at = None;
    }

    /// Records a new snapshot.
    pub(super) fn committed(&mut self, snapshot: Snapshot) {
        if let Some(old) = self.newest.replace(snapshot) {
            self.older.insert(old.record.manifest);
        }
        self.removed = None;
        self.bad = None;
        self.clear_failure();
        self.receipt = ReceiptState::default();
    }

    /// Records the end of the running attempt, and returns it.
    pub(super) fn ended(&mut self) -> Option<RunningPull> {
        self.was_superseded = std::mem::take(&mut self.is_superseded);
        self.running.take()
    }

    /// Records a failed attempt. Returns whether it counts as a failure of the source.
    pub(super) fn failed(
        &mut self,
        manifest: Cid,
        error: &ManifestPullError,
        now: Instant,
    ) -> bool {
        let text = with_causes(error);
        match error {
            ManifestPullError::Stopped | ManifestPullError::SetBack { .. } => return false,
            error if error.is_bad_manifest() => {
                self.bad = Some((manifest, text));
                self.clear_failure();
                return true;
            }
            ManifestPullError::Changed { .. } => {
                self.changes = self.changes.saturating_add(1);
                self.retry_at = Some(now + Backoff::CHANGED.after(self.changes));
                self.last_failure = Some(LastFailure { manifest, text, is_of_manifest: true });
                return false;
            }
            _ => {}
        }
        let is_of_manifest = matches!(error, ManifestPullError::Missing { .. });
        self.unreachable(manifest, text, now);
        if let Some(last_failure) = &mut self.last_failure {
            last_failure.is_of_manifest = is_of_manifest;
        }
        true
    }

    /// Records an attempt without a connection to the source.
    pub(super) fn unreachable(&mut self, manifest: Cid, text: String, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + Backoff::FAILURE.after(self.failures));
        self.last_failure = Some(LastFailure { manifest, text, is_of_manifest: false });
    }

    /// Returns the number of failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the error of the last attempt, if it failed.
    pub(super) fn error(&self) -> Option<&str> {
        self.last_failure.as_ref().map(|last_failure| last_failure.text.as_str())
    }

    /// Reports whether the folder has no snapshot, offer or attempt, and can be forgotten.
    pub(super) fn is_empty(&self) -> bool {
        self.last_taken().is_none() && self.wanted.is_none() && self.running.is_none()
    }

    /// Returns the snapshot whose receipt must be sent, if any.
    pub(super) fn unconfirmed(&self) -> Option<&Snapshot> {
        // A source that offers neither this manifest nor a later one would refuse the receipt.
        let newest = self.newest.as_ref().filter(|_| self.removed.is_none())?;
        let sequence = newest.record.sequence;
        let is_later = |offer: &Offer| offer.published.sequence_number > sequence;
        let may_confirm = self.is_same || self.wanted.as_ref().is_some_and(is_later);
        if !may_confirm && !self.is_set_back {
            return None;
        }
        let receipt = &self.receipt;
        (!receipt.is_sending && receipt.confirmed != Some(newest.record.manifest)).then_some(newest)
    }

    /// Returns the status of the folder.
    pub(super) fn status(&self, id: &FolderId) -> FolderStatus {
        let newest = self.newest.as_ref().map(|snapshot| &snapshot.record);
        let offered = self.wanted.as_ref().map(|offer| &offer.published);
        let name = offered.map(|offered| offered.folder_name.clone());
        FolderStatus {
            folder_id: id.clone(),
            folder_name: name
                .or_else(|| newest.map(|newest| newest.folder_name.clone()))
                .unwrap_or_default(),
            processed: newest.map(|newest| ProcessedManifest {
                sequence: newest.sequence,
                manifest_cid: newest.manifest,
                received_at: newest.received_at,
                files: newest.files,
                bytes: newest.bytes,
                is_confirmed: self.receipt.confirmed == Some(newest.manifest),
            }),
            offered_sequence: offered.map(|offered| offered.sequence_number),
            error: self.error().map(str::to_owned),
            failures: self.failures,
            refused: self.refused().map(str::to_owned),
        }
    }

    /// Returns why the offered manifest is bad, if a pull has found that.
    pub(super) fn refused(&self) -> Option<&str> {
        let wanted = self.wanted.as_ref()?.published.manifest_cid;
        self.bad.as_ref().filter(|(bad, _)| *bad == wanted).map(|(_, reason)| reason.as_str())
    }

    /// Returns the status of the running attempt.
    pub(super) fn pull(&self, id: &FolderId) -> Option<PullStatus> {
        let running = self.running.as_ref()?;
        let published = &running.offer.published;
        Some(PullStatus {
            folder_id: id.clone(),
            folder_name: published.folder_name.clone(),
            sequence: published.sequence_number,
            manifest_cid: published.manifest_cid,
            numbers: running.progress.numbers(),
            started_at: running.started_at,
        })
    }
}
