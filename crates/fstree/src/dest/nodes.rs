//! Everything that has no content: links, pipes, devices, second names.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;
use types::{Metadata, RelPath};

use super::apply::Inode;
use super::temp::Temp;
use super::{DestTree, How, Inner, Made, cannot_make};
use crate::beneath::PATH_ONLY;
use crate::error::{CREATE, DestError};
use crate::found::Kind;
use crate::stat::{Identity, stat_at, stat_fd};

impl DestTree {
    /// Makes a symbolic link. Where it points is nobody's business: it is
    /// never followed here.
    ///
    /// # Errors
    ///
    /// [`DestError`].
    pub fn make_symlink(
        &self,
        path: &RelPath,
        target: &[u8],
        metadata: &Metadata,
    ) -> Result<Made, DestError> {
        let inner = &self.0;
        let (dir, name) = inner.parent(path)?;
        if let Some(existing) = inner.existing(dir.as_fd(), name, path)? {
            let is_same = existing.kind() == Some(Kind::Symlink)
                && rustix::fs::readlinkat(&dir, name, Vec::new())
                    .is_ok_and(|found| found.as_bytes() == target);
            // (Overwriting replaces it, for its other metadata.)
            if is_same && !inner.options.overwrite {
                return Ok(existing.same());
            }
            inner.may_replace(&existing, dir.as_fd(), name, path)?;
        }
        let make = |dir: BorrowedFd<'_>, temp: &str| rustix::fs::symlinkat(target, dir, temp);
        inner.make_node(path, dir, name, (Kind::Symlink, (0, 0)), metadata, make)
    }

    /// Makes a named pipe.
    ///
    /// # Errors
    ///
    /// [`DestError`].
    pub fn make_fifo(&self, path: &RelPath, metadata: &Metadata) -> Result<Made, DestError> {
        self.make_special(path, Kind::Fifo, (0, 0), metadata)
    }

    /// Makes a character or block device, which takes rights that few have.
    ///
    /// # Errors
    ///
    /// [`DestError::CannotMake`] without those rights, and others.
    pub fn make_device(
        &self,
        path: &RelPath,
        kind: Kind,
        device: (u32, u32),
        metadata: &Metadata,
    ) -> Result<Made, DestError> {
        self.make_special(path, kind, device, metadata)
    }

    fn make_special(
        &self,
        path: &RelPath,
        kind: Kind,
        device: (u32, u32),
        metadata: &Metadata,
    ) -> Result<Made, DestError> {
        let file_type = match kind {
            Kind::Fifo => FileType::Fifo,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => return Err(cannot_make(path, kind, Errno::INVAL)),
        };
        let inner = &self.0;
        let (dir, name) = inner.parent(path)?;
        if let Some(existing) = inner.existing(dir.as_fd(), name, path)? {
            let is_same = existing.kind() == Some(kind) && existing.stat.rdev == device;
            if is_same && !inner.options.overwrite {
                return Ok(existing.same());
            }
            inner.may_replace(&existing, dir.as_fd(), name, path)?;
        }
        let number = rustix::fs::makedev(device.0, device.1);
        let make = |dir: BorrowedFd<'_>, temp: &str| {
            rustix::fs::mknodat(dir, temp, file_type, Mode::RUSR | Mode::WUSR, number)
        };
        inner.make_node(path, dir, name, (kind, device), metadata, make)
    }

    /// Makes `path` a second name of a file that was made before: the one of
    /// `identity`, which was at `existing`.
    ///
    /// # Errors
    ///
    /// [`DestError::Changed`] where another file is there now;
    /// [`DestError::CannotLink`] where the entry has to be made as a file of
    /// its own; others.
    pub fn make_hard_link(
        &self,
        existing: &RelPath,
        identity: Identity,
        path: &RelPath,
    ) -> Result<Made, DestError> {
        let inner = &self.0;
        let (from_dir, from_name) = inner.parent(existing)?;
        let (dir, name) = inner.parent(path)?;
        if let Some(found) = inner.existing(dir.as_fd(), name, path)? {
            if found.stat.identity() == identity {
                return Ok(found.same());
            }
            inner.may_replace(&found, dir.as_fd(), name, path)?;
        }
        let made = inner.make_temp(dir, |dir, temp| {
            rustix::fs::linkat(&from_dir, from_name, dir, temp, AtFlags::empty())
        });
        let (mut temp, ()) = made.map_err(|errno| match errno {
            Errno::NOENT => DestError::Changed { path: existing.clone() },
            Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS => {
                DestError::CannotLink {
                    path: path.clone(),
                    existing: existing.clone(),
                    source: errno.into(),
                }
            }
            errno => DestError::new(CREATE, path, errno),
        })?;
        // Whatever bore the name at that instant has another one now. Only if
        // it is the right file does it get the one that was asked for.
        let linked = stat_at(temp.dir(), temp.name())
            .map_err(|errno| DestError::new(CREATE, path, errno))?;
        if linked.identity() != identity {
            return Err(DestError::Changed { path: existing.clone() });
        }
        inner.commit(&mut temp, name, path)?;
        // A rename onto another name of the same inode does nothing.
        let _ = temp.remove();
        Ok(Made { how: How::New, identity, not_set: Vec::new() })
    }
}

impl Inner {
    fn make_node(
        &self,
        path: &RelPath,
        dir: OwnedFd,
        name: &[u8],
        (kind, device): (Kind, (u32, u32)),
        metadata: &Metadata,
        make: impl Fn(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<Made, DestError> {
        let error = |errno| DestError::new(CREATE, path, errno);
        let (mut temp, ()) = self.make_temp(dir, make).map_err(|errno| match errno {
            Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS => cannot_make(path, kind, errno),
            errno => error(errno),
        })?;
        let fd = open_own(&temp, kind, device).map_err(error)?;
        let Some(fd) = fd else {
            temp.keep();
            return Err(DestError::Changed { path: path.clone() });
        };
        let mut not_set = Vec::new();
        let inode = Inode { fd: fd.as_fd(), kind, is_path_only: true };
        let identity =
            inode.apply(path, metadata, &self.options.owners, &mut not_set).map_err(error)?;
        self.commit(&mut temp, name, path)?;
        Ok(Made { how: How::New, identity, not_set })
    }
}

/// Opens what was made; `None` where somebody has put another thing in its
/// place, which must not be given anything: it may have another name, where it
/// means more.
fn open_own(temp: &Temp, kind: Kind, device: (u32, u32)) -> Result<Option<OwnedFd>, Errno> {
    let fd = rustix::fs::openat(temp.dir(), temp.name(), PATH_ONLY, Mode::empty())?;
    let stat = stat_fd(fd.as_fd())?;
    let is_ours = Kind::new(stat.file_type) == Some(kind) && stat.links == 1 && stat.rdev == device;
    Ok(is_ours.then_some(fd))
}
