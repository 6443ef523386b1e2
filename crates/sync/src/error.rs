//! What can go wrong on the source side, and whether trying again can help.
//!
//! What goes wrong with one file is no [`SyncError`]: it is an entry in the
//! error list of its folder, and stops nothing.

use std::io;
use std::path::PathBuf;

use fstree::{ReadError, RootError};
use store::StoreError;
use types::{BlockError, FolderId, ManifestError, NodeError};

/// Whether the same call can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not before somebody changes something.
    Permanent,
    /// Yes: the cause may pass by itself.
    Temporary,
}

/// An error of the source side.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The file index cannot be read or written.
    #[error("cannot {action} the file index {}", path.display())]
    Index {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// Something in the index is not of its form.
    #[error(
        "the file index {} is damaged: {what}; move it away, and everything is looked at again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        what: String,
    },
    /// The index is of another version of this program.
    #[error("the file index {} is of format {found}, this program knows {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: String,
        /// What it should say.
        known: u32,
    },
    /// Another process works with the same data.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The directory of the state cannot be used.
    #[error("cannot {action} {}", path.display())]
    State {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store of blocks, or the index of blocks in place.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root of a folder cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root of a folder cannot be looked at.
    #[error("cannot look at the folder {}", path.display())]
    Unreadable {
        /// The root of the folder.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: ReadError,
    },
    /// What was stored for a folder is not a manifest.
    #[error("the last manifest of folder {folder} cannot be read")]
    Manifest {
        /// The folder.
        folder: FolderId,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// A manifest over the limit of a block.
    #[error("folder {folder} has too many files for one manifest; exclude some, or split it")]
    TooLarge {
        /// The folder.
        folder: FolderId,
        /// What was over its limit.
        #[source]
        source: BlockError,
    },
    /// A dataset that cannot be encoded.
    #[error("the manifest of folder {folder} cannot be named")]
    Dataset {
        /// The folder.
        folder: FolderId,
        /// What is wrong.
        #[source]
        source: NodeError,
    },
    /// No such folder.
    #[error("there is no folder {0}; `archivist folder list` shows them")]
    UnknownFolder(FolderId),
    /// The folder is paused.
    #[error("folder {0} is paused; `archivist folder resume {0}` goes on with it")]
    Paused(FolderId),
    /// The folder is stopped until somebody has looked at it.
    #[error("folder {folder} is stopped: {text}")]
    Alarm {
        /// The folder.
        folder: FolderId,
        /// Why, and what to do.
        text: String,
    },
    /// Its state cannot go while it is configured.
    #[error("folder {0} is still in the configuration; remove it there first")]
    StillConfigured(FolderId),
    /// The folder cannot be watched as it is configured.
    #[error("folder {folder} cannot be watched: {text}")]
    Refused {
        /// The folder.
        folder: FolderId,
        /// Why, and what to do.
        text: String,
    },
    /// No further sequence number.
    #[error("folder {0} has no further sequence number; add it anew under another id")]
    SequenceExhausted(FolderId),
    /// The work was to be given up.
    #[error("the source side is stopping")]
    Stopped,
    /// Work on a folder died.
    #[error("the work on folder {folder} panicked: {text}")]
    Panicked {
        /// The folder.
        folder: FolderId,
        /// What it said.
        text: String,
    },
    /// Another asker was told why; it can be tried again.
    #[error("folder {folder}: {text}")]
    Failed {
        /// The folder.
        folder: FolderId,
        /// What went wrong.
        text: String,
    },
}

impl SyncError {
    /// Whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => match error.retry() {
                store::Retry::Permanent => Retry::Permanent,
                store::Retry::Temporary => Retry::Temporary,
            },
            Self::Root(error) => match error.retry() {
                fstree::Retry::Permanent => Retry::Permanent,
                fstree::Retry::Temporary => Retry::Temporary,
            },
            Self::Index { .. }
            | Self::Locked(_)
            | Self::State { .. }
            | Self::Unreadable { .. }
            | Self::Alarm { .. }
            | Self::Failed { .. } => Retry::Temporary,
            _ => Retry::Permanent,
        }
    }
}
