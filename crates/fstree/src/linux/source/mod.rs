//! Reading a tree on Linux.
//!
//! The root is held with `O_PATH`, so everything is read from one directory even
//! if its path later leads elsewhere.

mod frames;
mod holes;
mod walk;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;
use types::RelPath;

use super::Call;
use super::beneath::{PATH_ONLY, is_absent};
use super::open::{open_held, open_regular};
use super::stat::{Stat, stat_at, stat_fd, stat_leaf};
use super::xattrs::{read_fd, read_held, read_opened};
use crate::entry::{FileKind, FoundEntry, FoundKind, Identity, hard_link_id};
use crate::error::{ReadError, RootError};
use crate::ground::Ground;
use crate::resolution::Resolution;
use crate::source::{MountPoint, OpenFile, TreeReader, Visit, WalkItem, WalkOptions, XattrsRead};
use walk::Walk;

/// Maximum number of attempts to examine an entry that changes meanwhile.
const TRIES_MAX: u32 = 3;

/// A tree that is read.
#[derive(Debug)]
pub struct SourceTree {
    fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
    resolution: Resolution,
    /// Mount points of file systems that do not answer.
    hung: Vec<RelPath>,
    #[cfg(feature = "sim")]
    faults: crate::sim::Faults,
}

impl TreeReader for SourceTree {
    type DirHandle = super::DirHandle;

    fn open(path: &Path) -> Result<Self, RootError> {
        Self::open_with(path, Resolution::Best)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn identity(&self) -> Identity {
        self.stat.identity()
    }

    fn born(&self) -> Option<(i64, i64)> {
        self.stat.born
    }

    fn file_system_id(&self) -> Option<u64> {
        file_system_id(self.fd())
    }

    fn ground(&self) -> Ground {
        super::ground::ground(self.fd(), &self.stat)
    }

    fn walk<'a, F>(
        &'a self,
        start: &RelPath,
        options: WalkOptions,
        decide: F,
    ) -> Result<impl Iterator<Item = WalkItem> + use<'a, F>, ReadError>
    where
        F: FnMut(&RelPath, FileKind) -> Visit,
    {
        Walk::new(self, start, options, decide)
    }

    fn examine(&self, path: &RelPath) -> Result<Option<FoundEntry>, ReadError> {
        self.check_hung(path)?;
        self.check(Call::Examine, path).map_err(|errno| ReadError::new("examine", path, errno))?;
        let mut outer = None;
        let examined = self.in_parent(path, |dir, name| {
            outer = Some(stat_fd(dir)?);
            examine(dir, name, None)
        });
        match examined {
            Ok(Examined::Entry(stat, target)) => {
                let is_mount_point = outer.is_some_and(|outer| outer.is_mount_boundary(&stat));
                self.found(path.clone(), &stat, target, is_mount_point).map(Some)
            }
            Ok(Examined::Changing) => Err(ReadError::Changed(path.clone())),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(ReadError::new("examine", path, errno)),
        }
    }

    fn mount_points(&self, path: &RelPath) -> Result<Vec<MountPoint>, ReadError> {
        let open = |bytes: &[u8]| -> Result<(OwnedFd, Stat), Errno> {
            let dir = self.resolution.open_dir(self.fd(), bytes)?;
            let stat = stat_fd(dir.as_fd())?;
            Ok((dir, stat))
        };
        self.check_hung(path)?;
        let bytes = path.as_bytes();
        self.check_hung(path)?;
        // Usually everything is in one mount, which the last directory shows.
        if open(bytes).is_ok_and(|(_, stat)| !self.stat.is_mount_boundary(&stat)) {
            return Ok(Vec::new());
        }
        let mut mounts = Vec::new();
        let mut outer = self.stat;
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([bytes.len()]) {
            let (dir, stat) = match open(&bytes[..end]) {
                Ok(opened) => opened,
                Err(errno) if is_absent(errno) => break,
                Err(errno) => return Err(ReadError::new("open", path, errno)),
            };
            if outer.is_mount_boundary(&stat)
                && let Ok(path) = RelPath::new(&bytes[..end])
            {
                mounts.push(MountPoint {
                    path,
                    id: stat.mount_id(),
                    is_subvolume: stat.mount.is_some() && stat.mount == outer.mount,
                    identity: stat.identity(),
                    born: stat.born,
                    file_system_id: file_system_id(dir.as_fd()),
                    ground: super::ground::ground(dir.as_fd(), &stat),
                });
            }
            outer = stat;
        }
        Ok(mounts)
    }

