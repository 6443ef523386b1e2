//! Creating a tree on Linux. The rules are those of [`TreeWriter`].

mod apply;
mod dirs;
mod file;
mod nodes;
mod temp;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use types::{EntryKind, Metadata, RelPath};

use super::beneath::is_absent;
use super::error::{CREATE, os_name};
use super::names::{Buffer, Names};
use super::open::open_list;
use super::stat::{FUSE_MAGIC, Stat, file_system_magic, stat_at, stat_fd};
use crate::dest::{
    CreateFile, CreatedEntry, DestOptions, FileContent, NotSet, TempNames, TreeWriter,
};
use crate::entry::{FileKind, Identity};
use crate::error::{DestError, RootError};
use file::FileSink;
use temp::Temp;

/// A tree that is created. Clones refer to the same tree.
#[derive(Clone, Debug)]
pub struct DestTree(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    options: DestOptions,
    /// Device of the root.
    device: u64,
    /// True if a sync of the file system does not reach its disk; see
    /// [`SYNCED_BY_FILE`].
    is_synced_by_file: bool,
    names: TempNames,
    /// Number of temporary names used.
    created: AtomicU64,
    /// The last directory checked for case folding, and the result.
    folding: Mutex<Option<(Identity, bool)>>,
    /// Directories that collided with others. Entries below them would end up in the
    /// other directories.
    collided: Mutex<BTreeSet<RelPath>>,
}

/// An entry that already exists.
struct Existing {
    stat: Stat,
}

impl Existing {
    fn in_the_way(&self, path: &RelPath) -> DestError {
        // An unknown kind is reported as a socket, which is not a file either.
        let found = self.stat.kind.unwrap_or(FileKind::Socket);
        DestError::InTheWay { path: path.clone(), found }
    }

    /// Returns the entry as one that is already as required.
    fn same(&self) -> CreatedEntry {
        CreatedEntry { is_new: false, identity: self.stat.identity(), not_set: Vec::new() }
    }
}

/// Magic numbers of the file systems (FUSE, SMB1, SMB2 and later) whose server or
/// program is not reached by `syncfs`, only by `fsync` of each file.
const SYNCED_BY_FILE: [u32; 3] = [FUSE_MAGIC, 0xff53_4d42, 0xfe53_4d42];

fn is_synced_by_file(fd: BorrowedFd<'_>) -> bool {
    file_system_magic(fd).is_some_and(|magic| SYNCED_BY_FILE.contains(&magic))
}

/// Number of further attempts to take a lock that another process has.
const LOCK_TRIES: u32 = 50;
/// Time between two attempts. A process that this one has just forked shares the
/// lock until it executes its program.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

