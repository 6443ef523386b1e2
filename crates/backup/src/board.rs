//! The board on which the sources' tasks write how they are, for everybody
//! else to read.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::status::{BackupEvent, SourceStatus, Totals};

/// Events that a slow listener may be behind before it misses some.
const EVENTS_MAX: usize = 256;

/// What has changed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    /// Counts all changes.
    pub(crate) changes: u64,
    /// Counts those that are to be on the disk at once: a pull has ended, or a
    /// source is in another state.
    pub(crate) ends: u64,
}

/// The board. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sources: Mutex<BTreeMap<String, Arc<SourceStatus>>>,
    totals: Mutex<Totals>,
    events: broadcast::Sender<BackupEvent>,
    version: watch::Sender<Version>,
}

impl Board {
    /// An empty one.
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

    /// Tells how a source is; nothing happens where that is known, nor where
    /// who tells it was stopped: then somebody else has the word.
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
        // It is no matter if nobody listens.
        let _ = self.0.events.send(BackupEvent::Source(status));
        self.changed(is_end);
    }

    /// Takes a source off.
    pub(crate) fn remove(&self, name: &str) {
        if self.0.sources.lock().remove(name).is_some() {
            let _ = self.0.events.send(BackupEvent::SourceRemoved { name: name.to_owned() });
            self.changed(true);
        }
    }

    /// All sources, by name.
    pub(crate) fn sources(&self) -> Vec<Arc<SourceStatus>> {
        self.0.sources.lock().values().cloned().collect()
    }

    /// Counts.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Totals)) {
        change(&mut self.0.totals.lock());
        self.changed(true);
    }

    /// The totals.
    pub(crate) fn totals(&self) -> Totals {
        *self.0.totals.lock()
    }

    /// Tells of something.
    pub(crate) fn tell(&self, event: BackupEvent) {
        let _ = self.0.events.send(event);
    }

    /// What happens from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<BackupEvent> {
        self.0.events.subscribe()
    }

    /// Tells when there is something new to read.
    pub(crate) fn watch(&self) -> watch::Receiver<Version> {
        self.0.version.subscribe()
    }
}
