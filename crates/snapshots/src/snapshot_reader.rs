//! Reading the snapshots in a store, which may be open for reading only.
//!
//! All functions block the thread. Listing reads one small block for each snapshot that was not
//! read before; records never change, so they are cached.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use net::PeerId;
use parking_lot::Mutex;
use store::{Root, StoreError, StoreRead};
use types::{Cid, FolderId};

use crate::record::{RecordError, SnapshotRecord};
use crate::snapshot_id::SnapshotId;

/// Prefix of the names of the roots of snapshots.
pub(crate) const PREFIX: &str = "snapshot/";
/// Prefix of the names of the roots by which a user has decided that the snapshots of a folder, up
/// to an order, are intended.
const INTENDED_PREFIX: &str = "intended/";
/// Prefix of the names of the roots with the records of removed snapshots.
pub(crate) const REMOVED_PREFIX: &str = "removed/";
/// Number of hexadecimal digits of the hash in the second name of a snapshot.
const SECOND_NAME_LEN: usize = 32;
/// Maximum number of cached records; each needs about 500 bytes.
const CACHED_RECORDS_MAX: usize = 100_000;

/// Returns the name of the root of a snapshot.
pub fn root_name(source: &PeerId, folder: &FolderId, order: u64) -> String {
    format!("{PREFIX}{source}/{folder}/{order:016}")
}

/// Returns the prefix of the names of the roots of a source's snapshots.
pub fn source_prefix(source: &PeerId) -> String {
    format!("{PREFIX}{source}/")
}

/// Returns the prefix of the names of the roots that say which snapshots of a folder are intended.
pub(crate) fn intended_prefix(source: &PeerId, folder: &FolderId) -> String {
    format!("{INTENDED_PREFIX}{source}/{folder}/")
}

/// Returns the name of the root that says that the snapshots up to `order` are intended.
pub(crate) fn intended_name(source: &PeerId, folder: &FolderId, order: u64) -> String {
    format!("{}{order:016}", intended_prefix(source, folder))
}

/// Returns the order in the name of a root of a removed snapshot.
pub(crate) fn order_of(name: &str) -> Option<u64> {
    name.rsplit_once('/')?.1.parse().ok()
}

/// Returns the source, folder and order in the name of a root.
pub(crate) fn parse_name(name: &str) -> Option<(PeerId, FolderId, u64)> {
    let (first, _) = split_name(name);
    parse_parts(first.strip_prefix(PREFIX)?)
}

fn parse_parts(parts: &str) -> Option<(PeerId, FolderId, u64)> {
    let mut parts = parts.split('/');
    let parsed =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(parsed)
}

/// Returns the first name of a snapshot, and true if `name` is this name. Another snapshot may
/// have the first name; see [`Snapshot::second_root_name`].
fn split_name(name: &str) -> (&str, bool) {
    let order_at = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[order_at..].find('.') {
        Some(dot) => (&name[..order_at + dot], false),
        None => (name, true),
    }
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

    /// Returns the name of its root if another snapshot has [`Snapshot::root_name`].
    pub(crate) fn second_root_name(&self) -> String {
        second_name(&self.record, &self.cid)
    }

    /// Returns the name of the root that names it, if there is one. `root` returns the block of
    /// a root.
    pub(crate) fn root_of(&self, root: impl Fn(&str) -> Option<Cid>) -> Option<String> {
        let names = [self.root_name(), self.second_root_name()];
        names.into_iter().find(|name| root(name) == Some(self.cid))
    }
}

fn second_name(record: &SnapshotRecord, cid: &Cid) -> String {
    let first = root_name(&record.source, &record.folder, record.order);
    format!("{first}.{}", &cid.hash().to_string()[..SECOND_NAME_LEN])
}

/// A snapshot whose record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Name of the root of the snapshot.
    pub root: String,
    /// Reason why the record cannot be read.
    pub reason: String,
    /// True if the record is not damaged: a newer version of the program wrote it.
    pub is_newer: bool,
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

/// The snapshots of one store, to read them. Clones share it.
#[derive(Clone)]
pub struct SnapshotReader(Arc<Shared>);

struct Shared {
    store: Arc<dyn StoreRead>,
    records: Mutex<HashMap<Cid, SnapshotRecord>>,
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader").field("store", &self.0.store).finish_non_exhaustive()
    }
}

