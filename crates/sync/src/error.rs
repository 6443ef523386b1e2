//! Errors of the source side, and whether a repeated call can succeed.
//!
//! An error of one file is not a [`SyncError`]: it becomes an entry of the folder's error
//! list, and the work continues.

use std::io;
use std::path::PathBuf;

use fstree::{ReadError, RootError};
use store::StoreError;
use types::{BlockError, FolderId, ManifestError, NodeError, Retry};

/// An error of the source side.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The file index cannot be read or written.
    #[error("cannot {action} the file index {}", path.display())]
    Index {
        /// The attempted operation, as a verb.
        action: &'static str,
        /// The index file.
        path: PathBuf,
        /// The error of the database.
        #[source]
        source: Box<redb::Error>,
    },
    /// A value in the index is malformed.
    #[error(
        "the file index {} is damaged: {what}; move it away to have all folders scanned again",
        path.display()
    )]
    Damaged {
        /// The index file.
        path: PathBuf,
        /// The malformed value.
        what: String,
    },
    /// The index was written by a version of this program with another format.
    #[error("the file index {} has format {found}; this program supports {known}", path.display())]
    Version {
        /// The index file.
        path: PathBuf,
        /// The format of the file.
        found: String,
        /// The supported format.
        known: u32,
    },
    /// Another process uses the same data directory.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The directory of the state cannot be used.
    #[error("cannot {action} {}", path.display())]
    State {
        /// The attempted operation, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The block store or the index of blocks in place failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root of a folder cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root of a folder cannot be read.
    #[error("cannot read the folder {}", path.display())]
    Unreadable {
        /// The root of the folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: ReadError,
    },
    /// The stored manifest of a folder is malformed.
    #[error("the last manifest of folder {folder} cannot be read")]
    Manifest {
        /// The folder.
        folder: FolderId,
        /// The cause.
        #[source]
        source: ManifestError,
    },
    /// The manifest would be larger than a block may be.
    #[error("folder {folder} has too many files for one manifest; exclude some, or split it")]
    TooLarge {
        /// The folder.
        folder: FolderId,
        /// The limit that would be exceeded.
        #[source]
        source: BlockError,
    },
    /// The dataset node of a manifest cannot be encoded.
    #[error("the manifest of folder {folder} cannot be encoded")]
    Dataset {
        /// The folder.
        folder: FolderId,
        /// The cause.
        #[source]
        source: NodeError,
    },
    /// No folder with this id is configured.
    #[error("there is no folder {0}; `archivist folder list` shows all folders")]
    UnknownFolder(FolderId),
    /// The folder is paused.
    #[error("folder {0} is paused; `archivist folder resume {0}` resumes it")]
    Paused(FolderId),
    /// An alarm has stopped the folder until the user acts.
    #[error("folder {folder} is stopped: {text}")]
    Alarm {
        /// The folder.
        folder: FolderId,
        /// The reason, and what to do.
        text: String,
    },
    /// The folder is still configured, so its state cannot be removed.
    #[error("folder {0} is still configured; remove it from the configuration first")]
    StillConfigured(FolderId),
    /// The folder cannot be backed up with its current settings.
    #[error("folder {folder} cannot be backed up: {text}")]
    Refused {
        /// The folder.
        folder: FolderId,
        /// The reason, and what to do.
        text: String,
    },
    /// No sequence number is left.
    #[error("folder {0} has no further sequence number; add it again under another id")]
    SequenceExhausted(FolderId),
    /// The work was interrupted.
    #[error("the source side is stopping")]
    Stopped,
    /// The thread of a folder panicked.
    #[error("the thread of folder {folder} panicked: {text}")]
    Panicked {
        /// The folder.
        folder: FolderId,
        /// The message of the panic.
        text: String,
    },
    /// The request failed; another requester received the error itself.
    #[error("folder {folder}: {text}")]
    Failed {
        /// The folder.
        folder: FolderId,
        /// The error and its causes.
        text: String,
    },
}

impl SyncError {
    /// Reports whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Root(error) => error.retry(),
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
