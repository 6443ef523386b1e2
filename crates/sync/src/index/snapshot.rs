//! A consistent view of the index, which later writes do not change.

use std::ops::Range;
use std::sync::Arc;

use redb::{Database, ReadTransaction};
use types::{FolderId, RelPath};

use super::segments::start_of;
use super::{DbResult, FILES, FOLDERS, FolderRecord, Index, Row, SEGMENTS, SegmentRow};
use crate::error::SyncError;
use crate::path_key::{FolderNumber, NUMBER_LEN, folder_range, path_of};

/// A consistent view of the index. While it exists, changes need additional space in the file,
/// so do not keep it for long.
pub(crate) struct Snapshot<'a> {
    index: &'a Index,
    txn: ReadTransaction,
    /// Keeps the database open for the transaction.
    _db: Arc<Database>,
}

/// A row that is not decoded yet.
#[derive(Clone, Debug)]
pub(crate) struct RawRow {
    /// The key, with the number of the folder.
    pub(crate) key: Vec<u8>,
    /// The value.
    pub(crate) value: Vec<u8>,
}

impl RawRow {
    /// Returns the path part of the key, in its encoded form.
    pub(crate) fn key_path(&self) -> &[u8] {
        &self.key[NUMBER_LEN..]
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> Option<RelPath> {
        path_of(&self.key).map(|(_, path)| path)
    }
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(index: &'a Index, db: Arc<Database>, txn: ReadTransaction) -> Self {
        Self { index, txn, _db: db }
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> DbResult<T>) -> Result<T, SyncError> {
        work(&self.txn).map_err(|error| {
            self.index.note_failure(&error);
            self.index.error("read", error)
        })
    }

    /// Returns the record of a folder.
    pub(crate) fn folder(&self, id: &FolderId) -> Result<Option<FolderRecord>, SyncError> {
        let bytes = self.read(|txn| {
            let table = txn.open_table(FOLDERS)?;
            Ok(table.get(id.as_str())?.map(|value| value.value().to_vec()))
        })?;
        bytes.map(|bytes| self.index.decode_record(id, &bytes)).transpose()
    }

    /// Returns the segments of a folder, each with its first path.
    pub(crate) fn segments(
        &self,
        number: FolderNumber,
    ) -> Result<Vec<(RelPath, SegmentRow)>, SyncError> {
        let range = folder_range(number);
        let rows = self.read(|txn| {
            let table = txn.open_table(SEGMENTS)?;
            let rows = table.range(&range.start[..]..&range.end[..])?.map(|row| {
                let (key, value) = row?;
                Ok(start_of(key.value()).zip(SegmentRow::decode(value.value())))
            });
            rows.collect::<DbResult<Option<Vec<_>>>>()
        })?;
        rows.ok_or_else(|| self.index.damaged("the segments of a folder"))
    }

    /// Returns the first `limit` rows of a range.
    pub(crate) fn raw_rows(
        &self,
        range: &Range<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<RawRow>, SyncError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        self.read(|txn| {
            let table = txn.open_table(FILES)?;
            let rows = table.range(&range.start[..]..&range.end[..])?.take(limit).map(|row| {
                let (key, value) = row?;
                Ok(RawRow { key: key.value().to_vec(), value: value.value().to_vec() })
            });
            rows.collect()
        })
    }

    /// Calls `each` with every row of a range, in order.
    pub(crate) fn each_row(
        &self,
        range: &Range<Vec<u8>>,
        mut each: impl FnMut(RelPath, Row) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        if range.start >= range.end {
            return Ok(());
        }
        let mut outcome = Ok(());
        self.read(|txn| {
            let table = txn.open_table(FILES)?;
            for row in table.range(&range.start[..]..&range.end[..])? {
                let (key, value) = row?;
                let decoded = path_of(key.value())
                    .zip(Row::decode(value.value()))
                    .ok_or_else(|| self.index.damaged("a row"));
                outcome = decoded.and_then(|((_, path), row)| each(path, row));
                if outcome.is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        outcome
    }
}
