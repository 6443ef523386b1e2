//! Directories: made first, open to their owner alone; given what they are to
//! have last.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use types::{Metadata, RelPath};

use super::apply::{Inode, NotSet};
use super::{DestTree, How, Made};
use crate::beneath::{PATH_ONLY, is_absent};
use crate::error::{CREATE, DestError};
use crate::found::Kind;
use crate::root::open_list;
use crate::stat::stat_fd;

impl DestTree {
    /// Makes a directory, in which only this user can do anything until it is
    /// finished. A directory that is there already is taken as it is, but made
    /// accessible to its owner, and what a killed run left in it is removed.
    ///
    /// The target itself is a directory that is there already.
    ///
    /// Where the directory collides with another, everything below it is
    /// refused, too: it would land in that one. The caller may give it another
    /// name.
    ///
    /// # Errors
    ///
    /// [`DestError`]; what is in the way is replaced only where overwriting
    /// is asked for.
    pub fn make_dir(&self, path: &RelPath) -> Result<Made, DestError> {
        let inner = &self.0;
        if path.is_root() {
            return self.merge(path, inner.fd.as_fd(), b".");
        }
        let (dir, name) = inner.parent(path)?;
        let existing = inner.existing(dir.as_fd(), name, path).inspect_err(|error| {
            if matches!(error, DestError::Collision { .. }) {
                inner.note_collision(path);
            }
        })?;
        match existing {
            Some(existing) if existing.kind() == Some(Kind::Dir) => {
                return self.merge(path, dir.as_fd(), name);
            }
            Some(_) if inner.options.overwrite => {
                rustix::fs::unlinkat(&dir, name, AtFlags::empty())
                    .map_err(|errno| DestError::new("replace", path, errno))?;
            }
            Some(existing) => return Err(existing.in_the_way(path)),
            None => {}
        }
        let error = |errno| DestError::new(CREATE, path, errno);
        match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                let found = inner.existing(dir.as_fd(), name, path)?;
                let found = found.and_then(|found| found.kind()).unwrap_or(Kind::File);
                return Err(DestError::InTheWay { path: path.clone(), found });
            }
            made => made.map_err(error)?,
        }
        let fd = rustix::fs::openat(&dir, name, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(error)?;
        self.give_access(&fd).map_err(error)?;
        let identity = stat_fd(fd.as_fd()).map_err(error)?.identity();
        Ok(Made { how: How::New, identity, not_set: Vec::new() })
    }

    fn merge(
        &self,
        path: &RelPath,
        dir: rustix::fd::BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Made, DestError> {
        let open = || {
            let flags = PATH_ONLY | OFlags::DIRECTORY;
            let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            // Where this user may not, what is made in it will tell.
            let _ = self.give_access(&fd);
            Ok((stat_fd(fd.as_fd())?, fd))
        };
        let (stat, fd) = open().map_err(|errno| match errno {
            errno if is_absent(errno) => {
                DestError::InTheWay { path: path.clone(), found: Kind::Symlink }
            }
            errno => DestError::new("open", path, errno),
        })?;
        self.0.remove_leftovers(fd.as_fd());
        Ok(Made { how: How::Same, identity: stat.identity(), not_set: Vec::new() })
    }

    /// Lets the owner list, enter and fill a directory: a snapshot may have it
    /// read-only, and a mask may have made it so.
    fn give_access(&self, fd: &OwnedFd) -> Result<(), Errno> {
        let mode = stat_fd(fd.as_fd())?.mode;
        if mode & 0o700 == 0o700 {
            return Ok(());
        }
        let inode = Inode { fd: fd.as_fd(), kind: Kind::Dir, is_path_only: true };
        inode.set_mode(mode | 0o700)
    }

    /// Gives a directory its metadata; to be called when nothing will be made
    /// in it any more.
    ///
    /// # Errors
    ///
    /// [`DestError::NoParent`] where there is no such directory, and others.
    pub fn finish_dir(
        &self,
        path: &RelPath,
        metadata: &Metadata,
    ) -> Result<Vec<NotSet>, DestError> {
        let inner = &self.0;
        let error = |errno| match errno {
            errno if is_absent(errno) => {
                DestError::NoParent { path: path.clone(), source: errno.into() }
            }
            errno => DestError::new("finish", path, errno),
        };
        if inner.is_collided(path) {
            return Err(error(Errno::NOENT));
        }
        let held = inner.options.resolution.open_dir(inner.fd.as_fd(), path.as_bytes());
        let held = held.map_err(error)?;
        let listed = open_list(held.as_fd(), c".").ok();
        let is_path_only = listed.is_none();
        let fd = listed.unwrap_or(held);
        let mut not_set = Vec::new();
        let inode = Inode { fd: fd.as_fd(), kind: Kind::Dir, is_path_only };
        inode.apply(path, metadata, &inner.options.owners, &mut not_set).map_err(error)?;
        if inner.options.durable && !is_path_only {
            rustix::fs::fsync(&fd).map_err(error)?;
        }
        Ok(not_set)
    }

    /// Finishes many directories, those below before those above. (A caller
    /// with more of them than fit in memory calls [`DestTree::finish_dir`] in the
    /// reverse of the order of paths.)
    pub fn finish_dirs(
        &self,
        dirs: impl IntoIterator<Item = (RelPath, Metadata)>,
    ) -> (Vec<NotSet>, Vec<DestError>) {
        let mut dirs: Vec<_> = dirs.into_iter().collect();
        dirs.sort_by(|(a, _), (b, _)| b.cmp(a));
        let (mut not_set, mut errors) = (Vec::new(), Vec::new());
        for (path, metadata) in &dirs {
            match self.finish_dir(path, metadata) {
                Ok(more) => not_set.extend(more),
                Err(error) => errors.push(error),
            }
        }
        (not_set, errors)
    }
}
