//! What to do about one thing that is there, and the row that it has.

use fstree::{FileKind, FoundEntry, ReadError, TreeReader as _};
use types::{RelPath, with_causes};

use super::targets::ancestors;
use super::{Scan, ScanError};
use crate::error::SyncError;
use crate::hash::{Job, Mode};
use crate::index::{Change, Row, RowStamp, Thing, thing_of};

impl Scan<'_> {
    /// Takes in what was found where it is not what the row says.
    pub(super) fn meet(&mut self, found: FoundEntry, row: Option<&Row>) -> Result<(), ScanError> {
        let stamp = RowStamp::of(&found.stamp, self.device());
        if found.kind() != FileKind::File {
            return Ok(self.meet_other(&found, row)?);
        }
        if self.order.resting.contains(&found.path) {
            return Ok(());
        }
        let is_suspect = self.order.is_rehash || self.order.suspects.contains(&found.path);
        let is_known = row.is_some_and(|row| {
            let is_due = row.is_racy || (row.is_unread && self.is_all);
            row.content().is_some() && row.stamp == stamp && row.error.is_none() && !is_due
        });
        if is_known && !is_suspect {
            self.settled(&found.path);
            return Ok(());
        }
        let before = row.map(|row| row.stamp);
        if !is_suspect && let Some(moved) = self.moved(&found, &stamp, before)? {
            self.settled(&found.path);
            self.put(found.path, moved, before);
            return Ok(());
        }
        let mode = self.order.modes.get(&found.path).copied().unwrap_or(Mode::InPlace);
        self.pool.add(Job { found, before, mode });
        Ok(())
    }

    fn device(&self) -> u64 {
        self.reading.root.identity().device
    }

    fn put(&mut self, path: RelPath, row: Row, before: Option<RowStamp>) {
        self.since();
        self.batch.add(path, Change::Put { row: Box::new(row), before });
    }

    /// The row of a file that had another name until now: nothing of it has to
    /// be read. Where another name may still be there, it is.
    fn moved(
        &self,
        found: &FoundEntry,
        stamp: &RowStamp,
        before: Option<RowStamp>,
    ) -> Result<Option<Row>, SyncError> {
        if !self.has_rows || found.links != 1 || before.is_some_and(|b| b.inode == stamp.inode) {
            return Ok(None);
        }
        let number = self.order.number;
        let Some((path, old)) = self.core.index.by_inode(number, stamp.inode)? else {
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
            match self.reading.root.xattrs(found) {
                Ok(read) if read.unread.is_empty() => read.xattrs,
                _ => return Ok(None),
            }
        };
        let mut row = Row::new(found, self.device(), Thing::File(*content), xattrs);
        (row.hour, row.sequence) = (old.hour, old.sequence);
        row.is_unread = old.is_unread || !is_untouched;
        Ok(Some(row))
    }

    /// Takes in what has nothing to be read.
    fn meet_other(&mut self, found: &FoundEntry, row: Option<&Row>) -> Result<(), SyncError> {
        let Some(thing) = thing_of(found) else { return Ok(()) };
        let stamp = RowStamp::of(&found.stamp, self.device());
        if let Some(row) = row
            && row.stamp == stamp
            && row.thing == thing
            && row.error.is_none()
        {
            return Ok(());
        }
        let read = match self.reading.root.xattrs(found) {
            Ok(read) => read,
            Err(ReadError::Changed(path)) => {
                self.scanned.again.push(path.parent().unwrap_or_else(RelPath::root));
                return Ok(());
            }
            Err(error) => {
                self.fail(&found.path, with_causes(&error));
                return Ok(());
            }
        };
        let mut new = Row::new(found, self.device(), thing, read.xattrs);
        if let Some((name, error)) = read.unread.first() {
            let name = String::from_utf8_lossy(name);
            new.error = Some(format!("cannot read the attribute {name}: {error}"));
            self.failed.insert(found.path.clone());
        }
        self.put(found.path.clone(), new, row.map(|row| row.stamp));
        Ok(())
    }

    /// Whether rules, or one of the directories on the way, leave a file out.
    fn is_left_out(&self, path: &RelPath) -> Result<bool, ScanError> {
        let root = &self.reading.root;
        let dirs = ancestors(&path.parent().unwrap_or_else(RelPath::root));
        let is_out = |dir: &RelPath| {
            self.order.own_dirs.contains(dir) || (!dir.is_root() && root.is_cache_dir(dir))
        };
        let rules = self.rules_at(root, dirs.last().unwrap_or(path))?;
        Ok(rules.is_excluded(path, false) || dirs.iter().any(is_out))
    }

    /// Looks at one file.
    pub(super) fn file(&mut self, path: &RelPath) -> Result<(), ScanError> {
        let row = self.core.index.row(self.order.number, path)?;
        let examined = self.reading.root.examine(path);
        // After that: what was mounted meanwhile is noticed.
        if self.is_hidden(&path.parent().unwrap_or_else(RelPath::root))? {
            self.settled(path);
            return Ok(());
        }
        if self.is_left_out(path)? {
            self.settled(path);
            if row.is_some() {
                self.scanned.again.push(path.parent().unwrap_or_else(RelPath::root));
            }
            return Ok(());
        }
        match examined {
            Ok(Some(found)) if found.kind() == FileKind::File => self.meet(found, row.as_ref()),
            Ok(None) if row.is_none() => {
                self.settled(path);
                Ok(())
            }
            Ok(_) => {
                // It is another thing, or gone: its directory tells which.
                self.settled(path);
                self.scanned.again.push(path.parent().unwrap_or_else(RelPath::root));
                Ok(())
            }
            Err(error) => {
                self.settled(path);
                self.fail(path, with_causes(&error));
                Ok(())
            }
        }
    }
}

/// Whether a file is the one of a row, under another name.
///
/// Its inode may be another file's by now, even one of the same length and
/// time of the last write: `tar` and `cp -p` set that. The time of its birth,
/// which nobody sets, tells; where there is none, the file must not have been
/// touched at all.
fn is_renamed(old: &Row, found: &FoundEntry, stamp: &RowStamp) -> bool {
    let is_alike = RowStamp { ctime: stamp.ctime, ..old.stamp } == *stamp;
    let is_same_inode = match (old.born, found.born) {
        (Some(then), Some(now)) => then == now,
        _ => old.stamp.ctime == stamp.ctime,
    };
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
        // Removed, and another made in its place, with its length and time.
        let other = FoundEntry { born: Some((200, 0)), ..found.clone() };
        assert!(!is_renamed(&row, &other));
        // Where one of the two is not known, nothing about it may differ.
        for (then, now) in [(None, found.born), (row.born, None), (None, None)] {
            let row = Row { born: then, ..row.clone() };
            let mut found = FoundEntry { born: now, ..found.clone() };
            assert!(!is_renamed(&row, &found), "{then:?} {now:?}");
            found.stamp.ctime = row.stamp.ctime;
            assert!(is_renamed(&row, &found), "{then:?} {now:?}");
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
