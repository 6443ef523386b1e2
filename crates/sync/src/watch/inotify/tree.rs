//! The watched directories of all folders: maps watch descriptors to paths, and paths to
//! watch descriptors.
//!
//! A directory is a node with its name and its parent, so that a million of them need little
//! memory, and a rename is one step. One inode has one watch descriptor, whichever paths lead
//! to it (folders may overlap), so a watch descriptor has a list of nodes.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use types::RelPath;

use crate::path_key::FolderNumber;

/// The index of a node; [`NONE`] stands for no node.
pub(super) type Id = u32;

const NONE: Id = Id::MAX;

/// Stands for no watch descriptor; those of the system are positive.
const NO_WD: i32 = -1;

#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    folder: FolderNumber,
    /// `NONE` for the root of a folder. In a free node: the next free node.
    parent: Id,
    first_child: Id,
    next_sibling: Id,
    prev_sibling: Id,
    /// The next node with the same hash of parent and name.
    next_same_hash: Id,
    wd: i32,
    /// The next node with the same watch descriptor.
    next_same_wd: Id,
}

/// The tree of watched directories. See the module.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    free: Id,
    roots: HashMap<FolderNumber, Id>,
    /// The first node of each hash of parent and name. The hash is keyed, since an attacker
    /// may choose the names.
    by_name: HashMap<u32, Id>,
    hasher: RandomState,
    /// The first node of each watch descriptor.
    by_wd: HashMap<i32, Id>,
    watched: HashMap<FolderNumber, u64>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            roots: HashMap::new(),
            by_name: HashMap::new(),
            hasher: RandomState::new(),
            by_wd: HashMap::new(),
            watched: HashMap::new(),
        }
    }

    /// Returns the number of watched directories of a folder.
    pub(super) fn watched(&self, folder: FolderNumber) -> u64 {
        self.watched.get(&folder).copied().unwrap_or(0)
    }

    /// Returns the number of watch descriptors.
    pub(super) fn descriptors(&self) -> usize {
        self.by_wd.len()
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = FolderNumber> {
        self.roots.keys().copied()
    }

    pub(super) fn folder(&self, id: Id) -> u32 {
        self.node(id).folder
    }

    pub(super) fn parent(&self, id: Id) -> Option<Id> {
        some(self.node(id).parent)
    }

    pub(super) fn wd(&self, id: Id) -> Option<i32> {
        Some(self.node(id).wd).filter(|wd| *wd != NO_WD)
    }

    /// Returns the path of a node; `None` if renames have made it too long for a path.
    pub(super) fn path(&self, id: Id) -> Option<RelPath> {
        let mut names = Vec::new();
        let mut at = id;
        while let Some(parent) = self.parent(at) {
            names.push(&*self.node(at).name);
            at = parent;
        }
        names.reverse();
        RelPath::new(names.join(&b'/')).ok()
    }

    pub(super) fn find(&self, folder: FolderNumber, path: &RelPath) -> Option<Id> {
        let root = *self.roots.get(&folder)?;
        path.names().try_fold(root, |at, name| self.child(at, name))
    }

    /// Returns the node of a path. Missing nodes on the way are added.
    pub(super) fn make(&mut self, folder: FolderNumber, path: &RelPath) -> Id {
        let root = match self.roots.get(&folder) {
            Some(root) => *root,
            None => {
                let root = self.insert(folder, NONE, b"");
                self.roots.insert(folder, root);
                root
            }
        };
        path.names().fold(root, |at, name| match self.child(at, name) {
            Some(child) => child,
            None => self.insert(folder, at, name),
        })
    }

    /// Returns the nodes of a watch descriptor.
    pub(super) fn of_wd(&self, wd: i32) -> Vec<Id> {
        let mut ids = Vec::new();
        let mut at = self.by_wd.get(&wd).copied().unwrap_or(NONE);
        while at != NONE {
            ids.push(at);
            at = self.node(at).next_same_wd;
        }
        ids
    }

    /// Sets the watch descriptor of a node. Returns the former one if no other node has it.
    pub(super) fn set_wd(&mut self, id: Id, wd: Option<i32>) -> Option<i32> {
        let before = self.node(id).wd;
        let wd = wd.unwrap_or(NO_WD);
        if before == wd {
            return None;
        }
        let folder = self.node(id).folder;
        let mut orphan = None;
        if before != NO_WD {
            orphan = self.unlink_wd(id, before).then_some(before);
        }
        self.node_mut(id).wd = wd;
        if wd != NO_WD {
            let next = self.by_wd.insert(wd, id).unwrap_or(NONE);
            self.node_mut(id).next_same_wd = next;
        }
        let watched = self.watched.entry(folder).or_default();
        match (before, wd) {
            (NO_WD, _) => *watched += 1,
            (_, NO_WD) => *watched = watched.saturating_sub(1),
            _ => {}
        }
        orphan
    }

    /// Removes a node, and then the nodes above it, as long as they are not watched and have
    /// no children.
    pub(super) fn prune(&mut self, id: Id) {
        let mut at = id;
        while self.node(at).wd == NO_WD && self.node(at).first_child == NONE {
            let parent = self.node(at).parent;
            self.detach(at);
            self.release(at);
            if parent == NONE {
                return;
            }
            at = parent;
        }
    }

    /// Removes a node and all nodes below it. Returns the watch descriptors that no node has
    /// any more.
    pub(super) fn remove(&mut self, id: Id) -> Vec<i32> {
        let parent = self.parent(id);
        let mut subtree = vec![id];
        let mut next = 0;
        while let Some(&at) = subtree.get(next) {
            subtree.extend(self.children(at));
            next += 1;
        }
        let mut orphans = Vec::new();
        // From the leaves up, so that a released node has no children.
        for at in subtree.into_iter().rev() {
            orphans.extend(self.set_wd(at, None));
            self.detach(at);
            self.release(at);
        }
        if let Some(parent) = parent {
            self.prune(parent);
        }
        orphans
    }
}

