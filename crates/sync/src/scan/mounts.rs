//! Other file systems that are mounted in a folder, and subvolumes: entered or left out.
//!
//! The record of the folder names each mount that was entered, with its identity. It is stored
//! before the first row below the mount.
//!
//! **Invariant.** The rows below a mount point are changed only by a scan of the file system
//! to which they belong. If it is not mounted, or another one is, they stay, and the directory
//! is on the error list until the file system is back, or until the user confirms the change.

use std::collections::BTreeMap;

use fstree::{FoundEntry, MountId, MountPoint, TreeReader as _};
use types::{RelPath, with_causes};

use super::rows::RowCursor;
use super::{Scan, ScanError, targets};
use crate::index::EnteredMount;
use crate::left_out::{LeftOut, LeftOutReason};
use crate::path_key::below_range;
use crate::root_id::RootId;

/// Error of a directory with rows below it on which another file system is mounted.
pub(super) const MOUNTED: &str =
    "another file system is mounted here; the files that it hides stay in the backup unchanged";
/// Error of a mount point at which the file system that was backed up is missing.
const UNAVAILABLE: &str = "the file system that was mounted here is not available; its files stay \
     in the backup unchanged. If it was removed on purpose, run `archivist folder confirm`";
/// Error of a mount point at which another file system is mounted than the one that was backed
/// up.
const EXCHANGED: &str = "another file system is mounted here than before; the files of the former \
     one stay in the backup unchanged. To back up the new one, run `archivist folder confirm`";

/// Maximum number of left-out directories that are listed: the record of a folder is small.
const LEFT_OUT_MAX: usize = 500;
/// Maximum number of caches among them, so that they do not displace mounts.
const CACHES_MAX: usize = 400;

/// Reports whether this is an error of a mount point. When it is gone, everything below is
/// scanned.
pub(crate) fn is_mount_error(text: &str) -> bool {
    [MOUNTED, UNAVAILABLE, EXCHANGED].contains(&text)
}

/// The mounts in the folder that a scan deals with.
#[derive(Default)]
pub(super) struct Mounts {
    /// The entered mounts and subvolumes, by path.
    entered: BTreeMap<RelPath, EnteredMount>,
    /// Mounts whose rows this scan removes, since they are left out from now on.
    dropped: Vec<RelPath>,
    /// The directories that this scan left out.
    left_out: BTreeMap<RelPath, LeftOutReason>,
}

impl Mounts {
    pub(super) fn new(entered: &[EnteredMount]) -> Self {
        let entered = entered.iter().map(|mount| (mount.path.clone(), mount.clone())).collect();
        Self { entered, ..Self::default() }
    }
}

/// The decision about a directory that may be a mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MountState {
    /// The directory is in the mount of its parent directory.
    Ordinary,
    /// The directory is entered, by a scan of its own.
    Entered,
    /// The directory is recorded, and not entered.
    LeftOut,
    /// The same. The mount was entered before, so its rows are removed.
    Dropped,
    /// The rows of the directory and of everything below it stay as they are.
    Kept,
}

