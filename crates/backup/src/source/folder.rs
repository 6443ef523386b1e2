//! What a source's task knows of one folder.

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
use crate::status::{FolderStatus, Processed, PullStatus};

/// An attempt that is under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) offer: Offer,
    pub(super) stop: CancellationToken,
    pub(super) progress: Arc<ManifestProgress>,
    pub(super) started_at: Timestamp,
}

/// Whether the source has been told of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Receipting {
    pub(super) told: Option<Cid>,
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) is_under_way: bool,
}

/// Why the last attempt did not end in a snapshot.
#[derive(Debug)]
struct Trouble {
    manifest: Cid,
    text: String,
    /// Another manifest is likely to do better.
    is_of_manifest: bool,
}

/// What a source's task knows of one folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// The newest snapshot.
    pub(super) newest: Option<Snapshot>,
    /// The manifests of all others.
    pub(super) older: BTreeSet<Cid>,
    /// What the source offers that is new.
    pub(super) wanted: Option<Offer>,
    /// What it offers is what there is.
    pub(super) is_same: bool,
    /// The attempt that is under way.
    pub(super) running: Option<Running>,
    /// A manifest that is bad, and why: it is not tried again.
    pub(super) bad: Option<(Cid, String)>,
    /// Whether the source knows of the newest snapshot.
    pub(super) receipt: Receipting,
    trouble: Option<Trouble>,
    /// The attempt that is under way was stopped for a newer manifest.
    is_superseded: bool,
    /// The one before it was: this one goes to its end.
    was_superseded: bool,
    failures: u32,
    changes: u32,
    retry_at: Option<Instant>,
}

impl Folder {
    /// The folder with these snapshots, oldest first.
    pub(super) fn of(mut snapshots: Vec<Snapshot>) -> Self {
        let newest = snapshots.pop();
        let older = snapshots.into_iter().map(|snapshot| snapshot.record.manifest).collect();
        Self { newest, older, ..Self::default() }
    }

    /// What [`manifest::check`] has to know of it.
    pub(super) fn held(&self, accepted: Option<(SequenceNumber, Cid)>) -> Option<FolderHistory> {
        let newest = &self.newest.as_ref()?.record;
        Some(FolderHistory {
            sequence: newest.sequence,
            manifest: newest.manifest,
            older: self.older.clone(),
            accepted,
        })
    }

    /// The source offers something new.
    pub(super) fn want(&mut self, offer: Offer) {
        let manifest = offer.published.manifest_cid;
        if self.trouble.as_ref().is_some_and(|t| t.is_of_manifest && t.manifest != manifest) {
            // It follows at once where the one before could not be had.
            self.retry_at = None;
        }
        // Once in a row: a folder that never stands still would otherwise be
        // pulled for ever and be backed up never.
        if let Some(running) = &self.running
            && !self.was_superseded
            && offer.published.sequence_number > running.offer.published.sequence_number
        {
            running.stop.cancel();
            self.is_superseded = true;
        }
        self.is_same = false;
        self.wanted = Some(offer);
    }

    /// The source offers nothing new: what there is, or nothing any more.
    pub(super) fn want_nothing(&mut self, is_same: bool) {
        self.is_same = is_same;
        self.wanted = None;
        if self.running.is_none() {
            self.clear_trouble();
        }
    }

    fn clear_trouble(&mut self) {
        (self.failures, self.changes) = (0, 0);
        (self.retry_at, self.trouble) = (None, None);
    }

    /// What is to be pulled now, if something is.
    pub(super) fn due(&self, now: Instant) -> Option<&Offer> {
        let wanted = self.startable()?;
        self.retry_at.is_none_or(|at| at <= now).then_some(wanted)
    }

