//! Blocks from the user's files, for those who ask for them.

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

/// Where the files of all folders are.
#[derive(Debug)]
pub(crate) struct Files {
    index: Arc<Index>,
    roots: RwLock<HashMap<FolderNumber, PathBuf>>,
}

impl Files {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self { index, roots: RwLock::default() }
    }

    /// A folder is here from now on.
    pub(crate) fn set_root(&self, number: FolderNumber, path: PathBuf) {
        self.roots.write().insert(number, path);
    }

    /// Nothing of a folder is given out any more.
    pub(crate) fn remove_root(&self, number: FolderNumber) {
        self.roots.write().remove(&number);
    }
}

impl FileTable for Files {
    fn open(&self, id: FileId) -> io::Result<Option<(File, Stamp)>> {
        let located = self.index.locate(id).map_err(io::Error::other)?;
        let Some((number, path, row)) = located else { return Ok(None) };
        let Some(root) = self.roots.read().get(&number).cloned() else { return Ok(None) };
        // A root that was exchanged has other inodes, or the very same files.
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