impl Scan<'_> {
    /// Decides about a directory that a walk found.
    pub(super) fn decide_found(
        &mut self,
        path: &RelPath,
        is_mount_point: bool,
    ) -> Result<MountState, ScanError> {
        if !is_mount_point {
            return self.decide(path, None);
        }
        let state = match self.reader.root.mount_points(path) {
            Ok(points) => match points.last().filter(|point| point.path == *path) {
                Some(point) => self.decide(path, Some(point))?,
                None => {
                    // It was unmounted after the walk had found it.
                    self.report.rescan.push(path.parent().unwrap_or_else(RelPath::root));
                    MountState::Kept
                }
            },
            Err(error) => {
                self.fail(path, with_causes(&error));
                MountState::Kept
            }
        };
        if state == MountState::Dropped {
            self.mounts.dropped.push(path.clone());
        }
        Ok(state)
    }

    /// Decides about a directory at which `mount` is mounted, or nothing.
    fn decide(
        &mut self,
        path: &RelPath,
        mount: Option<&MountPoint>,
    ) -> Result<MountState, ScanError> {
        let known = self.mounts.entered.get(path).cloned();
        if mount.is_none() && known.is_none() {
            return Ok(MountState::Ordinary);
        }
        let is_own_folder = self.options.own_folders.contains(path);
        let is_wanted = !self.options.one_file_system && !is_own_folder;
        let is_confirmed = self.options.are_mounts_confirmed;
        let Some(mount) = mount else {
            let is_subvolume = known.is_some_and(|known| known.is_subvolume);
            if is_subvolume || !is_wanted || is_confirmed || !self.has_rows_below(path)? {
                self.forget_mount(path)?;
                return Ok(MountState::Ordinary);
            }
            return Ok(self.keep(path, UNAVAILABLE));
        };
        if let Some(reason) = LeftOutReason::of_mount(mount, !is_wanted) {
            self.note_mount(path);
            if !is_own_folder {
                self.mounts.left_out.insert(path.clone(), reason);
            }
            return Ok(match known {
                Some(_) if !is_wanted => MountState::Dropped,
                Some(_) if self.has_rows_below(path)? => self.keep(path, EXCHANGED),
                None if self.has_rows_below(path)? => self.keep(path, MOUNTED),
                _ => MountState::LeftOut,
            });
        }
        if !mount.is_subvolume {
            self.context.watcher.note_mount(self.options.number, path);
        }
        let id = RootId::of_mount(mount);
        let text = match &known {
            Some(known) if known.is_subvolume && mount.is_subvolume => {
                return Ok(MountState::Entered);
            }
            Some(known) if !known.is_subvolume && !mount.is_subvolume && known.id.is_same(&id) => {
                return Ok(MountState::Entered);
            }
            Some(_) => EXCHANGED,
            None => MOUNTED,
        };
        let may_enter = is_confirmed || (known.is_none() && mount.is_subvolume);
        if !may_enter && self.has_rows_below(path)? {
            return Ok(self.keep(path, text));
        }
        let entered = EnteredMount { path: path.clone(), id, is_subvolume: mount.is_subvolume };
        self.mounts.entered.insert(path.clone(), entered);
        self.store_mounts()?;
        Ok(MountState::Entered)
    }

    /// Keeps the rows of a mount point and below it.
    fn keep(&mut self, path: &RelPath, text: &str) -> MountState {
        self.context.watcher.note_mount(self.options.number, path);
        self.fail(path, text.to_owned());
        MountState::Kept
    }

    /// Keeps the rows of a path that does not exist, or is no directory any more, if a file
    /// system that was backed up was mounted in it: some programs remove the mount point after
    /// an unmount. Returns false if there was none, or if it is excluded by now.
    pub(super) fn keep_missing_mounts(&mut self, path: &RelPath) -> Result<bool, ScanError> {
        let within = self.mounts.entered.range(path.clone()..);
        let within = within.take_while(|(mount, _)| mount.is_within(path));
        let mounts: Vec<RelPath> =
            within.filter(|(_, mount)| !mount.is_subvolume).map(|(at, _)| at.clone()).collect();
        let mut kept: Option<RelPath> = None;
        for mount in mounts {
            if kept.as_ref().is_some_and(|kept| mount.is_within(kept)) {
                continue;
            }
            if self.is_excluded(&mount, true)? {
                self.forget_mount(&mount)?;
            } else if self.decide(&mount, None)? == MountState::Kept {
                kept = Some(mount);
            }
        }
        Ok(kept.is_some())
    }

    fn has_rows_below(&self, path: &RelPath) -> Result<bool, ScanError> {
        let below = below_range(self.options.number, path);
        Ok(RowCursor::new(&self.context.index, self.options.number, below).peek()?.is_some())
    }

    fn forget_mount(&mut self, path: &RelPath) -> Result<(), ScanError> {
        if self.mounts.entered.remove(path).is_some() {
            self.store_mounts()?;
        }
        Ok(())
    }

    /// Stores the entered mounts.
    fn store_mounts(&self) -> Result<(), ScanError> {
        let mounts: Vec<_> = self.mounts.entered.values().cloned().collect();
        self.context.index.update(self.options.folder, |record| record.mounts = mounts)?;
        Ok(())
    }

    /// Decides about all mounts on the way to a directory that is to be scanned. Returns the
    /// mount of the directory (`None` inside for the mount of the root), or `None` if the
    /// directory is not scanned, because it is in a mount that is not entered.
    pub(super) fn mount_of(&mut self, dir: &RelPath) -> Result<Option<Option<MountId>>, ScanError> {
        let points = match self.reader.root.mount_points(dir) {
            Ok(points) => points,
            Err(error) if dir.is_root() => return Err(self.unreadable(error).into()),
            Err(error) => {
                self.fail(dir, with_causes(&error));
                return Ok(None);
            }
        };
        if points.is_empty() && self.mounts.entered.is_empty() {
            return Ok(Some(None));
        }
        let mut within = None;
        for at in targets::ancestors(dir) {
            let mount = points.iter().find(|point| point.path == at);
            match self.decide(&at, mount)? {
                MountState::Ordinary => {}
                MountState::Entered => within = mount.map(|mount| mount.id),
                MountState::Kept => return Ok(None),
                MountState::LeftOut | MountState::Dropped => {
                    if let Ok(Some(found)) = self.reader.root.examine(&at) {
                        let row = self.context.index.row(self.options.number, &at)?;
                        self.reconcile(found, row.as_ref())?;
                    }
                    return Ok(None);
                }
            }
        }
        Ok(Some(within))
    }

    /// Has the watcher report when a mount point may have been unmounted.
    fn note_mount(&mut self, mount: &RelPath) {
        self.context.watcher.note_mount(self.options.number, mount);
        if matches!(self.reader.root.mount_on_the_way(mount), Ok(None)) {
            // It was unmounted before it was noted.
            self.report.rescan.push(mount.clone());
        }
    }

    /// Notes that the contents of a cache are left out.
    pub(super) fn note_cache(&mut self, path: &RelPath) {
        self.mounts.left_out.insert(path.clone(), LeftOutReason::Cache);
    }

    /// Updates the list of left-out directories, after the rows were removed.
    pub(super) fn store_left_out(&mut self) -> Result<(), ScanError> {
        for path in std::mem::take(&mut self.mounts.dropped) {
            self.forget_mount(&path)?;
        }
        let found = std::mem::take(&mut self.mounts.left_out);
        let record = self.context.index.folder(self.options.folder)?;
        let old = record.map(|record| record.left_out).unwrap_or_default();
        let is_scanned = |path: &RelPath| {
            self.is_all
                || path.parent().is_some_and(|dir| {
                    self.scanned_dirs.contains_key(&dir)
                        || targets::ancestors(&dir)
                            .iter()
                            .any(|dir| self.scanned_dirs.get(dir) == Some(&true))
                })
        };
        let kept = old.iter().filter(|old| !is_scanned(&old.path));
        let mut all: BTreeMap<_, _> =
            kept.map(|old| (old.path.clone(), old.reason.clone())).collect();
        all.extend(found);
        let (caches, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, reason)| *reason == LeftOutReason::Cache);
        let caches = caches.into_iter().take(CACHES_MAX);
        let all = others.into_iter().chain(caches).take(LEFT_OUT_MAX);
        let all: Vec<_> = all.map(|(path, reason)| LeftOut { path, reason }).collect();
        if all != old {
            self.context.index.update(self.options.folder, |record| record.left_out = all)?;
        }
        Ok(())
    }
}