    /// When something is to be pulled, if something is.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.startable()?;
        self.retry_at
    }

    fn startable(&self) -> Option<&Offer> {
        let wanted = self.wanted.as_ref()?;
        let manifest = &wanted.published.manifest_cid;
        let is_bad = self.bad.as_ref().is_some_and(|(bad, _)| bad == manifest);
        (self.running.is_none() && !is_bad).then_some(wanted)
    }

    /// Somebody says that it may work now.
    pub(super) fn hint(&mut self) {
        self.retry_at = None;
        self.receipt.retry_at = None;
    }

    /// There is a new snapshot.
    pub(super) fn committed(&mut self, snapshot: Snapshot) {
        if let Some(old) = self.newest.replace(snapshot) {
            self.older.insert(old.record.manifest);
        }
        self.bad = None;
        self.clear_trouble();
        self.receipt = Receipting::default();
    }

    /// The attempt that was under way has ended, however it did.
    pub(super) fn ended(&mut self) -> Option<Running> {
        self.was_superseded = std::mem::take(&mut self.is_superseded);
        self.running.take()
    }

    /// The attempt to pull `manifest` has failed. Tells whether it counts.
    pub(super) fn failed(
        &mut self,
        manifest: Cid,
        error: &ManifestPullError,
        now: Instant,
    ) -> bool {
        let text = with_causes(error);
        match error {
            ManifestPullError::Stopped => return false,
            error if error.is_bad_manifest() => {
                self.bad = Some((manifest, text));
                self.clear_trouble();
                return true;
            }
            ManifestPullError::Changed { .. } => {
                self.changes = self.changes.saturating_add(1);
                self.retry_at = Some(now + Backoff::CHANGED.after(self.changes));
                self.trouble = Some(Trouble { manifest, text, is_of_manifest: true });
                return false;
            }
            _ => {}
        }
        let is_of_manifest = matches!(error, ManifestPullError::Missing { .. });
        self.unreachable(manifest, text, now);
        if let Some(trouble) = &mut self.trouble {
            trouble.is_of_manifest = is_of_manifest;
        }
        true
    }

    /// The source could not be reached for `manifest`.
    pub(super) fn unreachable(&mut self, manifest: Cid, text: String, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + Backoff::FAILURE.after(self.failures));
        self.trouble = Some(Trouble { manifest, text, is_of_manifest: false });
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// What is wrong, if something is.
    pub(super) fn error(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.text.as_str())
    }

    /// Whether nothing is known of it that has to be remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_none() && self.wanted.is_none() && self.running.is_none()
    }

    /// The snapshot that the source is to be told of now, if there is one.
    pub(super) fn to_tell(&self) -> Option<&Snapshot> {
        // Where the source offers neither this nor a later one, it would not
        // know what it is told of.
        let newest = self.newest.as_ref()?;
        let sequence = newest.record.sequence;
        let is_later = |offer: &Offer| offer.published.sequence_number > sequence;
        if !self.is_same && !self.wanted.as_ref().is_some_and(is_later) {
            return None;
        }
        let receipt = &self.receipt;
        (!receipt.is_under_way && receipt.told != Some(newest.record.manifest)).then_some(newest)
    }

    /// How it is.
    pub(super) fn status(&self, id: &FolderId) -> FolderStatus {
        let newest = self.newest.as_ref().map(|snapshot| &snapshot.record);
        let offered = self.wanted.as_ref().map(|offer| &offer.published);
        let name = offered.map(|offered| offered.folder_name.clone());
        FolderStatus {
            folder_id: id.clone(),
            folder_name: name
                .or_else(|| newest.map(|newest| newest.folder_name.clone()))
                .unwrap_or_default(),
            processed: newest.map(|newest| Processed {
                sequence: newest.sequence,
                manifest_cid: newest.manifest,
                received_at: newest.received_at,
                files: newest.files,
                bytes: newest.bytes,
                is_acknowledged: self.receipt.told == Some(newest.manifest),
            }),
            offered_sequence: offered.map(|offered| offered.sequence_number),
            error: self.error().map(str::to_owned),
            failures: self.failures,
            refused: self.refused().map(str::to_owned),
        }
    }

    /// Why what is offered is refused, where that was seen when it was pulled.
    pub(super) fn refused(&self) -> Option<&str> {
        let wanted = self.wanted.as_ref()?.published.manifest_cid;
        self.bad.as_ref().filter(|(bad, _)| *bad == wanted).map(|(_, reason)| reason.as_str())
    }

    /// How the attempt stands that is under way.
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
