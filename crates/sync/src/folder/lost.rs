//! File versions that were overwritten before the backup server had fetched them. No manifest
//! that names such a version can be completed, so it would delay all other files. If the file
//! cannot be read again before the next manifest, the manifest names the version that the backup
//! server has confirmed, or leaves the file out if there is none; the error list says so.

use fstree::{SourceTree, TreeReader as _};
use types::{Entry, EntryKind, RelPath};

use super::Task;
use crate::error::SyncError;
use crate::index::{Batch, Change, Content, EnteredMount, Row, RowKind, RowStamp};
use crate::publish::{self, ConfirmedEntry};
use crate::root_id::RootId;

/// Entry of the error list for a file whose confirmed version stays in the manifests.
const FORMER: &str = "the file was changed before it was backed up and is being read again; \
    until then, an earlier content stays in the backup";
/// Entry of the error list for a file that is in no manifest.
const NO_CONTENT: &str = "the file was changed before it was backed up and is being read again; \
    it is not in the backup yet";

impl Task {
    /// Forgets the versions that a scan has replaced, and those that are only hidden.
    pub(super) fn keep_lost(&mut self) -> Result<(), SyncError> {
        if self.lost.is_empty() {
            return Ok(());
        }
        let mut root = SourceTree::open(&self.config.folder.path)?;
        root.set_hung(self.hung_mounts.hung().to_vec());
        for (path, id) in std::mem::take(&mut self.lost) {
            let row = self.context.index.row(self.record.number, &path)?;
            let is_current = row.and_then(|row| row.content()?.id) == Some(id);
            if is_current && self.is_in_its_mount(&root, &path) {
                self.lost.insert(path, id);
            }
        }
        Ok(())
    }

    /// Replaces the rows of versions that were overwritten. Call it before a manifest is made.
    pub(super) fn replace_lost(&mut self) -> Result<(), SyncError> {
        if self.lost.is_empty() {
            return Ok(());
        }
        self.keep_lost()?;
        let (mut rows, mut errors) = (Batch::default(), Batch::default());
        for (path, id) in std::mem::take(&mut self.lost) {
            let Some(row) = self.context.index.row(self.record.number, &path)? else { continue };
            let mut names = vec![(path, row.clone())];
            if row.links > 1 {
                let index = &self.context.index;
                names.extend(index.names_of_inode(self.record.number, row.stamp.inode)?);
            }
            for (path, row) in names {
                if row.content().and_then(|content| content.id) != Some(id) {
                    continue;
                }
                tracing::warn!(folder = %self.mailbox.id, %path,
                    "a file was changed before it was backed up and is being read again");
                let before = Some(row.stamp);
                let confirmed = publish::confirmed_entry(&self.context, &self.mailbox.id, &path);
                let confirmed = match confirmed {
                    ConfirmedEntry::Found(sequence, entry) => former_row(sequence, *entry, &row),
                    ConfirmedEntry::Absent => None,
                    // The backup server may have the file: leaving it out would look like a
                    // deletion.
                    ConfirmedEntry::Unknown => continue,
                };
                match confirmed {
                    Some(row) => rows.add(path, Change::Put { row: Box::new(row), before }),
                    None => {
                        rows.forget(path.clone(), before);
                        let what = NO_CONTENT.to_owned();
                        errors.add(path, Change::Fail { what, is_marked: false });
                    }
                }
            }
        }
        // The error follows the removal, which clears the errors of the path.
        for batch in [rows, errors] {
            if !batch.is_empty() {
                let now = self.context.clock.now();
                let applied = self.context.index.apply(&self.mailbox.id, &batch, now)?;
                self.context.files.add_former(self.record.number, &applied.replaced);
            }
        }
        self.reload()
    }

    /// Reports whether a path is where its row was recorded. A file that a mounted file system
    /// hides, or whose file system is not mounted, has not been overwritten.
    fn is_in_its_mount(&self, root: &SourceTree, path: &RelPath) -> bool {
        let Ok(points) = root.mount_points(path) else { return false };
        let mut entered = self.record.mounts.iter().filter(|mount| path.is_within(&mount.path));
        let is_same = |mount: &EnteredMount| {
            points
                .iter()
                .any(|point| point.path == mount.path && mount.id.is_same(&RootId::of_mount(point)))
        };
        entered.clone().count() == points.len() && entered.all(is_same)
    }
}

/// Returns the row of a file with the content of an entry that the backup server has confirmed;
/// `None` if the entry is not a file.
fn former_row(sequence: u64, entry: Entry, row: &Row) -> Option<Row> {
    let EntryKind::File { cid, size, blake3, is_sparse } = entry.kind else { return None };
    let mtime_ns = entry.metadata.mtime_ns;
    let seconds = mtime_ns.div_euclid(1_000_000_000).try_into().ok()?;
    let nanoseconds = mtime_ns.rem_euclid(1_000_000_000).try_into().ok()?;
    Some(Row {
        // No file has this stamp, so the next scan reads the file.
        stamp: RowStamp { size, mtime: (seconds, nanoseconds), ctime: (0, 0), ..row.stamp },
        mode: entry.metadata.mode,
        uid: entry.metadata.uid,
        gid: entry.metadata.gid,
        xattrs: entry.metadata.xattrs,
        // The backup server has the content; this computer need not.
        kind: RowKind::File(Content { id: None, cid, blake3, is_sparse }),
        error: Some(FORMER.to_owned()),
        is_attribute_error: false,
        sequence,
        ..row.clone()
    })
}
