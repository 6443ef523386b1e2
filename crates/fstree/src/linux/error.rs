//! Converts errors of system calls.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use types::RelPath;

use crate::error::{DestError, ReadError, RootError};

/// The action of a call that gives an entry its name.
pub(crate) const CREATE: &str = "create";

/// Converts a name for messages, and for fields that are not paths.
pub(crate) fn os_name(name: &[u8]) -> OsString {
    OsStr::from_bytes(name).to_owned()
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
}

impl ReadError {
    pub(crate) fn new(action: &'static str, path: &RelPath, errno: Errno) -> Self {
        Self::Io { action, path: path.clone(), source: errno.into() }
    }
}

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
            // The error of file systems that restrict names.
            Some(Errno::INVAL) if action == CREATE => Self::NameRefused { path, source },
            _ => Self::Io { action, path, source },
        }
    }
}
