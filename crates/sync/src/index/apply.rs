//! Applies changes of rows: many in one transaction, each only if the row is still the one on
//! which the change is based.

use std::collections::BTreeMap;

use jiff::Timestamp;
use redb::{ReadableTable, Table, WriteTransaction};
use store::FileId;
use types::{FolderId, RelPath};

use super::links::Links;
use super::segments::Marker;
use super::{
    BY_ID, BY_INODE, Bytes, Content, DbResult, ERRORS, ErrorRow, FILES, FolderRecord, Index,
    LOSS_WINDOW, Row, RowStamp, SEGMENTS, put_record, record_in,
};
use crate::error::SyncError;
use crate::path_key::{below_range, key_of, within_range};

/// A change of one path.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Stores a new row. If its hour is 0, the hour and the sequence are filled in.
    Put {
        /// The new row.
        row: Box<Row>,
        /// The stamp of the row on which the change is based.
        before: Option<RowStamp>,
    },
    /// Puts a path that could not be read on the error list. An existing row stays.
    Fail {
        /// The problem.
        what: String,
        /// True if the row gets the error, too.
        is_marked: bool,
    },
}

/// Changes that are not in the index yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    changes: BTreeMap<RelPath, Change>,
    /// Paths that no longer exist, each with everything below it, and the stamps of the rows
    /// on which this is based. Removed after the changes.
    forgotten: Vec<(RelPath, Option<RowStamp>)>,
}

/// A version of a file that a new version under the same path has replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplacedVersion {
    pub(crate) id: FileId,
    pub(crate) path: RelPath,
    /// True if the new version has another content.
    pub(crate) has_other_content: bool,
    /// True if no manifest has the content.
    pub(crate) was_unpublished: bool,
}

/// The result of applying a batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// Number of changes that require a manifest.
    pub(crate) changes: u64,
    /// Paths whose change was not applied, because the row was another one.
    pub(crate) conflicts: Vec<RelPath>,
    /// File versions that a new version under the same path has replaced.
    pub(crate) replaced: Vec<ReplacedVersion>,
}

impl Batch {
    /// Adds a change. It replaces an earlier change of the same path, and takes over the stamp
    /// on which that was based.
    pub(crate) fn add(&mut self, path: RelPath, mut change: Change) {
        if let Some(Change::Put { before, .. }) = self.changes.get(&path)
            && let Change::Put { before: new, .. } = &mut change
        {
            *new = *before;
        }
        self.changes.insert(path, change);
    }

    /// Adds the removal of a path and of everything below it.
    pub(crate) fn forget(&mut self, path: RelPath, before: Option<RowStamp>) {
        self.forgotten.push((path, before));
    }

    /// Returns the new row of a path, if the batch has one.
    pub(crate) fn row(&self, path: &RelPath) -> Option<&Row> {
        match self.changes.get(path) {
            Some(Change::Put { row, .. }) => Some(row),
            _ => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len() + self.forgotten.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Returns a time in hours since 1970.
pub(crate) fn hour_of(time: Timestamp) -> u32 {
    u32::try_from(time.as_second() / 3600).unwrap_or(0)
}

impl Index {
    /// Applies a batch in one durable transaction.
    pub(crate) fn apply(
        &self,
        folder: &FolderId,
        batch: &Batch,
        now: Timestamp,
    ) -> Result<Applied, SyncError> {
        let found = self.write("write", |txn| {
            let Some(mut record) = record_in(txn, folder)? else { return Ok(None) };
            record.counter += 1;
            let applied = ApplyTransaction::new(txn, &mut record, now)?.run(batch)?;
            put_record(txn, folder, &record)?;
            Ok(Some(applied))
        })?;
        found.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))
    }

    /// Removes all paths from the error list for which `keep` returns false.
    pub(crate) fn keep_errors(
        &self,
        folder: &FolderId,
        keep: impl Fn(&RelPath) -> bool,
    ) -> Result<(), SyncError> {
        self.write("write", |txn| {
            let Some(mut record) = record_in(txn, folder)? else { return Ok(()) };
            if record.errors == 0 {
                return Ok(());
            }
            let range = within_range(record.number, &RelPath::root());
            let mut errors = txn.open_table(ERRORS)?;
            let mut removed = 0;
            errors.retain_in(&range.start[..]..&range.end[..], |key, _| {
                let is_kept = crate::path_key::path_of(key).is_some_and(|(_, path)| keep(&path));
                removed += u64::from(!is_kept);
                is_kept
            })?;
            record.errors = record.errors.saturating_sub(removed);
            put_record(txn, folder, &record)
        })
    }
}

/// A running transaction.
struct ApplyTransaction<'a, 'txn> {
    record: &'a mut FolderRecord,
    files: Table<'txn, Bytes, Bytes>,
    by_id: Table<'txn, u64, Bytes>,
    by_inode: Table<'txn, (u32, u64), u64>,
    links: Links<'txn>,
    segments: Table<'txn, Bytes, Bytes>,
    errors: Table<'txn, Bytes, Bytes>,
    marker: Marker,
    now: Timestamp,
    lost: u64,
    removed: u64,
    /// The last directory that was found to have a row.
    known_dir: Option<RelPath>,
    applied: Applied,
}

impl<'a, 'txn> ApplyTransaction<'a, 'txn> {
    fn new(
        txn: &'txn WriteTransaction,
        record: &'a mut FolderRecord,
        now: Timestamp,
    ) -> DbResult<Self> {
        Ok(Self {
            files: txn.open_table(FILES)?,
            by_id: txn.open_table(BY_ID)?,
            by_inode: txn.open_table(BY_INODE)?,
            links: Links::open(txn, record.number)?,
            segments: txn.open_table(SEGMENTS)?,
            errors: txn.open_table(ERRORS)?,
            marker: Marker::new(record.number, record.counter),
            record,
            now,
            lost: 0,
            removed: 0,
            known_dir: None,
            applied: Applied::default(),
        })
    }

