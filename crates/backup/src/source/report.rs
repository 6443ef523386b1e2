//! Publishes the status of a source.

use super::folder::Folder;
use super::{Refused, SourceTask};
use crate::status::{SourceState, SourceStatus};

/// Maximum number of errors in a status.
const ERRORS_MAX: usize = 20;

impl SourceTask {
    /// Writes the status of the source to the registry.
    pub(super) fn publish(&self) {
        let mut errors: Vec<String> = Vec::new();
        errors.extend(self.wrong_peer.iter().map(ToString::to_string));
        errors.extend(self.poll_error.clone());
        errors.extend(self.freshness.error().map(str::to_owned));
        errors.extend(self.refusals.iter().map(|refused| refused.text.clone()));
        for (id, folder) in &self.folders {
            let error = folder.refused().or(folder.error());
            let error = error.or(folder.receipt.error.as_deref());
            errors.extend(error.map(|error| format!("folder {id}: {error}")));
        }
        errors.truncate(ERRORS_MAX);
        let folders = &self.folders;
        let pulls: Vec<_> = folders.iter().filter_map(|(id, folder)| folder.pull(id)).collect();
        let is_refused = self.wrong_peer.is_some()
            || !self.refusals.is_empty()
            || folders.values().any(|folder| folder.refused().is_some());
        let most_failures = folders.values().map(Folder::failures).max().unwrap_or(0);
        let has_failed = self.polling.failures().max(most_failures) > self.common.max_retries;
        let (state, detail) = if self.last_poll.is_none() && !has_failed {
            (SourceState::Starting, errors.first().cloned())
        } else if !pulls.is_empty() && !has_failed {
            (SourceState::Pulling, None)
        } else if is_refused {
            (SourceState::Refused, errors.first().cloned())
        } else if has_failed || self.freshness.error().is_some() {
            (SourceState::Failed, errors.first().cloned())
        } else if self.polling.is_polling() {
            (SourceState::Polling, errors.first().cloned())
        } else {
            (SourceState::Idle, errors.first().cloned())
        };
        let can_be_accepted = |refused: &Refused| refused.accept.is_some();
        let status = SourceStatus {
            name: self.source.name.to_string(),
            peer_id: self.source.peer_id,
            manifest_server_url: self.source.manifest_server_url.to_string(),
            state,
            detail,
            last_poll: self.last_poll,
            poll_failures: self.polling.failures(),
            long_poll: self.polling.has_long_polls(),
            can_be_accepted: self.wrong_peer.is_some() || self.refusals.iter().any(can_be_accepted),
            errors,
            pulls,
            folders: folders.iter().map(|(id, folder)| folder.status(id)).collect(),
        };
        self.context.registry.set(status, Some(&self.context.stop));
    }
}
