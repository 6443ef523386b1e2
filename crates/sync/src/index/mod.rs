//! The file index: one database with the last known state of every path of every folder.
//! `docs/formats/source-index.md` describes the format.
//!
//! **Invariants**, maintained by every transaction: the parent of every row is the row of a
//! directory, so the rows always form a tree; each change of a row that a manifest shows marks
//! its segment as stale; a file id leads to exactly one path.
//!
//! A failed write leaves the database unusable until it is opened again, which the next call
//! does. Everything that was durable before is available then.
//!
//! Absent: any decision. All calls block; async code must make them on threads that
//! may block.

mod apply;
mod backend;
mod codec;
mod links;
mod manifest;
mod record;
mod row;
mod segments;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Disk, DiskFile};
use parking_lot::Mutex;
use redb::{
    Database, MultimapTableDefinition, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
};
use store::FileId;
use types::{FolderId, RelPath};

#[cfg(test)]
pub(crate) use apply::{Applied, hour_of};
pub(crate) use apply::{Batch, Change, ReplacedVersion};
use backend::Backend;
pub(crate) use manifest::{NewManifest, NewRun};
pub(crate) use record::{
    AlarmRecord, EnteredMount, FolderRecord, LOSS_WINDOW, ManifestRecord, Totals, path_text,
};
#[cfg(test)]
pub(crate) use row::tests::file_row;
pub(crate) use row::{Content, Row, RowKind, RowStamp, kind_of};
pub(crate) use segments::{SegmentBlock, SegmentRow};
pub(crate) use snapshot::{RawRow, Snapshot};

use crate::error::SyncError;
use crate::path_key::{FolderNumber, folder_range, key_of, path_of};

/// Format 1 had receipts in the table of the folders, format 2 no table of links.
const FORMAT: u32 = 3;
const FORMAT_WITHOUT_LINKS: u64 = 2;
const FILE: &str = "index.redb";
/// Name of the database until it is complete.
const NEW_FILE: &str = "index.redb.new";
const LOCK: &str = "lock";
/// Key of the run of the kernel in which the index is open.
const BOOT: &str = "boot";
/// Number of low bits of a file id that count within one start; see [`Index::file_id`].
const IDS_BITS: u32 = 40;

type Bytes = &'static [u8];
type BytesTable = TableDefinition<'static, Bytes, Bytes>;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FOLDERS: TableDefinition<&str, Bytes> = TableDefinition::new("folders");
const FILES: BytesTable = TableDefinition::new("files");
const BY_ID: TableDefinition<u64, Bytes> = TableDefinition::new("by_id");
const BY_INODE: TableDefinition<(u32, u64), u64> = TableDefinition::new("by_inode");
/// The keys of all rows of an inode with several names.
const LINKS: MultimapTableDefinition<(u32, u64), Bytes> = MultimapTableDefinition::new("links");
const SEGMENTS: BytesTable = TableDefinition::new("segments");
const ERRORS: BytesTable = TableDefinition::new("errors");

/// The file index. See the module.
#[derive(Debug)]
pub(crate) struct Index {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    cache_len: usize,
    db: Mutex<Slot>,
    next_id: AtomicU64,
    /// Keeps other processes out while the index is open.
    _lock: Box<dyn DiskFile>,
}

/// The open database. After a call has failed, it refuses all others.
#[derive(Debug, Default)]
struct Slot {
    db: Option<Arc<Database>>,
    has_failed: bool,
}

/// An entry of the error list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorRow {
    pub(crate) what: String,
    /// In milliseconds since 1970.
    pub(crate) since_ms: i64,
}

type DbResult<T> = Result<T, redb::Error>;

