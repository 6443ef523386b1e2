//! From events of the system to hints.
//!
//! **Invariant.** A change in a directory that is watched leads to a hint of
//! every path that it is watched by; where that cannot be told, to one that
//! says more. A hint too many costs a look.

use std::collections::{BTreeSet, HashMap, HashSet};

use rustix::fs::inotify::ReadFlags;
use types::RelPath;

use super::tree::{Id, Tree};

/// Where something may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hint {
    /// In this directory: its list, a file in it, or what it is itself.
    Dirty(RelPath),
    /// This directory was made or moved here, or is not watched any more:
    /// anything may have changed in it and below.
    DirtyBelow(RelPath),
    /// Changes were lost; they may be anywhere in the folder.
    Overflow,
    /// The root was moved, deleted or unmounted.
    RootGone,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) wd: i32,
    pub(super) mask: ReadFlags,
    /// The name in the directory; none if it is about the directory itself.
    pub(super) name: Option<&'a [u8]>,
}

/// Hints to be handed over, each once.
#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) set: BTreeSet<(u32, Hint)>,
    /// Descriptors whose directories all have their `Dirty` here, so that a
    /// storm of events in one directory costs next to nothing. Good for as
    /// long as the tree is as it is.
    dirty: HashSet<i32>,
}

impl Hints {
    /// The tree may be another.
    pub(super) fn tree_changed(&mut self) {
        self.dirty.clear();
    }

    fn add(&mut self, folder: u32, hint: Hint) {
        self.set.insert((folder, hint));
    }
}

/// What is watched, and what is known of events to come.
#[derive(Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    /// Hints that are to be handed over with the next ones.
    pub(super) waiting: BTreeSet<(u32, Hint)>,
    /// How many `IN_IGNORED` come that say no more than that we removed a
    /// watch ourselves.
    expected: HashMap<i32, u32>,
}

impl State {
    pub(super) fn new() -> Self {
        Self { tree: Tree::new(), waiting: BTreeSet::new(), expected: HashMap::new() }
    }

    /// We removed a watch: the system will say so.
    pub(super) fn expect_ignored(&mut self, wd: i32) {
        *self.expected.entry(wd).or_default() += 1;
    }

    /// Takes in one event.
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

    /// Events are missing.
    pub(super) fn lost(&mut self, hints: &mut Hints) {
        // Among them may be those that were expected.
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

    /// The system watches it no more. Either the directory is gone; or this is
    /// the end of an earlier watch of the same number, and the new one is
    /// forgotten here by mistake: then looking at it watches it again.
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

    /// The directory is not at its path any more, it seems.
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
        // What is too long for a path is no part of a backup, and the look at
        // the directory that it is in reports it.
        if let Some(path) = path {
            hints.add(self.tree.folder(id), Hint::DirtyBelow(path));
        }
    }
}
