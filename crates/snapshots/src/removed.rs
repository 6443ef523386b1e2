//! Snapshots that the owner of the backup server removes by hand.
//!
//! A snapshot is locked for some days after its arrival, by the backup server's clock. If the
//! newest snapshot of a folder is removed, a root `removed/…` keeps a copy of its record, without
//! its blocks: the backup server does not pull that manifest again, and refuses an older one.
//!
//! Order: the copy is durable before the snapshot is removed. A copy is ignored while the folder
//! has a snapshot of the same or a higher order.

use jiff::{SignedDuration, Timestamp};
use net::PeerId;
use store::{Root, StoreError};
use types::{Block, Codec, EncodedBlock, FolderId};

use crate::record::SnapshotRecord;
use crate::snapshot_id::SnapshotId;
use crate::snapshot_reader::{REMOVED_PREFIX, Snapshot, SnapshotError, SnapshotReader};
use crate::snapshot_store::SnapshotStore;

/// Returns the prefix of the names of the roots for a folder.
fn folder_prefix(source: &PeerId, folder: &FolderId) -> String {
    format!("{REMOVED_PREFIX}{source}/{folder}/")
}

/// Returns the name of the root with the record of a removed snapshot.
fn removed_name(record: &SnapshotRecord) -> String {
    format!("{}{:016}", folder_prefix(&record.source, &record.folder), record.order)
}

/// A request to remove a snapshot by hand.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// Days after its arrival for which a snapshot is locked.
    pub lock_days: u32,
    /// True if the user knows that the snapshot may be the newest of its folder.
    pub newest_too: bool,
    /// The current time.
    pub now: Timestamp,
}

/// Reason why a snapshot is not removed by hand.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The snapshot is locked; holds the end of the lock.
    #[error(
        "the snapshot is locked until {0:.0} (backup_server.lock_days): nobody can remove it before"
    )]
    Locked(Timestamp),
    /// The snapshot is the newest of its folder.
    #[error(
        "the snapshot is the newest of its folder, and the backup server does not pull the same \
         state again: use --newest to remove it all the same"
    )]
    Newest,
    /// The snapshot does not exist any more.
    #[error("the snapshot was removed already")]
    Gone,
    /// The snapshots cannot be read or changed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Returns the time until which a snapshot is locked.
pub fn locked_until(received_at: Timestamp, lock_days: u32) -> Timestamp {
    let lock = SignedDuration::from_hours(24 * i64::from(lock_days));
    received_at.checked_add(lock).unwrap_or(Timestamp::MAX)
}

impl SnapshotStore {
    /// Removes a snapshot for the owner of the backup server. The next collection deletes its
    /// blocks.
    ///
    /// # Errors
    ///
    /// Returns [`RemoveError::Locked`] while the snapshot is locked, [`RemoveError::Newest`] for
    /// the newest snapshot of a folder unless [`Removal::newest_too`], [`RemoveError::Gone`] if it
    /// does not exist, and [`RemoveError::Snapshot`] if the store fails.
    pub fn remove_by_hand(
        &self,
        snapshot: &Snapshot,
        removal: &Removal,
    ) -> Result<(), RemoveError> {
        let record = &snapshot.record;
        let until = locked_until(record.received_at, removal.lock_days);
        // A clock that was set back does not end the lock.
        if removal.now < until {
            return Err(RemoveError::Locked(until));
        }
        let newest = self.newest(&record.source, &record.folder)?;
        if newest.is_none_or(|newest| newest.record.order <= record.order) {
            if !removal.newest_too {
                return Err(RemoveError::Newest);
            }
            self.keep_record(record)?;
        }
        if !self.remove(snapshot)? {
            return Err(RemoveError::Gone);
        }
        let SnapshotRecord { source, folder, sequence, .. } = record;
        let id = &snapshot.id;
        tracing::info!(%source, %folder, %sequence, snapshot = %id, "a user removed a snapshot");
        Ok(())
    }

    /// Stores the copy of a record durably, and removes those of earlier snapshots.
    fn keep_record(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        let new = removed_name(record);
        let known = self.store().roots(&folder_prefix(&record.source, &record.folder));
        if known.iter().any(|(name, _)| *name >= new) {
            return Ok(());
        }
        let epoch = self.store().write_epoch();
        // A raw block has no links, so the copy keeps no block of the snapshot.
        let copy = Block::new(Codec::Raw, record.encode()?.data().to_vec());
        let copy = copy.map_err(StoreError::from)?;
        let cid = copy.cid();
        let pin = self.store().pin();
        pin.add([cid]);
        self.store().put(&[EncodedBlock::plain(copy)])?;
        self.store().set_root(&new, Root { cid, partial: false }, epoch)?;
        for (name, _) in known {
            self.store().remove_root(&name)?;
        }
        Ok(())
    }
}

