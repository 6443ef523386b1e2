//! Files that were read shortly after a change, and that a hint may concern since.

use std::collections::{BTreeMap, HashSet};

use types::RelPath;

/// Maximum number of files, and of directories. The others are read in their turn; see
/// [`crate::Tuning::settle`].
const MAX: usize = 100_000;

/// Unsettled files for which a hint came after they were read: the end of a mapping, or another
/// change in their directory. A requested scan reads them again.
#[derive(Debug, Default)]
pub(crate) struct HintedFiles {
    files: HashSet<RelPath>,
    /// Directories that were hinted, and not scanned alone.
    dirs: HashSet<RelPath>,
}

impl HintedFiles {
    /// Adds unsettled files in hinted directories.
    pub(crate) fn add_files(&mut self, files: Vec<RelPath>) {
        let room = MAX.saturating_sub(self.files.len());
        self.files.extend(files.into_iter().take(room));
    }

    /// Adds hinted directories.
    pub(crate) fn add_dirs(&mut self, dirs: BTreeMap<RelPath, bool>) {
        let room = MAX.saturating_sub(self.dirs.len());
        self.dirs.extend(dirs.into_keys().take(room));
    }

    /// Reports whether a hint may concern a file.
    pub(crate) fn contains(&self, path: &RelPath) -> bool {
        self.files.contains(path) || path.parent().is_some_and(|dir| self.dirs.contains(&dir))
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) {
        self.files.clear();
        self.dirs.clear();
    }
}
