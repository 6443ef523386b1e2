//! Reads of a tree that fail, for simulations: permissions that root does not feel, and errors of
//! a disk that works.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use types::RelPath;

use crate::linux::Call;

/// A read that fails until the faults are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFault {
    /// Path of the entry.
    pub path: RelPath,
    /// Part of the entry that cannot be read.
    pub part: FaultyPart,
    /// Number of the error, as in `errno.h`.
    pub errno: i32,
}

/// The part of an entry that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultyPart {
    /// Its metadata.
    Entry,
    /// The content of a file, or the list of names of a directory.
    Content,
    /// The names of a directory, and everything below it.
    Below,
}

/// The faults of a tree. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<Vec<TreeFault>>>);

/// The trees with faults, by the path of their root.
static TREES: Mutex<Vec<(PathBuf, Faults)>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The faults of the tree at a path. Trees that are opened there have them until this is dropped.
#[derive(Debug)]
pub struct TreeFaults {
    faults: Faults,
}

impl TreeFaults {
    /// Starts with no fault.
    pub fn new(root: &Path) -> Self {
        let (root, faults) = (root.to_owned(), Faults::default());
        let mut trees = lock(&TREES);
        // Of an earlier simulation of this seed.
        trees.retain(|(path, _)| *path != root);
        trees.push((root, faults.clone()));
        drop(trees);
        Self { faults }
    }

    /// Replaces the faults.
    pub fn set(&self, faults: Vec<TreeFault>) {
        *lock(&self.faults.0) = faults;
    }

    /// Returns the current faults.
    pub fn get(&self) -> Vec<TreeFault> {
        lock(&self.faults.0).clone()
    }
}

impl Drop for TreeFaults {
    fn drop(&mut self) {
        lock(&TREES).retain(|(_, faults)| !Arc::ptr_eq(&faults.0, &self.faults.0));
    }
}

impl Faults {
    /// Returns the faults of the tree at `root`.
    pub(crate) fn of(root: &Path) -> Self {
        let trees = lock(&TREES);
        let found = trees.iter().find(|(path, _)| path == root);
        found.map(|(_, faults)| faults.clone()).unwrap_or_default()
    }

    /// Returns the error of a call for `path`.
    pub(crate) fn check(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        let concerns = |fault: &&TreeFault| match fault.part {
            FaultyPart::Entry => call == Call::Examine && fault.path == *path,
            FaultyPart::Content => call != Call::Examine && fault.path == *path,
            FaultyPart::Below if fault.path == *path => call != Call::Examine,
            FaultyPart::Below => is_below(path, &fault.path),
        };
        match lock(&self.0).iter().find(concerns) {
            Some(fault) => Err(Errno::from_raw_os_error(fault.errno)),
            None => Ok(()),
        }
    }
}

fn is_below(path: &RelPath, dir: &RelPath) -> bool {
    let rest = path.as_bytes().strip_prefix(dir.as_bytes());
    rest.is_some_and(|rest| dir.is_root() || rest.starts_with(b"/"))
}
