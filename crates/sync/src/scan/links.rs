//! Files with several names: each is read once, and a change through one name is recorded
//! for all.
//!
//! The watcher reports a write in the directory of the name that was used, and nowhere else.
//! So a scan that finds a change also examines the other names that the index knows: in this
//! folder before the scan ends, so that no manifest contains the file in two states, and in
//! other folders by a hint.

use std::collections::{HashMap, HashSet};

use fstree::{FoundEntry, TreeReader as _};
use types::RelPath;

use super::{Scan, ScanError};
use crate::error::SyncError;
use crate::hash::{ReadJob, ReadMode};
use crate::index::{Row, RowKind, RowStamp};
use crate::watch::Hint;

/// Maximum number of rows that are kept in memory to be taken over by other names; the index
/// has the others.
const RECENT_MAX: usize = 100_000;

/// A name of a file that is being read under another name.
pub(super) struct WaitingName {
    found: FoundEntry,
    before: Option<RowStamp>,
}

/// The files with several names in one scan.
#[derive(Default)]
pub(super) struct LinkedFiles {
    /// The rows that this scan recorded, by inode.
    recent: HashMap<u64, Row>,
    /// For each inode that is being read, its further names.
    waiting: HashMap<u64, Vec<WaitingName>>,
    /// Paths that lost their file, which had several names, and its inode.
    pub(super) gone: Vec<(RelPath, u64)>,
    /// Names to be examined before the scan ends.
    due: Vec<RelPath>,
    /// The stamps with which [`Scan::note_linked_change`] was called last.
    noted: HashMap<u64, RowStamp>,
    /// All names that were in `due`. Each is examined once, so that a file that keeps
    /// changing does not keep the scan.
    requested: HashSet<RelPath>,
    /// The inodes that this scan has read.
    was_read: HashSet<u64>,
}

impl LinkedFiles {
    /// Keeps a row, so that the other names of the file can take over its content.
    fn remember(&mut self, row: &Row) {
        if row.error.is_some() {
            return;
        }
        if self.recent.len() >= RECENT_MAX {
            self.recent.clear();
        }
        self.recent.insert(row.stamp.inode, row.clone());
    }
}

