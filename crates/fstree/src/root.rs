//! The root of a tree that is read, and looking at single things below it.
//!
//! The root is opened once and held, so that whatever becomes of the path that
//! led to it, everything is read from one directory. Nothing below it is
//! opened but directories and regular files, and no link is followed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use types::RelPath;

use crate::beneath::{PATH_ONLY, Resolution, is_absent};
use crate::error::{ReadError, RootError};
use crate::found::{Found, FoundKind, Kind};
use crate::stat::{Identity, Stamp, Stat, proc_path, stat_at, stat_fd, stat_leaf};

/// How often a thing is looked at again that becomes another while it is
/// looked at.
const TRIES_MAX: u32 = 3;

/// What a directory says that may be left out of backups
/// (<https://bford.info/cachedir/>).
const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_TAG_CONTENT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The root of a tree that is read.
#[derive(Debug)]
pub struct SourceTree {
    fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
    resolution: Resolution,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// What it was when it was opened. A file that has been read is in a state
    /// that it had if [`OpenFile::is_unchanged`] says so afterwards.
    pub stamp: Stamp,
}

impl OpenFile {
    /// Whether the file is as it was when it was opened.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        Ok(stat_fd(self.file.as_fd())?.stamp == self.stamp)
    }
}

impl SourceTree {
    /// Opens the root. It may be given by a link to it, which is followed now
    /// and never again.
    ///
    /// # Errors
    ///
    /// [`RootError`].
    pub fn open(path: &Path) -> Result<Self, RootError> {
        Self::open_with(path, Resolution::Best)
    }

    /// As [`SourceTree::open`], with a way to resolve paths below it.
    ///
    /// # Errors
    ///
    /// [`RootError`].
    pub fn open_with(path: &Path, resolution: Resolution) -> Result<Self, RootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let context = |errno| RootError::new("open", path, errno);
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(context)?;
        let stat = stat_fd(fd.as_fd()).map_err(context)?;
        Ok(Self { fd, path: path.to_owned(), stat, resolution })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that it is, whatever its path.
    pub fn identity(&self) -> Identity {
        self.stat.identity()
    }

    /// Checks that its path still leads to it: a disk may have been unmounted
    /// or another mounted over it since.
    ///
    /// # Errors
    ///
    /// [`RootError::Replaced`], and those of [`SourceTree::open`].
    pub fn check(&self) -> Result<(), RootError> {
        if Self::open(&self.path)?.identity() == self.identity() {
            Ok(())
        } else {
            Err(RootError::Replaced(self.path.clone()))
        }
    }