impl Index {
    /// Opens the index in `dir`, or creates one. An unreadable index is never replaced.
    ///
    /// `boot` identifies the present run of the computer's kernel, if it is known. If the index
    /// was last open in another run, and was not closed ([`Index::close`]), the computer crashed:
    /// the records of the folders get a [`FolderRecord::distrusted_since`].
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::Locked`] if another process has it open, [`SyncError::Version`] if
    /// it has another format, and [`SyncError::State`] or [`SyncError::Index`] if the
    /// directory or the database cannot be used.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        cache_len: usize,
        boot: Option<u64>,
    ) -> Result<Self, SyncError> {
        let state = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SyncError::State { action, path, source }
        };
        disk.create_dir(dir).map_err(state("create", dir))?;
        let lock_path = dir.join(LOCK);
        let lock = open_or_create(&*disk, &lock_path).map_err(state("open", &lock_path))?;
        lock.lock().map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => SyncError::Locked(dir.to_owned()),
            _ => SyncError::State { action: "lock", path: lock_path.clone(), source },
        })?;
        let path = dir.join(FILE);
        match disk.open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&*disk, dir, &path)?,
            Err(source) => return Err(state("open", &path)(source)),
        }
        let index = Self {
            disk,
            path,
            cache_len,
            db: Mutex::new(Slot::default()),
            next_id: AtomicU64::new(0),
            _lock: lock,
        };
        let starts = index.write("open", |txn| {
            let mut meta = txn.open_table(META)?;
            let format = meta.get("format")?.map(|value| value.value());
            match format {
                Some(FORMAT_WITHOUT_LINKS) => links::fill(txn)?,
                Some(found) if found != u64::from(FORMAT) => return Ok(Err(found)),
                _ => {}
            }
            meta.insert("format", u64::from(FORMAT))?;
            let starts = meta.get("starts")?.map_or(0, |value| value.value()) + 1;
            meta.insert("starts", starts)?;
            // Readers require every table to exist.
            txn.open_table(FOLDERS)?;
            txn.open_table(FILES)?;
            txn.open_table(BY_ID)?;
            txn.open_table(BY_INODE)?;
            txn.open_multimap_table(LINKS)?;
            txn.open_table(SEGMENTS)?;
            txn.open_table(ERRORS)?;
            let last_boot = meta.get(BOOT)?.map(|value| value.value());
            if let Some(boot) = boot {
                meta.insert(BOOT, boot)?;
            }
            if last_boot.is_some_and(|last| boot.is_some_and(|boot| boot != last)) {
                distrust_recent_files(txn)?;
            }
            Ok(Ok(starts))
        })?;
        let starts = starts.map_err(|found| SyncError::Version {
            path: index.path.clone(),
            found: found.to_string(),
            known: FORMAT,
        })?;
        index.next_id.store(starts << IDS_BITS, Ordering::Relaxed);
        Ok(index)
    }

    /// Notes that the instance ends, and no file is being read.
    pub(crate) fn close(&self) -> Result<(), SyncError> {
        self.write("close", |txn| {
            txn.open_table(META)?.remove(BOOT)?;
            Ok(())
        })
    }

    /// Returns a new id for a version of a file. No id is used twice, not even by another run:
    /// after a crash, the location of a block without a row must not lead to another file.
    pub(crate) fn file_id(&self) -> FileId {
        FileId(self.next_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn error(&self, action: &'static str, source: impl Into<redb::Error>) -> SyncError {
        SyncError::Index { action, path: self.path.clone(), source: Box::new(source.into()) }
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> SyncError {
        SyncError::Damaged { path: self.path.clone(), what: what.into() }
    }

    /// Returns the database; opens it again if a call has failed.
    fn database(&self) -> Result<Arc<Database>, SyncError> {
        let mut slot = self.db.lock();
        if slot.has_failed {
            // A thread that still uses it gets an error soon.
            match slot.db.take().map(Arc::try_unwrap) {
                Some(Ok(db)) => drop(db),
                Some(Err(in_use)) => {
                    slot.db = Some(in_use);
                    return Err(self.error("open", redb::Error::PreviousIo));
                }
                None => {}
            }
            slot.has_failed = false;
        }
        if let Some(db) = &slot.db {
            return Ok(db.clone());
        }
        let file = self.disk.open(&self.path).map_err(|source| SyncError::State {
            action: "open",
            path: self.path.clone(),
            source,
        })?;
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_len);
        let opened = builder.create_with_backend(Backend(file));
        let db = Arc::new(opened.map_err(|error| self.error("open", error))?);
        slot.db = Some(db.clone());
        Ok(db)
    }

    fn note_failure(&self, error: &redb::Error) {
        if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
            self.db.lock().has_failed = true;
        }
    }

    /// Runs a transaction, which is durable when this returns.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&WriteTransaction) -> DbResult<T>,
    ) -> Result<T, SyncError> {
        let db = self.database()?;
        let run = || {
            let mut txn = db.begin_write()?;
            txn.set_quick_repair(true);
            let value = work(&txn)?;
            txn.commit()?;
            Ok(value)
        };
        run().map_err(|error: redb::Error| {
            self.note_failure(&error);
            self.error(action, error)
        })
    }

    /// Runs `work` on a consistent view of the index.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> DbResult<T>,
    ) -> Result<T, SyncError> {
        let db = self.database()?;
        let run = || work(&db.begin_read()?);
        run().map_err(|error: redb::Error| {
            self.note_failure(&error);
            self.error("read", error)
        })
    }

    /// Returns the record of a folder.
    pub(crate) fn folder(&self, id: &FolderId) -> Result<Option<FolderRecord>, SyncError> {
        let bytes = self.read(|txn| {
            let table = txn.open_table(FOLDERS)?;
            Ok(table.get(id.as_str())?.map(|value| value.value().to_vec()))
        })?;
        bytes.map(|bytes| self.decode_record(id, &bytes)).transpose()
    }

    /// Returns the records of all folders.
    pub(crate) fn folders(&self) -> Result<Vec<(FolderId, FolderRecord)>, SyncError> {
        let rows = self.read(|txn| {
            let table = txn.open_table(FOLDERS)?;
            let rows = table.iter()?.map(|row| {
                let (id, value) = row?;
                Ok((id.value().to_owned(), value.value().to_vec()))
            });
            rows.collect::<DbResult<Vec<_>>>()
        })?;
        let decode = |(id, bytes): (String, Vec<u8>)| {
            let id: FolderId = id.parse().map_err(|_| self.damaged("an invalid folder id"))?;
            let record = self.decode_record(&id, &bytes)?;
            Ok((id, record))
        };
        rows.into_iter().map(decode).collect()
    }

    fn decode_record(&self, id: &FolderId, bytes: &[u8]) -> Result<FolderRecord, SyncError> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.damaged(format!("the record of folder {id}: {error}")))
    }

    /// Creates the record of a folder. `manifest` is its last manifest, if the store still has
    /// one.
    pub(crate) fn create_folder(
        &self,
        id: &FolderId,
        manifest: Option<ManifestRecord>,
    ) -> Result<FolderRecord, SyncError> {
        self.write("add a folder to", |txn| {
            let mut meta = txn.open_table(META)?;
            let number = meta.get("folders")?.map_or(0, |value| value.value()) + 1;
            meta.insert("folders", number)?;
            let number = FolderNumber::try_from(number).unwrap_or(FolderNumber::MAX);
            let record = FolderRecord { manifest, counter: 1, ..FolderRecord::new(number) };
            put_record(txn, id, &record)?;
            // All paths belong to this segment, which is stale.
            let mut segments = txn.open_table(SEGMENTS)?;
            let key = key_of(number, &RelPath::root());
            segments.insert(&key[..], &SegmentRow::unwritten(record.counter).encode()[..])?;
            Ok(record)
        })
    }

    /// Changes the record of a folder.
    pub(crate) fn update<T>(
        &self,
        id: &FolderId,
        change: impl FnOnce(&mut FolderRecord) -> T,
    ) -> Result<T, SyncError> {
        let found = self.write("update", |txn| {
            let Some(mut record) = record_in(txn, id)? else { return Ok(None) };
            let value = change(&mut record);
            put_record(txn, id, &record)?;
            Ok(Some(value))
        })?;
        found.ok_or_else(|| SyncError::UnknownFolder(id.clone()))
    }

    /// Removes a folder. Its number is never used again.
    pub(crate) fn remove_folder(&self, id: &FolderId) -> Result<(), SyncError> {
        self.write("remove a folder from", |txn| {
            let Some(record) = record_in(txn, id)? else { return Ok(()) };
            let range = folder_range(record.number);
            let mut ids = Vec::new();
            let mut files = txn.open_table(FILES)?;
            files.retain_in(&range.start[..]..&range.end[..], |_, value| {
                let content = Row::decode(value).and_then(|row| row.content().copied());
                ids.extend(content.and_then(|content| content.id));
                false
            })?;
            let mut by_id = txn.open_table(BY_ID)?;
            for id in ids {
                by_id.remove(id.0)?;
            }
            let inodes = (record.number, 0)..=(record.number, u64::MAX);
            txn.open_table(BY_INODE)?.retain_in(inodes, |_, _| false)?;
            links::remove_folder(txn, record.number)?;
            for table in [SEGMENTS, ERRORS] {
                let mut table = txn.open_table(table)?;
                table.retain_in(&range.start[..]..&range.end[..], |_, _| false)?;
            }
            txn.open_table(FOLDERS)?.remove(id.as_str())?;
            Ok(())
        })
    }

    /// Returns the row of a path.
    pub(crate) fn row(
        &self,
        number: FolderNumber,
        path: &RelPath,
    ) -> Result<Option<Row>, SyncError> {
        let key = key_of(number, path);
        let bytes = self.read(|txn| {
            let table = txn.open_table(FILES)?;
            Ok(table.get(&key[..])?.map(|value| value.value().to_vec()))
        })?;
        bytes.map(|bytes| self.decode_row(&key, &bytes)).transpose()
    }

    pub(crate) fn decode_row(&self, key: &[u8], bytes: &[u8]) -> Result<Row, SyncError> {
        Row::decode(bytes).ok_or_else(|| {
            let path = path_of(key).map_or("?".to_owned(), |(_, path)| path.to_string());
            self.damaged(format!("the row of {path}"))
        })
    }

    /// Returns the folder, the path and the row of a file version.
    pub(crate) fn locate(
        &self,
        id: FileId,
    ) -> Result<Option<(FolderNumber, RelPath, Row)>, SyncError> {
        let found = self.read(|txn| {
            let Some(key) = txn.open_table(BY_ID)?.get(id.0)?.map(|key| key.value().to_vec())
            else {
                return Ok(None);
            };
            let row = txn.open_table(FILES)?.get(&key[..])?.map(|row| row.value().to_vec());
            Ok(row.map(|row| (key, row)))
        })?;
        let Some((key, row)) = found else { return Ok(None) };
        let row = self.decode_row(&key, &row)?;
        let (number, path) = path_of(&key).ok_or_else(|| self.damaged("an invalid path"))?;
        Ok(Some((number, path, row)))
    }

    /// Returns the ids of all file versions that rows name.
    pub(crate) fn file_ids(&self) -> Result<HashSet<FileId>, SyncError> {
        self.read(|txn| {
            let table = txn.open_table(BY_ID)?;
            let ids = table.iter()?.map(|row| Ok(FileId(row?.0.value())));
            ids.collect()
        })
    }

    /// Returns the file that has this inode, or had it last.
    pub(crate) fn by_inode(
        &self,
        number: FolderNumber,
        inode: u64,
    ) -> Result<Option<(RelPath, Row)>, SyncError> {
        let id = self.read(|txn| {
            let table = txn.open_table(BY_INODE)?;
            Ok(table.get((number, inode))?.map(|id| FileId(id.value())))
        })?;
        let Some(id) = id else { return Ok(None) };
        Ok(self.locate(id)?.map(|(_, path, row)| (path, row)))
    }

    /// Returns the first `limit` entries of the error list of a folder, in the order of paths.
    pub(crate) fn errors(
        &self,
        number: FolderNumber,
        limit: usize,
    ) -> Result<Vec<(RelPath, ErrorRow)>, SyncError> {
        let range = folder_range(number);
        let rows = self.read(|txn| {
            let table = txn.open_table(ERRORS)?;
            let rows = table.range(&range.start[..]..&range.end[..])?.take(limit).map(|row| {
                let (key, value) = row?;
                Ok((key.value().to_vec(), value.value().to_vec()))
            });
            rows.collect::<DbResult<Vec<_>>>()
        })?;
        let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
            let (_, path) = path_of(&key)?;
            Some((path, ErrorRow::decode(&value)?))
        };
        let decoded: Option<_> = rows.into_iter().map(decode).collect();
        decoded.ok_or_else(|| self.damaged("the error list"))
    }

    /// Returns a consistent view of the index.
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>, SyncError> {
        let db = self.database()?;
        let txn = db.begin_read().map_err(|error| self.error("read", error))?;
        Ok(Snapshot::new(self, db, txn))
    }
}

impl ErrorRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = codec::Writer::default();
        out.signed(self.since_ms);
        out.bytes(self.what.as_bytes());
        out.0
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = codec::Reader(bytes);
        Some(Self { since_ms: from.signed()?, what: from.text()? })
    }
}

/// Creates an empty database. It gets its name when it is complete, so that a crash leaves no
/// file that is not a database: such a file would stop every later start.
fn create(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), SyncError> {
    let new = dir.join(NEW_FILE);
    let state = |action, path: &Path| {
        let path = path.to_owned();
        move |source| SyncError::State { action, path, source }
    };
    match disk.remove(&new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(state("remove", &new)(source)),
    }
    let file = disk.create(&new).map_err(state("create", &new))?;
    let created = Database::builder().create_with_backend(Backend(file));
    // Closing it ends the writes to the file.
    drop(created.map_err(|error| SyncError::Index {
        action: "create",
        path: new.clone(),
        source: Box::new(error.into()),
    })?);
    disk.rename(&new, path).map_err(state("rename", &new))?;
    disk.sync_dir(dir).map_err(state("sync", dir))
}

fn open_or_create(disk: &dyn Disk, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
    match disk.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => disk.create(path),
        opened => opened,
    }
}

/// Returns the record of a folder within a transaction.
fn record_in(txn: &WriteTransaction, id: &FolderId) -> DbResult<Option<FolderRecord>> {
    let table = txn.open_table(FOLDERS)?;
    let Some(value) = table.get(id.as_str())? else { return Ok(None) };
    serde_json::from_slice(value.value())
        .map(Some)
        .map_err(|_| redb::Error::Corrupted(format!("the record of folder {id}")))
}

/// Notes in the records of all folders that the computer crashed.
fn distrust_recent_files(txn: &WriteTransaction) -> DbResult<()> {
    let ids = {
        let table = txn.open_table(FOLDERS)?;
        let ids = table.iter()?.map(|row| Ok(row?.0.value().to_owned()));
        ids.collect::<DbResult<Vec<_>>>()?
    };
    for id in ids {
        // An invalid id is reported by the first call that reads it.
        let Ok(id) = id.parse::<FolderId>() else { continue };
        if let Some(mut record) = record_in(txn, &id)? {
            record.distrust_recent_files();
            put_record(txn, &id, &record)?;
        }
    }
    Ok(())
}

fn put_record(txn: &WriteTransaction, id: &FolderId, record: &FolderRecord) -> DbResult<()> {
    let json = serde_json::to_vec(record).expect("numbers and texts have a JSON form");
    txn.open_table(FOLDERS)?.insert(id.as_str(), &json[..])?;
    Ok(())
}
