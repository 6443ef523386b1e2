//! Errors of reading and creating trees, and whether a retry can help.
//!
//! A [`RootError`] concerns a tree as a whole and stops its scan or restore. A
//! [`ReadError`] or [`DestError`] concerns one path: it is reported, and the scan or
//! the restore continues.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use types::{PathError, RelPath, Retry};

use crate::entry::FileKind;

/// The reason why the root of a tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The path does not exist.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// The path is not a directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// This user has no permission to open the directory.
    #[error("no permission to open {}", .0.display())]
    Denied(PathBuf),
    /// The path leads to another directory: a disk was unmounted or exchanged, or
    /// the directory was replaced.
    #[error("{} is no longer the same directory", .0.display())]
    Replaced(PathBuf),
    /// Another restore uses the directory.
    #[error("another restore into {} is running", .0.display())]
    InUse(PathBuf),
    /// Another system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The failed action, as a verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
}

impl RootError {
    /// Tells whether the same call can succeed later: a disk may return, so only a
    /// path that is not a directory or not permitted is permanent.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotADirectory(_) | Self::Denied(_) => Retry::Permanent,
            Self::Missing(_) | Self::Replaced(_) | Self::InUse(_) | Self::Io { .. } => {
                Retry::Temporary
            }
        }
    }
}

/// The reason why an entry, or the content of a directory, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The failed action, as a verb.
        action: &'static str,
        /// The entry.
        path: RelPath,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The entry was replaced or written to while it was read.
    #[error("{0} changed while it was read")]
    Changed(RelPath),
    /// The directory is on another file system than the root, and the walk was
    /// limited to one.
    #[error("another file system is mounted at {0} or above it")]
    Mounted(RelPath),
    /// The entry is on a file system that does not answer; see
    /// [`SourceTree::set_hung`](crate::SourceTree::set_hung).
    #[error("the file system that is mounted on {mount} does not answer")]
    NotAnswering {
        /// The entry.
        path: RelPath,
        /// The mount point on the way to it, or the entry itself.
        mount: RelPath,
    },
    /// The entry is not a regular file, so it is not opened.
    #[error("{0} is not a regular file")]
    NotRegular(RelPath),
    /// The path of an entry in this directory exceeds the limits of a manifest. The
    /// entry, and everything below it, is not read.
    #[error("{parent} contains a name that cannot be backed up: {}", name.display())]
    Name {
        /// The directory.
        parent: RelPath,
        /// The name of the entry.
        name: OsString,
        /// The violated limit.
        #[source]
        source: PathError,
    },
    /// The directory contains too many names.
    #[error("{path} contains more than {limit} names")]
    TooMany {
        /// The directory.
        path: RelPath,
        /// Maximum number of names.
        limit: usize,
    },
}

impl ReadError {
    /// Returns the entry that the error concerns; for [`ReadError::Name`], the
    /// directory.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Io { path, .. }
            | Self::Changed(path)
            | Self::Mounted(path)
            | Self::NotRegular(path)
            | Self::Name { parent: path, .. }
            | Self::NotAnswering { path, .. }
            | Self::TooMany { path, .. } => path,
        }
    }

    /// Tells whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Changed(_) | Self::NotAnswering { .. } => Retry::Temporary,
            Self::Mounted(_) | Self::NotRegular(_) | Self::Name { .. } | Self::TooMany { .. } => {
                Retry::Permanent
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Retry::Permanent,
                _ => Retry::Temporary,
            },
        }
    }
}

/// The reason why an entry could not be created.
#[derive(Debug, thiserror::Error)]
pub enum DestError {
    /// Another entry has this name. It was left unchanged.
    #[error("{path} was left unchanged: a {found} with this name exists")]
    InTheWay {
        /// Path of the entry.
        path: RelPath,
        /// Kind of the existing entry.
        found: FileKind,
    },
    /// The file system does not distinguish this name from another one in the same
    /// directory, so the entry would replace the other.
    #[error("{path} has the same name as {} on this file system", existing.display())]
    Collision {
        /// The entry to create.
        path: RelPath,
        /// Name of the existing entry.
        existing: OsString,
    },
    /// The parent directory does not exist, is not a directory, or is reached
    /// through a link, which is never followed.
    #[error("the parent directory of {path} does not exist")]
    NoParent {
        /// The entry to create.
        path: RelPath,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The disk space, the inodes or a quota is used up.
    #[error("no space left for {path}")]
    Full {
        /// The entry to create.
        path: RelPath,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("cannot create {path}: the file system is read-only")]
    ReadOnly {
        /// The entry to create.
        path: RelPath,
    },
    /// This user has no permission to create the entry.
    #[error("no permission to create {path}")]
    Denied {
        /// The entry to create.
        path: RelPath,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file system does not support the name.
    #[error("the file system does not support the name of {path}")]
    NameRefused {
        /// The entry to create.
        path: RelPath,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// An entry of this kind cannot be created here, or not by this user.
    #[error("cannot create {path}, a {kind}")]
    CannotCreate {
        /// The entry to create.
        path: RelPath,
        /// Kind of the entry.
        kind: FileKind,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file system cannot link to the file: the file has the maximum number of
    /// names, is on another device, or hard links are not supported. The entry can
    /// be created as a separate file.
    #[error("cannot link {path} to {existing}")]
    CannotLink {
        /// The name to create.
        path: RelPath,
        /// The existing file.
        existing: RelPath,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The content does not have the announced length.
    #[error("{path} must have {expected} bytes, not {found}")]
    Size {
        /// The file.
        path: RelPath,
        /// The announced length in bytes.
        expected: u64,
        /// Number of bytes given, or the end of a rejected write.
        found: u64,
    },
    /// The file to link to, or a new entry, was replaced by another process.
    #[error("{path} was replaced by another process")]
    Changed {
        /// The file.
        path: RelPath,
    },
    /// Another system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The failed action, as a verb.
        action: &'static str,
        /// The entry to create.
        path: RelPath,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
}

impl DestError {
    /// Returns the entry that the error concerns.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::InTheWay { path, .. }
            | Self::Collision { path, .. }
            | Self::NoParent { path, .. }
            | Self::Full { path, .. }
            | Self::ReadOnly { path }
            | Self::Denied { path, .. }
            | Self::NameRefused { path, .. }
            | Self::CannotCreate { path, .. }
            | Self::CannotLink { path, .. }
            | Self::Size { path, .. }
            | Self::Changed { path }
            | Self::Io { path, .. } => path,
        }
    }

    /// Tells whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Full { .. } | Self::Changed { .. } | Self::Io { .. } => Retry::Temporary,
            _ => Retry::Permanent,
        }
    }
}
