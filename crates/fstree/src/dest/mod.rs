//! Making a tree below a directory.
//!
//! **Invariants**: nothing is made, changed or removed outside the directory,
//! and no link in it is followed, whoever plants one, and whenever. A thing is
//! made under a temporary name and gets its own when it is whole, so a name
//! has what it had before or all of the new. What is in the way stays, unless
//! overwriting is asked for; a directory that has something in it stays even
//! then. Directories are open to their owner alone until they are finished.
//!
//! The order of calls: `make_dir` before what is in the directory,
//! `make_hard_link` after the file, `finish_dir` after everything below it, as
//! each thing that is made changes the time of its directory.
//!
//! What is absent: which entries there are and where their content comes from;
//! what to do about what is in the way, a collision of names, or an owner that
//! cannot be set.

mod apply;
mod dirs;
mod file;
mod nodes;
mod temp;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use types::{EntryKind, Metadata, RelPath};

pub use apply::{Attribute, NotSet, OwnerPolicy};
pub use file::{FileContent, FileSink, MakeFile, SameFile, WriteOut};
pub use temp::is_temp_name;

use crate::beneath::{Resolution, is_absent};
use crate::error::{CREATE, DestError, RootError, os_name};
use crate::found::Kind;
use crate::names::{Buffer, Names};
use crate::root::open_list;
use crate::stat::{Identity, Stat, stat_at, stat_fd};
use temp::{Temp, TempNames};

/// How a tree is made.
#[derive(Clone, Debug, Default)]
pub struct DestOptions {
    /// Whether what is in the way is replaced. A directory that has something
    /// in it never is.
    pub overwrite: bool,
    /// Whose the things become.
    pub owners: OwnerPolicy,
    /// Whether each file is on the disk before it gets its name, and each
    /// directory when it is finished.
    pub durable: bool,
    /// How paths are resolved.
    pub resolution: Resolution,
}

/// A directory in which a tree is made. Its clones are the same target; one
/// process at a time has a directory as its target.
#[derive(Clone, Debug)]
pub struct DestTree(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    options: DestOptions,
    names: TempNames,
    made: AtomicU64,
    /// The directory that was last asked whether it tells upper from lower
    /// case, and the answer.
    folding: Mutex<Option<(Identity, bool)>>,
    /// Directories that could not be told from others. What is below them would
    /// land in those.
    collided: Mutex<BTreeSet<RelPath>>,
}

/// How a thing came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was made, or has replaced what was there.
    New,
    /// It was there already.
    Same,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// How it came to be there.
    pub how: How,
    /// Which inode it is: what a hard link can be made to.
    pub identity: Identity,
    /// What of it is not as it should be.
    pub not_set: Vec<NotSet>,
}

/// Something that is there already.
struct Existing {
    stat: Stat,
}

impl Existing {
    /// `None`, which is no kind that is made here, for an unknown one.
    fn kind(&self) -> Option<Kind> {
        Kind::new(self.stat.file_type)
    }

    fn in_the_way(&self, path: &RelPath) -> DestError {
        // What the system has no word for is as little a file as a socket is.
        let found = self.kind().unwrap_or(Kind::Socket);
        DestError::InTheWay { path: path.clone(), found }
    }

    fn same(&self) -> Made {
        Made { how: How::Same, identity: self.stat.identity(), not_set: Vec::new() }
    }
}

/// How often a lock that another has is tried again …
const LOCK_TRIES: u32 = 50;
/// … and how long between: a program that this one has just started holds it
/// too, until it has become another.
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

impl DestTree {
    /// Takes a directory as a target, and removes what a killed run left in it
    /// (in the directories below, [`DestTree::make_dir`] does). It may be given
    /// by a link to it, which is followed now and never again.
    ///
    /// # Errors
    ///
    /// [`RootError`]; [`RootError::InUse`] where another has it.
    pub fn open(dir: &Path, options: DestOptions) -> Result<Self, RootError> {
        let context = |errno| RootError::new("open", dir, errno);
        let open = |flags: OFlags| {
            let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(dir, flags, Mode::empty())
        };
        // A directory that one may write to, but not list, will do.
        let fd = match open(OFlags::RDONLY) {
            Err(Errno::ACCESS) => open(OFlags::PATH),
            result => result,
        };
        let fd = fd.map_err(context)?;
        let lock = lock(fd.as_fd());
        // Some file systems have no such locks. They are left without.
        if lock == Err(Errno::WOULDBLOCK) {
            return Err(RootError::InUse(dir.to_owned()));
        }
        let stat = stat_fd(fd.as_fd()).map_err(context)?;
        let target = Self(Arc::new(Inner {
            fd,
            options,
            names: TempNames::new(stat.stamp.inode),
            made: AtomicU64::new(0),
            folding: Mutex::default(),
            collided: Mutex::default(),
        }));
        target.0.remove_leftovers(target.0.fd.as_fd());
        Ok(target)
    }

