//! The registry of the statuses of all sources: their tasks write it, everyone else reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::status::{BackupEvent, BackupTotals, SourceStatus};

/// Maximum number of events that a slow receiver can be behind before it misses some.
const EVENTS_MAX: usize = 256;

/// Counters of the changes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    /// Number of all changes.
    pub(crate) changes: u64,
    /// Number of changes that must be written to the state file immediately: a pull has ended, or a
    /// source has another state.
    pub(crate) ends: u64,
}

/// The registry. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct StatusRegistry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sources: Mutex<BTreeMap<String, Arc<SourceStatus>>>,
    totals: Mutex<BackupTotals>,
    events: broadcast::Sender<BackupEvent>,
    version: watch::Sender<Version>,
}

impl StatusRegistry {
    /// Creates an empty registry.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            sources: Mutex::default(),
            totals: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
            version: watch::Sender::default(),
        }))
    }

    fn changed(&self, is_end: bool) {
        self.0.version.send_modify(|version| {
            version.changes += 1;
            version.ends += u64::from(is_end);
        });
    }

    /// Sets the status of a source. Does nothing if the status is unchanged or `stop` is cancelled:
    /// another task may then report the source.
    pub(crate) fn set(&self, status: SourceStatus, stop: Option<&CancellationToken>) {
        let status = Arc::new(status);
        let is_end = {
            let mut sources = self.0.sources.lock();
            if stop.is_some_and(CancellationToken::is_cancelled) {
                return;
            }
            let old = sources.insert(status.name.clone(), status.clone());
            if old.as_deref() == Some(&*status) {
                return;
            }
            old.is_none_or(|old| old.state != status.state || old.pulls.len() != status.pulls.len())
        };
        // There may be no receiver.
        let _ = self.0.events.send(BackupEvent::Source(status));
        self.changed(is_end);
    }

    /// Removes a source.
    pub(crate) fn remove(&self, name: &str) {
        if self.0.sources.lock().remove(name).is_some() {
            let _ = self.0.events.send(BackupEvent::SourceRemoved { name: name.to_owned() });
            self.changed(true);
        }
    }

    /// Returns the statuses of all sources, by name.
    pub(crate) fn sources(&self) -> Vec<Arc<SourceStatus>> {
        self.0.sources.lock().values().cloned().collect()
    }

    /// Changes the totals.
    pub(crate) fn update_totals(&self, change: impl FnOnce(&mut BackupTotals)) {
        change(&mut self.0.totals.lock());
        self.changed(true);
    }

    /// Returns the totals.
    pub(crate) fn totals(&self) -> BackupTotals {
        *self.0.totals.lock()
    }

    /// Sends an event.
    pub(crate) fn send(&self, event: BackupEvent) {
        let _ = self.0.events.send(event);
    }

    /// Returns a receiver of all later events.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<BackupEvent> {
        self.0.events.subscribe()
    }

    /// Returns a receiver that is notified of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<Version> {
        self.0.version.subscribe()
    }
}