    fn run(mut self, batch: &Batch) -> DbResult<Applied> {
        for (path, change) in &batch.changes {
            match change {
                Change::Put { row, before } => self.put(path, row, *before)?,
                Change::Fail { what, is_marked } => self.fail(path, what, *is_marked)?,
            }
        }
        for (path, before) in &batch.forgotten {
            self.forget(path, *before)?;
        }
        self.record.add_losses(hour_of(self.now), self.lost, self.removed);
        self.record.pending += self.applied.changes;
        Ok(self.applied)
    }

    fn row(&self, key: &[u8]) -> DbResult<Option<Row>> {
        let Some(value) = self.files.get(key)? else { return Ok(None) };
        let row = Row::decode(value.value());
        row.map(Some).ok_or_else(|| redb::Error::Corrupted("a row".into()))
    }

    fn put(&mut self, path: &RelPath, row: &Row, before: Option<RowStamp>) -> DbResult<()> {
        let key = key_of(self.record.number, path);
        let old = self.row(&key)?;
        if old.as_ref().map(|old| old.stamp) != before || !self.has_parent(path)? {
            self.applied.conflicts.push(path.clone());
            return Ok(());
        }
        let row = self.with_age(row, old.as_ref());
        if old.as_ref().is_some_and(Row::is_dir) && !row.is_dir() {
            self.forget_below(path)?;
        }
        let old_id = old.as_ref().and_then(|old| old.content()?.id);
        let old_sequence = old.as_ref().map_or(0, |old| old.sequence);
        let cid = |row: &Row| row.content().map(|content| content.cid);
        let is_same_content = old.as_ref().and_then(cid) == cid(&row);
        let new_id = row.content().and_then(|content| content.id);
        let old_inode = old.as_ref().map(|old| old.stamp.inode);
        if let Some(old) = &old {
            if old_id != new_id || old_inode != Some(row.stamp.inode) {
                self.drop_id(old, &key)?;
            }
            self.note_loss(old, Some(&row))?;
        }
        if let Some(old_id) = old_id
            && row.content().is_some()
            && Some(old_id) != new_id
        {
            self.applied.replaced.push(ReplacedVersion {
                id: old_id,
                path: path.clone(),
                has_other_content: !is_same_content,
                was_unpublished: old_sequence > self.record.sequence().0,
            });
        }
        if let Some(id) = new_id
            && (old_id != new_id || old_inode != Some(row.stamp.inode))
        {
            self.by_id.insert(id.0, &key[..])?;
            // (On other file systems, other files have the same inode numbers.)
            if !row.stamp.is_elsewhere {
                self.by_inode.insert((self.record.number, row.stamp.inode), id.0)?;
            }
        }
        self.files.insert(&key[..], &row.encode()[..])?;
        self.links.replace(&key, old.as_ref(), Some(&row))?;
        self.count(path, old.as_ref(), -1);
        self.count(path, Some(&row), 1);
        self.note_difference(path, &key, old.as_ref(), &row)?;
        match &row.error {
            Some(what) => self.put_error(&key, what),
            None => self.clear_error(&key),
        }
    }

