//! Reconciles one directory entry with its index row.

use fstree::{FileKind, FoundEntry, ReadError, TreeReader as _};
use types::{RelPath, with_causes};

use super::mounts::is_deleted_file;
use super::targets::ancestors;
use super::{Scan, ScanError};
use crate::error::SyncError;
use crate::index::{Change, Row, RowKind, RowStamp, kind_of};

impl Scan<'_> {
    /// Records an entry that differs from its row. The content of a regular file is read by
    /// the pool, unless the stamp says that it has not changed.
    pub(super) fn reconcile(
        &mut self,
        found: FoundEntry,
        row: Option<&Row>,
    ) -> Result<(), ScanError> {
        let stamp = RowStamp::of(&found.stamp, self.device());
        if found.kind() != FileKind::File {
            return Ok(self.reconcile_special(&found, row)?);
        }
        let now = self.context.clock.elapsed();
        if self.options.lane.skips(&found.path, now) || self.options.resting.contains(&found.path) {
            return Ok(());
        }
        let is_suspect = self.options.is_rehash || self.options.suspects.contains(&found.path);
        let known = row.filter(|row| {
            let is_due = row.is_racy
                || (row.is_unread && self.is_all)
                || self.is_settling(row, &found)
                || self.is_distrusted(row);
            let is_complete = row.error.is_none() || row.is_attribute_error;
            row.content().is_some() && row.stamp == stamp && is_complete && !is_due
        });
        if let Some(row) = known.filter(|_| !is_suspect) {
            self.mark_resolved(&found.path);
            if row.is_unsettled && !self.is_all {
                self.report.hinted.push(found.path.clone());
            }
            if row.is_attribute_error || !has_same_permissions(row, &found) {
                self.update_attributes(found, row);
            }
            return Ok(());
        }
        let before = row.map(|row| row.stamp);
        if !is_suspect && let Some(moved) = self.moved(&found, &stamp, before)? {
            self.mark_resolved(&found.path);
            self.note_unread(&found.path, &moved);
            self.put(found.path, Box::new(moved), before);
            return Ok(());
        }
        // (A file may have one name left of several.)
        let is_linked = found.links > 1 || row.is_some_and(|row| row.links > 1);
        if is_linked && stamp.is_elsewhere {
            // Inode numbers are only compared on the file system of the root.
            self.note_linked_change(&found.path, stamp.inode, Some(&stamp))?;
        }
        let found =
            if is_linked && !stamp.is_elsewhere { self.share(found, before)? } else { Some(found) };
        if let Some(found) = found {
            self.read(found, before);
        }
        Ok(())
    }

    /// Records the permissions and attributes of a file whose content is known: attributes
    /// could not be read before, or the permissions have changed without a change of the
    /// stamp, as on file systems whose ctime is the mtime.
    fn update_attributes(&mut self, found: FoundEntry, row: &Row) {
        let (xattrs, problem) = match self.reader.root.xattrs(&found) {
            Ok(read) => {
                let problem = read.problem();
                (read.xattrs, problem)
            }
            Err(error) => (row.xattrs.clone(), Some(with_causes(&error))),
        };
        if problem.is_some() {
            self.failed.insert(found.path.clone());
            self.has_errors = true;
        }
        let is_attribute_error = problem.is_some();
        let (mode, uid, gid) = (found.mode, found.uid, found.gid);
        let new = Row { mode, uid, gid, xattrs, error: problem, is_attribute_error, ..row.clone() };
        if new != *row {
            self.put(found.path, Box::new(new), Some(row.stamp));
        }
    }

    pub(super) fn device(&self) -> u64 {
        self.reader.root.identity().device
    }

    /// Adds a new row to the batch.
    pub(super) fn put(&mut self, path: RelPath, row: Box<Row>, before: Option<RowStamp>) {
        if row.is_unsettled {
            self.report.unsettled.push(path.clone());
        }
        self.start_batch_timer();
        self.batch.add(path, Change::Put { row, before });
    }

    /// Reports whether the computer crashed shortly after the last known change of a file.
    fn is_distrusted(&self, row: &Row) -> bool {
        let (seconds, nanoseconds) = row.stamp.ctime;
        let ctime = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        self.options.distrusted_since.is_some_and(|since| ctime >= since)
    }

    /// Reports whether a file was changed shortly before it was read, and is now to be read once
    /// more.
    fn is_settling(&self, row: &Row, found: &FoundEntry) -> bool {
        let is_old = || {
            let now_ns = self.reader.clock.file_time().as_nanosecond();
            self.reader.has_settled(row.stamp.ctime, now_ns)
        };
        row.is_unsettled
            && (self.options.reads_unsettled
                || self.options.hinted.is_some_and(|hinted| hinted.contains(&found.path))
                || self.options.settled.contains(&found.path)
                || is_old())
    }

    /// Asks for a reading of a file whose content was taken over from another name, if a change of
    /// the content would have left the same times: the rename has changed the ctime, and a program
    /// can set the mtime.
    pub(super) fn note_unread(&mut self, path: &RelPath, row: &Row) {
        if row.is_unread {
            self.report.unread.push(path.clone());
        }
    }

    /// Returns the row of a file that was renamed, whose content need not be read at once. Returns
    /// `None` if the file has several names, since the old name may still exist.
    fn moved(
        &self,
        found: &FoundEntry,
        stamp: &RowStamp,
        before: Option<RowStamp>,
    ) -> Result<Option<Row>, SyncError> {
        if !self.has_rows
            || found.links != 1
            || stamp.is_elsewhere
            || before.is_some_and(|b| b.inode == stamp.inode)
        {
            return Ok(None);
        }
        let number = self.options.number;
        let Some((path, old)) = self.context.index.by_inode(number, stamp.inode)? else {
            return Ok(None);
        };
        let Some(content) = old.content() else { return Ok(None) };
        if path == found.path || !is_renamed(&old, found, stamp) {
            return Ok(None);
        }
        let is_untouched = old.stamp.ctime == stamp.ctime;
        let xattrs = if is_untouched {
            old.xattrs.clone()
        } else {
            match self.reader.root.xattrs(found) {
                Ok(read) if read.problem().is_none() => read.xattrs,
                _ => return Ok(None),
            }
        };
        let mut row = Row::new(found, self.device(), RowKind::File(*content), xattrs);
        (row.hour, row.sequence) = (old.hour, old.sequence);
        row.is_unsettled = old.is_unsettled;
        row.is_unread = old.is_unread || !is_untouched;
        Ok(Some(row))
    }

    /// Records an entry without content to read: anything but a regular file.
    fn reconcile_special(
        &mut self,
        found: &FoundEntry,
        row: Option<&Row>,
    ) -> Result<(), SyncError> {
        let Some(kind) = kind_of(found) else { return Ok(()) };
        let stamp = RowStamp::of(&found.stamp, self.device());
        if let Some(row) = row
            && row.stamp == stamp
            && row.kind == kind
            && row.error.is_none()
            && has_same_permissions(row, found)
        {
            return Ok(());
        }
        let read = match self.reader.root.xattrs(found) {
            Ok(read) => read,
            Err(ReadError::Changed(path)) => {
                self.report.rescan.push(path.parent().unwrap_or_else(RelPath::root));
                return Ok(());
            }
            Err(error) => {
                self.fail(&found.path, with_causes(&error));
                return Ok(());
            }
        };
        let problem = read.problem();
        let mut new = Row::new(found, self.device(), kind, read.xattrs);
        if problem.is_some() {
            self.failed.insert(found.path.clone());
            (new.error, new.is_attribute_error) = (problem, true);
        }
        if new.links > 1 {
            self.note_linked_change(&found.path, stamp.inode, Some(&stamp))?;
        }
        self.put(found.path.clone(), Box::new(new), row.map(|row| row.stamp));
        Ok(())
    }

    /// Reports whether an entry is excluded by a pattern, or by a directory on the way to it.
    pub(super) fn is_excluded(&self, path: &RelPath, is_dir: bool) -> Result<bool, ScanError> {
        let root = &self.reader.root;
        let dirs = ancestors(&path.parent().unwrap_or_else(RelPath::root));
        let is_excluded_dir = |dir: &RelPath| {
            self.options.own_dirs.contains(dir)
                || (self.options.exclude_caches && !dir.is_root() && root.is_cache_dir(dir))
        };
        let rules = self.rules_at(root, dirs.last().unwrap_or(path))?;
        Ok(is_deleted_file(self.options.ground, path)
            || rules.is_excluded(path, is_dir)
            || dirs.iter().any(is_excluded_dir))
    }

    /// Scans one file.
    pub(super) fn scan_file(&mut self, path: &RelPath) -> Result<(), ScanError> {
        let row = self.context.index.row(self.options.number, path)?;
        let examined = self.reader.root.examine(path);
        // Checked afterwards, so that a file system mounted meanwhile is noticed.
        if self.mount_of(&path.parent().unwrap_or_else(RelPath::root))?.is_none() {
            self.mark_resolved(path);
            return Ok(());
        }
        if self.is_excluded(path, false)? {
            self.mark_resolved(path);
            if row.is_some() {
                self.report.rescan.push(path.parent().unwrap_or_else(RelPath::root));
            }
            return Ok(());
        }
        match examined {
            Ok(Some(found)) if found.kind() == FileKind::File => {
                self.reconcile(found, row.as_ref())
            }
            Ok(None) if row.is_none() => {
                self.mark_resolved(path);
                Ok(())
            }
            Ok(_) => {
                // Not a regular file any more, or gone: the scan of its directory decides.
                self.mark_resolved(path);
                self.report.rescan.push(path.parent().unwrap_or_else(RelPath::root));
                Ok(())
            }
            Err(error) => {
                self.mark_resolved(path);
                self.fail(path, with_causes(&error));
                Ok(())
            }
        }
    }
}