/// Reports whether a name is that of a deleted file that is still open: libfuse and the NFS
/// client of Linux rename such a file until its last user closes it.
pub(super) fn is_deleted_file(ground: fstree::GroundKind, found: &RelPath) -> bool {
    let prefix: &[u8] = match ground {
        fstree::GroundKind::Fuse => b".fuse_hidden",
        fstree::GroundKind::Nfs => b".nfs",
        _ => return false,
    };
    let number = found.name().and_then(|name| name.strip_prefix(prefix));
    number.is_some_and(|number| number.len() >= 8 && number.iter().all(u8::is_ascii_hexdigit))
}

/// Reports whether an entry is a directory on which another file system is mounted.
pub(super) fn is_mount_point(found: &FoundEntry) -> bool {
    matches!(found.kind, fstree::FoundKind::Dir { is_mount_point: true })
}

#[cfg(test)]
mod tests {
    use fstree::GroundKind;

    use super::*;

    #[test]
    fn names_of_deleted_files_are_those_of_the_kernel_and_libfuse() {
        let is = |kind, path: &str| is_deleted_file(kind, &RelPath::new(path).unwrap());
        assert!(is(GroundKind::Fuse, "a/.fuse_hidden0000001c00000001"));
        assert!(is(GroundKind::Nfs, ".nfs0000000001a2b3c400000007"));
        assert!(!is(GroundKind::Other, ".fuse_hidden0000001c00000001"));
        assert!(!is(GroundKind::Other, ".nfs0000000001a2b3c400000007"));
        assert!(!is(GroundKind::Nfs, ".fuse_hidden0000001c00000001"));
        assert!(!is(GroundKind::Fuse, ".fuse_hidden_notes"));
        assert!(!is(GroundKind::Fuse, ".fuse_hidden"));
        assert!(!is(GroundKind::Nfs, ".nfs.conf"));
    }
}
