//! The current status of every folder, and the changes of it for subscribers.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use types::FolderId;

use crate::settings::Confirmations;
use crate::status::{FolderStatus, Receipt};

/// Maximum number of changes that wait for a slow subscriber. A subscriber that misses
/// changes has to read all statuses again.
const CHANGES_MAX: usize = 256;

/// The current statuses of all folders.
#[derive(Clone, Debug)]
pub(crate) struct StatusRegistry {
    statuses: Arc<Mutex<BTreeMap<FolderId, Arc<FolderStatus>>>>,
    changes: broadcast::Sender<Arc<FolderStatus>>,
    confirmations: Arc<dyn Confirmations>,
}

impl StatusRegistry {
    pub(crate) fn new(confirmations: Arc<dyn Confirmations>) -> Self {
        let changes = broadcast::Sender::new(CHANGES_MAX);
        Self { statuses: Arc::default(), changes, confirmations }
    }

    /// Returns the newest snapshot of a folder that the backup server has confirmed.
    pub(crate) fn confirmed(&self, folder: &FolderId) -> Option<Receipt> {
        self.confirmations.newest(folder)
    }

    /// Sets the status of a folder, and sends it to the subscribers if it has changed. The
    /// receipt in it is always the newest one.
    pub(crate) fn set(&self, status: FolderStatus) {
        self.set_locked(&mut self.statuses.lock(), status);
    }

    fn set_locked(
        &self,
        statuses: &mut BTreeMap<FolderId, Arc<FolderStatus>>,
        mut status: FolderStatus,
    ) {
        // Read under the lock, so that a change of the receipt is never overwritten.
        let newest = self.confirmations.newest(&status.id);
        // A source that lost its state gives numbers again that were confirmed before.
        status.receipt = newest.filter(|receipt| {
            receipt.sequence < status.sequence || Some(receipt.manifest_cid) == status.manifest_cid
        });
        let status = Arc::new(status);
        let before = statuses.insert(status.id.clone(), status.clone());
        if before.as_ref() != Some(&status) {
            // The call fails if nobody has subscribed.
            let _ = self.changes.send(status);
        }
    }

    /// Updates the receipt in the status of a folder, if it has a status.
    pub(crate) fn receipt_changed(&self, folder: &FolderId) {
        let mut statuses = self.statuses.lock();
        if let Some(status) = statuses.get(folder).cloned() {
            self.set_locked(&mut statuses, FolderStatus::clone(&status));
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
