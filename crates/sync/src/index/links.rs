//! The rows of inodes with several names (hard links).

use redb::{MultimapTable, ReadableMultimapTable, ReadableTable, WriteTransaction};
use types::RelPath;

use super::{Bytes, DbResult, FILES, Index, LINKS, Row};
use crate::error::SyncError;
use crate::path_key::{FolderNumber, path_of};

/// Maximum number of rows of one inode that are examined: ext4 allows 65,000 names.
const NAMES_MAX: usize = 65_000;

impl Index {
    /// Returns the rows of all names of an inode in a folder: those with several names, and
    /// the file that has this inode alone, or had it last.
    pub(crate) fn names_of_inode(
        &self,
        number: FolderNumber,
        inode: u64,
    ) -> Result<Vec<(RelPath, Row)>, SyncError> {
        let rows = self.read(|txn| {
            let (links, files) = (txn.open_multimap_table(LINKS)?, txn.open_table(FILES)?);
            let mut rows = Vec::new();
            for key in links.get((number, inode))?.take(NAMES_MAX) {
                let key = key?.value().to_vec();
                let row = files.get(&key[..])?.map(|row| row.value().to_vec());
                rows.extend(row.map(|row| (key, row)));
            }
            Ok(rows)
        })?;
        let mut names = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let (_, path) = path_of(&key).ok_or_else(|| self.damaged("an invalid path"))?;
            names.push((path, self.decode_row(&key, &row)?));
        }
        if let Some((path, row)) = self.by_inode(number, inode)?
            && !names.iter().any(|(known, _)| *known == path)
        {
            names.push((path, row));
        }
        Ok(names)
    }
}

/// Fills the table from the rows of an index that did not have it.
pub(super) fn fill(txn: &WriteTransaction) -> DbResult<()> {
    let mut links = txn.open_multimap_table(LINKS)?;
    for row in txn.open_table(FILES)?.iter()? {
        let (key, row) = row?;
        let row = Row::decode(row.value());
        let row = row.ok_or_else(|| redb::Error::Corrupted("a row".into()))?;
        if let (Some((number, _)), Some(_)) = (path_of(key.value()), row.hard_link) {
            links.insert((number, row.stamp.inode), key.value())?;
        }
    }
    Ok(())
}

/// Removes the links of a folder.
pub(super) fn remove_folder(txn: &WriteTransaction, number: FolderNumber) -> DbResult<()> {
    let mut links = txn.open_multimap_table(LINKS)?;
    let mut inodes = Vec::new();
    for entry in links.range((number, 0)..=(number, u64::MAX))? {
        inodes.push(entry?.0.value());
    }
    for inode in inodes {
        links.remove_all(inode)?;
    }
    Ok(())
}

/// The table, within a transaction that changes the rows of one folder.
pub(super) struct Links<'txn> {
    table: MultimapTable<'txn, (u32, u64), Bytes>,
    number: FolderNumber,
}

impl<'txn> Links<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction, number: FolderNumber) -> DbResult<Self> {
        Ok(Self { table: txn.open_multimap_table(LINKS)?, number })
    }

    /// Notes that the row of `key` has changed.
    pub(super) fn replace(
        &mut self,
        key: &[u8],
        old: Option<&Row>,
        new: Option<&Row>,
    ) -> DbResult<()> {
        let inode = |row: &Row| row.hard_link.is_some().then_some(row.stamp.inode);
        let (old, new) = (old.and_then(inode), new.and_then(inode));
        if old == new {
            return Ok(());
        }
        if let Some(inode) = old {
            self.table.remove((self.number, inode), key)?;
        }
        if let Some(inode) = new {
            self.table.insert((self.number, inode), key)?;
        }
        Ok(())
    }

    /// Returns the key of another row with the content of `row`, whose key is `key`: the last
    /// one, since changes are applied in the order of keys, and the last row is still the old.
    pub(super) fn other_name(
        &self,
        files: &impl ReadableTable<Bytes, Bytes>,
        key: &[u8],
        row: &Row,
    ) -> DbResult<Option<Vec<u8>>> {
        let id = row.content().and_then(|content| content.id);
        if row.hard_link.is_none() || id.is_none() {
            return Ok(None);
        }
        for other in self.table.get((self.number, row.stamp.inode))?.rev() {
            let other = other?.value().to_vec();
            if other == key {
                continue;
            }
            let found = files.get(&other[..])?.and_then(|row| Row::decode(row.value()));
            if found.and_then(|row| row.content()?.id) == id {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }
}
