//! Publishing a folder's manifests: after its changes have ended, and during its first scan.

use std::time::Duration;

use types::{RelPath, with_causes};

use super::{Task, display_path};
use crate::error::SyncError;
use crate::index::{Batch, Change, RowStamp};
use crate::publish::{self, ManifestKind, ManifestLabels, PublishOutcome};
use crate::status::FolderState;

/// The interval of the manifests of a first scan is at least the time that has passed,
/// divided by this: a scan of hours makes a few dozen manifests.
const INTERVAL_SHARE: u32 = 8;

impl Task {
    /// Returns how a manifest of the current rows is marked; `None` if it must not be published:
    /// the first scan has not ended, and a complete manifest is known.
    pub(super) fn publish_kind(&self) -> Option<ManifestKind> {
        let manifest = self.record.manifest.as_ref();
        if self.record.is_scanned {
            Some(ManifestKind::Guarded)
        } else {
            manifest.is_none_or(|last| last.is_unfinished).then_some(ManifestKind::Partial)
        }
    }

    /// Returns the number of changes that a manifest can contain now.
    pub(super) fn pending_changes(&self) -> u64 {
        match self.publish_kind() {
            None => 0,
            Some(_) if self.record.is_scanned && self.is_manifest_outdated() => {
                self.record.pending.max(1)
            }
            // A version that was overwritten is replaced before the manifest is made.
            Some(_) => self.record.pending.max(u64::from(!self.lost.is_empty())),
        }
    }

    /// Publishes the changes that were found.
    pub(super) fn publish_found(&mut self) -> Result<(), SyncError> {
        match self.publish_kind() {
            Some(kind) => self.publish(kind),
            None => {
                self.schedule.published();
                Ok(())
            }
        }
    }

    pub(super) fn publish(&mut self, kind: ManifestKind) -> Result<(), SyncError> {
        self.show(FolderState::Publishing);
        self.replace_lost()?;
        self.owners.refresh();
        let record = match self.make_and_publish(kind)? {
            PublishOutcome::Published(record) => *record,
            PublishOutcome::ContentMissing(files) => return self.read_missing(files),
        };
        self.missing.clear();
        self.record = record;
        self.pin.replace([]);
        self.long.published();
        self.schedule.published();
        self.show_rest();
        Ok(())
    }

    /// Makes a manifest of the current rows and passes it to the publisher.
    fn make_and_publish(&self, kind: ManifestKind) -> Result<PublishOutcome, SyncError> {
        let path = display_path(&self.config.folder.path);
        let labels = ManifestLabels {
            folder: &self.mailbox.id,
            name: &self.config.folder.name,
            path: &path,
        };
        let is_stopped = || self.mailbox.monitor.is_interrupted();
        let outcome = publish::make(&self.context, &labels, &self.owners, kind, &is_stopped)?;
        let PublishOutcome::Published(record) = &outcome else { return Ok(outcome) };
        if let Some(manifest) = &record.manifest {
            tracing::info!(folder = %self.mailbox.id, sequence = %manifest.sequence,
                files = manifest.totals.files, "published a manifest");
            self.context.publisher.publish(manifest.published(&self.mailbox.id));
        }
        if let Err(error) =
            publish::remove_old_roots(&self.context, &self.mailbox.id, Some(record.sequence()))
        {
            // The old manifest uses space until the next one is made.
            tracing::warn!(folder = %self.mailbox.id, error = with_causes(&error),
                "cannot remove the root of an old manifest");
        }
        Ok(outcome)
    }

    /// Has files read again whose content is missing from the store. A file that cannot be
    /// read again is treated like a new unreadable file: it goes to the error list, and the
    /// other files are published without it.
    fn read_missing(&mut self, files: Vec<(RelPath, RowStamp)>) -> Result<(), SyncError> {
        tracing::warn!(folder = %self.mailbox.id, files = files.len(),
            "unpublished content is missing from the store; the files are read again");
        let (mut lost, mut errors) = (Batch::default(), Batch::default());
        for (path, stamp) in files {
            if self.missing.insert(path.clone()) {
                self.rescan.add_file(path.clone());
                self.suspects.insert(path);
            } else {
                let what = "its content was lost before it was published, and the file cannot \
                    be read again"
                    .to_owned();
                errors.add(path.clone(), Change::Fail { what, is_marked: false });
                lost.forget(path, Some(stamp));
            }
        }
        for batch in [lost, errors] {
            if !batch.is_empty() {
                let now = self.context.clock.now();
                self.context.index.apply(&self.mailbox.id, &batch, now)?;
            }
        }
        self.rescan_at = Some(self.now());
        self.schedule.published();
        Ok(())
    }
}

/// The first scan of a folder, which may need hours. The results so far are published again
/// and again, marked as a part of the folder, so that the backup server can pull them
/// meanwhile.
pub(super) struct FirstScan<'a> {
    task: &'a Task,
    started: Duration,
    /// When the last manifest was made.
    published: Duration,
}

impl<'a> FirstScan<'a> {
    /// Returns `None` if the folder was scanned before or has a complete manifest.
    pub(super) fn start(task: &'a Task) -> Option<Self> {
        let now = task.now();
        (task.publish_kind() == Some(ManifestKind::Partial)).then_some(Self {
            task,
            started: now,
            published: now,
        })
    }

    /// Returns the maximum time for which results stay unpublished.
    pub(super) fn interval(&self) -> Duration {
        let passed = self.published.saturating_sub(self.started);
        self.task.context.tuning.first_scan_interval.max(passed / INTERVAL_SHARE)
    }

    /// Publishes the results so far, if the interval has passed.
    pub(super) fn publish_if_due(&mut self) -> Result<(), SyncError> {
        let now = self.task.now();
        if now.saturating_sub(self.published) < self.interval() {
            return Ok(());
        }
        // If content is missing, the manifest after the scan deals with it.
        let outcome = self.task.make_and_publish(ManifestKind::Partial)?;
        if let PublishOutcome::Published(record) = outcome {
            self.task.show_record(&record, FolderState::Scanning);
        }
        self.published = self.task.now();
        Ok(())
    }
}
