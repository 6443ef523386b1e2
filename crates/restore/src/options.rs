//! The options of a restore, and the reasons why it stops.

use std::io;
use std::path::PathBuf;

use fstree::{DestError, OwnerPolicy, RootError};

use crate::blocks::BlocksError;
use crate::manifest::ManifestError;
use crate::select::Selection;

/// Options of a restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The part of the snapshot to restore.
    pub selection: Selection,
    /// True if existing entries are replaced.
    pub overwrite: bool,
    /// Owners of the restored entries. By default, they are set by name if this process may
    /// set them.
    pub owners: OwnerPolicy,
    /// False if devices, setuid and setgid bits, and attributes that grant privileges are left out:
    /// for the snapshot of a source that this computer does not trust.
    pub as_it_was: bool,
    /// Number of threads that create files.
    pub workers: usize,
    /// Directories that the restore never changes: those of the instance. The names in a
    /// snapshot come from its source, so they could name the files of the store.
    pub protected: Vec<PathBuf>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            overwrite: false,
            owners: OwnerPolicy::for_this_process(true),
            as_it_was: true,
            workers: std::thread::available_parallelism().map_or(2, usize::from).min(8),
            protected: Vec::new(),
        }
    }
}

/// The reason why a restore stopped before its end. A new run with the same target
/// resumes it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The target directory cannot be used.
    #[error("cannot restore into {}", path.display())]
    Target {
        /// The target directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: RootError,
    },
    /// The target directory cannot be created.
    #[error("cannot create {}", path.display())]
    Create {
        /// The target directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The target is a directory of the instance, or in one.
    #[error(
        "{} is in {}, where this program keeps its data; choose another directory",
        target.display(),
        protected.display()
    )]
    Protected {
        /// The target directory.
        target: PathBuf,
        /// The directory of the instance.
        protected: PathBuf,
    },
    /// The target is full or read-only.
    #[error("the restore stopped because the target is full or read-only")]
    TargetUnwritable(#[source] DestError),
    /// Blocks cannot be read any more.
    #[error("the restore stopped because blocks cannot be read")]
    Blocks(#[source] BlocksError),
    /// [`Progress::stop`](crate::Progress::stop) was called.
    #[error("the restore was stopped")]
    Stopped,
}
