//! The current status of every folder, and the changes of it for subscribers.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use types::FolderId;

use crate::status::FolderStatus;

/// Maximum number of changes that wait for a slow subscriber. A subscriber that misses
/// changes has to read all statuses again.
const CHANGES_MAX: usize = 256;

/// The current statuses of all folders.
#[derive(Clone, Debug)]
pub(crate) struct StatusRegistry {
    statuses: Arc<Mutex<BTreeMap<FolderId, Arc<FolderStatus>>>>,
    changes: broadcast::Sender<Arc<FolderStatus>>,
}

impl StatusRegistry {
    pub(crate) fn new() -> Self {
        Self { statuses: Arc::default(), changes: broadcast::Sender::new(CHANGES_MAX) }
    }

    /// Sets the status of a folder, and sends it to the subscribers if it has changed.
    pub(crate) fn set(&self, status: FolderStatus) {
        let status = Arc::new(status);
        let before = self.statuses.lock().insert(status.id.clone(), status.clone());
        if before.as_ref() != Some(&status) {
            // The call fails if nobody has subscribed.
            let _ = self.changes.send(status);
        }
    }

    /// Changes the status of a folder, if it has one.
    pub(crate) fn update(&self, folder: &FolderId, change: impl FnOnce(&mut FolderStatus)) {
        let found = self.statuses.lock().get(folder).cloned();
        if let Some(status) = found {
            let mut status = FolderStatus::clone(&status);
            change(&mut status);
            self.set(status);
        }
    }

    pub(crate) fn remove(&self, folder: &FolderId) {
        self.statuses.lock().remove(folder);
    }

    pub(crate) fn get(&self, folder: &FolderId) -> Option<Arc<FolderStatus>> {
        self.statuses.lock().get(folder).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<FolderStatus>> {
        self.statuses.lock().values().cloned().collect()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<FolderStatus>> {
        self.changes.subscribe()
    }
}
