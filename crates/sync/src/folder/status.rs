//! The status that a folder's thread shows.

use types::{RelPath, SequenceNumber};

use super::Task;
use crate::index::{ErrorRow, FolderRecord};
use crate::status::{
    FileProblem, FolderState, FolderStatus, STATUS_ERRORS_MAX, WatchMode, WatchStatus,
};

impl Task {
    /// Shows the status of a folder on which no work is running.
    pub(crate) fn show_rest(&mut self) {
        if let Ok(Some(record)) = self.context.index.folder(&self.mailbox.id) {
            self.record = record;
        }
        let manifest = self.record.manifest.as_ref();
        if self.record.pending == 0 && manifest.is_some_and(|manifest| !manifest.is_unfinished) {
            self.covers_until = self.scanned_until;
        }
        let state = if self.config.folder.paused {
            FolderState::Paused
        } else if let Some(alarm) = &self.record.alarm {
            let (kind, text, since) = (alarm.kind, alarm.text.clone(), alarm.since);
            FolderState::Alarm { kind, text, since }
        } else if let Some((text, since)) = &self.last_error {
            FolderState::Error { text: text.clone(), since: *since }
        } else if !self.record.is_scanned || !self.are_long_files_read() {
            FolderState::Scanning
        } else if self.record.pending > 0 {
            FolderState::Waiting
        } else {
            FolderState::Idle
        };
        self.show(state);
    }

    /// Reports whether each change of the folder leads to a hint.
    pub(super) fn is_watched(&self) -> bool {
        self.watch_status().mode == WatchMode::Watching
    }

    pub(super) fn watch_status(&self) -> WatchStatus {
        let watched = self.context.watcher.watched(self.record.number);
        let needed = watched + self.unwatched;
        let ground = self.ground.as_ref();
        let mode = if ground.is_some_and(|ground| !ground.has_all_events) {
            WatchMode::Polling
        } else if watched < needed {
            WatchMode::Scanning
        } else {
            WatchMode::Watching
        };
        let file_system = ground.map(|ground| ground.file_system.clone()).unwrap_or_default();
        WatchStatus { watched, needed, mode, file_system }
    }

    pub(super) fn show(&self, state: FolderState) {
        self.show_record(&self.record, state);
    }

    /// Shows the status that follows from this record.
    pub(super) fn show_record(&self, record: &FolderRecord, state: FolderState) {
        let errors = if record.errors == 0 {
            Vec::new()
        } else {
            let errors = self.context.index.errors(record.number, STATUS_ERRORS_MAX);
            errors.unwrap_or_default().into_iter().map(problem).collect()
        };
        self.context.statuses.set(self.status(record, state, errors));
    }

    fn status(
        &self,
        record: &FolderRecord,
        state: FolderState,
        errors: Vec<FileProblem>,
    ) -> FolderStatus {
        let FolderRecord { rows, manifest, .. } = record;
        let folder = &self.config.folder;
        FolderStatus {
            id: self.mailbox.id.clone(),
            name: folder.name.clone(),
            path: folder.path.clone(),
            state,
            sequence: manifest.as_ref().map_or(SequenceNumber(0), |manifest| manifest.sequence),
            manifest_cid: manifest.as_ref().map(|manifest| manifest.cid),
            published_at: manifest.as_ref().map(|manifest| manifest.at),
            covers_until: self.covers_until,
            files: rows.files,
            dirs: rows.dirs,
            bytes: rows.bytes,
            pending_changes: record.pending,
            error_count: record.errors,
            errors,
            left_out: record.left_out.clone(),
            watch: self.watch_status(),
            awaiting_confirmation: record.awaiting_confirmation.clone(),
            // The registry of the statuses knows it.
            receipt: None,
            last_scan: record.last_scan,
            hook_error: self.hook_error(),
            progress: self.mailbox.progress(),
            files_read: self.mailbox.files_read(),
            stalled_for: None,
        }
    }
}

/// Converts a row of the error list to its public form.
pub(crate) fn problem((path, error): (RelPath, ErrorRow)) -> FileProblem {
    let since = jiff::Timestamp::from_millisecond(error.since_ms).unwrap_or_default();
    FileProblem { path, what: error.what, since }
}
