//! The directories in a folder that belong to something else: to the instance, or to other
//! folders.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use types::RelPath;

use super::Task;
use crate::error::SyncError;

impl Task {
    /// Returns the directories in the folder that the instance itself writes to.
    pub(super) fn own_dirs(&self) -> Result<HashSet<RelPath>, SyncError> {
        let root = self.resolved_root();
        for own in &self.context.own_dirs {
            if root.starts_with(own) {
                return Err(SyncError::Refused {
                    folder: self.mailbox.id.clone(),
                    text: format!(
                        "{} is a directory of Archivist itself; choose another folder",
                        own.display()
                    ),
                });
            }
        }
        Ok(below(&root, &self.context.own_dirs))
    }

    /// Returns the directories in the folder that are folders of their own.
    pub(super) fn own_folders(&self) -> HashSet<RelPath> {
        let folders = self.context.files.roots();
        let mut inner = below(&self.resolved_root(), &folders);
        inner.extend(below(&self.config.folder.path, &folders));
        inner
    }

    fn resolved_root(&self) -> PathBuf {
        let path = &self.config.folder.path;
        std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())
    }
}

/// Returns the paths of these directories in `root`, without those outside of it, and without
/// `root` itself.
fn below(root: &Path, dirs: &[PathBuf]) -> HashSet<RelPath> {
    let inner = dirs.iter().filter_map(|dir| dir.strip_prefix(root).ok());
    let inner = inner.filter_map(|inner| RelPath::new(inner.as_os_str().as_bytes()).ok());
    inner.filter(|inner| !inner.is_root()).collect()
}
