//! What can go wrong in the store, and whether trying again can help.

use std::io;
use std::path::{Path, PathBuf};

use disk::FileError;
use types::{BlockError, Cid, EncodedError, Hash, NodeError};

/// Whether the same call can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not before something else changes: a repair, space, a newer program.
    Permanent,
    /// Yes: the cause may pass by itself.
    Temporary,
}

/// Which limit a write would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `max_storage`: what the store may use.
    Quota,
    /// `disk_reserve`: what stays free on the disk.
    Reserve,
    /// The disk itself.
    Disk,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no room.
    #[error("no room for {needed} more bytes: {}", limit.hint())]
    Full {
        /// What stands in the way.
        limit: Limit,
        /// The bytes that were to be written.
        needed: u64,
    },
    /// A stored block is not what its name says. It has been quarantined: it
    /// counts as absent, and can be put again.
    #[error("block {hash} in {} at {offset} is damaged: {reason}", pack.display())]
    Damaged {
        /// The block.
        hash: Hash,
        /// The pack file that holds it.
        pack: PathBuf,
        /// Where in the pack, in bytes.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// A block that something refers to is not there.
    #[error("block {0} is missing")]
    Missing(Cid),
    /// What was written since the batch began may not be on the disk: a sync
    /// failed. The batch has to be done again.
    #[error("a sync of the disk failed: what was written since has to be written again")]
    LostWrites,
    /// Bytes that do not match their name, or are over the limit.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A payload that is not the block that it claims to be.
    #[error(transparent)]
    Encoded(#[from] EncodedError),
    /// A node that is not of its format.
    #[error("block {cid} is not the node that it is used as")]
    Node {
        /// The block.
        cid: Cid,
        /// What is wrong with it.
        #[source]
        source: NodeError,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A file of the store that this program cannot read.
    #[error("{} is not usable: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name of a root that is empty, too long or has control characters.
    #[error("{0:?} cannot be the name of a root")]
    RootName(String),
    /// Collection would have to guess what is alive.
    #[error("nothing was collected: {0}")]
    NotCollected(String),
    /// What was to be stored could not be read.
    #[error("cannot read what is to be stored")]
    Source(#[source] io::Error),
    /// A fault that a test asked for.
    #[error("an injected fault: {0}")]
    Injected(&'static str),
}

impl Limit {
    fn hint(self) -> &'static str {
        match self {
            Self::Quota => "it would pass max_storage; raise it, or prune",
            Self::Reserve => "it would pass disk_reserve; free space on the disk, or prune",
            Self::Disk => "the disk is full; free space on it, or prune",
        }
    }
}

impl StoreError {
    /// An I/O error with its context; a full disk is told apart.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { limit: Limit::Disk, needed: 0 }
            }
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }

    /// Whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Io { .. } | Self::Full { .. } | Self::LostWrites | Self::Locked(_) => {
                Retry::Temporary
            }
            _ => Retry::Permanent,
        }
    }
}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io { action, path, source } => Self::io(action, &path, source),
            FileError::TooLong { path, len, limit } => Self::Unusable {
                path,
                reason: format!("{len} bytes are over the limit of {limit}"),
            },
        }
    }
}

/// Puts an action and a path to an [`io::Error`].
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(action, path, source))
    }
}
