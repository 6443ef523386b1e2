//! Reading a tree: the interface that each platform implements.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use types::{RelPath, Xattrs};

use crate::entry::{FileKind, FoundEntry, Identity, Stamp};
use crate::error::{ReadError, RootError};
use crate::ground::Ground;

/// Maximum length of all extended attributes of an entry in bytes: the limit of
/// the manifest format.
pub const XATTRS_LEN_MAX: usize = 512 * 1024;

/// The tag file that marks a directory whose content need not be backed up
/// (<https://bford.info/cachedir/>).
const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_TAG_CONTENT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Reads one tree.
///
/// The root directory is opened once and stays open, so that everything is read
/// from the same directory even if its path later leads elsewhere. Below the
/// root, no link is followed, and nothing but directories and regular files is
/// opened.
pub trait TreeReader: fmt::Debug + Send + Sync + Sized {
    /// A directory, open for the watcher of the platform.
    type DirHandle: fmt::Debug;

    /// Opens the tree at `path`. If `path` is a link to a directory, the link is
    /// followed once, here.
    ///
    /// # Errors
    ///
    /// Returns [`RootError`].
    fn open(path: &Path) -> Result<Self, RootError>;

    /// Returns the path given to [`TreeReader::open`].
    fn path(&self) -> &Path;

    /// Returns the identity of the root directory.
    fn identity(&self) -> Identity;

    /// Returns the birth time of the root directory in seconds and nanoseconds,
    /// if the file system records it.
    fn born(&self) -> Option<(i64, i64)>;

    /// Returns the id of the root's file system, if it has one.
    fn file_system_id(&self) -> Option<u64>;

    /// Returns the file system of the root directory.
    fn ground(&self) -> Ground;

    /// Checks that the path still leads to the open root. A disk may have been
    /// unmounted, or another one mounted over it.
    ///
    /// # Errors
    ///
    /// Returns [`RootError::Replaced`] if it does not, and the errors of
    /// [`TreeReader::open`].
    fn check(&self) -> Result<(), RootError> {
        if Self::open(self.path())?.identity() == self.identity() {
            Ok(())
        } else {
            Err(RootError::Replaced(self.path().to_owned()))
        }
    }

    /// Walks everything below the directory `start`, in the order of paths.
    /// `start` itself is not an item. `decide` is called for every name.
    ///
    /// A directory is listed after it was returned as an item, so the caller can
    /// watch it first, and `decide` can use what the caller learned from it. An
    /// error that concerns one entry is an item, and the walk continues. An entry
    /// that disappears during the walk is not an error.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::Io`] and [`ReadError::TooMany`] if `start` cannot be
    /// listed, and [`ReadError::Mounted`].
    fn walk<'a, F>(
        &'a self,
        start: &RelPath,
        options: WalkOptions,
        decide: F,
    ) -> Result<impl Iterator<Item = WalkItem> + use<'a, Self, F>, ReadError>
    where
        F: FnMut(&RelPath, FileKind) -> Visit;

    /// Lists the entries of one directory. Subdirectories are not entered.
    ///
    /// # Errors
    ///
    /// Same as [`TreeReader::walk`].
    fn list(
        &self,
        dir: &RelPath,
    ) -> Result<impl Iterator<Item = WalkItem> + use<'_, Self>, ReadError> {
        self.walk(dir, WalkOptions::default(), |_: &RelPath, _| Visit::Record)
    }

    /// Examines the entry at `path` without opening it. Returns `None` if nothing
    /// is there, or if a component of the path is not a directory.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::Io`] and [`ReadError::Changed`].
    fn examine(&self, path: &RelPath) -> Result<Option<FoundEntry>, ReadError>;

    /// Returns the first directory on the path to `path`, or `path` itself, that
    /// is a mount point or a subvolume. Such a directory hides the entries of the
    /// root's own file system. If the path does not exist, the existing part is
    /// examined.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::Io`].
    fn mount_on_the_way(&self, path: &RelPath) -> Result<Option<RelPath>, ReadError> {
        Ok(self.mount_points(path)?.into_iter().next().map(|mount| mount.path))
    }

    /// Returns all mount points and subvolumes on the path to `path`, including `path`, from
    /// the root down. If the path does not exist, the existing part is examined.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::Io`].
    fn mount_points(&self, path: &RelPath) -> Result<Vec<MountPoint>, ReadError>;

    /// Opens a directory for the watcher. The handle does not permit reading.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::Io`], including the kind `NotFound`.
    fn dir_handle(&self, path: &RelPath) -> Result<Self::DirHandle, ReadError>;

    /// Opens a regular file for reading. Anything else is never opened, not even
    /// briefly: opening a pipe may wake its writer, and opening a device may
    /// trigger an action.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::NotRegular`], and [`ReadError::Io`], including the
    /// kind `NotFound`.
    fn open_file(&self, path: &RelPath) -> Result<OpenFile, ReadError>;

    /// Reports whether the file is unchanged since it was opened.
    ///
    /// # Errors
    ///
    /// Returns the error of the file system.
    fn is_unchanged(&self, file: &OpenFile) -> io::Result<bool>;

    /// Reads the extended attributes of an entry that a walk found. They are read
    /// separately, because this needs one or two system calls per entry, and
    /// they cannot change without a change of the entry's stamp.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::Changed`] if the entry has changed since it was found,
    /// and [`ReadError::Io`].
    fn xattrs(&self, found: &FoundEntry) -> Result<XattrsRead, ReadError>;

    /// Reads the extended attributes of an open file.
    ///
    /// # Errors
    ///
    /// Returns the error of the file system.
    fn file_xattrs(&self, file: &OpenFile) -> io::Result<XattrsRead>;

    /// Returns the first range of an open file at or after `at` that contains
    /// data; bytes before it read as zeros. Returns the rest of the file if the
    /// file system does not know its holes.
    ///
    /// A backup must not rely on it: file systems have reported wrong holes. The
    /// call moves the read position of the file.
    fn next_data(&self, file: &OpenFile, at: u64) -> Option<std::ops::Range<u64>>;

    /// Reports whether a directory contains a valid `CACHEDIR.TAG`, which marks
    /// its content as not worth a backup. False if the tag cannot be read.
    fn is_cache_dir(&self, dir: &RelPath) -> bool {
        let Ok(tag) = dir.join(CACHE_TAG.as_bytes()) else { return false };
        let Ok(mut open) = self.open_file(&tag) else { return false };
        let mut content = [0; CACHE_TAG_CONTENT.len()];
        open.file.read_exact(&mut content).is_ok() && content == CACHE_TAG_CONTENT
    }
}

