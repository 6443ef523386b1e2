//! Turning events of the system into hints.
//!
//! **Invariant.** A change in a watched directory leads to a hint for every path under which
//! the directory is watched; if a path is unknown, to a hint that covers more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use fstree::Mount;
use rustix::fs::inotify::ReadFlags;
use types::RelPath;

use super::tree::{Id, Tree};
use crate::path_key::FolderNumber;
use crate::watch::Hint;

/// One event of the system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) wd: i32,
    pub(super) mask: ReadFlags,
    /// The name in the directory; `None` if the event is about the directory itself.
    pub(super) name: Option<&'a [u8]>,
}

/// Hints that will be delivered together, each once.
#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) set: BTreeSet<(FolderNumber, Hint)>,
    /// Watch descriptors whose directories all have their `Dirty` hint in `set`, so that a
    /// storm of events in one directory costs next to nothing. Valid until the tree changes.
    dirty: HashSet<i32>,
}

impl Hints {
    /// Notes that the tree may have changed.
    pub(super) fn tree_changed(&mut self) {
        self.dirty.clear();
    }

    fn add(&mut self, folder: FolderNumber, hint: Hint) {
        self.set.insert((folder, hint));
    }
}

/// The root of a folder.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    mounted: BTreeSet<(u64, RelPath)>,
}

/// Returns the ids and places of mounts.
fn mounted(mounts: Vec<Mount>) -> BTreeSet<(u64, RelPath)> {
    mounts.into_iter().map(|mount| (mount.id, mount.path)).collect()
}

/// The watched directories, and the events that are expected.
#[derive(Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    /// Hints that wait for the next delivery.
    pub(super) waiting: BTreeSet<(FolderNumber, Hint)>,
    /// Directories on which another file system was mounted, as far as a scan has noted it.
    pub(super) mounts: BTreeSet<(FolderNumber, RelPath)>,
    /// The roots of the folders, and everything that is mounted below them.
    roots: HashMap<FolderNumber, Root>,
    /// For each watch descriptor: the number of `IN_IGNORED` events to come that only
    /// confirm that this process removed a watch.
    expected: HashMap<i32, u32>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            tree: Tree::new(),
            waiting: BTreeSet::new(),
            mounts: BTreeSet::new(),
            roots: HashMap::new(),
            expected: HashMap::new(),
        }
    }

    /// Adds hints, since the list of mounts has changed. `found` is what is mounted below each
    /// root now. Each noted mount gets a hint; the scan notes those that still exist again. So
    /// does the directory of each mount that is new or gone, if it is watched.
    pub(super) fn mounts_changed(&mut self, found: Vec<(FolderNumber, Vec<Mount>)>) {
        let mounts = std::mem::take(&mut self.mounts).into_iter();
        self.waiting.extend(mounts.map(|(folder, dir)| (folder, Hint::DirtyBelow(dir))));
        for (folder, mounts) in found {
            let Some(root) = self.roots.get_mut(&folder) else { continue };
            let now = mounted(mounts);
            let before = std::mem::replace(&mut root.mounted, now.clone());
            for (_, at) in now.symmetric_difference(&before) {
                let dir = at.parent().unwrap_or_else(RelPath::root);
                let id = self.tree.find(folder, &dir);
                if id.is_some_and(|id| self.tree.wd(id).is_some()) {
                    self.waiting.insert((folder, Hint::Dirty(dir)));
                }
            }
        }
    }

    /// Notes the absolute path of a folder's root, and what is mounted below it.
    pub(super) fn root_watched(&mut self, folder: FolderNumber, path: PathBuf, mounts: Vec<Mount>) {
        let is_known = self.roots.get(&folder).is_some_and(|root| root.path == path);
        if !is_known {
            self.roots.insert(folder, Root { path, mounted: mounted(mounts) });
        }
    }

    /// Returns the absolute paths of the roots.
    pub(super) fn roots(&self) -> Vec<(FolderNumber, PathBuf)> {
        self.roots.iter().map(|(folder, root)| (*folder, root.path.clone())).collect()
    }

    /// Notes that this process removed a watch, which the system will confirm by an event.
    pub(super) fn expect_ignored(&mut self, wd: i32) {
        *self.expected.entry(wd).or_default() += 1;
    }

    /// Adds the hints that follow from one event.
    pub(super) fn take(&mut self, event: Event<'_>, hints: &mut Hints) {
        let Event { wd, mask, name } = event;
        if mask.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.lost(hints);
        } else if mask.contains(ReadFlags::IGNORED) {
            self.ignored(wd, hints);
        } else if let Some(name) = name {
            let new = ReadFlags::CREATE | ReadFlags::MOVED_TO;
            if mask.contains(ReadFlags::ISDIR) && mask.intersects(new) {
                for id in self.tree.of_wd(wd) {
                    self.hint_child(id, name, hints);
                }
            }
            self.dirty(wd, hints);
        } else if mask
            .intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT)
        {
            for id in self.tree.of_wd(wd) {
                self.gone(id, hints);
            }
        } else {
            self.dirty(wd, hints);
        }
    }

    /// Adds the hints that follow from the loss of events.
    pub(super) fn lost(&mut self, hints: &mut Hints) {
        // Expected events may be among those that were lost.
        self.expected.clear();
        for folder in self.tree.folders() {
            hints.add(folder, Hint::Overflow);
        }
    }

    fn dirty(&self, wd: i32, hints: &mut Hints) {
        if hints.dirty.insert(wd) {
            for id in self.tree.of_wd(wd) {
                self.hint(id, Hint::Dirty, hints);
            }
        }
    }

    /// The system has ended the watch. Either the directory is gone; or this is the end of an
    /// earlier watch with the same descriptor. In the second case the new watch is forgotten
    /// here by mistake, and the scan that the hint starts watches the directory again.
    fn ignored(&mut self, wd: i32, hints: &mut Hints) {
        if let Some(count) = self.expected.get_mut(&wd) {
            *count -= 1;
            if *count == 0 {
                self.expected.remove(&wd);
            }
            return;
        }
        for id in self.tree.of_wd(wd) {
            self.gone(id, hints);
            self.hint(id, Hint::DirtyBelow, hints);
            self.tree.set_wd(id, None);
            self.tree.prune(id);
        }
        hints.tree_changed();
    }

    /// Adds the hint for a directory that seems to be gone from its path.
    fn gone(&self, id: Id, hints: &mut Hints) {
        match self.tree.parent(id) {
            Some(parent) => self.hint(parent, Hint::Dirty, hints),
            None => hints.add(self.tree.folder(id), Hint::RootGone),
        }
    }

    fn hint(&self, id: Id, hint: fn(RelPath) -> Hint, hints: &mut Hints) {
        let hint = self.tree.path(id).map_or(Hint::Overflow, hint);
        hints.add(self.tree.folder(id), hint);
    }

    fn hint_child(&self, id: Id, name: &[u8], hints: &mut Hints) {
        let path = self.tree.path(id).and_then(|path| path.join(name).ok());
        // A path that is too long cannot be backed up. The scan of its directory reports it.
        if let Some(path) = path {
            hints.add(self.tree.folder(id), Hint::DirtyBelow(path));
        }
    }
}