    /// Notes a difference that a manifest shows, and whether it requires a manifest.
    fn note_difference(
        &mut self,
        path: &RelPath,
        key: &[u8],
        old: Option<&Row>,
        new: &Row,
    ) -> DbResult<()> {
        // The mtime of a directory changes with every temporary file in it, so it waits for
        // the next manifest and does not require one.
        let requires_manifest = match old {
            None => !path.is_root(),
            Some(old) if new.is_dir() => old.differs_beyond_mtime(new),
            Some(old) => old.differs_in_manifest(new),
        };
        if requires_manifest || old.is_none_or(|old| old.differs_in_manifest(new)) {
            self.note_change(key, requires_manifest)?;
        }
        Ok(())
    }

    fn note_change(&mut self, key: &[u8], requires_manifest: bool) -> DbResult<()> {
        self.applied.changes += u64::from(requires_manifest);
        self.marker.mark(&mut self.segments, key)
    }

    /// Fills in the hour and the sequence since which the content exists.
    fn with_age(&self, row: &Row, old: Option<&Row>) -> Row {
        let mut row = row.clone();
        if row.hour != 0 {
            return row;
        }
        let cid = |row: &Row| row.content().map(|content| content.cid);
        match old {
            Some(old) if cid(old) == cid(&row) => {
                (row.hour, row.sequence) = (old.hour, old.sequence);
            }
            _ => {
                row.hour = hour_of(self.now);
                // One thread makes the rows and the manifests of a folder, so no manifest is
                // being made now.
                row.sequence = self.record.sequence().0 + 1;
            }
        }
        row
    }

    fn has_parent(&mut self, path: &RelPath) -> DbResult<bool> {
        let Some(parent) = path.parent() else { return Ok(true) };
        if self.known_dir.as_ref() == Some(&parent) {
            return Ok(true);
        }
        let key = key_of(self.record.number, &parent);
        let is_dir = self.row(&key)?.is_some_and(|row| row.is_dir());
        if is_dir {
            self.known_dir = Some(parent);
        }
        Ok(is_dir)
    }

    /// Counts content that is lost: content of the last manifest, and content that had existed
    /// for [`LOSS_WINDOW`]. Its id was dropped before.
    fn note_loss(&mut self, old: &Row, new: Option<&Row>) -> DbResult<()> {
        let Some(content) = old.content() else { return Ok(()) };
        if new.and_then(Row::content).is_some_and(|new| new.cid == content.cid) {
            return Ok(());
        }
        // Content that has another name now is not lost.
        if let Some(id) = content.id
            && self.by_id.get(id.0)?.is_some()
        {
            return Ok(());
        }
        if self.is_same_file_elsewhere(old, content)? {
            return Ok(());
        }
        self.record.lost += u64::from(old.sequence <= self.record.sequence().0);
        let age = hour_of(self.now).saturating_sub(old.hour);
        if age >= LOSS_WINDOW {
            self.lost += 1;
            self.removed += u64::from(new.is_none());
        }
        Ok(())
    }

    /// Reports whether the file of a row has another name by now, and was read again with the
    /// same content: a file that is renamed immediately after it was written is read again.
    fn is_same_file_elsewhere(&self, old: &Row, content: &Content) -> DbResult<bool> {
        let inode = (self.record.number, old.stamp.inode);
        let Some(id) = self.by_inode.get(inode)?.map(|id| FileId(id.value())) else {
            return Ok(false);
        };
        if content.id == Some(id) {
            return Ok(false);
        }
        let Some(key) = self.by_id.get(id.0)?.map(|key| key.value().to_vec()) else {
            return Ok(false);
        };
        let row = self.row(&key)?;
        Ok(row.and_then(|row| Some(row.content()?.cid == content.cid)).unwrap_or(false))
    }

    /// Removes the id of a row that goes, or leads it to another name with the same content.
    fn drop_id(&mut self, old: &Row, key: &[u8]) -> DbResult<()> {
        let Some(id) = old.content().and_then(|content| content.id) else { return Ok(()) };
        let is_here = self.by_id.get(id.0)?.is_some_and(|at| at.value() == key);
        if !is_here {
            return Ok(());
        }
        if let Some(other) = self.links.other_name(&self.files, key, old)? {
            self.by_id.insert(id.0, &other[..])?;
            return Ok(());
        }
        self.by_id.remove(id.0)?;
        let inode = (self.record.number, old.stamp.inode);
        let is_last = self.by_inode.get(inode)?.is_some_and(|last| last.value() == id.0);
        if is_last {
            self.by_inode.remove(inode)?;
        }
        Ok(())
    }