impl SnapshotReader {
    /// Creates access to the snapshots in `store`.
    pub fn new(store: Arc<dyn StoreRead>) -> Self {
        Self(Arc::new(Shared { store, records: Mutex::default() }))
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn StoreRead> {
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
    /// Same as [`SnapshotReader::list`].
    pub fn list_of(
        &self,
        source: &PeerId,
        folder: Option<&FolderId>,
    ) -> Result<Listing, SnapshotError> {
        match folder {
            Some(folder) => self.listing(&format!("{PREFIX}{source}/{folder}/")),
            None => self.listing(&source_prefix(source)),
        }
    }

    fn listing(&self, prefix: &str) -> Result<Listing, SnapshotError> {
        let mut listing = Listing::default();
        let intended = self.intended();
        for (name, root) in self.sorted_roots(prefix) {
            match self.read(&name, root.cid) {
                Ok(mut snapshot) => {
                    let record = &mut snapshot.record;
                    let key = (record.source, record.folder.clone());
                    if intended.get(&key).is_some_and(|until| record.order <= *until) {
                        record.remove_doubt();
                    }
                    listing.snapshots.push(snapshot);
                }
                Err(Unread::Damaged { reason, is_newer }) => {
                    // A snapshot that was removed meanwhile is not damaged.
                    if self.0.store.root(&name) == Some(root) {
                        listing.damaged.push(DamagedSnapshot { root: name, reason, is_newer });
                    }
                }
                Err(Unread::Store(error)) => return Err(error.into()),
            }
        }
        Ok(listing)
    }

    /// Returns the orders up to which the snapshots of folders are intended, as a user has decided.
    fn intended(&self) -> HashMap<(PeerId, FolderId), u64> {
        let mut intended = HashMap::new();
        for (name, _) in self.0.store.roots(INTENDED_PREFIX) {
            let parsed = name.strip_prefix(INTENDED_PREFIX).and_then(parse_parts);
            let Some((source, folder, order)) = parsed else { continue };
            let until = intended.entry((source, folder)).or_insert(order);
            *until = order.max(*until);
        }
        intended
    }

    fn sorted_roots(&self, prefix: &str) -> Vec<(String, Root)> {
        let mut roots = self.0.store.roots(prefix);
        // Of two snapshots with one number, the later one has the first name.
        roots.sort_by(|(a, _), (b, _)| split_name(a).cmp(&split_name(b)));
        roots
    }

    /// Reports whether a folder has a snapshot with a record that `accepts`, one whose record is
    /// damaged or was written by a newer version, or whether a user removed its newest one with
    /// such a record. Reads the newest record first.
    ///
    /// # Errors
    ///
    /// Same as [`SnapshotReader::list`].
    pub fn may_have(
        &self,
        source: &PeerId,
        folder: &FolderId,
        accepts: impl Fn(&SnapshotRecord) -> bool,
    ) -> Result<bool, SnapshotError> {
        let roots = self.sorted_roots(&format!("{PREFIX}{source}/{folder}/"));
        for (name, root) in roots.into_iter().rev() {
            match self.read(&name, root.cid) {
                Ok(snapshot) if accepts(&snapshot.record) => return Ok(true),
                Ok(_) => {}
                Err(Unread::Damaged { .. }) => return Ok(true),
                Err(Unread::Store(error)) => return Err(error.into()),
            }
        }
        let removed = self.removed_newest(source, Some(folder))?;
        Ok(removed.iter().any(|snapshot| accepts(&snapshot.record)))
    }

    fn read(&self, name: &str, cid: Cid) -> Result<Snapshot, Unread> {
        let id = SnapshotId::of(&cid);
        let damaged = |reason: String| Unread::Damaged { reason, is_newer: false };
        let newer = |reason: String| Unread::Damaged { reason, is_newer: true };
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
                    Err(error @ StoreError::Newer { .. }) => return Err(newer(error.to_string())),
                    Err(error) => return Err(Unread::Store(error)),
                };
                SnapshotRecord::decode(&bytes).map_err(|error| match error {
                    RecordError::Version(_) => newer(error.to_string()),
                    error => damaged(error.to_string()),
                })?
            }
        };
        let first = root_name(&record.source, &record.folder, record.order);
        if name != first && name != second_name(&record, &cid) {
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
    /// Same as [`SnapshotReader::list`].
    pub fn newest(
        &self,
        source: &PeerId,
        folder: &FolderId,
    ) -> Result<Option<Snapshot>, SnapshotError> {
        Ok(self.list_of(source, Some(folder))?.snapshots.pop())
    }

    /// Removes a record from the cache.
    pub(crate) fn forget(&self, cid: &Cid) {
        self.0.records.lock().remove(cid);
    }
}

/// Reason why a record was not read.
enum Unread {
    Damaged { reason: String, is_newer: bool },
    Store(StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_root_name() {
        let folder: FolderId = "docs".parse().unwrap();
        let name = root_name(&PeerId::random(), &folder, 7);
        fuzzing::target!(&[name], |bytes: &[u8]| {
            if let Some((source, folder, order)) = parse_name(&String::from_utf8_lossy(bytes)) {
                let name = root_name(&source, &folder, order);
                assert_eq!(parse_name(&name), Some((source, folder, order)));
            }
        });
    }
}
