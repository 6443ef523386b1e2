//! Opens the files of folders by file id, so that blocks can be served from their place.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fstree::{ReadError, SourceTree, TreeReader as _};
use parking_lot::RwLock;
use store::{FileId, FileTable, Stamp};

use crate::index::Index;
use crate::path_key::FolderNumber;

/// The files of all folders that are served. See [`FileTable`].
#[derive(Debug)]
pub(crate) struct FolderFiles {
    index: Arc<Index>,
    roots: RwLock<HashMap<FolderNumber, PathBuf>>,
}

impl FolderFiles {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self { index, roots: RwLock::default() }
    }

    /// Serves the files of a folder from this path.
    pub(crate) fn set_root(&self, number: FolderNumber, path: PathBuf) {
        self.roots.write().insert(number, path);
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

impl FileTable for FolderFiles {
    fn open(&self, id: FileId) -> io::Result<Option<(File, Stamp)>> {
        let located = self.index.locate(id).map_err(io::Error::other)?;
        let Some((number, path, row)) = located else { return Ok(None) };
        let Some(root) = self.roots.read().get(&number).cloned() else { return Ok(None) };
        // No check of the root: a replaced root has other inodes, or the very same files.
        let root = SourceTree::open(&root).map_err(io::Error::other)?;
        let open = root.open_file(&path).map_err(|error| match error {
            ReadError::Io { source, .. } => source,
            error => io::Error::other(error),
        })?;
        let device =
            if row.stamp.is_elsewhere { open.stamp.device } else { root.identity().device };
        Ok(Some((open.file, row.stamp.for_store(device))))
    }
}