    fn count(&mut self, path: &RelPath, row: Option<&Row>, sign: i64) {
        let Some(row) = row else { return };
        if path.is_root() {
            return;
        }
        let rows = &mut self.record.rows;
        if row.is_dir() {
            rows.dirs = rows.dirs.saturating_add_signed(sign);
        } else {
            rows.files = rows.files.saturating_add_signed(sign);
        }
        if row.content().is_some() {
            let size = i64::try_from(row.stamp.size).unwrap_or(i64::MAX);
            rows.bytes = rows.bytes.saturating_add_signed(size * sign);
        }
    }

    fn fail(&mut self, path: &RelPath, what: &str, is_marked: bool) -> DbResult<()> {
        let key = key_of(self.record.number, path);
        if is_marked && let Some(old) = self.row(&key)? {
            let error = Some(what.to_owned());
            let row = Row { error, is_attribute_error: false, ..old.clone() };
            if row != old {
                self.files.insert(&key[..], &row.encode()[..])?;
                self.note_difference(path, &key, Some(&old), &row)?;
            }
        }
        self.put_error(&key, what)
    }

    fn put_error(&mut self, key: &[u8], what: &str) -> DbResult<()> {
        let before = self.errors.get(key)?.and_then(|value| ErrorRow::decode(value.value()));
        let since_ms =
            before.as_ref().map_or_else(|| self.now.as_millisecond(), |before| before.since_ms);
        self.record.errors += u64::from(before.is_none());
        let error = ErrorRow { what: what.to_owned(), since_ms };
        if before.as_ref() != Some(&error) {
            self.errors.insert(key, &error.encode()[..])?;
        }
        Ok(())
    }

    fn clear_error(&mut self, key: &[u8]) -> DbResult<()> {
        if self.record.errors > 0 && self.errors.remove(key)?.is_some() {
            self.record.errors -= 1;
        }
        Ok(())
    }

    fn forget(&mut self, path: &RelPath, before: Option<RowStamp>) -> DbResult<()> {
        let key = key_of(self.record.number, path);
        if self.row(&key)?.map(|old| old.stamp) != before {
            self.applied.conflicts.push(path.clone());
            return Ok(());
        }
        let range = within_range(self.record.number, path);
        self.forget_range(&range)?;
        self.forget_errors(&range)
    }

    fn forget_below(&mut self, path: &RelPath) -> DbResult<()> {
        let range = below_range(self.record.number, path);
        self.forget_range(&range)?;
        self.forget_errors(&range)
    }

    fn forget_range(&mut self, range: &std::ops::Range<Vec<u8>>) -> DbResult<()> {
        self.known_dir = None;
        loop {
            // In parts, so that memory does not grow with the range.
            let rows = self.files.range(&range.start[..]..&range.end[..])?.take(1000);
            let rows = rows.map(|row| {
                let (key, value) = row?;
                let row = Row::decode(value.value());
                let row = row.ok_or_else(|| redb::Error::Corrupted("a row".into()))?;
                Ok((key.value().to_vec(), row))
            });
            let rows: Vec<(Vec<u8>, Row)> = rows.collect::<DbResult<_>>()?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, row) in rows {
                self.drop_id(&row, &key)?;
                self.note_loss(&row, None)?;
                self.record.deleted += u64::from(row.sequence <= self.record.sequence().0);
                self.files.remove(&key[..])?;
                self.links.replace(&key, Some(&row), None)?;
                if let Some((_, path)) = crate::path_key::path_of(&key) {
                    self.count(&path, Some(&row), -1);
                }
                self.note_change(&key, true)?;
            }
        }
    }

    fn forget_errors(&mut self, range: &std::ops::Range<Vec<u8>>) -> DbResult<()> {
        if self.record.errors > 0 {
            let mut removed = 0;
            self.errors.retain_in(&range.start[..]..&range.end[..], |_, _| {
                removed += 1;
                false
            })?;
            self.record.errors = self.record.errors.saturating_sub(removed);
        }
        Ok(())
    }
}