    pub(crate) fn resolution(&self) -> Resolution {
        self.resolution
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn device(&self) -> u64 {
        self.stat.stamp.device
    }

    /// Whether a directory below the root is in another file system.
    pub(crate) fn is_mount_boundary(&self, stat: &Stat) -> bool {
        self.stat.is_mount_boundary(stat)
    }

    /// The first directory on the way to `path`, or `path` itself, on which
    /// another file system is mounted, or that is a subvolume. Everything
    /// below it hides what the root's own file system has there. A way that
    /// ends early is looked at as far as it goes.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`].
    pub fn mount_on_the_way(&self, path: &RelPath) -> Result<Option<RelPath>, ReadError> {
        let is_mounted = |bytes: &[u8]| -> Result<bool, Errno> {
            let dir = self.resolution.open_dir(self.fd(), bytes)?;
            Ok(self.is_mount_boundary(&stat_fd(dir.as_fd())?))
        };
        let bytes = path.as_bytes();
        // As a rule it is all one file system, which the last one tells.
        if matches!(is_mounted(bytes), Ok(false)) {
            return Ok(None);
        }
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([bytes.len()]) {
            match is_mounted(&bytes[..end]) {
                Ok(false) => {}
                Ok(true) => return Ok(RelPath::new(&bytes[..end]).ok()),
                Err(errno) if is_absent(errno) => return Ok(None),
                Err(errno) => return Err(ReadError::new("open", path, errno)),
            }
        }
        Ok(None)
    }

    /// Opens the directory that `path` is in, and calls with it and the name.
    /// The root is `.` in itself.
    pub(crate) fn in_parent<T>(
        &self,
        path: &RelPath,
        call: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let bytes = path.as_bytes();
        match bytes.iter().rposition(|byte| *byte == b'/') {
            None if bytes.is_empty() => call(self.fd(), b"."),
            None => call(self.fd(), bytes),
            Some(at) => {
                let dir = self.resolution.open_dir(self.fd(), &bytes[..at])?;
                call(dir.as_fd(), &bytes[at + 1..])
            }
        }
    }

    /// Holds what is at `path`, whatever it is, without opening it.
    pub(crate) fn hold(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        self.resolution.open(self.fd(), path.as_bytes(), PATH_ONLY)
    }

    /// Holds a directory open, to be watched: nothing can be read through it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`], of kind `NotFound` too.
    pub fn hold_dir(&self, path: &RelPath) -> Result<OwnedFd, ReadError> {
        self.resolution
            .open_dir(self.fd(), path.as_bytes())
            .map_err(|errno| ReadError::new("open", path, errno))
    }

    /// What is at `path`; `None` where nothing is, or where a directory on the
    /// way is none any more.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`], [`ReadError::Changed`].
    pub fn examine(&self, path: &RelPath) -> Result<Option<Found>, ReadError> {
        let mut outer = None;
        let looked = self.in_parent(path, |dir, name| {
            outer = Some(stat_fd(dir)?);
            look(dir, name, None)
        });
        match looked {
            Ok(Looked::At(stat, target)) => {
                let is_mount_point = outer.is_some_and(|outer| outer.is_mount_boundary(&stat));
                self.found(path.clone(), &stat, target, is_mount_point).map(Some)
            }
            Ok(Looked::Changing) => Err(ReadError::Changed(path.clone())),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(ReadError::new("examine", path, errno)),
        }
    }

    /// Puts together what looking at a thing told.
    pub(crate) fn found(
        &self,
        path: RelPath,
        stat: &Stat,
        target: Vec<u8>,
        is_mount_point: bool,
    ) -> Result<Found, ReadError> {
        let Some(kind) = Kind::new(stat.file_type) else {
            return Err(ReadError::new("tell the kind of", &path, Errno::NOTSUP));
        };
        let kind = match kind {
            Kind::File => {
                let is_sparse = stat.blocks.saturating_mul(512) < stat.stamp.size;
                FoundKind::File { is_sparse }
            }
            Kind::Dir => FoundKind::Dir { is_mount_point },
            Kind::Symlink => FoundKind::Symlink { target },
            Kind::Fifo => FoundKind::Fifo,
            Kind::Socket => FoundKind::Socket,
            Kind::CharDevice => FoundKind::CharDevice { device: stat.rdev },
            Kind::BlockDevice => FoundKind::BlockDevice { device: stat.rdev },
        };
        Ok(Found::new(path, kind, stat, self.device()))
    }

    /// Opens a regular file for reading. Nothing else is ever opened, not for
    /// an instant: opening a pipe may wake its writer, and opening a device
    /// may make it act.
    ///
    /// # Errors
    ///
    /// [`ReadError::NotRegular`]; [`ReadError::Io`], of kind `NotFound` too.
    pub fn open_file(&self, path: &RelPath) -> Result<OpenFile, ReadError> {
        let opened = match self.hold(path) {
            Ok(held) => match open_held(held.as_fd()) {
                Err(Errno::OPNOTSUPP) => self.in_parent(path, open_regular),
                opened => opened,
            },
            Err(errno) => Err(errno),
        };
        match opened {
            Ok(Some((fd, stat))) => Ok(OpenFile { file: File::from(fd), stamp: stat.stamp }),
            Ok(None) => Err(ReadError::NotRegular(path.clone())),
            Err(errno) => Err(ReadError::new("open", path, errno)),
        }
    }

    /// Whether a directory says of itself, by a file `CACHEDIR.TAG`, that it
    /// can be left out of a backup. What cannot be read says nothing.
    pub fn is_cache_dir(&self, dir: &RelPath) -> bool {
        let Ok(tag) = dir.join(CACHE_TAG.as_bytes()) else { return false };
        let Ok(open) = self.open_file(&tag) else { return false };
        let mut content = [0; CACHE_TAG_CONTENT.len()];
        open.file.read_exact_at(&mut content, 0).is_ok() && content == CACHE_TAG_CONTENT
    }
}

/// What a look at a name gave.
pub(crate) enum Looked {
    /// What is there, and where it points if it is a link.
    At(Stat, Vec<u8>),
    /// It was another thing each time.
    Changing,
}

/// Looks at a name; reads a link such that the target is that of the inode.
/// `kind` is what the name is said to be.
pub(crate) fn look(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    kind: Option<Kind>,
) -> Result<Looked, Errno> {
    let is_leaf = kind.is_some_and(|kind| kind != Kind::Dir);
    let mut stat = if is_leaf { stat_leaf(dir, name)? } else { stat_at(dir, name)? };
    if is_leaf && Kind::new(stat.file_type) == Some(Kind::Dir) {
        stat = stat_at(dir, name)?;
    }
    for _ in 0..TRIES_MAX {
        if Kind::new(stat.file_type) != Some(Kind::Symlink) {
            return Ok(Looked::At(stat, Vec::new()));
        }
        let target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Some(target.into_bytes()),
            // It is no link any more.
            Err(Errno::INVAL) => None,
            Err(errno) => return Err(errno),
        };
        // A link never changes its target, but its name may be another's now.
        let again = stat_at(dir, name)?;
        match target {
            Some(target) if again.stamp == stat.stamp => {
                return Ok(Looked::At(stat, target));
            }
            _ => stat = again,
        }
    }
    Ok(Looked::Changing)
}