/// Reports whether the row has the permissions of the entry. On most file systems, an equal
/// stamp implies that.
fn has_same_permissions(row: &Row, found: &FoundEntry) -> bool {
    (row.mode, row.uid, row.gid) == (found.mode, found.uid, found.gid)
}

/// Reports whether a file is the file of a row, under another name.
///
/// The inode may belong to another file by now, even to one of the same length and times:
/// FUSE file systems and images number their files again with every mount, and `tar` and
/// `cp -p` set the mtime. No program sets the birth time, so only an equal one proves that
/// this is the same file. A birth time without a fraction proves nothing: it was
/// set by a program that made an image, or is the same for all files.
fn is_renamed(old: &Row, found: &FoundEntry, stamp: &RowStamp) -> bool {
    let is_alike = RowStamp { ctime: stamp.ctime, ..old.stamp } == *stamp;
    let is_same_inode =
        old.born.is_some_and(|(_, fraction)| fraction != 0) && old.born == found.born;
    is_alike && is_same_inode && !old.is_racy && old.error.is_none()
}

#[cfg(test)]
mod tests {
    use fstree::{FoundKind, Stamp};

    use super::*;
    use crate::index::file_row;

    #[test]
    fn an_inode_that_was_used_again_is_another_file() {
        let row = Row { born: Some((90, 1)), ..file_row(7, b"content", 100) };
        let found = FoundEntry {
            path: RelPath::new("renamed").unwrap(),
            kind: FoundKind::File { is_sparse: false },
            stamp: Stamp {
                device: 1,
                inode: 7,
                size: row.stamp.size,
                mtime: row.stamp.mtime,
                ctime: (200, 0),
            },
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            born: row.born,
            links: 1,
            hard_link: None,
        };
        let is_renamed =
            |row: &Row, found: &FoundEntry| is_renamed(row, found, &RowStamp::of(&found.stamp, 1));
        assert!(is_renamed(&row, &found));
        // Removed, and another file created with its inode, length and mtime.
        let other = FoundEntry { born: Some((200, 0)), ..found.clone() };
        assert!(!is_renamed(&row, &other));
        // Without a birth time that only the kernel can have set, even a file with an equal
        // stamp may be another one.
        let coarse = Some((90, 0));
        for (then, now) in [(None, found.born), (row.born, None), (None, None), (coarse, coarse)] {
            let row = Row { born: then, ..row.clone() };
            let mut found = FoundEntry { born: now, ..found.clone() };
            found.stamp.ctime = row.stamp.ctime;
            assert!(!is_renamed(&row, &found), "{then:?} {now:?}");
        }
        for other in [
            Row { is_racy: true, ..row.clone() },
            Row { error: Some("old".to_owned()), ..row.clone() },
            Row { stamp: RowStamp { mtime: (100, 6), ..row.stamp }, ..row.clone() },
        ] {
            assert!(!is_renamed(&other, &found));
        }
    }
}
