//! The snapshots in a store: listing, finding, committing, removing.
//!
//! Every call blocks. Listing reads one small block for each snapshot that was
//! not read before; records never change, so what was read is kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use net::PeerId;
use parking_lot::Mutex;
use store::{Batch, BlockStore, Pin, Root, StoreError, WriteEpoch};
use types::{Cid, EncodedBlock, FolderId, SequenceNumber};

use crate::record::{RecordError, SnapshotRecord};
use crate::snapshot_id::{SnapshotId, SnapshotIdError};

/// What the names of snapshots' roots begin with.
pub(crate) const PREFIX: &str = "snapshot/";
/// Records that are kept in memory; each takes some 500 bytes.
const KEPT_RECORDS_MAX: usize = 100_000;

/// The name of the root of a snapshot.
pub fn root_name(source: &PeerId, folder: &FolderId, order: u64) -> String {
    format!("{PREFIX}{source}/{folder}/{order:016}")
}

/// The parts of such a name.
fn parse_name(name: &str) -> Option<(PeerId, FolderId, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('/');
    let parsed =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(parsed)
}

/// A snapshot that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The block of its record.
    pub cid: Cid,
    /// What was noted of it.
    pub record: SnapshotRecord,
}

/// A snapshot whose record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// The root that names it.
    pub root: String,
    /// What is wrong.
    pub reason: String,
}

/// All snapshots, by source, folder and order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those that can be read.
    pub snapshots: Vec<Snapshot>,
    /// Those that cannot.
    pub damaged: Vec<DamagedSnapshot>,
}

/// Which snapshot is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The one of this id, or the only one whose id begins so.
    pub id: Option<SnapshotId>,
    /// Of this source.
    pub source: Option<PeerId>,
    /// Of this folder.
    pub folder: Option<FolderId>,
    /// The newest that B had at this time.
    pub at: Option<Timestamp>,
    /// The one with this number.
    pub sequence: Option<SequenceNumber>,
}

/// What was said of the snapshot that is not there, for the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted(Vec<String>);

impl Wanted {
    /// What was said of each of these; nothing is as good as anything.
    pub fn new(
        id: Option<&dyn fmt::Display>,
        source: Option<&dyn fmt::Display>,
        folder: Option<&dyn fmt::Display>,
        at: Option<Timestamp>,
        sequence: Option<SequenceNumber>,
    ) -> Self {
        let said = |what: &str, value: Option<&dyn fmt::Display>| {
            value.map(|value| format!("{what} {value}"))
        };
        let parts = [
            said("id", id),
            said("source", source),
            said("folder", folder),
            at.map(|at| format!("at {at}")),
            sequence.map(|sequence| format!("sequence {}", sequence.0)),
        ];
        Self(parts.into_iter().flatten().collect())
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.0.join(", "))
    }
}

/// Why a snapshot cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is none; what was asked for is named.
    #[error("there is no such snapshot{0}; `archivist snapshots` lists them")]
    None(Wanted),
    /// More than one folder fits.
    #[error("more than one folder has snapshots that fit: {}; name one", .0.join(", "))]
    Folders(Vec<String>),
    /// More than one id begins so.
    #[error("more than one snapshot begins with {0}")]
    Ambiguous(SnapshotId),
    /// No id.
    #[error(transparent)]
    Id(#[from] SnapshotIdError),
    /// The record cannot be written.
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
    /// The snapshots in `store`. There is one of these for a store.
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        let roots = store.roots(PREFIX);
        let last = roots.iter().filter_map(|(name, _)| Some(parse_name(name)?.2)).max();
        Self(Arc::new(Shared {
            store,
            last_order: AtomicU64::new(last.unwrap_or(0)),
            records: Mutex::default(),
        }))
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.0.store
    }

    /// How many snapshots there are, damaged ones included.
    pub fn count(&self) -> u64 {
        self.0.store.roots(PREFIX).len() as u64
    }

    /// All snapshots.
    ///
    /// # Errors
    ///
    /// Those of the disk; a damaged record is in the listing.
    pub fn list(&self) -> Result<Listing, SnapshotError> {
        self.listing(PREFIX)
    }

    /// The snapshots of a source, or of one folder of it.
    ///
    /// # Errors
    ///
    /// As [`SnapshotStore::list`].
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
                    listing.damaged.push(DamagedSnapshot { root: name, reason });
                }
                Err(Unread::Store(error)) => return Err(error.into()),
            }
        }
        Ok(listing)
    }

    fn read(&self, name: &str, cid: Cid) -> Result<Snapshot, Unread> {
        let id = SnapshotId::of(&cid);
        let damaged = |reason: String| Unread::Damaged(reason);
        let kept = self.0.records.lock().get(&cid).cloned();
        let is_kept = kept.is_some();
        let record = match kept {
            Some(record) => record,
            None => {
                let bytes = match self.0.store.get(&cid) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => return Err(damaged("its record is missing".to_owned())),
                    Err(error @ StoreError::Damaged { .. }) => {
                        return Err(damaged(error.to_string()));
                    }
                    Err(error) => return Err(Unread::Store(error)),
                };
                SnapshotRecord::decode(&bytes).map_err(|error| damaged(error.to_string()))?
            }
        };
        if name != root_name(&record.source, &record.folder, record.order) {
            return Err(damaged("its record is that of another snapshot".to_owned()));
        }
        if !is_kept {
            let mut records = self.0.records.lock();
            if records.len() >= KEPT_RECORDS_MAX {
                records.clear();
            }
            records.insert(cid, record.clone());
        }
        Ok(Snapshot { id, cid, record })
    }

    /// The newest snapshot of a folder, by B's order.
    ///
    /// # Errors
    ///
    /// As [`SnapshotStore::list`].
    pub fn newest(
        &self,
        source: &PeerId,
        folder: &FolderId,
    ) -> Result<Option<Snapshot>, SnapshotError> {
        Ok(self.list_of(source, Some(folder))?.snapshots.pop())
    }

    /// The snapshot that is meant: where nothing but a folder is said, the
    /// newest; where no folder is said, there has to be but one that fits.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::None`], [`SnapshotError::Folders`],
    /// [`SnapshotError::Ambiguous`].
    pub fn find(&self, selector: &Selector) -> Result<Snapshot, SnapshotError> {
        let mut fitting = self.list()?.snapshots;
        fitting.retain(|snapshot| selector.fits(snapshot));
        if let Some(id) = &selector.id {
            return match fitting.len() {
                0 => Err(SnapshotError::None(selector.wanted())),
                1 => Ok(fitting.remove(0)),
                _ => Err(SnapshotError::Ambiguous(id.clone())),
            };
        }
        let mut folders: Vec<_> = fitting
            .iter()
            .map(|snapshot| (snapshot.record.source, snapshot.record.folder.clone()))
            .collect();
        folders.dedup();
        if folders.len() > 1 {
            let names = folders.into_iter().map(|(_, folder)| folder.to_string()).collect();
            return Err(SnapshotError::Folders(names));
        }
        fitting.pop().ok_or_else(|| SnapshotError::None(selector.wanted()))
    }

    /// The number of the next snapshot in B's order; each is given once.
    pub fn next_order(&self) -> u64 {
        self.0.last_order.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Commits a snapshot: the last write of a pull. Everything below it is
    /// there, and was put since `epoch`.
    ///
    /// # Errors
    ///
    /// As [`store::Roots::set_root`]: then there is no snapshot.
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

    /// Removes a snapshot; tells whether it was there. Its blocks go with the
    /// next collection.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn remove(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        let record = &snapshot.record;
        let name = root_name(&record.source, &record.folder, record.order);
        let removed = self.0.store.remove_root(&name)?;
        self.0.records.lock().remove(&snapshot.cid);
        Ok(removed)
    }

    /// Begins a unit of work on the store.
    pub fn batch(&self) -> Batch {
        Batch::new(self.0.store.clone())
    }
}