impl Scan<'_> {
    /// Takes over the content that another name of the same file has, or lets the name wait
    /// while the file is read under another one. Returns the entry if it must be read.
    pub(super) fn share(
        &mut self,
        found: FoundEntry,
        before: Option<RowStamp>,
    ) -> Result<Option<FoundEntry>, SyncError> {
        let stamp = RowStamp::of(&found.stamp, self.device());
        if let Some(row) = self.shared_row(&found, &stamp)? {
            self.mark_resolved(&found.path);
            self.note_linked_change(&found.path, stamp.inode, Some(&stamp))?;
            self.linked.remember(&row);
            self.note_unread(&found.path, &row);
            self.put(found.path, Box::new(row), before);
            return Ok(None);
        }
        if let Some(waiting) = self.linked.waiting.get_mut(&stamp.inode) {
            waiting.push(WaitingName { found, before });
            return Ok(None);
        }
        self.linked.waiting.insert(stamp.inode, Vec::new());
        Ok(Some(found))
    }

    /// Returns the row for a name of a file whose content is known from another name, or from
    /// the last row of this one.
    fn shared_row(&self, found: &FoundEntry, stamp: &RowStamp) -> Result<Option<Row>, SyncError> {
        // A file that must be read is read once for all its names.
        let is_suspect = self.options.suspects.contains(&found.path);
        if let Some(recent) = self.linked.recent.get(&stamp.inode)
            && is_same_file(recent, found, stamp)
            && (!is_suspect || self.linked.was_read.contains(&stamp.inode))
        {
            return self.with_content_of(recent, found, stamp);
        }
        if self.options.is_rehash || is_suspect || !self.has_rows {
            return Ok(None);
        }
        let names = self.context.index.names_of_inode(self.options.number, stamp.inode)?;
        let known = names.iter().find(|(_, row)| !row.is_unread && is_same_file(row, found, stamp));
        match known {
            Some((_, row)) => self.with_content_of(row, found, stamp),
            None => Ok(None),
        }
    }

    fn with_content_of(
        &self,
        known: &Row,
        found: &FoundEntry,
        stamp: &RowStamp,
    ) -> Result<Option<Row>, SyncError> {
        let Some(content) = known.content() else { return Ok(None) };
        let is_untouched = known.stamp == *stamp;
        let xattrs = if is_untouched {
            known.xattrs.clone()
        } else {
            match self.reader.root.xattrs(found) {
                Ok(read) if read.problem().is_none() => read.xattrs,
                _ => return Ok(None),
            }
        };
        let mut row = Row::new(found, self.device(), RowKind::File(*content), xattrs);
        (row.hour, row.sequence) = (known.hour, known.sequence);
        (row.is_racy, row.is_unsettled) = (known.is_racy, known.is_unsettled);
        row.is_unread = known.is_unread || !is_untouched;
        Ok(Some(row))
    }

    /// Notes the row of a file that was read, and gives its content to the other names. The
    /// job was to read the file `inode`; another one may have got its name meanwhile.
    pub(super) fn share_row(
        &mut self,
        path: &RelPath,
        row: &Row,
        inode: u64,
    ) -> Result<(), SyncError> {
        if row.stamp.is_elsewhere {
            return Ok(());
        }
        if row.links < 2 || row.stamp.inode != inode {
            self.read_next_name(inode);
            return Ok(());
        }
        self.linked.remember(row);
        self.linked.was_read.insert(inode);
        self.note_linked_change(path, inode, Some(&row.stamp))?;
        for WaitingName { found, before } in self.linked.waiting.remove(&inode).unwrap_or_default()
        {
            if let Some(found) = self.share(found, before)? {
                self.read(found, before);
            }
        }
        Ok(())
    }

    /// Reads a file under its next name, because it could not be read under the first.
    pub(super) fn read_next_name(&mut self, inode: u64) {
        let Some(mut waiting) = self.linked.waiting.remove(&inode) else { return };
        if let Some(WaitingName { found, before }) = waiting.pop() {
            self.linked.waiting.insert(inode, waiting);
            self.read(found, before);
        }
    }

    /// Reports the names that still wait: their files are in the lane.
    pub(super) fn note_long_names(&mut self) {
        let waiting = std::mem::take(&mut self.linked.waiting).into_values().flatten();
        self.report.long_names.extend(waiting.map(|name| name.found.path));
    }

    /// Has the pool read a file, or the lane if the file is long.
    pub(super) fn read(&mut self, found: FoundEntry, before: Option<RowStamp>) {
        let mode = self.options.modes.get(&found.path).copied().unwrap_or(ReadMode::InPlace);
        let mut job = ReadJob { found, before, mode };
        if job.found.stamp.size >= self.context.tuning.long_len {
            let now = self.context.clock.elapsed();
            match self.options.lane.add(&self.options.lane_reader, job, now) {
                Ok(()) => return,
                Err(refused) => job = *refused,
            }
        }
        self.pool.add(job);
    }

    /// Notes that an inode has changed, or lost a name: its other names are examined.
    /// `stamp` is its present stamp, if it is known.
    pub(super) fn note_linked_change(
        &mut self,
        path: &RelPath,
        inode: u64,
        stamp: Option<&RowStamp>,
    ) -> Result<(), SyncError> {
        // The names of one inode lead here one after the other.
        if let Some(stamp) = stamp
            && self.linked.noted.insert(inode, *stamp) == Some(*stamp)
        {
            return Ok(());
        }
        // A full scan examines every name anyway.
        let names = if self.is_all {
            Vec::new()
        } else {
            self.context.index.names_of_inode(self.options.number, inode)?
        };
        for (other, row) in names {
            let is_current = stamp.is_some_and(|stamp| {
                let row = self.batch.row(&other).unwrap_or(&row);
                row.stamp == *stamp
            });
            if other == *path || is_current {
                continue;
            }
            if self.linked.requested.insert(other.clone()) {
                self.linked.due.push(other);
            } else {
                self.report.rescan.push(other.parent().unwrap_or_else(RelPath::root));
            }
        }
        for number in self.context.files.numbers() {
            if number == self.options.number {
                continue;
            }
            for (other, row) in self.context.index.names_of_inode(number, inode)? {
                if stamp.is_none_or(|stamp| row.stamp != *stamp) {
                    let dir = other.parent().unwrap_or_else(RelPath::root);
                    (self.context.hints.0)(number, Hint::Dirty(dir));
                }
            }
        }
        Ok(())
    }

    /// Examines the other names of files that have changed. Returns false if there are none.
    pub(super) fn examine_linked(&mut self) -> Result<bool, ScanError> {
        for (path, inode) in std::mem::take(&mut self.linked.gone) {
            self.note_linked_change(&path, inode, None)?;
        }
        let due = std::mem::take(&mut self.linked.due);
        for path in &due {
            self.scan_file(path)?;
        }
        Ok(!due.is_empty())
    }
}

/// Reports whether the content of a row is the content of an entry with several names: the
/// same inode, with the same times, or changed only in the number of its names.
///
/// A new number of names explains a new ctime, but a program may have written to the file and
/// set the mtime back as well, so the next full scan reads it once. The birth time proves that
/// the inode was not used again, as in [`is_renamed`](super::reconcile).
fn is_same_file(row: &Row, found: &FoundEntry, stamp: &RowStamp) -> bool {
    let is_alike = row.stamp == *stamp
        || (RowStamp { ctime: stamp.ctime, ..row.stamp } == *stamp
            && row.links != 0
            && row.links != found.links);
    let is_same_inode =
        row.born.is_some_and(|(_, fraction)| fraction != 0) && row.born == found.born;
    is_alike
        && is_same_inode
        && !stamp.is_elsewhere
        && row.content().is_some()
        && row.error.is_none()
        // A racy row may only be shared with its very own state; the next scan reads it.
        && (!row.is_racy || row.stamp == *stamp)
}
