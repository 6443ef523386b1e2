//! The schedule of notifications, without I/O.
//!
//! The newest manifest of each folder is notified immediately, then again at intervals until it is
//! confirmed or the retries are used up. A newer manifest starts from the beginning.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;
use types::{FolderId, SequenceNumber};

use super::{NotifySettings, NotifyState};

/// The folders whose newest manifest is not confirmed.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    folders: BTreeMap<FolderId, Unconfirmed>,
    settings: NotifySettings,
}

#[derive(Clone, Debug)]
struct Unconfirmed {
    sequence: SequenceNumber,
    attempts: u32,
    last_attempt: Option<(Instant, Timestamp)>,
    error: Option<String>,
    is_overdue: bool,
}

impl Unconfirmed {
    fn new(sequence: SequenceNumber) -> Self {
        Self { sequence, attempts: 0, last_attempt: None, error: None, is_overdue: false }
    }
}

impl Schedule {
    /// Applies the current settings, published manifests and receipts.
    pub(super) fn update(
        &mut self,
        settings: &NotifySettings,
        published: &BTreeMap<FolderId, SequenceNumber>,
        confirmed: &BTreeMap<FolderId, SequenceNumber>,
    ) {
        if settings.backup_peer != self.settings.backup_peer
            || settings.trigger_port != self.settings.trigger_port
        {
            // Another backup server, or another way to it.
            self.folders.clear();
        }
        self.settings = settings.clone();
        if settings.backup_peer.is_none() || !settings.auto_notify {
            self.folders.clear();
            return;
        }
        let is_unconfirmed = |folder: &FolderId, sequence: SequenceNumber| {
            confirmed.get(folder).is_none_or(|number| *number < sequence)
        };
        self.folders.retain(|folder, _| published.contains_key(folder));
        for (folder, sequence) in published {
            if !is_unconfirmed(folder, *sequence) {
                self.folders.remove(folder);
                continue;
            }
            let new = || Unconfirmed::new(*sequence);
            let entry = self.folders.entry(folder.clone()).or_insert_with(new);
            if entry.sequence != *sequence {
                *entry = new();
            }
        }
    }

    /// Returns the time of the next attempt or expiry, if any.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let active = self.folders.values().filter(|folder| !folder.is_overdue);
        active.map(|folder| self.due(folder, now)).min()
    }

    fn due(&self, folder: &Unconfirmed, now: Instant) -> Instant {
        folder.last_attempt.map_or(now, |(last, _)| last + self.settings.retry_interval)
    }

    /// Marks the folders whose last retry was not confirmed within the interval as overdue, and
    /// returns the newly marked ones.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(FolderId, SequenceNumber)> {
        let interval = self.settings.retry_interval;
        let attempts_max = self.settings.max_retries.saturating_add(1);
        let mut overdue = Vec::new();
        for (folder, entry) in &mut self.folders {
            let has_passed = entry.last_attempt.is_some_and(|(last, _)| last + interval <= now);
            if has_passed && entry.attempts >= attempts_max && !entry.is_overdue {
                entry.is_overdue = true;
                overdue.push((folder.clone(), entry.sequence));
            }
        }
        overdue
    }

    /// Starts an attempt for the folders that are due, and returns them.
    pub(super) fn start(
        &mut self,
        now: Instant,
        time: Timestamp,
    ) -> Vec<(FolderId, SequenceNumber)> {
        let attempts_max = self.settings.max_retries.saturating_add(1);
        let interval = self.settings.retry_interval;
        let mut started = Vec::new();
        for (folder, entry) in &mut self.folders {
            let is_due = entry.last_attempt.is_none_or(|(last, _)| last + interval <= now);
            if is_due && entry.attempts < attempts_max {
                entry.attempts += 1;
                entry.last_attempt = Some((now, time));
                started.push((folder.clone(), entry.sequence));
            }
        }
        started
    }

    /// Records the result of an attempt.
    pub(super) fn ended(&mut self, started: &[(FolderId, SequenceNumber)], error: Option<&str>) {
        for (folder, sequence) in started {
            if let Some(entry) = self.folders.get_mut(folder)
                && entry.sequence == *sequence
            {
                entry.error = error.map(str::to_owned);
            }
        }
    }

    /// Records a manual notification, as if it were the first attempt.
    pub(super) fn notified_manually(&mut self, now: Instant, time: Timestamp) {
        for folder in self.folders.values_mut() {
            folder.attempts = 1;
            folder.last_attempt = Some((now, time));
            folder.is_overdue = false;
        }
    }

    /// Returns the state of each folder that is not confirmed.
    pub(super) fn states(&self) -> BTreeMap<FolderId, NotifyState> {
        let state = |folder: &Unconfirmed| NotifyState {
            sequence: folder.sequence,
            attempts: folder.attempts,
            last_attempt_at: folder.last_attempt.map(|(_, time)| time),
            error: folder.error.clone(),
            is_overdue: folder.is_overdue,
        };
        self.folders.iter().map(|(id, folder)| (id.clone(), state(folder))).collect()
    }
}
