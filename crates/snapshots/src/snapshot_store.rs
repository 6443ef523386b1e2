//! The snapshots in a store: committing and removing them.
//!
//! All functions block the thread. [`SnapshotReader`] lists the snapshots.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use net::PeerId;
use store::{Batch, BlockStore, Pin, Root, StoreError, WriteEpoch};
use types::{Block, Codec, EncodedBlock, FolderId, ManifestHeader};

use crate::record::{ORDER_GIVEN_MAX, SnapshotRecord};
use crate::signs::{Before, Signs, find_signs};
use crate::snapshot_id::SnapshotId;
use crate::snapshot_reader::{
    PREFIX, REMOVED_PREFIX, Snapshot, SnapshotError, SnapshotReader, intended_name,
    intended_prefix, order_of, parse_name, root_name,
};
use crate::snapshot_tree::SnapshotTree;

/// The snapshots of one store, to read and to change them: everything that a
/// [`SnapshotReader`] does, and more. Clones share it.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    reader: SnapshotReader,
    store: Arc<dyn BlockStore>,
    last_order: Arc<AtomicU64>,
}

impl Deref for SnapshotStore {
    type Target = SnapshotReader;

    fn deref(&self) -> &SnapshotReader {
        &self.reader
    }
}

impl SnapshotStore {
    /// Creates access to the snapshots in `store`. There must be only one for each store, because
    /// it numbers the snapshots.
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        let roots = store.roots(PREFIX);
        let removed = store.roots(REMOVED_PREFIX);
        let removed = removed.iter().filter_map(|(name, _)| order_of(name));
        let given = roots.iter().filter_map(|(name, _)| Some(parse_name(name)?.2)).chain(removed);
        let last = given.filter(|order| *order <= ORDER_GIVEN_MAX).max();
        Self {
            reader: SnapshotReader::new(store.clone()),
            store,
            last_order: Arc::new(AtomicU64::new(last.unwrap_or(0))),
        }
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// Returns the order of the next snapshot; each number is returned once.
    pub fn next_order(&self) -> u64 {
        self.last_order.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Ensures that numbers up to `order` are not returned as the next one, unless no backup
    /// server can have given `order`.
    pub fn use_order(&self, order: u64) {
        if order <= ORDER_GIVEN_MAX {
            self.last_order.fetch_max(order, Ordering::SeqCst);
        }
    }

    /// Commits a snapshot: the last write of a pull. All its blocks must be in the store, and must
    /// have been stored since `epoch`.
    ///
    /// # Errors
    ///
    /// Returns [`SnapshotError::Record`] if the record is invalid, and [`SnapshotError::Store`] if
    /// the blocks or the root cannot be made durable. No snapshot exists then.
    pub fn commit(
        &self,
        record: SnapshotRecord,
        epoch: WriteEpoch,
    ) -> Result<Snapshot, SnapshotError> {
        let block = record.encode()?;
        let cid = block.cid();
        let pin: Pin = self.store.pin();
        pin.add([cid]);
        self.store.put(&[EncodedBlock::plain(block)])?;
        let name = root_name(&record.source, &record.folder, record.order);
        self.store.set_root(&name, Root { cid, partial: false }, epoch)?;
        Ok(Snapshot { id: SnapshotId::of(&cid), cid, record })
    }

    /// Finds the signs of ransomware in a manifest whose blocks are in the store, compared with the
    /// newest snapshot of the folder. If a manifest cannot be read, the signs stay as they were.
    ///
    /// # Errors
    ///
    /// Same as [`SnapshotReader::newest`].
    pub fn find_signs(
        &self,
        source: &PeerId,
        folder: &FolderId,
        header: &ManifestHeader,
        now: Timestamp,
    ) -> Result<Signs, SnapshotError> {
        let Some(newest) = self.newest(source, folder)? else { return Ok(Signs::default()) };
        let found = SnapshotTree::open(self.store.clone(), newest.record.manifest);
        let found = found.and_then(|tree| {
            let (signs, files) = (&newest.record.signs, newest.record.files);
            let before = Before { signs, header: tree.header(), files };
            find_signs(&*self.store, &before, header, now)
        });
        let signs = found.unwrap_or_else(|error| {
            let id = &newest.id;
            tracing::warn!(%folder, %id, %error, "cannot look for signs of ransomware: the snapshot before cannot be compared");
            newest.record.signs.clone()
        });
        if let (None, Some(reason)) = (newest.record.signs.suspicion(), signs.suspicion()) {
            tracing::warn!(%source, %folder, reason, "the new snapshot is suspicious");
        }
        Ok(signs)
    }

    /// Decides that a snapshot and those before it are intended: they are no longer suspicious, and
    /// the next one is compared without the former signs.
    ///
    /// # Errors
    ///
    /// Returns [`SnapshotError::Store`] if the decision cannot be made durable.
    pub fn confirm(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let SnapshotRecord { source, folder, order, .. } = &snapshot.record;
        let new = intended_name(source, folder, *order);
        let known = self.store.roots(&intended_prefix(source, folder));
        if known.iter().any(|(name, _)| *name >= new) {
            return Ok(());
        }
        let epoch = self.store.write_epoch();
        // The name says everything; a root needs some block.
        let block = Block::new(Codec::Raw, b"intended".to_vec()).map_err(StoreError::from)?;
        let cid = block.cid();
        let pin = self.store.pin();
        pin.add([cid]);
        self.store.put(&[EncodedBlock::plain(block)])?;
        self.store.set_root(&new, Root { cid, partial: false }, epoch)?;
        for (name, _) in known {
            self.store.remove_root(&name)?;
        }
        tracing::info!(%source, %folder, snapshot = %snapshot.id, "a user decided that the snapshot is intended");
        Ok(())
    }

    /// Removes a snapshot, and returns whether it existed. The next collection deletes its blocks.
    ///
    /// # Errors
    ///
    /// Returns [`SnapshotError::Store`] if the root cannot be removed.
    pub fn remove(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        let name = snapshot.root_of(|name| Some(self.store.root(name)?.cid));
        let removed = name.map(|name| self.store.remove_root(&name)).transpose()?;
        self.reader.forget(&snapshot.cid);
        Ok(removed.unwrap_or(false))
    }

    /// Starts a unit of work on the store.
    pub fn batch(&self) -> Batch {
        Batch::new(self.store.clone())
    }
}

#[cfg(test)]
mod tests {
    use store::MemStore;
    use types::{Cid, SequenceNumber};