    fn dir_handle(&self, path: &RelPath) -> Result<Self::DirHandle, ReadError> {
        self.check_hung(path)?;
        self.resolution
            .open_dir(self.fd(), path.as_bytes())
            .map_err(|errno| ReadError::new("open", path, errno))
    }

    fn open_file(&self, path: &RelPath) -> Result<OpenFile, ReadError> {
        self.check_hung(path)?;
        self.check(Call::Open, path).map_err(|errno| ReadError::new("open", path, errno))?;
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

    fn is_unchanged(&self, file: &OpenFile) -> io::Result<bool> {
        Ok(stat_fd(file.file.as_fd())?.stamp == file.stamp)
    }

    fn xattrs(&self, found: &FoundEntry) -> Result<XattrsRead, ReadError> {
        let read = || {
            let held = self.hold(&found.path)?;
            let read = match read_held(held.as_fd()) {
                Err(Errno::OPNOTSUPP) => {
                    self.in_parent(&found.path, |dir, name| read_opened(dir, name, found.kind()))
                }
                read => read,
            }?;
            // Examine the inode last: the attributes belong to the found entry only
            // if its stamp is still the same.
            Ok((read, stat_fd(held.as_fd())?.stamp))
        };
        match read() {
            Ok((read, stamp)) if stamp == found.stamp => Ok(read),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Err(ReadError::Changed(found.path.clone()))
            }
            Err(errno) => Err(ReadError::new("read the attributes of", &found.path, errno)),
        }
    }

    fn file_xattrs(&self, file: &OpenFile) -> io::Result<XattrsRead> {
        Ok(read_fd(file.file.as_fd())?)
    }

    fn next_data(&self, file: &OpenFile, at: u64) -> Option<Range<u64>> {
        holes::next_data(&file.file, at, file.stamp.size)
    }
}

