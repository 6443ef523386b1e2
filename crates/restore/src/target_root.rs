//! The target directory itself: whether a restore may set its mode and its time.

use std::fs::File;
use std::path::{Path, PathBuf};

use fstree::{SourceTree, TreeReader as _};
use types::{Cid, Metadata, RelPath};

/// A file in the target that says that a restore of a snapshot started there when the target
/// was empty. A run that resumes it sets the metadata of the target, too.
pub(crate) struct StartMark(PathBuf);

impl StartMark {
    pub(crate) fn new(target: &Path, manifest: Cid) -> Self {
        let manifest = manifest.to_string();
        let end = manifest.get(manifest.len().saturating_sub(16)..).unwrap_or(&manifest);
        Self(target.join(format!(".archivist-restore-{end}")))
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// Creates the file. Without it, only the metadata of the target is not set later.
    pub(crate) fn create(&self) {
        let _ = File::options().write(true).create_new(true).open(&self.0);
    }

    /// Removes the file, unless it has a content: then it is one of the snapshot.
    pub(crate) fn remove(&self) {
        if self.0.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == 0) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Reports whether a directory already has the mode and mtime of the backed-up root.
pub(crate) fn has_mode_and_mtime(dir: &Path, metadata: &Metadata) -> bool {
    let tree = SourceTree::open(dir);
    let found = tree.ok().and_then(|tree| tree.examine(&RelPath::root()).ok().flatten());
    found.is_some_and(|found| {
        (found.mode, found.stamp.mtime_ns()) == (metadata.mode, metadata.mtime_ns)
    })
}
