//! The snapshots in a store: listing, committing, removing.
//!
//! All functions block the thread. Listing reads one small block for each snapshot that was not
//! read before; records never change, so they are cached.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net::PeerId;
use parking_lot::Mutex;
use store::{Batch, BlockStore, Pin, Root, StoreError, WriteEpoch};
use types::{Cid, EncodedBlock, FolderId};

use crate::record::{RecordError, SnapshotRecord};
use crate::snapshot_id::SnapshotId;

/// Prefix of the names of the roots of snapshots.
pub(crate) const PREFIX: &str = "snapshot/";
/// Maximum number of cached records; each needs about 500 bytes.
const CACHED_RECORDS_MAX: usize = 100_000;

/// Returns the name of the root of a snapshot.
pub fn root_name(source: &PeerId, folder: &FolderId, order: u64) -> String {
    format!("{PREFIX}{source}/{folder}/{order:016}")
}

/// Returns the source, folder and order in the name of a root.
fn parse_name(name: &str) -> Option<(PeerId, FolderId, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('/');
    let parsed =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(parsed)
}

/// A complete snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Id of the snapshot.
    pub id: SnapshotId,
    /// CID of the block with its record.
    pub cid: Cid,
    /// The record.
    pub record: SnapshotRecord,
}

impl Snapshot {
    /// Returns the name of its root.
    pub(crate) fn root_name(&self) -> String {
        root_name(&self.record.source, &self.record.folder, self.record.order)
    }
}

/// A snapshot whose record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Name of the root of the snapshot.
    pub root: String,
    /// Reason why the record cannot be read.
    pub reason: String,
}

/// A list of snapshots, sorted by source, folder and order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The snapshots with a readable record.
    pub snapshots: Vec<Snapshot>,
    /// The snapshots whose record cannot be read.
    pub damaged: Vec<DamagedSnapshot>,
}

/// Reason why snapshots cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record cannot be encoded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The snapshots of one store. Clones share it.
#[derive(Clone)]
pub struct SnapshotStore(Arc<Shared>);

struct Shared {
    store: Arc<dyn BlockStore>,
    last_order: AtomicU64,
    records: Mutex<HashMap<Cid, SnapshotRecord>>,
}

impl fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore").field("store", &self.0.store).finish_non_exhaustive()
    }
}

impl SnapshotStore {
    /// Creates access to the snapshots in `store`. There must be only one for each store, because
    /// it numbers the snapshots.
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        let roots = store.roots(PREFIX);
        let last = roots.iter().filter_map(|(name, _)| Some(parse_name(name)?.2)).max();
        Self(Arc::new(Shared {
            store,
            last_order: AtomicU64::new(last.unwrap_or(0)),
            records: Mutex::default(),
        }))
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.0.store
    }

    /// Returns the number of snapshots, including damaged ones.
    pub fn count(&self) -> u64 {
        self.0.store.roots(PREFIX).len() as u64
    }

    /// Lists all snapshots.
    ///
    /// # Errors
    ///
    /// Returns [`SnapshotError::Store`] if the store cannot be read. A damaged record is not an
    /// error, but part of the listing.
    pub fn list(&self) -> Result<Listing, SnapshotError> {
        self.listing(PREFIX)
    }

    /// Lists the snapshots of a source, or of one folder of it.
    ///
    /// # Errors
    ///
    /// Same as [`SnapshotStore::list`].
    pub fn list_of(
        &self,
        source: &PeerId,
        folder: Option<&FolderId>,
    ) -> Result<Listing, SnapshotError> {
        match folder {
            Some(folder) => self.listing(&format!("{PREFIX}{source}/{folder}/")),
            None => self.listing(&format!("{PREFIX}{source}/")),
        }
    }

    fn listing(&self, prefix: &str) -> Result<Listing, SnapshotError> {
        let mut listing = Listing::default();
        for (name, root) in self.0.store.roots(prefix) {
            match self.read(&name, root.cid) {
                Ok(snapshot) => listing.snapshots.push(snapshot),
                Err(Unread::Damaged(reason)) => {
                    // A snapshot that was removed meanwhile is not damaged.
                    if self.0.store.root(&name) == Some(root) {
                        listing.damaged.push(DamagedSnapshot { root: name, reason });
                    }
                }
                Err(Unread::Store(error)) => return Err(error.into()),
            }
        }
        Ok(listing)
    }

    fn read(&self, name: &str, cid: Cid) -> Result<Snapshot, Unread> {
        let id = SnapshotId::of(&cid);
        let damaged = |reason: String| Unread::Damaged(reason);
        let cached = self.0.records.lock().get(&cid).cloned();
        let is_cached = cached.is_some();
        let record = match cached {
            Some(record) => record,
            None => {
                let bytes = match self.0.store.get(&cid) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => return Err(damaged("the record is missing".to_owned())),
                    Err(error @ StoreError::Damaged { .. }) => {
                        return Err(damaged(error.to_string()));
                    }
                    Err(error) => return Err(Unread::Store(error)),
                };
                SnapshotRecord::decode(&bytes).map_err(|error| damaged(error.to_string()))?
            }
        };
        if name != root_name(&record.source, &record.folder, record.order) {
            return Err(damaged("the record belongs to another snapshot".to_owned()));
        }
        if !is_cached {
            let mut records = self.0.records.lock();
            if records.len() >= CACHED_RECORDS_MAX {
                records.clear();
            }
            records.insert(cid, record.clone());
        }
        Ok(Snapshot { id, cid, record })
    }

    /// Returns the newest snapshot of a folder, by order of arrival.
    ///
    /// # Errors
    ///
    /// Same as [`SnapshotStore::list`].
    pub fn newest(
        &self,
        source: &PeerId,
        folder: &FolderId,
    ) -> Result<Option<Snapshot>, SnapshotError> {
        Ok(self.list_of(source, Some(folder))?.snapshots.pop())
    }

    /// Returns the order of the next snapshot; each number is returned once.
    pub fn next_order(&self) -> u64 {
        self.0.last_order.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Ensures that numbers up to `order` are not returned as the next one.
    pub fn use_order(&self, order: u64) {
        self.0.last_order.fetch_max(order, Ordering::SeqCst);
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
        let pin: Pin = self.0.store.pin();
        pin.add([cid]);
        self.0.store.put(&[EncodedBlock::plain(block)])?;
        let name = root_name(&record.source, &record.folder, record.order);
        self.0.store.set_root(&name, Root { cid, partial: false }, epoch)?;
        Ok(Snapshot { id: SnapshotId::of(&cid), cid, record })
    }

    /// Removes a snapshot, and returns whether it existed. The next collection deletes its blocks.
    ///
    /// # Errors
    ///
    /// Returns [`SnapshotError::Store`] if the root cannot be removed.
    pub fn remove(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        let removed = self.0.store.remove_root(&snapshot.root_name())?;
        self.0.records.lock().remove(&snapshot.cid);
        Ok(removed)
    }

    /// Starts a unit of work on the store.
    pub fn batch(&self) -> Batch {
        Batch::new(self.0.store.clone())
    }
}

/// Reason why a record was not read.
enum Unread {
    Damaged(String),
    Store(StoreError),
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use store::MemStore;
    use types::SequenceNumber;

    use super::*;
    use crate::record::tests::record;

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
