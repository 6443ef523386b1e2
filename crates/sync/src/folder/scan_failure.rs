//! The reasons why a scan of a folder was given up.

use fstree::RootError;
use types::with_causes;

use super::Task;
use crate::error::SyncError;
use crate::status::AlarmKind;

/// The reason why a scan was given up.
pub(super) enum ScanFailure {
    Alarm(AlarmKind, String),
    Other(SyncError),
}

impl From<SyncError> for ScanFailure {
    fn from(error: SyncError) -> Self {
        Self::Other(error)
    }
}

impl Task {
    pub(super) fn root_failure(&self, error: &RootError) -> ScanFailure {
        match error {
            RootError::Replaced(_) => self.root_replaced(),
            error => ScanFailure::Alarm(AlarmKind::RootGone, with_causes(error)),
        }
    }

    pub(super) fn root_replaced(&self) -> ScanFailure {
        let folder = &self.config.folder;
        let text = format!(
            "{} is not the directory that was backed up before. Mount the right disk, or run \
             `archivist folder confirm {}` to back up this directory from now on",
            folder.path.display(),
            folder.id
        );
        ScanFailure::Alarm(AlarmKind::RootReplaced, text)
    }
}
