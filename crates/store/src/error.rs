//! The errors of the store, and whether a retry can help.

use std::io;
use std::path::{Path, PathBuf};

use disk::{FileError, StateError};
use types::{BlockError, Cid, EncodedError, Hash, NodeError, Retry};

/// The limit that a write would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `max_storage`: space that the store may use.
    Quota,
    /// `disk_reserve`: space that stays free on the disk.
    Reserve,
    /// The size of the disk.
    Disk,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system reported an error.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// There is not enough space.
    #[error("not enough space for {needed} more bytes: {}", limit.hint())]
    Full {
        /// The limit that would be exceeded.
        limit: Limit,
        /// Number of bytes that could not be written; 0 if it is not known.
        needed: u64,
    },
    /// The stored bytes of a block do not match its name. The block is
    /// quarantined: it counts as absent and can be put again.
    #[error("block {hash} in {} at {offset} is damaged: {reason}", pack.display())]
    Damaged {
        /// The block.
        hash: Hash,
        /// The pack file that contains the block.
        pack: PathBuf,
        /// Offset of the block in the pack, in bytes.
        offset: u64,
        /// The mismatch.
        reason: String,
    },
    /// A block is stored in a form that this version of the program does not know. It
    /// is not damaged: it stays as it is, and counts as present.
    #[error(
        "block {hash} in {} was written by a newer version of this program; use that version",
        pack.display()
    )]
    Newer {
        /// The block.
        hash: Hash,
        /// The pack file that contains the block.
        pack: PathBuf,
    },
    /// A block that is referred to is absent.
    #[error("block {0} is missing")]
    Missing(Cid),
    /// A sync failed, or blocks were found damaged, so that blocks that the batch has
    /// written or found may not be on the disk. The batch must be repeated.
    #[error("the disk lost blocks while this was stored; it must be stored again")]
    LostWrites,
    /// The bytes of a block do not match its name, or are too long.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A payload is not the block that it claims to be.
    #[error(transparent)]
    Encoded(#[from] EncodedError),
    /// A block is used as a node and is not a valid one.
    #[error("block {cid} is not a valid node")]
    Node {
        /// The block.
        cid: Cid,
        /// The violated rule.
        #[source]
        source: NodeError,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// This program cannot use a file of the store.
    #[error("cannot use {}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A log of roots cannot be read, and the other one is not complete: it is not
    /// known what must be kept. Nothing was changed.
    #[error(
        "cannot read {}, which lists everything that must be kept: {reason}; nothing was changed; \
         give the file back to the user who runs this program, or repair the disk, and start again",
        path.display()
    )]
    RootsUnreadable {
        /// The log.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The catalog of the index, or the list of packs, cannot be read. It names packs that
    /// must exist, so it is not replaced. Nothing was changed.
    #[error(
        "cannot read {}, which lists the packs of the store: {reason}; nothing was changed; give \
         the file back to the user who runs this program, or repair the disk, and start again; if \
         the file cannot be repaired, move it away; a pack that is missing then is not reported",
        path.display()
    )]
    CatalogUnreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A file of the index, or its directory, cannot be read. The index can be rebuilt from the
    /// packs, but the file may be intact.
    #[error(
        "cannot {action} {}, a file of the index of the store; the file was not changed; give it \
         back to the user who runs this program, or repair the disk, and start again; if the file \
         cannot be repaired, move it away: the index is then rebuilt from the packs",
        path.display()
    )]
    IndexUnreadable {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// The name of a root is empty, too long or has control characters.
    #[error("{0:?} is not a valid name of a root")]
    RootName(String),
    /// A collection cannot know which blocks are needed.
    #[error("nothing was collected: {0}")]
    NotCollected(String),
    /// The input that should be stored cannot be read.
    #[error("cannot read the input")]
    Source(#[source] io::Error),
    /// A fault that a test injected.
    #[error("injected fault: {0}")]
    Injected(&'static str),
}

impl Limit {
    fn hint(self) -> &'static str {
        match self {
            Self::Quota => "it would exceed max_storage; raise it, or prune",
            Self::Reserve => "it would exceed disk_reserve; free space on the disk, or prune",
            Self::Disk => "the disk is full; free space on it, or prune",
        }
    }
}

impl StoreError {
    /// Adds the context to an I/O error. A full disk becomes
    /// [`StoreError::Full`].
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if is_full(&source) {
            Self::Full { limit: Limit::Disk, needed: 0 }
        } else {
            Self::Io { action, path: path.to_owned(), source }
        }
    }

    /// Tells whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Io { .. }
            | Self::Full { .. }
            | Self::LostWrites
            | Self::Locked(_)
            | Self::RootsUnreadable { .. }
            | Self::CatalogUnreadable { .. }
            | Self::IndexUnreadable { .. } => Retry::Temporary,
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
                reason: format!("it has {len} bytes, more than the limit of {limit}"),
            },
        }
    }
}

impl From<StateError> for StoreError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::File(error) => error.into(),
            StateError::Newer { path } => Self::Unusable {
                path,
                reason: "it was written by a newer version of this program; use that version"
                    .to_owned(),
            },
        }
    }
}

/// Reports whether an error says that there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Adds an action and a path to an [`io::Error`].
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(action, path, source))
    }
}
