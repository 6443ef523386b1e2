//! Snapshots that were confirmed and are lost: after a loss of roots, the store does not know how
//! far a source had come. The signed receipts tell that, so a source that goes back to an older
//! state is noticed.

use std::collections::BTreeMap;

use manifest::FolderHistory;
use protocols::Confirmation;
use tokio::time::Instant;
use types::{Cid, FolderId};

use super::SourceTask;
use super::folder::Folder;
use crate::confirmed_snapshot::LastConfirmation;

impl SourceTask {
    /// Determines again which confirmed snapshots are lost.
    pub(super) async fn load_lost(&mut self) {
        let confirmed = self.context.effects.confirmed(self.source.peer_id).await;
        let before = std::mem::take(&mut self.lost);
        for LastConfirmation { confirmation, is_stored } in confirmed {
            let id = confirmation.folder_id.clone();
            if is_stored && let Some(folder) = self.folders.get_mut(&id) {
                folder.acknowledged(confirmation.manifest_cid, Instant::now());
            }
            if !is_lost(&confirmation, self.folders.get(&id)) {
                continue;
            }
            let known = self.lost.get(&id);
            if known.is_none_or(|known| known.sequence < confirmation.sequence) {
                self.lost.insert(id, confirmation);
            }
        }
        for (folder, lost) in self.lost.iter().filter(|(id, lost)| before.get(id) != Some(lost)) {
            let (source, sequence) = (self.source.name.as_str(), lost.sequence.0);
            tracing::warn!(
                source,
                %folder,
                sequence,
                "the snapshot that was confirmed last is not stored any more; an older manifest \
                 of the folder is refused"
            );
        }
    }

    /// Returns the history of each folder for [`manifest::check`].
    pub(super) fn history(&self) -> BTreeMap<FolderId, FolderHistory> {
        let ids = self.folders.keys().chain(self.lost.keys());
        let history = |id: &FolderId| {
            let last = self.last_taken(id)?;
            let accepted = self.context.acceptances.get(&self.source.peer_id, id, &last);
            let folder = self.folders.get(id);
            let Some(lost) = self.lost.get(id) else {
                return folder?.history(accepted, self.set_back(id));
            };
            Some(FolderHistory {
                sequence: lost.sequence,
                manifest: lost.manifest_cid,
                older: folder.map(|folder| folder.older.clone()).unwrap_or_default(),
                accepted,
                set_back: self.set_back(id),
                is_lost: true,
            })
        };
        ids.filter_map(|id| Some((id.clone(), history(id)?))).collect()
    }

    /// Returns the manifest of a folder that was taken last.
    pub(super) fn last_taken(&self, id: &FolderId) -> Option<Cid> {
        match self.lost.get(id) {
            Some(lost) => Some(lost.manifest_cid),
            None => Some(self.folders.get(id)?.last_taken()?.record.manifest),
        }
    }
}

/// Reports whether neither the confirmed snapshot nor a later one is stored.
fn is_lost(confirmed: &Confirmation, folder: Option<&Folder>) -> bool {
    let Some(newest) = folder.and_then(Folder::last_taken) else { return true };
    // After an accepted reset of the source, the number of the newest snapshot is lower.
    newest.record.sequence < confirmed.sequence && newest.record.received_at < confirmed.received_at
}