fn lock(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

impl TreeWriter for DestTree {
    type File = FileSink;

    fn open(dir: &Path, options: DestOptions) -> Result<Self, RootError> {
        let context = |errno| RootError::new("open", dir, errno);
        let open = |flags: OFlags| {
            let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(dir, flags, Mode::empty())
        };
        // A directory without read permission can be written to.
        let fd = match open(OFlags::RDONLY) {
            Err(Errno::ACCESS) => open(OFlags::PATH),
            result => result,
        };
        let fd = fd.map_err(context)?;
        // File systems without locks are used without a lock.
        if lock(fd.as_fd()) == Err(Errno::WOULDBLOCK) {
            return Err(RootError::InUse(dir.to_owned()));
        }
        let stat = stat_fd(fd.as_fd()).map_err(context)?;
        let inner = Inner {
            device: stat.identity().device,
            is_synced_by_file: is_synced_by_file(fd.as_fd()),
            fd,
            options,
            names: TempNames::new(stat.stamp.inode),
            created: AtomicU64::new(0),
            folding: Mutex::default(),
            collided: Mutex::default(),
        };
        inner.remove_leftovers(inner.fd.as_fd());
        Ok(Self(Arc::new(inner)))
    }

    fn create_dir(&self, path: &RelPath) -> Result<CreatedEntry, DestError> {
        self.0.create_dir(path)
    }

    fn create(
        &self,
        path: &RelPath,
        kind: &EntryKind,
        metadata: &Metadata,
    ) -> Result<CreatedEntry, DestError> {
        let special = |kind, device| self.0.create_special(path, kind, device, metadata);
        match kind {
            EntryKind::Dir => self.create_dir(path),
            EntryKind::Symlink { target } => self.0.create_symlink(path, target, metadata),
            EntryKind::Fifo => special(FileKind::Fifo, (0, 0)),
            EntryKind::CharDevice { device } => special(FileKind::CharDevice, *device),
            EntryKind::BlockDevice { device } => special(FileKind::BlockDevice, *device),
            EntryKind::Socket => Err(cannot_create(path, FileKind::Socket, Errno::OPNOTSUPP)),
            EntryKind::File { .. } => Err(cannot_create(path, FileKind::File, Errno::OPNOTSUPP)),
        }
    }

    fn create_file(
        &self,
        path: &RelPath,
        content: FileContent,
        metadata: &Metadata,
        verify: impl FnOnce(&File) -> io::Result<bool>,
    ) -> Result<CreateFile<FileSink>, DestError> {
        self.0.create_file(path, content, metadata, verify)
    }

    fn create_hard_link(
        &self,
        existing: &RelPath,
        identity: Identity,
        path: &RelPath,
    ) -> Result<CreatedEntry, DestError> {
        self.0.create_hard_link(existing, identity, path)
    }

    fn finish_dir(&self, path: &RelPath, metadata: &Metadata) -> Result<Vec<NotSet>, DestError> {
        self.0.finish_dir(path, metadata)
    }

    fn sync(&self) -> Result<(), DestError> {
        self.0.sync().map_err(|errno| DestError::new("sync", &RelPath::root(), errno))
    }
}

fn cannot_create(path: &RelPath, kind: FileKind, errno: Errno) -> DestError {
    DestError::CannotCreate { path: path.clone(), kind, source: errno.into() }
}

impl Inner {
    /// Reports whether an entry on this device is synced on its own: if that is
    /// requested, or if the sync at the end does not reach it.
    fn is_synced_alone(&self, device: u64) -> bool {
        self.options.durable || self.is_synced_by_file || device != self.device
    }

    /// See [`TreeWriter::sync`].
    fn sync(&self) -> Result<(), Errno> {
        if self.is_synced_alone(self.device) {
            match open_list(self.fd.as_fd(), c".") {
                // A directory that may not be read cannot be synced by name.
                Err(Errno::ACCESS) => {}
                opened => opened.and_then(rustix::fs::fsync)?,
            }
        }
        // The descriptor was opened before the first change: Linux 5.8 and later
        // report every failed write since then.
        match rustix::fs::syncfs(&self.fd) {
            // `EBADF`: the directory may not be read, so it was opened by path only.
            Err(Errno::BADF | Errno::NOSYS) => {
                rustix::fs::sync();
                Ok(())
            }
            result => result,
        }
    }

    /// Opens the parent directory of `path`.
    fn parent<'p>(&self, path: &'p RelPath) -> Result<(OwnedFd, &'p [u8]), DestError> {
        let bytes = path.as_bytes();
        // The root exists and cannot be replaced.
        let Some(name) = path.name() else {
            return Err(DestError::InTheWay { path: path.clone(), found: FileKind::Dir });
        };
        let dir = bytes[..bytes.len() - name.len()].strip_suffix(b"/").unwrap_or(b"");
        if path.parent().is_some_and(|parent| self.is_collided(&parent)) {
            let why = "its directory has the same name as another one on this file system";
            let source = io::Error::new(io::ErrorKind::AlreadyExists, why);
            return Err(DestError::NoParent { path: path.clone(), source });
        }
        match self.options.resolution.open_dir(self.fd.as_fd(), dir) {
            Ok(fd) => Ok((fd, name)),
            Err(errno) if is_absent(errno) => {
                Err(DestError::NoParent { path: path.clone(), source: errno.into() })
            }
            Err(errno) => Err(DestError::new("open the parent directory of", path, errno)),
        }
    }

    /// Reports whether `path` is, or is below, a directory that collided with another.
    fn is_collided(&self, path: &RelPath) -> bool {
        let collided = self.collided.lock().unwrap_or_else(PoisonError::into_inner);
        collided.iter().any(|dir| path.is_within(dir))
    }

    /// Rejects everything below the directory from now on.
    fn note_collision(&self, dir: &RelPath) {
        let mut collided = self.collided.lock().unwrap_or_else(PoisonError::into_inner);
        collided.insert(dir.clone());
    }

    /// Examines the entry that has the name.
    fn existing(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &RelPath,
    ) -> Result<Option<Existing>, DestError> {
        let stat = match stat_at(dir, name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(DestError::new(CREATE, path, errno)),
        };
        if self.is_folding(dir)
            && let Some(existing) = stored_name(dir, name, &stat)
        {
            return Err(DestError::Collision { path: path.clone(), existing: os_name(&existing) });
        }
        Ok(Some(Existing { stat }))
    }

    /// Checks that an existing entry may be replaced. An empty directory is removed
    /// here, so that a directory that is not empty is detected before any content is
    /// written.
    fn may_replace(
        &self,
        existing: &Existing,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &RelPath,
    ) -> Result<(), DestError> {
        if !self.options.overwrite {
            return Err(existing.in_the_way(path));
        }
        if existing.stat.kind != Some(FileKind::Dir) {
            return Ok(());
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(existing.in_the_way(path)),
            Err(Errno::NOENT) => Ok(()),
            removed => removed.map_err(|errno| DestError::new("replace", path, errno)),
        }
    }

    /// Reports whether a directory treats names as the same that differ only in case.
    /// This is tested with a temporary file; if that fails, the directory is assumed
    /// to distinguish them.
    fn is_folding(&self, dir: BorrowedFd<'_>) -> bool {
        let Ok(stat) = stat_fd(dir) else { return false };
        let mut folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((identity, is_folding)) = *folding
            && identity == stat.identity()
        {
            return is_folding;
        }
        let try_out = || {
            let dir = dir.try_clone_to_owned().ok()?;
            let name = self.next_name();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(&dir, name.as_str(), flags, Mode::RUSR).ok()?;
            let temp = Temp::new(dir, name);
            Some(stat_at(temp.dir(), temp.name().to_uppercase().as_bytes()).is_ok())
        };
        let is_folding = try_out().unwrap_or(false);
        *folding = Some((stat.identity(), is_folding));
        is_folding
    }

    fn next_name(&self) -> String {
        self.names.name(self.created.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates an entry under a temporary name.
    fn create_temp<T>(
        &self,
        dir: OwnedFd,
        create: impl Fn(BorrowedFd<'_>, &str) -> Result<T, Errno>,
    ) -> Result<(Temp, T), Errno> {
        loop {
            let name = self.next_name();
            match create(dir.as_fd(), &name) {
                // Another process guessed the name; try the next one.
                Err(Errno::EXIST) => {}
                created => return Ok((Temp::new(dir, name), created?)),
            }
        }
    }

    /// Renames a complete entry to its final name.
    fn commit(&self, temp: &mut Temp, name: &[u8], path: &RelPath) -> Result<(), DestError> {
        let renamed = if self.options.overwrite {
            rename_over(temp.dir(), temp.name(), name)
        } else {
            rename_new(temp.dir(), temp.name(), name)
        };
        match renamed {
            Ok(()) => {
                temp.keep();
                Ok(())
            }
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR) => {
                let found = stat_at(temp.dir(), name).ok();
                let found = found.and_then(|stat| stat.kind).unwrap_or(FileKind::File);
                Err(DestError::InTheWay { path: path.clone(), found })
            }
            Err(errno) => Err(DestError::new(CREATE, path, errno)),
        }
    }

    /// Removes the temporary files that an interrupted run left in a directory.
    fn remove_leftovers(&self, dir: BorrowedFd<'_>) {
        let Ok(list) = open_list(dir, c".") else { return };
        let Ok(names) = Names::read(list.as_fd(), &mut Buffer::new()) else { return };
        for number in 0..names.len() {
            let Some((name, _)) = names.get(number) else { break };
            if self.names.is_leftover(name.to_bytes()) {
                // If this fails, the file stays; its name shows that it is temporary.
                let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            }
        }
    }
}

/// Renames an entry if the new name is free.
fn rename_new(dir: BorrowedFd<'_>, from: &str, to: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return result,
    }
    // The file system does not support the flag. A hard link has the same effect.
    match rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()) {
        Ok(()) => return rustix::fs::unlinkat(dir, from, AtFlags::empty()),
        Err(Errno::EXIST) => return Err(Errno::EXIST),
        Err(_) => {}
    }
    // Hard links are not supported either. An entry that another process creates
    // between these two calls is lost.
    match stat_at(dir, to) {
        Err(Errno::NOENT) => rustix::fs::renameat(dir, from, dir, to),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

/// Renames an entry and replaces anything except a directory that is not empty.
fn rename_over(dir: BorrowedFd<'_>, from: &str, to: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat(dir, from, dir, to) {
        Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {}
        result => return result,
    }
    rustix::fs::unlinkat(dir, to, AtFlags::REMOVEDIR)?;
    rename_new(dir, from, to)
}

/// Returns the name under which a directory stores an inode, if it is not `name`.
fn stored_name(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Option<Vec<u8>> {
    let list = open_list(dir, c".").ok()?;
    let names = Names::read(list.as_fd(), &mut Buffer::new()).ok()?;
    let mut stored = None;
    for (other, _) in (0..names.len()).filter_map(|number| names.get(number)) {
        if other.to_bytes() == name {
            return None;
        }
        let is_it = || stat_at(dir, other).is_ok_and(|other| other.identity() == stat.identity());
        if stored.is_none() && is_it() {
            stored = Some(other.to_bytes().to_vec());
        }
    }
    stored
}