/// A regular file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// State of the file when it was opened. The bytes that were read are one
    /// consistent state of the file if [`TreeReader::is_unchanged`] returns true
    /// afterwards.
    pub stamp: Stamp,
}

/// The extended attributes of an entry.
#[derive(Debug, Default)]
pub struct XattrsRead {
    /// The attributes that could be read.
    pub xattrs: Xattrs,
    /// Names of the attributes that could not be read, with the reason.
    pub unread: Vec<(Vec<u8>, io::Error)>,
    /// The reason why the names could not be listed: XFS stores more names than the call can
    /// return, and some FUSE file systems always fail. Then no attribute is known.
    pub unlisted: Option<io::Error>,
}

impl XattrsRead {
    /// Describes the attributes that are missing; `None` if all were read.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Some(error) = &self.unlisted {
            return Some(format!("cannot list the extended attributes: {error}"));
        }
        let (name, error) = self.unread.first()?;
        let name = String::from_utf8_lossy(name);
        Some(format!("cannot read the extended attribute {name}: {error}"))
    }
}

/// The decision about a name, made when only its kind is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Returns the entry as an item and enters it if it is a directory.
    Descend,
    /// Returns the entry as an item without entering it.
    Record,
    /// Ignores the entry.
    Skip,
}

/// A directory below the root on which another file system is mounted, or which is a
/// subvolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Path of the directory.
    pub path: RelPath,
    /// The mount, valid as long as it is mounted.
    pub id: MountId,
    /// True if the directory is a subvolume: it is in the mount of its parent directory.
    pub is_subvolume: bool,
    /// Identity of the directory in the mounted file system.
    pub identity: Identity,
    /// Birth time of that directory, as in [`TreeReader::born`].
    pub born: Option<(i64, i64)>,
    /// Id of the mounted file system, as in [`TreeReader::file_system_id`].
    pub file_system_id: Option<u64>,
    /// The mounted file system.
    pub ground: Ground,
}

/// Identifies a mount, or a subvolume of one, until it is unmounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountId {
    /// Device number.
    pub(crate) device: u64,
    /// Id of the mount, if the kernel reports it.
    pub(crate) mount: Option<u64>,
}

/// Options of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkOptions {
    /// True if mount points and subvolumes are not entered, and a walk does not
    /// start in one.
    pub one_file_system: bool,
    /// The mount in which the walk starts; `None` for the mount of the root. With
    /// `one_file_system`, a walk starts in no other.
    pub within: Option<MountId>,
    /// Maximum number of directories kept open at the same time, at least 1.
    pub open_dirs_max: usize,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { one_file_system: false, within: None, open_dirs_max: 16 }
    }
}

/// One result of a walk.
#[derive(Debug)]
pub enum WalkItem {
    /// An entry.
    Entry(FoundEntry),
    /// An entry that could not be examined, or a directory that could not be
    /// listed completely. No later item is inside it. Entries inside it that were
    /// not returned may still exist.
    Error(ReadError),
}