impl SnapshotReader {
    /// Returns the removed snapshots of a source, of one folder or all, that were the newest of
    /// their folders. A copy that cannot be read is logged and left out.
    ///
    /// # Errors
    ///
    /// Returns [`SnapshotError::Store`] if the store cannot be read.
    pub fn removed_newest(
        &self,
        source: &PeerId,
        folder: Option<&FolderId>,
    ) -> Result<Vec<Snapshot>, SnapshotError> {
        let prefix = match folder {
            Some(folder) => folder_prefix(source, folder),
            None => format!("{REMOVED_PREFIX}{source}/"),
        };
        let mut removed = Vec::new();
        for (name, root) in self.store().roots(&prefix) {
            let bytes = match self.store().get(&root.cid) {
                Err(error @ (StoreError::Damaged { .. } | StoreError::Newer { .. })) => {
                    tracing::error!(root = name, %error, "cannot read a removed snapshot");
                    continue;
                }
                bytes => bytes?.unwrap_or_default(),
            };
            let record = SnapshotRecord::decode(&bytes);
            match record.ok().filter(|record| removed_name(record) == name) {
                Some(record) => {
                    let cid = record.encode()?.cid();
                    removed.push(Snapshot { id: SnapshotId::of(&cid), cid, record });
                }
                None => tracing::error!(root = name, "the record of a removed snapshot is damaged"),
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::{BlockStore, GcOptions, MemStore};

    use super::*;
    use crate::record::tests::record;

    fn commit(snapshots: &SnapshotStore, day: u32) -> Snapshot {
        let epoch = snapshots.store().write_epoch();
        let manifest = Block::new(Codec::Raw, day.to_le_bytes().to_vec()).unwrap();
        let record = SnapshotRecord {
            manifest: manifest.cid(),
            order: snapshots.next_order(),
            received_at: at(day),
            ..record()
        };
        snapshots.store().put(&[EncodedBlock::plain(manifest)]).unwrap();
        snapshots.commit(record, epoch).unwrap()
    }

    fn at(day: u32) -> Timestamp {
        Timestamp::from_second(i64::from(day) * 86_400).unwrap()
    }

    fn removal(lock_days: u32, day: u32) -> Removal {
        Removal { lock_days, newest_too: false, now: at(day) }
    }

    #[test]
    fn a_snapshot_is_locked_for_days_after_its_arrival() {
        let snapshots = SnapshotStore::new(Arc::new(MemStore::new()));
        let first = commit(&snapshots, 100);
        commit(&snapshots, 101);
        for day in [0, 100, 106] {
            let refused = snapshots.remove_by_hand(&first, &removal(7, day)).unwrap_err();
            assert!(matches!(refused, RemoveError::Locked(until) if until == at(107)), "{day}");
        }
        assert_eq!(snapshots.count(), 2);
        snapshots.remove_by_hand(&first, &removal(7, 107)).unwrap();
        assert_eq!(snapshots.count(), 1);
        let gone = snapshots.remove_by_hand(&first, &removal(0, 107)).unwrap_err();
        assert!(matches!(gone, RemoveError::Gone));
    }

    #[test]
    fn the_newest_snapshot_is_removed_only_if_stated_and_its_number_stays_known() {
        let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
        let snapshots = SnapshotStore::new(store.clone());
        let [first, second] = [1, 2].map(|day| commit(&snapshots, day));
        let (source, folder) = (first.record.source, first.record.folder.clone());
        let mut removal = removal(0, 3);
        let refused = snapshots.remove_by_hand(&second, &removal).unwrap_err();
        assert!(matches!(refused, RemoveError::Newest));
        assert_eq!(snapshots.count(), 2);
        removal.newest_too = true;
        snapshots.remove_by_hand(&second, &removal).unwrap();
        snapshots.remove_by_hand(&first, &removal).unwrap();
        store.gc(GcOptions::default()).unwrap();
        assert_eq!(snapshots.count(), 0);
        assert!(!store.has(&second.record.manifest).unwrap(), "its blocks are deleted");
        // Another process knows the newest one, and gives no order twice.
        let again = SnapshotStore::new(store);
        assert_eq!(again.removed_newest(&source, Some(&folder)).unwrap(), [second]);
        assert!(again.removed_newest(&PeerId::random(), None).unwrap().is_empty());
        assert_eq!(again.next_order(), 3);
        let is_known = |order| again.may_have(&source, &folder, |record| record.order == order);
        assert_eq!([1, 2].map(|order| is_known(order).unwrap()), [false, true]);
    }
}