/// The linked lists.
impl Tree {
    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    fn hash(&self, parent: Id, name: &[u8]) -> u32 {
        let hash = self.hasher.hash_one((parent, name));
        // 32 bits are enough: nodes that collide differ by their names.
        (hash >> 32) as u32
    }

    fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        let mut at = *self.by_name.get(&self.hash(parent, name))?;
        while at != NONE {
            let node = self.node(at);
            if node.parent == parent && *node.name == *name {
                return Some(at);
            }
            at = node.next_same_hash;
        }
        None
    }

    fn children(&self, id: Id) -> Vec<Id> {
        let mut children = Vec::new();
        let mut at = self.node(id).first_child;
        while at != NONE {
            children.push(at);
            at = self.node(at).next_sibling;
        }
        children
    }

    fn insert(&mut self, folder: FolderNumber, parent: Id, name: &[u8]) -> Id {
        let node = Node {
            name: name.into(),
            folder,
            parent: NONE,
            first_child: NONE,
            next_sibling: NONE,
            prev_sibling: NONE,
            next_same_hash: NONE,
            wd: NO_WD,
            next_same_wd: NONE,
        };
        let id = match some(self.free) {
            Some(id) => {
                self.free = self.node(id).parent;
                *self.node_mut(id) = node;
                id
            }
            None => {
                self.nodes.push(node);
                // The numbers of watches and of names in a path are too small for 2^32 nodes.
                Id::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        if parent != NONE {
            self.attach(id, parent);
        }
        id
    }

    fn attach(&mut self, id: Id, parent: Id) {
        let next = std::mem::replace(&mut self.node_mut(parent).first_child, id);
        if next != NONE {
            self.node_mut(next).prev_sibling = id;
        }
        let hash = self.hash(parent, &self.node(id).name);
        let same = self.by_name.insert(hash, id).unwrap_or(NONE);
        let node = self.node_mut(id);
        node.parent = parent;
        node.next_sibling = next;
        node.prev_sibling = NONE;
        node.next_same_hash = same;
    }

    /// Removes a node from its parent; the node keeps its children. A root is removed from
    /// the list of roots.
    fn detach(&mut self, id: Id) {
        let node = self.node(id);
        let (parent, next, prev) = (node.parent, node.next_sibling, node.prev_sibling);
        if parent == NONE {
            let folder = node.folder;
            self.roots.remove(&folder);
            self.watched.remove(&folder);
            return;
        }
        let hash = self.hash(parent, &node.name);
        if prev == NONE {
            self.node_mut(parent).first_child = next;
        } else {
            self.node_mut(prev).next_sibling = next;
        }
        if next != NONE {
            self.node_mut(next).prev_sibling = prev;
        }
        let after = self.node(id).next_same_hash;
        let mut at = self.by_name.get(&hash).copied().unwrap_or(NONE);
        if at == id {
            match some(after) {
                Some(after) => self.by_name.insert(hash, after),
                None => self.by_name.remove(&hash),
            };
        }
        while at != NONE {
            let following = self.node(at).next_same_hash;
            if following == id {
                self.node_mut(at).next_same_hash = after;
                break;
            }
            at = following;
        }
    }

    /// Removes a node from the list of a watch descriptor. Returns true if that list is empty
    /// now.
    fn unlink_wd(&mut self, id: Id, wd: i32) -> bool {
        let after = std::mem::replace(&mut self.node_mut(id).next_same_wd, NONE);
        let mut at = self.by_wd.get(&wd).copied().unwrap_or(NONE);
        if at == id {
            match some(after) {
                Some(after) => self.by_wd.insert(wd, after),
                None => self.by_wd.remove(&wd),
            };
            return after == NONE;
        }
        while at != NONE {
            let following = self.node(at).next_same_wd;
            if following == id {
                self.node_mut(at).next_same_wd = after;
                break;
            }
            at = following;
        }
        false
    }

    /// Makes a node that is in no list free for another directory.
    fn release(&mut self, id: Id) {
        let free = std::mem::replace(&mut self.free, id);
        let node = self.node_mut(id);
        node.name = Box::default();
        node.parent = free;
        node.first_child = NONE;
    }
}

fn some(id: Id) -> Option<Id> {
    (id != NONE).then_some(id)
}
