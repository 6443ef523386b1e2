//! What a folder's task does because somebody asks for it, and the answers.

use std::time::Duration;

use types::{PublishedManifest, with_causes};

use super::mailbox::{ConfirmReply, ScanReply};
use super::{Task, shown};
use crate::error::SyncError;
use crate::publish::Standing;

/// A scan that somebody asked for is repeated for so long for what changes
/// while it is looked at.
const ASKED_PATIENCE: Duration = Duration::from_secs(2);
/// How soon.
const ASKED_PAUSE: Duration = Duration::from_millis(20);

impl Task {
    pub(super) fn refuse(
        &self,
        scans: Vec<ScanReply>,
        confirms: Vec<ConfirmReply>,
        error: impl Fn() -> SyncError,
    ) {
        // Whoever asked may have gone.
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
        let result = self.scan_and_publish();
        if let Err(error) = &result {
            self.note_trouble(error);
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

    /// Looks at everything, and publishes whatever is in no manifest yet.
    fn scan_and_publish(&mut self) -> Result<PublishedManifest, SyncError> {
        self.schedule.unblock();
        let end = self.now() + ASKED_PATIENCE;
        self.is_asked = true;
        let mut looked = self.look_at_all();
        while looked.is_ok() && self.is_unsettled() && self.now() < end {
            std::thread::sleep(ASKED_PAUSE);
            looked = self.look_at_dirt();
        }
        self.is_asked = false;
        looked?;
        if self.wants_manifest()? {
            self.publish(Standing::Found)?;
            // Something may have to be read again first, or to be given up.
            for _ in 0..2 {
                if self.missing.is_empty() {
                    break;
                }
                self.look_at_dirt()?;
                self.publish(Standing::Found)?;
            }
        }
        let manifest = self.record.manifest.as_ref();
        let published = manifest.map(|manifest| manifest.published(&self.mailbox.id));
        published.ok_or_else(|| SyncError::Failed {
            folder: self.mailbox.id.clone(),
            text: "files change while they are read; it is tried again".to_owned(),
        })
    }

    /// Whether something changed while it was looked at, and may be still by now.
    pub(super) fn is_unsettled(&self) -> bool {
        let restless = self.retries.restless(self.now(), &self.core.tuning);
        !self.again.is_empty() || self.retries.all().len() > restless.len()
    }

    /// Whether there is anything that the last manifest does not say.
    fn wants_manifest(&self) -> Result<bool, SyncError> {
        if self.record.pending > 0 || self.is_otherwise() {
            return Ok(true);
        }
        let segments = self.core.index.snapshot()?.segments(self.record.number)?;
        Ok(segments.iter().any(|(_, segment)| segment.stale > 0))
    }

    /// Whether the last manifest has another name or place for the folder, or
    /// is only of a part of it, or there is none.
    pub(super) fn is_otherwise(&self) -> bool {
        let folder = &self.config.folder;
        self.record.manifest.as_ref().is_none_or(|manifest| {
            manifest.is_unfinished
                || manifest.folder_name != folder.name
                || manifest.folder_path != shown(&folder.path)
        })
    }

    pub(super) fn confirm(&mut self, replies: Vec<ConfirmReply>) {
        let result = self.confirm_impl();
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
            self.note_trouble(error);
        }
    }

    fn confirm_impl(&mut self) -> Result<(), SyncError> {
        if self.record.alarm.is_some() {
            self.schedule.unblock();
            self.is_accepted = true;
            let looked = self.look_at_all();
            self.is_accepted = false;
            looked?;
        }
        self.core.index.update(&self.mailbox.id, |record| {
            record.losses.clear();
            record.removals.clear();
            record.lost = 0;
        })?;
        self.reload()?;
        if self.record.held.is_some() || self.wants_manifest()? {
            self.publish(Standing::Confirmed)?;
        }
        Ok(())
    }
}
