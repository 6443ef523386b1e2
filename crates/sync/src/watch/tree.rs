//! The watched directories of all folders: which watch descriptor belongs to
//! which paths, and back.
//!
//! A directory is a node with its name and its parent, so that a million of
//! them take little memory, and a rename is one step. One inode has one watch
//! descriptor whatever paths lead to it (folders may overlap), so the nodes of
//! a descriptor are a list.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use types::RelPath;

/// A node's place; [`NONE`] for no node.
pub(super) type Id = u32;

const NONE: Id = Id::MAX;

/// No watch descriptor; the system's are positive.
const NO_WD: i32 = -1;

#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    folder: u32,
    /// `NONE` for the root of a folder. Of a free node: the next free one.
    parent: Id,
    first_child: Id,
    next_sibling: Id,
    prev_sibling: Id,
    /// The next node under the same hash of parent and name.
    next_same_hash: Id,
    wd: i32,
    /// The next node with the same watch descriptor.
    next_same_wd: Id,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    free: Id,
    roots: HashMap<u32, Id>,
    /// The first node of each hash of parent and name. Keyed, since names come
    /// from anybody.
    by_name: HashMap<u32, Id>,
    hasher: RandomState,
    /// The first node of each watch descriptor.
    by_wd: HashMap<i32, Id>,
    watched: HashMap<u32, u64>,
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

    /// How many directories of a folder are watched.
    pub(super) fn watched(&self, folder: u32) -> u64 {
        self.watched.get(&folder).copied().unwrap_or(0)
    }

    /// How many watch descriptors there are.
    pub(super) fn descriptors(&self) -> usize {
        self.by_wd.len()
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = u32> {
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

    /// The path of a node; `None` if renames have made it too long for one.
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

    pub(super) fn find(&self, folder: u32, path: &RelPath) -> Option<Id> {
        let root = *self.roots.get(&folder)?;
        path.names().try_fold(root, |at, name| self.child(at, name))
    }

    /// The node of a path; it and those on the way are made where missing.
    pub(super) fn make(&mut self, folder: u32, path: &RelPath) -> Id {
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

    /// The nodes of a watch descriptor.
    pub(super) fn of_wd(&self, wd: i32) -> Vec<Id> {
        let mut ids = Vec::new();
        let mut at = self.by_wd.get(&wd).copied().unwrap_or(NONE);
        while at != NONE {
            ids.push(at);
            at = self.node(at).next_same_wd;
        }
        ids
    }

    /// Sets what a node is watched by, and returns the descriptor that it was
    /// watched by before, if no other node has that any more.
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

    /// Forgets a node, and those above it, as long as they are not watched and
    /// have nothing in them.
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

    /// Forgets a node and all below it; returns the descriptors that no node
    /// has any more.
    pub(super) fn remove(&mut self, id: Id) -> Vec<i32> {
        let parent = self.parent(id);
        let mut subtree = vec![id];
        let mut next = 0;
        while let Some(&at) = subtree.get(next) {
            subtree.extend(self.children(at));
            next += 1;
        }
        let mut orphans = Vec::new();
        // From the leaves up: whoever is released has no children.
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

/// The lists.
impl Tree {
    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    fn hash(&self, parent: Id, name: &[u8]) -> u32 {
        let hash = self.hasher.hash_one((parent, name));
        // Half of it does: what collides is told apart by the name.
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

    fn insert(&mut self, folder: u32, parent: Id, name: &[u8]) -> Id {
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
                // The system has less watches, and paths have less names, than
                // would take four thousand million nodes.
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

    /// Takes a node out of its parent; it keeps what is below it. A root is
    /// the folder's no more.
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

    /// Whether no node has the descriptor any more.
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

    /// A node that is in no list is free for another.
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
