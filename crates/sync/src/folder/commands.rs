//! Commands to a folder's thread, a requested scan and a confirmation, and their answers.

use std::time::Duration;

use types::{PublishedManifest, with_causes};

use super::mailbox::{ConfirmReply, ScanReply};
use super::{Task, display_path};
use crate::error::SyncError;
use crate::publish::ManifestKind;
use crate::scan::is_mount_error;

/// Time for which a requested scan repeats the scan of files that change meanwhile.
const RETRY_TIME: Duration = Duration::from_secs(2);
/// Pause between two of these scans.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

impl Task {
    pub(super) fn refuse(
        &self,
        scans: Vec<ScanReply>,
        confirms: Vec<ConfirmReply>,
        error: impl Fn() -> SyncError,
    ) {
        // Sending fails if the requester no longer waits.
        for reply in scans {
            let _ = reply.send(Err(error()));
        }
        for reply in confirms {
            let _ = reply.send(Err(error()));
        }
    }

    pub(super) fn answer_scans(&mut self, replies: Vec<ScanReply>) {
        if replies.is_empty() {
            return;
        }
        match self.scan_for_requests() {
            Ok(()) if !self.are_long_files_read() => {
                self.long.add_replies(self.now(), replies);
                self.show_rest();
            }
            Ok(()) => {
                let result = self.publish_for_requests();
                self.answer(replies, result);
            }
            Err(error) => self.answer(replies, Err(error)),
        }
    }

    /// Answers requests for a scan whose long files were read meanwhile.
    pub(super) fn answer_read_scans(&mut self, replies: Vec<ScanReply>) {
        let result = self.publish_for_requests();
        self.answer(replies, result);
    }

    fn answer(&mut self, replies: Vec<ScanReply>, result: Result<PublishedManifest, SyncError>) {
        if let Err(error) = &result {
            self.report_error(error);
        }
        self.show_rest();
        let mut replies = replies.into_iter();
        let first = replies.next();
        for reply in replies {
            let _ = reply.send(match &result {
                Ok(published) => Ok(published.clone()),
                Err(error) => Err(SyncError::Failed {
                    folder: self.mailbox.id.clone(),
                    text: with_causes(error),
                }),
            });
        }
        if let Some(first) = first {
            let _ = first.send(result);
        }
    }

    /// Scans the folder completely.
    fn scan_for_requests(&mut self) -> Result<(), SyncError> {
        self.schedule.unblock();
        let end = self.now() + RETRY_TIME;
        self.is_on_request = true;
        let mut scanned = self.scan_all();
        while scanned.is_ok() && self.has_unstable_files() && self.now() < end {
            std::thread::sleep(RETRY_PAUSE);
            scanned = self.scan_dirty();
        }
        self.is_on_request = false;
        scanned
    }

    /// Publishes all changes, and returns the last manifest.
    fn publish_for_requests(&mut self) -> Result<PublishedManifest, SyncError> {
        self.replace_lost()?;
        if self.needs_manifest()? || self.config.folder.hooks.exist() {
            self.is_on_request = true;
            let published = self.publish_with_hooks();
            self.is_on_request = false;
            published?;
            // Missing content has to be read again first. The second time it is given up.
            for _ in 0..2 {
                if self.missing.is_empty() {
                    break;
                }
                self.scan_dirty()?;
                self.publish_found()?;
            }
        }
        let manifest = self.record.manifest.as_ref();
        let published = manifest.map(|manifest| manifest.published(&self.mailbox.id));
        published.ok_or_else(|| SyncError::Failed {
            folder: self.mailbox.id.clone(),
            text: "the files keep changing while they are read; the scan will be retried"
                .to_owned(),
        })
    }

    /// Reports whether files changed while they were read and may be readable by now.
    pub(super) fn has_unstable_files(&self) -> bool {
        !self.rescan.is_empty() || self.retries.all().len() > self.retries.unstable().len()
    }

    /// Reports whether a new manifest would differ from the last one.
    pub(super) fn needs_manifest(&self) -> Result<bool, SyncError> {
        if self.record.pending > 0 || self.is_manifest_outdated() {
            return Ok(true);
        }
        let segments = self.context.index.snapshot()?.segments(self.record.number)?;
        Ok(segments.iter().any(|(_, segment)| segment.stale > 0))
    }

    /// Reports whether the last manifest has another name or path of the folder, is a partial
    /// one, or does not exist.
    pub(super) fn is_manifest_outdated(&self) -> bool {
        let folder = &self.config.folder;
        self.record.manifest.as_ref().is_none_or(|manifest| {
            manifest.is_unfinished
                || manifest.folder_name != folder.name
                || manifest.folder_path != display_path(&folder.path)
        })
    }

    pub(super) fn answer_confirms(&mut self, replies: Vec<ConfirmReply>) {
        let result = self.confirm();
        self.show_rest();
        for reply in replies {
            let _ = reply.send(match &result {
                Ok(()) => Ok(()),
                Err(SyncError::Alarm { folder, text }) => {
                    Err(SyncError::Alarm { folder: folder.clone(), text: text.clone() })
                }
                Err(error) => Err(SyncError::Failed {
                    folder: self.mailbox.id.clone(),
                    text: with_causes(error),
                }),
            });
        }
        if let Err(error) = &result {
            self.report_error(error);
        }
    }

    /// Reports whether another file system is at a mount point than the one that was backed
    /// up, or none.
    fn has_mount_errors(&self) -> Result<bool, SyncError> {
        let errors = self.context.index.errors(self.record.number, usize::MAX)?;
        Ok(errors.iter().any(|(_, error)| is_mount_error(&error.what)))
    }

    fn confirm(&mut self) -> Result<(), SyncError> {
        let is_alarm = self.record.alarm.is_some();
        if is_alarm || self.has_mount_errors()? {
            self.schedule.unblock();
            (self.is_root_confirmed, self.are_mounts_confirmed) = (is_alarm, true);
            let scanned = self.scan_all();
            (self.is_root_confirmed, self.are_mounts_confirmed) = (false, false);
            scanned?;
        }
        self.context.index.update(&self.mailbox.id, |record| {
            record.losses.clear();
            record.removals.clear();
            record.lost = 0;
        })?;
        self.reload()?;
        if self.record.awaiting_confirmation.is_some() || self.needs_manifest()? {
            match self.publish_kind() {
                Some(ManifestKind::Guarded) => self.publish(ManifestKind::Confirmed)?,
                _ => self.publish_found()?,
            }
        }
        Ok(())
    }
}
