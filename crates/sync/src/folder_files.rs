//! Opens the files of folders by file id, so that blocks can be served from their place.
//!
//! The index knows only the last version of each file. The backup server may be fetching an
//! earlier one, which the last manifest names: its file ids are remembered here, since most
//! blocks of a file that grows or changes in places are still where they were.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fstree::{ReadError, SourceTree, TreeReader as _};
use parking_lot::RwLock;
use store::{FileId, FileTable};
use types::RelPath;

use crate::index::{Index, ReplacedVersion};
use crate::path_key::FolderNumber;

/// Maximum number of former versions of files that are remembered.
const FORMER_MAX: usize = 20_000;

/// The files of all folders that are served. See [`FileTable`].
#[derive(Debug)]
pub(crate) struct FolderFiles {
    index: Arc<Index>,
    roots: RwLock<HashMap<FolderNumber, PathBuf>>,
    former: RwLock<FormerVersions>,
}

/// The paths of file versions that were replaced by new versions.
#[derive(Debug, Default)]
struct FormerVersions {
    paths: HashMap<FileId, (FolderNumber, RelPath)>,
    /// The ids, the oldest first.
    order: VecDeque<FileId>,
}

impl FormerVersions {
    fn add(&mut self, id: FileId, number: FolderNumber, path: RelPath) {
        if self.paths.insert(id, (number, path)).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > FORMER_MAX {
            self.order.pop_front().and_then(|id| self.paths.remove(&id));
        }
    }
}

impl FolderFiles {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self { index, roots: RwLock::default(), former: RwLock::default() }
    }

    /// Serves the files of a folder from this path.
    pub(crate) fn set_root(&self, number: FolderNumber, path: PathBuf) {
        self.roots.write().insert(number, path);
    }

    /// Returns the paths of all folders.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        self.roots.read().values().cloned().collect()
    }

    /// Returns the numbers of all folders.
    pub(crate) fn numbers(&self) -> Vec<FolderNumber> {
        self.roots.read().keys().copied().collect()
    }

    /// Stops serving the files of a folder.
    pub(crate) fn remove_root(&self, number: FolderNumber) {
        self.roots.write().remove(&number);
    }
}

impl FolderFiles {
    /// Remembers versions of files that were replaced under their paths.
    pub(crate) fn add_former(&self, number: FolderNumber, replaced: &[ReplacedVersion]) {
        let mut former = self.former.write();
        for version in replaced {
            former.add(version.id, number, version.path.clone());
        }
    }

    /// Returns the folder and the path of a version that was replaced.
    pub(crate) fn former(&self, id: FileId) -> Option<(FolderNumber, RelPath)> {
        self.former.read().paths.get(&id).cloned()
    }
}

impl FileTable for FolderFiles {
    fn open(&self, id: FileId) -> io::Result<Option<File>> {
        let located = self.index.locate(id).map_err(io::Error::other)?;
        let located = located.map(|(number, path, _)| (number, path)).or_else(|| self.former(id));
        let Some((number, path)) = located else { return Ok(None) };
        let Some(root) = self.roots.read().get(&number).cloned() else { return Ok(None) };
        // No check of the root: the hash of the block proves the content.
        let root = SourceTree::open(&root).map_err(io::Error::other)?;
        let open = root.open_file(&path).map_err(|error| match error {
            ReadError::Io { source, .. } => source,
            error => io::Error::other(error),
        })?;
        Ok(Some(open.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_former_versions_are_remembered() {
        let mut former = FormerVersions::default();
        for id in 0..FORMER_MAX as u64 + 5 {
            former.add(FileId(id), 1, RelPath::root());
            former.add(FileId(id), 1, RelPath::root());
        }
        assert_eq!((former.paths.len(), former.order.len()), (FORMER_MAX, FORMER_MAX));
        assert!(!former.paths.contains_key(&FileId(4)) && former.paths.contains_key(&FileId(5)));
    }
}