    use super::*;
    use crate::record::tests::record;
    use crate::snapshot_reader::Listing;

    fn commit(snapshots: &SnapshotStore, folder: &str, sequence: u64, second: i64) -> Snapshot {
        let epoch = snapshots.store().write_epoch();
        let record = SnapshotRecord {
            folder: folder.parse().unwrap(),
            sequence: SequenceNumber(sequence),
            order: snapshots.next_order(),
            received_at: Timestamp::from_second(second).unwrap(),
            ..record()
        };
        snapshots.commit(record, epoch).unwrap()
    }

    #[test]
    fn snapshots_are_listed_in_order_and_removed_once() {
        let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
        let snapshots = SnapshotStore::new(store.clone());
        assert_eq!(snapshots.list().unwrap(), Listing::default());
        let first = commit(&snapshots, "docs", 1, 2000);
        let second = commit(&snapshots, "docs", 2, 1000);
        let music = commit(&snapshots, "music", 9, 1500);
        let source = record().source;
        let docs: FolderId = "docs".parse().unwrap();
        let listed = |folder| snapshots.list_of(&source, folder).unwrap().snapshots;
        assert_eq!(listed(None), [first.clone(), second.clone(), music]);
        assert_eq!(listed(Some(&docs)), [first.clone(), second.clone()]);
        assert_eq!(snapshots.newest(&source, &docs).unwrap(), Some(second));
        assert!(snapshots.list_of(&PeerId::random(), None).unwrap().snapshots.is_empty());
        // Another process sees the same snapshots and continues the order.
        let again = SnapshotStore::new(store);
        assert_eq!(again.list().unwrap(), snapshots.list().unwrap());
        assert_eq!(again.next_order(), 4);
        assert!(again.remove(&first).unwrap());
        assert!(!again.remove(&first).unwrap());
        assert_eq!(again.list().unwrap().snapshots.len(), 2);
    }

    #[test]
    fn a_decision_holds_for_the_snapshots_up_to_it_and_for_one_folder() {
        let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
        let snapshots = SnapshotStore::new(store.clone());
        let suspicious = |folder: &str, held: &str| {
            let epoch = store.write_epoch();
            let record = SnapshotRecord {
                folder: folder.parse().unwrap(),
                order: snapshots.next_order(),
                held: Some(held.to_owned()),
                ..record()
            };
            snapshots.commit(record, epoch).unwrap()
        };
        let first = suspicious("docs", "all was rewritten");
        let part = suspicious("docs", types::HELD_PART);
        let second = suspicious("docs", "all was rewritten");
        suspicious("docs", "all was rewritten");
        suspicious("docs2", "all was rewritten");
        let doubts = || -> Vec<bool> {
            let listed = SnapshotStore::new(store.clone()).list().unwrap().snapshots;
            listed.iter().map(|one| one.record.is_suspicious()).collect()
        };
        assert_eq!(doubts(), [true, false, true, true, true]);
        snapshots.confirm(&first).unwrap();
        assert_eq!(doubts(), [false, false, true, true, true]);
        snapshots.confirm(&second).unwrap();
        snapshots.confirm(&first).unwrap();
        assert_eq!(doubts(), [false, false, false, true, true]);
        assert_eq!(store.roots("intended/").len(), 1);
        // A part stays a part.
        let listed = snapshots.list().unwrap().snapshots;
        assert_eq!(listed[1].record.held, part.record.held);
    }

    #[test]
    fn a_record_that_cannot_be_read_hides_no_other() {
        let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
        let snapshots = SnapshotStore::new(store.clone());
        let good = commit(&snapshots, "docs", 1, 1000);
        let epoch = store.write_epoch();
        let missing = Cid::of(types::Codec::DagCbor, b"nowhere");
        let root = Root { cid: missing, partial: false };
        let source = record().source;
        store.set_root(&root_name(&source, &"docs".parse().unwrap(), 2), root, epoch).unwrap();
        // A valid record under the name of another snapshot.
        let root = Root { cid: good.cid, partial: false };
        store.set_root(&root_name(&source, &"docs".parse().unwrap(), 3), root, epoch).unwrap();
        let listing = SnapshotStore::new(store).list().unwrap();
        assert_eq!(listing.snapshots, [good]);
        assert_eq!(listing.damaged.len(), 2);
    }
}