enum Unread {
    Damaged(String),
    Store(StoreError),
}

impl Selector {
    fn wanted(&self) -> Wanted {
        let Self { id, source, folder, at, sequence } = self;
        Wanted::new(
            id.as_ref().map(|id| id as &dyn fmt::Display),
            source.as_ref().map(|source| source as &dyn fmt::Display),
            folder.as_ref().map(|folder| folder as &dyn fmt::Display),
            *at,
            *sequence,
        )
    }

    fn fits(&self, snapshot: &Snapshot) -> bool {
        let record = &snapshot.record;
        self.id.as_ref().is_none_or(|id| id.names(&snapshot.cid))
            && self.source.is_none_or(|source| source == record.source)
            && self.folder.as_ref().is_none_or(|folder| *folder == record.folder)
            && self.at.is_none_or(|at| record.received_at <= at)
            && self.sequence.is_none_or(|sequence| sequence == record.sequence)
    }
}

#[cfg(test)]
mod tests {
    use store::MemStore;

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
    fn snapshots_are_found_by_what_people_say() {
        let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
        let snapshots = SnapshotStore::new(store.clone());
        assert!(matches!(snapshots.find(&Selector::default()), Err(SnapshotError::None(_))));
        let first = commit(&snapshots, "docs", 1, 1000);
        let second = commit(&snapshots, "docs", 2, 2000);
        assert_eq!(snapshots.find(&Selector::default()).unwrap(), second);
        let music = commit(&snapshots, "music", 9, 1500);
        let error = snapshots.find(&Selector::default()).unwrap_err();
        assert!(matches!(&error, SnapshotError::Folders(names) if names == &["docs", "music"]));
        let of = |folder: &str| Selector {
            folder: Some(folder.parse().unwrap()),
            ..Selector::default()
        };
        assert_eq!(snapshots.find(&of("music")).unwrap(), music);
        let at =
            |second| Selector { at: Some(Timestamp::from_second(second).unwrap()), ..of("docs") };
        assert_eq!(snapshots.find(&at(1999)).unwrap(), first);
        assert_eq!(snapshots.find(&at(2000)).unwrap(), second);
        assert!(matches!(snapshots.find(&at(999)), Err(SnapshotError::None(_))));
        let numbered = Selector { sequence: Some(SequenceNumber(1)), ..of("docs") };
        assert_eq!(snapshots.find(&numbered).unwrap(), first);
        for len in [4, 6, 10] {
            let id = Some(first.id.as_str()[..len].parse().unwrap());
            assert_eq!(snapshots.find(&Selector { id, ..Selector::default() }).unwrap(), first);
        }
        // Another process sees the same, and goes on counting.
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
        // A good record under a name that is not its own.
        let root = Root { cid: good.cid, partial: false };
        store.set_root(&root_name(&source, &"docs".parse().unwrap(), 3), root, epoch).unwrap();
        let listing = SnapshotStore::new(store).list().unwrap();
        assert_eq!(listing.snapshots, [good]);
        assert_eq!(listing.damaged.len(), 2);
    }
}
