//! The index as it is at one moment, however it goes on.

use std::ops::Range;
use std::sync::Arc;

use redb::{Database, ReadTransaction};
use types::{FolderId, RelPath};

use super::segments::start_of;
use super::{DbResult, FILES, FOLDERS, FolderRecord, Index, Row, SEGMENTS, SegmentRow};
use crate::error::SyncError;
use crate::path_key::{FolderNumber, NUMBER_LEN, folder_range, path_of};

/// See the module. While it lives, what changes takes further room in the
/// file, so it is not kept for long.
pub(crate) struct Snapshot<'a> {
    index: &'a Index,
    txn: ReadTransaction,
    /// Kept open for the transaction.
    _db: Arc<Database>,
}

/// A row that is not decoded yet, with the path part of its key.
#[derive(Clone, Debug)]
pub(crate) struct RawRow {
    /// The key, its number included.
    pub(crate) key: Vec<u8>,
    /// The value.
    pub(crate) value: Vec<u8>,
}

impl RawRow {
    /// The path as it stands in the key.
    pub(crate) fn key_path(&self) -> &[u8] {
        &self.key[NUMBER_LEN..]
    }

    /// The path.
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

    /// What is known of a folder.
    pub(crate) fn folder(&self, id: &FolderId) -> Result<Option<FolderRecord>, SyncError> {
        let bytes = self.read(|txn| {
            let table = txn.open_table(FOLDERS)?;
            Ok(table.get(id.as_str())?.map(|value| value.value().to_vec()))
        })?;
        bytes.map(|bytes| self.index.decode_record(id, &bytes)).transpose()
    }

    /// The segments of a folder, and where each begins.
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

    /// The first rows of a range, at most `limit`.
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

    /// Calls with every row of a range, in order.
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