impl SourceTree {
    /// Opens the tree at `path` like [`TreeReader::open`], with a strategy for
    /// resolving paths below it.
    ///
    /// # Errors
    ///
    /// Same as [`TreeReader::open`].
    pub fn open_with(path: &Path, resolution: Resolution) -> Result<Self, RootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let context = |errno| RootError::new("open", path, errno);
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(context)?;
        let stat = stat_fd(fd.as_fd()).map_err(context)?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            stat,
            resolution,
            hung: Vec::new(),
            #[cfg(feature = "sim")]
            faults: crate::sim::Faults::of(path),
        })
    }

    /// Sets the mount points of file systems that do not answer. Nothing on them is opened or
    /// examined, since the call would block.
    pub fn set_hung(&mut self, mounts: Vec<RelPath>) {
        self.hung = mounts;
    }

    /// Returns [`ReadError::NotAnswering`] if the path is on a file system that does not answer.
    fn check_hung(&self, path: &RelPath) -> Result<(), ReadError> {
        match self.hung.iter().find(|mount| path.is_within(mount)) {
            None => Ok(()),
            Some(mount) => {
                Err(ReadError::NotAnswering { path: path.clone(), mount: mount.clone() })
            }
        }
    }

    /// Returns the error that a simulation wants for a call.
    #[cfg(feature = "sim")]
    fn check(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        self.faults.check(call, path)
    }

    /// Nothing fails on request.
    #[cfg(not(feature = "sim"))]
    fn check(&self, _: Call, _: &RelPath) -> Result<(), Errno> {
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns a number for the file system of an entry that has several names: 0 if it is that
    /// of the root, else one that stays the same when it is mounted again, if it has one.
    fn file_system_of(&self, path: &RelPath, stat: &Stat) -> u64 {
        if stat.stamp.device == self.stat.stamp.device {
            return 0;
        }
        // (On an overlay, entries of one directory may be on several devices.)
        let id = self.in_parent(path, |dir, _| {
            let is_alike = stat_fd(dir)?.stamp.device == stat.stamp.device;
            Ok(file_system_id(dir).filter(|_| is_alike))
        });
        id.ok().flatten().unwrap_or(stat.stamp.device ^ self.stat.stamp.device)
    }

    /// Opens the parent directory of `path` and calls `call` with it and the name.
    /// For the root, this is the root itself and the name `.`.
    fn in_parent<T>(
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

    /// Holds the entry at `path` with `O_PATH`, which does not open it.
    fn hold(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        self.resolution.open(self.fd(), path.as_bytes(), PATH_ONLY)
    }

    /// Builds the description of an entry.
    fn found(
        &self,
        path: RelPath,
        stat: &Stat,
        target: Vec<u8>,
        is_mount_point: bool,
    ) -> Result<FoundEntry, ReadError> {
        let Some(kind) = stat.kind else {
            return Err(ReadError::new("determine the kind of", &path, Errno::NOTSUP));
        };
        let kind = match kind {
            FileKind::File => {
                let is_sparse = stat.blocks.saturating_mul(512) < stat.stamp.size;
                FoundKind::File { is_sparse }
            }
            FileKind::Dir => FoundKind::Dir { is_mount_point },
            FileKind::Symlink => FoundKind::Symlink { target },
            FileKind::Fifo => FoundKind::Fifo,
            FileKind::Socket => FoundKind::Socket,
            FileKind::CharDevice => FoundKind::CharDevice { device: stat.rdev },
            FileKind::BlockDevice => FoundKind::BlockDevice { device: stat.rdev },
        };
        let has_names = stat.links > 1 && !matches!(kind, FoundKind::Dir { .. });
        let hard_link =
            has_names.then(|| hard_link_id(stat.stamp.inode, self.file_system_of(&path, stat)));
        Ok(FoundEntry {
            path,
            kind,
            stamp: stat.stamp,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            born: stat.born,
            links: stat.links,
            hard_link,
        })
    }
}

/// Returns the id of the file system of an open directory, if it has one.
fn file_system_id(dir: BorrowedFd<'_>) -> Option<u64> {
    let stat = rustix::fs::fstatvfs(dir).ok()?;
    // Most file systems have no useful id and report 0.
    Some(stat.f_fsid).filter(|id| *id != 0)
}

/// Result of examining a name.
enum Examined {
    /// The entry, and the target if it is a link.
    Entry(Stat, Vec<u8>),
    /// The name led to another entry at each attempt.
    Changing,
}

/// Examines a name. The target of a link belongs to the examined inode. `kind` is
/// the kind that the directory reports.
fn examine(
    dir: BorrowedFd<'_>,
    name: impl Arg + Copy,
    kind: Option<FileKind>,
) -> Result<Examined, Errno> {
    let is_leaf = kind.is_some_and(|kind| kind != FileKind::Dir);
    let mut stat = if is_leaf { stat_leaf(dir, name)? } else { stat_at(dir, name)? };
    if is_leaf && stat.kind == Some(FileKind::Dir) {
        stat = stat_at(dir, name)?;
    }
    for _ in 0..TRIES_MAX {
        if stat.kind != Some(FileKind::Symlink) {
            return Ok(Examined::Entry(stat, Vec::new()));
        }
        let target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Some(target.into_bytes()),
            // The name no longer leads to a link.
            Err(Errno::INVAL) => None,
            Err(errno) => return Err(errno),
        };
        // The target of a link never changes, but the name may now lead to another
        // link.
        let again = stat_at(dir, name)?;
        match target {
            Some(target) if again.stamp == stat.stamp => {
                return Ok(Examined::Entry(stat, target));
            }
            _ => stat = again,
        }
    }
    Ok(Examined::Changing)
}
