//! When the backup server is told of what: pure.
//!
//! Each folder's newest manifest is told at once, and again in intervals until
//! it is acknowledged or was told often enough. A newer manifest begins anew.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;
use types::{FolderId, SequenceNumber};

use super::{NotifySettings, NotifyState};

/// What is known of every folder.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    folders: BTreeMap<FolderId, Told>,
    settings: NotifySettings,
}

#[derive(Clone, Debug)]
struct Told {
    sequence: SequenceNumber,
    attempts: u32,
    last: Option<(Instant, Timestamp)>,
    error: Option<String>,
    is_overdue: bool,
}

impl Told {
    fn new(sequence: SequenceNumber) -> Self {
        Self { sequence, attempts: 0, last: None, error: None, is_overdue: false }
    }
}

impl Schedule {
    /// Takes what is published, what is acknowledged and how things are to be.
    pub(super) fn update(
        &mut self,
        settings: &NotifySettings,
        published: &BTreeMap<FolderId, SequenceNumber>,
        acknowledged: &BTreeMap<FolderId, SequenceNumber>,
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
        let is_open = |folder: &FolderId, sequence: SequenceNumber| {
            acknowledged.get(folder).is_none_or(|number| *number < sequence)
        };
        self.folders.retain(|folder, _| published.contains_key(folder));
        for (folder, sequence) in published {
            if !is_open(folder, *sequence) {
                self.folders.remove(folder);
                continue;
            }
            let told = self.folders.entry(folder.clone()).or_insert_with(|| Told::new(*sequence));
            if told.sequence != *sequence {
                *told = Told::new(*sequence);
            }
        }
    }

    /// When something is to be done next.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let open = self.folders.values().filter(|told| !told.is_overdue);
        open.map(|told| self.due(told, now)).min()
    }

    fn due(&self, told: &Told, now: Instant) -> Instant {
        told.last.map_or(now, |(last, _)| last + self.settings.retry_interval)
    }

    /// Notes the folders whose last telling has had its time; returns those.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(FolderId, SequenceNumber)> {
        let interval = self.settings.retry_interval;
        let most = self.settings.max_retries.saturating_add(1);
        let mut overdue = Vec::new();
        for (folder, told) in &mut self.folders {
            let has_passed = told.last.is_some_and(|(last, _)| last + interval <= now);
            if has_passed && told.attempts >= most && !told.is_overdue {
                told.is_overdue = true;
                overdue.push((folder.clone(), told.sequence));
            }
        }
        overdue
    }

    /// Begins an attempt, where one is due: the folders that it is for.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        time: Timestamp,
    ) -> Vec<(FolderId, SequenceNumber)> {
        let most = self.settings.max_retries.saturating_add(1);
        let interval = self.settings.retry_interval;
        let mut begun = Vec::new();
        for (folder, told) in &mut self.folders {
            let is_due = told.last.is_none_or(|(last, _)| last + interval <= now);
            if is_due && told.attempts < most {
                told.attempts += 1;
                told.last = Some((now, time));
                begun.push((folder.clone(), told.sequence));
            }
        }
        begun
    }

    /// Notes how an attempt ended.
    pub(super) fn ended(&mut self, begun: &[(FolderId, SequenceNumber)], error: Option<&str>) {
        for (folder, sequence) in begun {
            if let Some(told) = self.folders.get_mut(folder)
                && told.sequence == *sequence
            {
                told.error = error.map(str::to_owned);
            }
        }
    }

    /// Somebody has told the backup server by hand: from here on as if the
    /// first attempt had been made now.
    pub(super) fn told_by_hand(&mut self, now: Instant, time: Timestamp) {
        for told in self.folders.values_mut() {
            told.attempts = 1;
            told.last = Some((now, time));
            told.is_overdue = false;
        }
    }

    /// How it stands with each folder that is not acknowledged.
    pub(super) fn states(&self) -> BTreeMap<FolderId, NotifyState> {
        let state = |told: &Told| NotifyState {
            sequence: told.sequence,
            attempts: told.attempts,
            last_attempt_at: told.last.map(|(_, time)| time),
            error: told.error.clone(),
            is_overdue: told.is_overdue,
        };
        self.folders.iter().map(|(folder, told)| (folder.clone(), state(told))).collect()
    }
}
