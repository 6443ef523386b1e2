//! Entries without content: links, pipes, devices, second names.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;
use types::{Metadata, RelPath};

use super::super::beneath::PATH_ONLY;
use super::super::error::CREATE;
use super::super::stat::{stat_at, stat_fd};
use super::apply::Inode;
use super::temp::Temp;
use super::{Inner, cannot_create};
use crate::dest::CreatedEntry;
use crate::entry::{FileKind, Identity};
use crate::error::DestError;

impl Inner {
    /// Creates a symbolic link. The target is not checked, because links are never
    /// followed here.
    pub(super) fn create_symlink(
        &self,
        path: &RelPath,
        target: &[u8],
        metadata: &Metadata,
    ) -> Result<CreatedEntry, DestError> {
        let (dir, name) = self.parent(path)?;
        if let Some(existing) = self.existing(dir.as_fd(), name, path)? {
            let is_same = existing.stat.kind == Some(FileKind::Symlink)
                && rustix::fs::readlinkat(&dir, name, Vec::new())
                    .is_ok_and(|found| found.as_bytes() == target);
            // With overwriting the link is replaced, because its metadata may differ.
            if is_same && !self.options.overwrite {
                return Ok(existing.same());
            }
            self.may_replace(&existing, dir.as_fd(), name, path)?;
        }
        let make = |dir: BorrowedFd<'_>, temp: &str| rustix::fs::symlinkat(target, dir, temp);
        self.create_node(path, dir, name, (FileKind::Symlink, (0, 0)), metadata, make)
    }

    /// Creates a named pipe or a device. Creating devices requires a privilege.
    pub(super) fn create_special(
        &self,
        path: &RelPath,
        kind: FileKind,
        device: (u32, u32),
        metadata: &Metadata,
    ) -> Result<CreatedEntry, DestError> {
        let file_type = match kind {
            FileKind::Fifo => FileType::Fifo,
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            _ => return Err(cannot_create(path, kind, Errno::INVAL)),
        };
        let (dir, name) = self.parent(path)?;
        if let Some(existing) = self.existing(dir.as_fd(), name, path)? {
            let is_same = existing.stat.kind == Some(kind) && existing.stat.rdev == device;
            if is_same && !self.options.overwrite {
                return Ok(existing.same());
            }
            self.may_replace(&existing, dir.as_fd(), name, path)?;
        }
        let number = rustix::fs::makedev(device.0, device.1);
        let make = |dir: BorrowedFd<'_>, temp: &str| {
            rustix::fs::mknodat(dir, temp, file_type, Mode::RUSR | Mode::WUSR, number)
        };
        self.create_node(path, dir, name, (kind, device), metadata, make)
    }

    /// See [`TreeWriter::create_hard_link`](crate::TreeWriter::create_hard_link).
    pub(super) fn create_hard_link(
        &self,
        existing: &RelPath,
        identity: Identity,
        path: &RelPath,
    ) -> Result<CreatedEntry, DestError> {
        let (from_dir, from_name) = self.parent(existing)?;
        let (dir, name) = self.parent(path)?;
        if let Some(found) = self.existing(dir.as_fd(), name, path)? {
            if found.stat.identity() == identity {
                return Ok(found.same());
            }
            self.may_replace(&found, dir.as_fd(), name, path)?;
        }
        let made = self.create_temp(dir, |dir, temp| {
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
        // The file that had the name at that moment now has a second, temporary name.
        // It gets its final name only if it is the right file.
        let linked = stat_at(temp.dir(), temp.name())
            .map_err(|errno| DestError::new(CREATE, path, errno))?;
        if linked.identity() != identity {
            return Err(DestError::Changed { path: existing.clone() });
        }
        self.commit(&mut temp, name, path)?;
        // A rename to another name of the same inode leaves the temporary name.
        let _ = temp.remove();
        Ok(CreatedEntry { is_new: true, identity, not_set: Vec::new() })
    }

    /// Creates an entry under a temporary name, sets its metadata and renames it.
    fn create_node(
        &self,
        path: &RelPath,
        dir: OwnedFd,
        name: &[u8],
        (kind, device): (FileKind, (u32, u32)),
        metadata: &Metadata,
        make: impl Fn(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<CreatedEntry, DestError> {
        let error = |errno| DestError::new(CREATE, path, errno);
        let (mut temp, ()) = self.create_temp(dir, make).map_err(|errno| match errno {
            Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS => cannot_create(path, kind, errno),
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
        Ok(CreatedEntry { is_new: true, identity, not_set })
    }
}

/// Opens the created entry; `None` if another process has replaced it. The
/// replacement must not get the metadata, because it may be a second name of an
/// important file.
fn open_own(temp: &Temp, kind: FileKind, device: (u32, u32)) -> Result<Option<OwnedFd>, Errno> {
    let fd = rustix::fs::openat(temp.dir(), temp.name(), PATH_ONLY, Mode::empty())?;
    let stat = stat_fd(fd.as_fd())?;
    let is_ours = stat.kind == Some(kind) && stat.links == 1 && stat.rdev == device;
    Ok(is_ours.then_some(fd))
}
