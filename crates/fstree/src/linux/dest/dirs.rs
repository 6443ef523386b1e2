//! Directories: created first, accessible only to their owner, and given their
//! metadata last.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use types::{Metadata, RelPath};

use super::super::beneath::{PATH_ONLY, is_absent};
use super::super::error::CREATE;
use super::super::open::open_list;
use super::super::stat::stat_fd;
use super::Inner;
use super::apply::Inode;
use crate::dest::{CreatedEntry, NotSet};
use crate::entry::FileKind;
use crate::error::DestError;

impl Inner {
    /// See [`TreeWriter::create_dir`](crate::TreeWriter::create_dir).
    pub(super) fn create_dir(&self, path: &RelPath) -> Result<CreatedEntry, DestError> {
        if path.is_root() {
            return self.merge(path, self.fd.as_fd(), b".");
        }
        let (dir, name) = self.parent(path)?;
        let existing = self.existing(dir.as_fd(), name, path).inspect_err(|error| {
            if matches!(error, DestError::Collision { .. }) {
                self.note_collision(path);
            }
        })?;
        match existing {
            Some(existing) if existing.stat.kind == Some(FileKind::Dir) => {
                return self.merge(path, dir.as_fd(), name);
            }
            Some(_) if self.options.overwrite => {
                rustix::fs::unlinkat(&dir, name, AtFlags::empty())
                    .map_err(|errno| DestError::new("replace", path, errno))?;
            }
            Some(existing) => return Err(existing.in_the_way(path)),
            None => {}
        }
        let error = |errno| DestError::new(CREATE, path, errno);
        match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                let found = self.existing(dir.as_fd(), name, path)?;
                let found = found.and_then(|found| found.stat.kind).unwrap_or(FileKind::File);
                return Err(DestError::InTheWay { path: path.clone(), found });
            }
            made => made.map_err(error)?,
        }
        let fd = rustix::fs::openat(&dir, name, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(error)?;
        Self::give_access(&fd).map_err(error)?;
        let identity = stat_fd(fd.as_fd()).map_err(error)?.identity();
        Ok(CreatedEntry { is_new: true, identity, not_set: Vec::new() })
    }

    fn merge(
        &self,
        path: &RelPath,
        dir: rustix::fd::BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<CreatedEntry, DestError> {
        let open = || {
            let flags = PATH_ONLY | OFlags::DIRECTORY;
            let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            // If this user may not, creating entries in the directory reports it.
            let _ = Self::give_access(&fd);
            Ok((stat_fd(fd.as_fd())?, fd))
        };
        let (stat, fd) = open().map_err(|errno| match errno {
            errno if is_absent(errno) => {
                DestError::InTheWay { path: path.clone(), found: FileKind::Symlink }
            }
            errno => DestError::new("open", path, errno),
        })?;
        self.remove_leftovers(fd.as_fd());
        Ok(CreatedEntry { is_new: false, identity: stat.identity(), not_set: Vec::new() })
    }

    /// Lets the owner list, enter and fill a directory, which may be read-only in the
    /// snapshot or because of the umask.
    fn give_access(fd: &OwnedFd) -> Result<(), Errno> {
        let mode = stat_fd(fd.as_fd())?.mode;
        if mode & 0o700 == 0o700 {
            return Ok(());
        }
        let inode = Inode { fd: fd.as_fd(), kind: FileKind::Dir, is_path_only: true };
        inode.set_mode(mode | 0o700)
    }

    /// See [`TreeWriter::finish_dir`](crate::TreeWriter::finish_dir).
    pub(super) fn finish_dir(
        &self,
        path: &RelPath,
        metadata: &Metadata,
    ) -> Result<Vec<NotSet>, DestError> {
        let error = |errno| match errno {
            errno if is_absent(errno) => {
                DestError::NoParent { path: path.clone(), source: errno.into() }
            }
            errno => DestError::new("finish", path, errno),
        };
        if self.is_collided(path) {
            return Err(error(Errno::NOENT));
        }
        let held = self.options.resolution.open_dir(self.fd.as_fd(), path.as_bytes());
        let held = held.map_err(error)?;
        let listed = open_list(held.as_fd(), c".").ok();
        let is_path_only = listed.is_none();
        let fd = listed.unwrap_or(held);
        let mut not_set = Vec::new();
        let inode = Inode { fd: fd.as_fd(), kind: FileKind::Dir, is_path_only };
        let identity =
            inode.apply(path, metadata, &self.options.owners, &mut not_set).map_err(error)?;
        if self.is_synced_alone(identity.device) && !is_path_only {
            rustix::fs::fsync(&fd).map_err(error)?;
        }
        Ok(not_set)
    }
}