    /// The directory that it is.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn identity(&self) -> io::Result<Identity> {
        Ok(stat_fd(self.0.fd.as_fd())?.identity())
    }

    /// Makes the names in the target itself durable, as
    /// [`DestTree::finish_dir`] does for those of a directory where it is asked
    /// to.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(open_list(self.0.fd.as_fd(), c".")?)?)
    }

    /// Makes what an entry of a manifest says, files excepted: those have
    /// content, and are made by [`DestTree::make_file`].
    ///
    /// # Errors
    ///
    /// Those of the call for the kind; for a file, [`DestError::CannotMake`].
    pub fn make(
        &self,
        path: &RelPath,
        kind: &EntryKind,
        metadata: &Metadata,
    ) -> Result<Made, DestError> {
        match kind {
            EntryKind::Dir => self.make_dir(path),
            EntryKind::Symlink { target } => self.make_symlink(path, target, metadata),
            EntryKind::Fifo => self.make_fifo(path, metadata),
            EntryKind::CharDevice { device } => {
                self.make_device(path, Kind::CharDevice, *device, metadata)
            }
            EntryKind::BlockDevice { device } => {
                self.make_device(path, Kind::BlockDevice, *device, metadata)
            }
            EntryKind::Socket => Err(cannot_make(path, Kind::Socket, Errno::OPNOTSUPP)),
            EntryKind::File { .. } => Err(cannot_make(path, Kind::File, Errno::OPNOTSUPP)),
        }
    }
}

fn cannot_make(path: &RelPath, kind: Kind, errno: Errno) -> DestError {
    DestError::CannotMake { path: path.clone(), kind, source: errno.into() }
}

impl Inner {
    /// Opens the directory that `path` is in.
    fn parent<'p>(&self, path: &'p RelPath) -> Result<(OwnedFd, &'p [u8]), DestError> {
        let bytes = path.as_bytes();
        // The root is there already, and nothing can take its place.
        let Some(name) = path.name() else {
            return Err(DestError::InTheWay { path: path.clone(), found: Kind::Dir });
        };
        let dir = bytes[..bytes.len() - name.len()].strip_suffix(b"/").unwrap_or(b"");
        if path.parent().is_some_and(|parent| self.is_collided(&parent)) {
            let why = "its directory cannot be told from another here";
            let source = io::Error::new(io::ErrorKind::AlreadyExists, why);
            return Err(DestError::NoParent { path: path.clone(), source });
        }
        match self.options.resolution.open_dir(self.fd.as_fd(), dir) {
            Ok(fd) => Ok((fd, name)),
            Err(errno) if is_absent(errno) => {
                Err(DestError::NoParent { path: path.clone(), source: errno.into() })
            }
            Err(errno) => Err(DestError::new("open the directory of", path, errno)),
        }
    }

    /// Whether it is, or is below, a directory that could not be told from
    /// another.
    fn is_collided(&self, path: &RelPath) -> bool {
        let collided = self.collided.lock().unwrap_or_else(PoisonError::into_inner);
        collided.iter().any(|dir| path.is_within(dir))
    }

    /// Has everything below the directory refused.
    fn note_collision(&self, dir: &RelPath) {
        let mut collided = self.collided.lock().unwrap_or_else(PoisonError::into_inner);
        collided.insert(dir.clone());
    }

    /// What has the name already.
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

    /// Whether what is there may be replaced. An empty directory is removed
    /// now, so that one that is not is found before any content is written.
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
        if existing.kind() != Some(Kind::Dir) {
            return Ok(());
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(existing.in_the_way(path)),
            Err(Errno::NOENT) => Ok(()),
            removed => removed.map_err(|errno| DestError::new("replace", path, errno)),
        }
    }

    /// Whether a directory takes names for the same that differ in case. It is
    /// tried out; a directory in which that cannot be done does not.
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
        self.names.name(self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes something under a temporary name.
    fn make_temp<T>(
        &self,
        dir: OwnedFd,
        make: impl Fn(BorrowedFd<'_>, &str) -> Result<T, Errno>,
    ) -> Result<(Temp, T), Errno> {
        loop {
            let name = self.next_name();
            match make(dir.as_fd(), &name) {
                // Somebody guesses our names. There are more of them.
                Err(Errno::EXIST) => {}
                made => return Ok((Temp::new(dir, name), made?)),
            }
        }
    }

    /// Gives what is whole its own name.
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
                let found = found.and_then(|stat| Kind::new(stat.file_type));
                let found = found.unwrap_or(Kind::File);
                Err(DestError::InTheWay { path: path.clone(), found })
            }
            Err(errno) => Err(DestError::new(CREATE, path, errno)),
        }
    }

    /// Removes what a killed run into this target left in a directory.
    fn remove_leftovers(&self, dir: BorrowedFd<'_>) {
        let Ok(list) = open_list(dir, c".") else { return };
        let Ok(names) = Names::read(list.as_fd(), &mut Buffer::new()) else { return };
        for number in 0..names.len() {
            let Some((name, _)) = names.get(number) else { break };
            if self.names.is_leftover(name.to_bytes()) {
                // What cannot be removed stays, under a name that says what it is.
                let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            }
        }
    }
}

/// Renames where nothing has the new name.
fn rename_new(dir: BorrowedFd<'_>, from: &str, to: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return result,
    }
    // The file system does not know that call. A second name is as good.
    match rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()) {
        Ok(()) => return rustix::fs::unlinkat(dir, from, AtFlags::empty()),
        Err(Errno::EXIST) => return Err(Errno::EXIST),
        Err(_) => {}
    }
    // Nor has it second names. What appears between these two is lost.
    match stat_at(dir, to) {
        Err(Errno::NOENT) => rustix::fs::renameat(dir, from, dir, to),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

/// Renames over anything but a directory that has something in it.
fn rename_over(dir: BorrowedFd<'_>, from: &str, to: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat(dir, from, dir, to) {
        Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {}
        result => return result,
    }
    rustix::fs::unlinkat(dir, to, AtFlags::REMOVEDIR)?;
    rename_new(dir, from, to)
}

/// The name that a directory has for an inode, if it is not `name`.
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