/// Opens a regular file at a name; `None` where something else is there.
pub(crate) fn open_regular(
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    // The inode is held, found to be regular, and only then opened: between a
    // look at a name and an open of it, it may become another.
    let held = rustix::fs::openat(dir, name, PATH_ONLY, Mode::empty())?;
    match open_held(held.as_fd()) {
        Err(Errno::OPNOTSUPP) => {}
        opened => return opened,
    }
    // Without `/proc` a pipe that takes the file's place in this instant is
    // opened, without waiting, and closed.
    let flags = READ | OFlags::NOFOLLOW;
    let fd = no_atime(flags, |flags| rustix::fs::openat(dir, name, flags, Mode::empty()))?;
    let stat = stat_fd(fd.as_fd())?;
    Ok((Kind::new(stat.file_type) == Some(Kind::File)).then_some((fd, stat)))
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Opens what is held for reading if it is a regular file. `OPNOTSUPP` where
/// that takes `/proc` and there is none.
fn open_held(held: BorrowedFd<'_>) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    if Kind::new(stat_fd(held)?.file_type) != Some(Kind::File) {
        return Ok(None);
    }
    let path = proc_path(held)?;
    let fd = no_atime(READ, |flags| rustix::fs::open(path.as_str(), flags, Mode::empty()))?;
    let stat = stat_fd(fd.as_fd())?;
    Ok(Some((fd, stat)))
}

/// Opens without leaving a trace in the time of the last access, where this
/// user may: only an owner may.
pub(crate) fn no_atime<T>(
    flags: OFlags,
    open: impl Fn(OFlags) -> Result<T, Errno>,
) -> Result<T, Errno> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

/// How a directory is opened so that its names can be read.
pub(crate) const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Opens a directory so that its names can be read.
pub(crate) fn open_list(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Errno> {
    no_atime(LIST, |flags| rustix::fs::openat(dir, name, flags, Mode::empty()))
}
