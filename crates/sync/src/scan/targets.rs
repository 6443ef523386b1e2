//! The directories and files that a scan examines.

use std::collections::{BTreeMap, BTreeSet};

use types::RelPath;

use crate::error::SyncError;
use crate::index::Index;
use crate::path_key::FolderNumber;

/// Maximum number of directories, and of files; beyond it, the whole folder is scanned.
const DIRS_MAX: usize = 20_000;

/// Directories and files in which something may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Directories; true if everything below is included.
    pub(crate) dirs: BTreeMap<RelPath, bool>,
    /// Single files.
    pub(crate) files: BTreeSet<RelPath>,
}

impl Targets {
    /// Returns the whole folder.
    pub(crate) fn all() -> Self {
        Self { dirs: BTreeMap::from([(RelPath::root(), true)]), files: BTreeSet::new() }
    }

    /// Reports whether these targets are the whole folder.
    pub(crate) fn is_all(&self) -> bool {
        self.dirs.get(&RelPath::root()) == Some(&true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.files.is_empty()
    }

    pub(crate) fn add_dir(&mut self, dir: RelPath, is_deep: bool) {
        if self.dirs.len() >= DIRS_MAX {
            *self = Self::all();
        }
        *self.dirs.entry(dir).or_default() |= is_deep;
    }

    pub(crate) fn add_file(&mut self, path: RelPath) {
        if self.files.len() >= DIRS_MAX {
            *self = Self::all();
        }
        self.files.insert(path);
    }
}

/// Returns the root and every directory down to `dir`.
pub(super) fn ancestors(dir: &RelPath) -> Vec<RelPath> {
    let mut all = vec![dir.clone()];
    let mut at = dir.parent();
    while let Some(dir) = at {
        at = dir.parent();
        all.push(dir);
    }
    all.reverse();
    all
}

/// Normalises targets: a directory without a row is replaced by its closest ancestor with a
/// row, whose scan decides whether it is excluded, and no path is scanned twice.
pub(crate) fn normalise(
    index: &Index,
    number: FolderNumber,
    targets: Targets,
) -> Result<Targets, SyncError> {
    if targets.is_all() {
        return Ok(Targets::all());
    }
    let mut known: BTreeMap<RelPath, bool> = BTreeMap::new();
    let mut result = Targets::default();
    for (dir, is_deep) in targets.dirs {
        let mut wanted = (dir.clone(), is_deep);
        for dir in ancestors(&dir) {
            let is_known = match known.get(&dir) {
                Some(is_known) => *is_known,
                None => {
                    let is_dir = index.row(number, &dir)?.is_some_and(|row| row.is_dir());
                    known.insert(dir.clone(), is_dir);
                    is_dir
                }
            };
            if !is_known {
                wanted = (dir.parent().unwrap_or_else(RelPath::root), false);
                break;
            }
        }
        *result.dirs.entry(wanted.0).or_default() |= wanted.1;
    }
    let mut deep: Option<RelPath> = None;
    result.dirs.retain(|dir, is_deep| {
        if deep.as_ref().is_some_and(|deep| dir.is_within(deep)) {
            return false;
        }
        if *is_deep {
            deep = Some(dir.clone());
        }
        true
    });
    let is_covered = |path: &RelPath| {
        ancestors(path).iter().any(|dir| result.dirs.get(dir).is_some_and(|is_deep| *is_deep))
            || path.parent().is_some_and(|dir| result.dirs.contains_key(&dir))
    };
    result.files = targets.files.into_iter().filter(|path| !is_covered(path)).collect();
    Ok(result)
}
