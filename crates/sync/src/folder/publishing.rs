//! Making a folder's manifests: when it has come to rest, and while it is
//! looked through for the first time.

use std::time::Duration;

use types::{RelPath, with_causes};

use super::{Task, shown};
use crate::error::SyncError;
use crate::index::{Batch, Change, RowStamp};
use crate::publish::{self, Made, Naming, Standing};
use crate::status::FolderState;

/// So much of the time that has passed is between two manifests of a first
/// look, at least: a look of hours makes some dozens.
const PAUSE_SHARE: u32 = 8;

impl Task {
    pub(super) fn publish(&mut self, standing: Standing) -> Result<(), SyncError> {
        self.show(FolderState::Publishing);
        self.owners.refresh();
        let record = match self.make_and_tell(standing)? {
            Made::Manifest(record) => *record,
            Made::Missing(missing) => return self.read_missing(missing),
        };
        self.missing.clear();
        self.record = record;
        self.pin.replace([]);
        self.schedule.published();
        self.show_rest();
        Ok(())
    }

    /// Makes a manifest of the rows as they are, and shows it to others.
    fn make_and_tell(&self, standing: Standing) -> Result<Made, SyncError> {
        let path = shown(&self.config.folder.path);
        let naming =
            Naming { folder: &self.mailbox.id, name: &self.config.folder.name, path: &path };
        let is_stopped = || self.mailbox.monitor.is_interrupted();
        let made = publish::make(&self.core, &naming, &self.owners, standing, &is_stopped)?;
        let Made::Manifest(record) = &made else { return Ok(made) };
        if let Some(manifest) = &record.manifest {
            tracing::info!(folder = %self.mailbox.id, sequence = %manifest.sequence,
                files = manifest.totals.files, "a manifest was made");
            self.core.publisher.publish(manifest.published(&self.mailbox.id));
        }
        if let Err(error) =
            publish::remove_old_roots(&self.core, &self.mailbox.id, Some(record.sequence()))
        {
            // It takes room until the next manifest.
            tracing::warn!(folder = %self.mailbox.id, error = with_causes(&error),
                "the root of an old manifest stays");
        }
        Ok(made)
    }

    /// Has files read again whose content is not there any more. What cannot be
    /// read again is as a new file that cannot be read: it is on the error
    /// list, and all others need not wait for it.
    fn read_missing(&mut self, missing: Vec<(RelPath, RowStamp)>) -> Result<(), SyncError> {
        tracing::warn!(folder = %self.mailbox.id, files = missing.len(),
            "content that is to be published is not there any more; it is read again");
        let (mut lost, mut errors) = (Batch::default(), Batch::default());
        for (path, stamp) in missing {
            if self.missing.insert(path.clone()) {
                self.again.add_file(path.clone());
                self.suspects.insert(path);
            } else {
                let what = "what was known of it is lost, and it cannot be read again".to_owned();
                errors.add(path.clone(), Change::Fail { what, is_marked: false });
                lost.forget(path, Some(stamp));
            }
        }
        for batch in [lost, errors] {
            if !batch.is_empty() {
                self.core.index.apply(&self.mailbox.id, &batch, self.core.clock.now())?;
            }
        }
        self.again_at = Some(self.now());
        self.schedule.published();
        Ok(())
    }
}

/// A first look at a folder, which may take hours. What was found by then is
/// published again and again, marked as a part of the folder, so that the
/// backup server pulls while the rest is looked at.
pub(super) struct FirstLook<'a> {
    task: &'a Task,
    begun: Duration,
    /// When the last manifest was made.
    last: Duration,
}

impl<'a> FirstLook<'a> {
    /// `None`: the folder was looked through before, or there is a manifest of
    /// all of it.
    pub(super) fn begin(task: &'a Task) -> Option<Self> {
        let manifest = task.record.manifest.as_ref();
        let has_all = manifest.is_some_and(|manifest| !manifest.is_unfinished);
        let now = task.now();
        (!task.record.is_scanned && !has_all).then_some(Self { task, begun: now, last: now })
    }

    /// How long what was found waits at most until it is published.
    pub(super) fn pause(&self) -> Duration {
        let passed = self.last.saturating_sub(self.begun);
        self.task.core.tuning.first_look_pause.max(passed / PAUSE_SHARE)
    }

    /// Publishes what was found by now, where it is time.
    pub(super) fn publish(&mut self) -> Result<(), SyncError> {
        let now = self.task.now();
        if now.saturating_sub(self.last) < self.pause() {
            return Ok(());
        }
        // Where content is missing, the look at the end tells.
        if let Made::Manifest(record) = self.task.make_and_tell(Standing::Unfinished)? {
            self.task.show_record(&record, FolderState::Scanning);
        }
        self.last = self.task.now();
        Ok(())
    }
}
