//! What can go wrong while a tree is read or made, and whether trying again
//! can help.
//!
//! Three enums, since the three have different readers: [`RootError`] stops a
//! folder, [`ReadError`] and [`DestError`] are about one path, are counted,
//! and stop nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use types::{PathError, RelPath};

use crate::found::Kind;

/// Whether the same call can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not before somebody changes something: a permission, space, a name.
    Permanent,
    /// Yes: the cause may pass by itself.
    Temporary,
}

/// Why the root of a tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// There is nothing of that name.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// This user may not open it.
    #[error("no permission to open {}", .0.display())]
    Denied(PathBuf),
    /// Another directory is there now: a disk was unmounted or exchanged, or
    /// the directory was replaced.
    #[error("{} is not the directory that it was", .0.display())]
    Replaced(PathBuf),
    /// Another restore works in it.
    #[error("another restore into {} is running", .0.display())]
    InUse(PathBuf),
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
}

impl RootError {
    pub(crate) fn new(action: &'static str, path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT => Self::Missing(path),
            Errno::NOTDIR => Self::NotADirectory(path),
            Errno::ACCESS | Errno::PERM => Self::Denied(path),
            errno => Self::Io { action, path, source: errno.into() },
        }
    }

    /// Whether the same call can succeed later. A disk comes back, so all but
    /// a root that is no directory may.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotADirectory(_) | Self::Denied(_) => Retry::Permanent,
            Self::Missing(_) | Self::Replaced(_) | Self::InUse(_) | Self::Io { .. } => {
                Retry::Temporary
            }
        }
    }
}

/// Why one entry, or what is in one directory, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It became another thing, or was written to, while it was looked at.
    #[error("{0} changed while it was read")]
    Changed(RelPath),
    /// It is in another file system than the root, and that is not entered.
    #[error("another file system is mounted at {0} or above it")]
    Mounted(RelPath),
    /// It is not a regular file, so it is not opened.
    #[error("{0} is not a regular file")]
    NotRegular(RelPath),
    /// A name below this directory makes a path over the limits of a
    /// manifest. It and what is below it are not read.
    #[error("{parent} has a name that no path can have: {}", name.display())]
    Name {
        /// The directory.
        parent: RelPath,
        /// The name in it.
        name: OsString,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// A directory of more names than can be held.
    #[error("{path} has more than {limit} names")]
    TooMany {
        /// The directory.
        path: RelPath,
        /// How many can be held.
        limit: usize,
    },
}

impl ReadError {
    pub(crate) fn new(action: &'static str, path: &RelPath, errno: Errno) -> Self {
        Self::Io { action, path: path.clone(), source: errno.into() }
    }

    /// What it is about: for [`ReadError::Name`], the directory.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Io { path, .. }
            | Self::Changed(path)
            | Self::Mounted(path)
            | Self::NotRegular(path)
            | Self::Name { parent: path, .. }
            | Self::TooMany { path, .. } => path,
        }
    }

    /// Whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Changed(_) => Retry::Temporary,
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

/// Why one entry could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DestError {
    /// Something else is there. It was left as it is.
    #[error("{path} is left as it is: a {found} is there already")]
    InTheWay {
        /// Where.
        path: RelPath,
        /// What it is.
        found: Kind,
    },
    /// The directory takes two names for one, so this entry would replace
    /// another.
    #[error("{path} cannot be told from {} in its directory", existing.display())]
    Collision {
        /// The entry that was to be made.
        path: RelPath,
        /// The name of what is there.
        existing: OsString,
    },
    /// The directory that it belongs in is not there, or is no directory, or
    /// is reached through a link, which nothing here follows.
    #[error("there is no directory for {path}")]
    NoParent {
        /// The entry that was to be made.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No room, or no inodes, or a quota is used up.
    #[error("no room for {path}")]
    Full {
        /// The entry that was being made.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("{path} is on a file system that cannot be written to")]
    ReadOnly {
        /// The entry that was to be made.
        path: RelPath,
    },
    /// This user may not write there.
    #[error("no permission to make {path}")]
    Denied {
        /// The entry that was to be made.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file system has no such names.
    #[error("the file system does not take the name of {path}")]
    NameRefused {
        /// The entry that was to be made.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thing of this kind cannot be made here, or not by this user.
    #[error("{path} cannot be made: it is a {kind}")]
    CannotMake {
        /// The entry that was to be made.
        path: RelPath,
        /// What it is.
        kind: Kind,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file system makes no link to that file: it has as many names as it
    /// can have, is on another device, or there are no hard links at all. The
    /// entry can be made as a file of its own.
    #[error("{path} cannot be linked to {existing}")]
    CannotLink {
        /// The name that was to be made.
        path: RelPath,
        /// The file.
        existing: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content does not have the length that was said.
    #[error("{path} was to have {expected} bytes, not {found}")]
    Size {
        /// The file.
        path: RelPath,
        /// The bytes that it was to have.
        expected: u64,
        /// The bytes that came, or where a write would have ended.
        found: u64,
    },
    /// What a hard link was to be made to is another file now.
    #[error("{path} is not the file that it was")]
    Changed {
        /// The file.
        path: RelPath,
    },
    /// The file system refused for another reason.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The entry that was being made.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A name for messages and fields that are no paths.
pub(crate) fn os_name(name: &[u8]) -> OsString {
    OsStr::from_bytes(name).to_owned()
}

/// The action of a call that gives a thing its name.
pub(crate) const CREATE: &str = "create";

impl DestError {
    pub(crate) fn new(action: &'static str, path: &RelPath, errno: Errno) -> Self {
        Self::from_io(action, path, errno.into())
    }

    pub(crate) fn from_io(action: &'static str, path: &RelPath, source: io::Error) -> Self {
        let path = path.clone();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full { path, source },
            Some(Errno::ROFS) => Self::ReadOnly { path },
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied { path, source },
            Some(Errno::NAMETOOLONG | Errno::ILSEQ) => Self::NameRefused { path, source },
            // What file systems with rules for names say.
            Some(Errno::INVAL) if action == CREATE => Self::NameRefused { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// The entry that it is about.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::InTheWay { path, .. }
            | Self::Collision { path, .. }
            | Self::NoParent { path, .. }
            | Self::Full { path, .. }
            | Self::ReadOnly { path }
            | Self::Denied { path, .. }
            | Self::NameRefused { path, .. }
            | Self::CannotMake { path, .. }
            | Self::CannotLink { path, .. }
            | Self::Size { path, .. }
            | Self::Changed { path }
            | Self::Io { path, .. } => path,
        }
    }

    /// Whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Full { .. } | Self::Changed { .. } | Self::Io { .. } => Retry::Temporary,
            _ => Retry::Permanent,
        }
    }
}
