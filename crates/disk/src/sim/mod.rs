//! A disk in memory that fails on demand and loses power.
//!
//! The disk separates the content that a program sees from the content that a
//! power cut leaves: written bytes survive only after `sync` of their file,
//! names only after `sync_dir` of their directory. Every operation that changes
//! the disk has a number, so that a test can run the same work once for each
//! number N and fail, or cut the power, at the Nth operation. Operations that read
//! fail by a [`FaultRule`], which also chooses by path.
//!
//! The page cache is part of the model: after a failed sync, reads still return the
//! bytes that never reached the disk, until [`DiskFile::drop_cache`] or a power cut.

mod faults;
mod file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt as _, SeedableRng};

use self::faults::FaultRules;
use self::file::SimFile;
use crate::disk::{Disk, DiskFile, Space};

pub use self::faults::{ArmedFault, DiskError, EACCES, EIO, EMFILE, EROFS, FaultRule, Op};

/// A fault at the operation with a given number (from 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails once; half of a write may have happened.
    Fail(io::ErrorKind),
    /// The operation fails, and so do all later operations that change the disk.
    FailForever(io::ErrorKind),
    /// The process dies during the operation: every later call fails. See
    /// [`SimDisk::crash`].
    Die,
}

impl Fault {
    fn hit(self) -> Hit {
        match self {
            Self::Fail(kind) | Self::FailForever(kind) => Hit::Fail(kind.into()),
            Self::Die => Hit::Die,
        }
    }
}

/// The part of the unsynced changes that survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// All changes: the process was killed, but the computer kept running.
    Kept,
    /// No change.
    Dropped,
    /// All changes except the second half of the last write to each file.
    Torn,
    /// Any part: single pages and single names, chosen by the seed.
    Reordered(u64),
}

/// A simulated disk. Clones share its state.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    rules: FaultRules,
    dead: bool,
    capacity: Option<u64>,
    ignores_file_syncs: bool,
    ignores_dir_syncs: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Change>,
    lock: Lock,
}

/// The locks on a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lock {
    #[default]
    None,
    Exclusive,
    /// Number of open files that have a shared lock.
    Shared(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Create { path: PathBuf, inode: usize },
    Rename { from: PathBuf, to: PathBuf, inode: usize },
    Remove { path: PathBuf },
}

const PAGE: usize = 4096;

/// The bytes of an operation that is neither a read nor a write.
const NO_BYTES: Range<u64> = 0..0;

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(data);
            }
            Self::Truncate(len) => content.resize(*len, 0),
        }
    }

    /// Splits the change into changes of at most one page each.
    fn pages(&self) -> Vec<Self> {
        let Self::Write { offset, data } = self else { return vec![self.clone()] };
        let mut pages = Vec::new();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done;
            let len = (PAGE - at % PAGE).min(data.len() - done);
            pages.push(Self::Write { offset: at, data: data[done..done + len].to_vec() });
            done += len;
        }
        pages
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
        }
    }

    fn op(&self) -> (Op, &Path) {
        match self {
            Self::Create { path, .. } => (Op::Create, path),
            Self::Rename { from, .. } => (Op::Rename, from),
            Self::Remove { path } => (Op::Remove, path),
        }
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Create { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. } => {
                path.parent()
            }
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("the simulated process is dead")
}

/// The effect of a fault on an operation.
enum Hit {
    Fail(DiskError),
    Die,
}

impl State {
    /// Counts an operation and returns the fault that it must suffer, if any. A write is
    /// of `bytes`.
    fn step(&mut self, op: Op, path: &Path, bytes: Range<u64>) -> Result<(), Hit> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if at == number => Err(fault.hit()),
            Some((at, fault @ Fault::FailForever(_))) if at < number => Err(fault.hit()),
            _ => self.rules.error(op, path, bytes).map_or(Ok(()), |error| Err(Hit::Fail(error))),
        }
    }

    /// Fails if the process is dead, or if a rule says so. Such an operation has no
    /// number. A read is of `bytes`.
    fn read_step(&self, op: Op, path: &Path, bytes: Range<u64>) -> io::Result<()> {
        self.alive()?;
        self.rules.error(op, path, bytes).map_or(Ok(()), |error| Err(error.to_io()))
    }

    /// Returns the path of a file, empty if it has no name any more.
    fn path_of(&self, inode: usize) -> PathBuf {
        if self.rules.is_empty() {
            return PathBuf::new();
        }
        let mut names = self.names.iter();
        names.find(|(_, other)| **other == inode).map(|(path, _)| path.clone()).unwrap_or_default()
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(dead()) } else { Ok(()) }
    }

    /// Counts an operation that has no effect if it fails. Returns `Ok(false)` if
    /// the process dies after the operation.
    fn step_whole(&mut self, op: Op, path: &Path) -> io::Result<bool> {
        self.alive()?;
        match self.step(op, path, NO_BYTES) {
            Ok(()) => Ok(true),
            Err(Hit::Die) => Ok(false),
            Err(Hit::Fail(error)) => Err(error.to_io()),
        }
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        let (op, path) = change.op();
        let survives = self.step_whole(op, path)?;
        change.apply(&mut self.names);
        self.pending_names.push(change);
        self.die_unless(survives)
    }

    fn die_unless(&mut self, survives: bool) -> io::Result<()> {
        self.dead = !survives;
        self.alive()
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].current.len() as u64).sum()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// Creates an empty disk without limits or faults.
    pub fn new() -> Self {
        Self { state: Arc::default() }
    }

    /// Returns the number of operations that have changed the disk so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Arms a fault at the operation with this number.
    pub fn set_fault(&self, at: u64, fault: Fault) {
        self.state.lock().fault = Some((at, fault));
    }

    /// Disarms the fault.
    pub fn clear_fault(&self) {
        self.state.lock().fault = None;
    }

    /// Adds a rule by which operations fail, reads included. The first rule that
    /// matches an operation decides. Another disk made by [`SimDisk::crash`] has no
    /// rules.
    pub fn add_fault(&self, rule: FaultRule) -> ArmedFault {
        self.state.lock().rules.add(rule)
    }

    /// Removes all rules.
    pub fn clear_fault_rules(&self) {
        self.state.lock().rules.clear();
    }

    /// Reports whether the process died.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Limits the total length of all files in bytes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Makes syncs of files, or of directories, succeed without making anything
    /// durable.
    pub fn ignore_syncs(&self, of_files: bool, of_dirs: bool) {
        let mut state = self.state.lock();
        state.ignores_file_syncs = of_files;
        state.ignores_dir_syncs = of_dirs;
    }

    /// Returns the total length of all files in bytes.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// Returns the disk as the next process finds it.
    pub fn crash(&self, power: Power) -> Self {
        let state = self.state.lock();
        if power == Power::Kept {
            // Unsynced changes stay unsynced: the power may still fail later.
            let next = State {
                inodes: state
                    .inodes
                    .iter()
                    .map(|i| Inode { lock: Lock::None, ..i.clone() })
                    .collect(),
                names: state.names.clone(),
                durable_names: state.durable_names.clone(),
                pending_names: state.pending_names.clone(),
                dirs: state.dirs.clone(),
                capacity: state.capacity,
                ..State::default()
            };
            return Self { state: Arc::new(Mutex::new(next)) };
        }
        let mut rng = match power {
            Power::Reordered(seed) => StdRng::seed_from_u64(seed),
            _ => StdRng::seed_from_u64(0),
        };
        let inodes: Vec<Inode> = state
            .inodes
            .iter()
            .map(|inode| {
                let content = inode.after(power, &mut rng);
                Inode { durable: content.clone(), current: content, ..Inode::default() }
            })
            .collect();
        let mut names = state.durable_names.clone();
        for change in &state.pending_names {
            let happens = match power {
                Power::Kept | Power::Torn => true,
                Power::Dropped => false,
                Power::Reordered(_) => rng.random(),
            };
            if happens {
                change.apply(&mut names);
            }
        }
        let next = State {
            inodes,
            durable_names: names.clone(),
            names,
            dirs: state.dirs.clone(),
            capacity: state.capacity,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(next)) }
    }

    /// Returns the disk as the next process finds it after the death of this one, like
    /// [`Power::Kept`]. The rules of [`SimDisk::add_fault`] stay armed.
    pub fn restart(&self) -> Self {
        let next = self.crash(Power::Kept);
        next.state.lock().rules = self.state.lock().rules.clone();
        next
    }

    /// Returns the paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// Changes the content of a file durably, unseen by the program under test.
    ///
    /// # Panics
    ///
    /// Panics if there is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let inode = *state.names.get(path).expect("the file to damage exists");
        let inode = &mut state.inodes[inode];
        change(&mut inode.current);
        inode.durable = inode.current.clone();
        inode.pending.clear();
    }

    /// Returns the file to open.
    fn inode(&self, path: &Path) -> io::Result<usize> {
        let state = self.state.lock();
        state.read_step(Op::Open, path, NO_BYTES)?;
        state.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Removes a file durably, unseen by the program under test.
    pub fn lose(&self, path: &Path) {
        let mut state = self.state.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
    }
}

impl Inode {
    fn after(&self, power: Power, rng: &mut impl Rng) -> Vec<u8> {
        match power {
            Power::Kept => self.current.clone(),
            Power::Dropped => self.durable.clone(),
            Power::Torn => {
                let mut content = self.durable.clone();
                for (number, change) in self.pending.iter().enumerate() {
                    match change {
                        Change::Write { offset, data } if number + 1 == self.pending.len() => {
                            let half = data[..data.len() / 2].to_vec();
                            Change::Write { offset: *offset, data: half }.apply(&mut content);
                        }
                        change => change.apply(&mut content),
                    }
                }
                content
            }
            Power::Reordered(_) => {
                let mut content = self.durable.clone();
                for page in self.pending.iter().flat_map(Change::pages) {
                    if rng.random() {
                        page.apply(&mut content);
                    }
                }
                // The length may be durable even if the pages are not.
                if content.len() < self.current.len() && rng.random() {
                    content.resize(self.current.len(), 0);
                }
                content
            }
        }
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.read_step(Op::CreateDir, path, NO_BYTES)?;
        for dir in path.ancestors() {
            state.dirs.insert(dir.to_owned());
        }
        Ok(())
    }

    fn create_with_mode(&self, path: &Path, _: u32) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.alive()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change_name(NameChange::Create { path: path.to_owned(), inode })?;
        Ok(Box::new(SimFile::new(self, inode, true)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SimFile::new(self, self.inode(path)?, true)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SimFile::new(self, self.inode(path)?, false)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        state.change_name(NameChange::Rename { from, to, inode })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.state.lock().names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Remove { path: path.to_owned() })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state.lock();
        state.read_step(Op::List, dir, NO_BYTES)?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let children = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(children.filter_map(|path| path.file_name()).map(ToOwned::to_owned).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let survives = state.step_whole(Op::SyncDir, dir)?;
        if survives && !state.ignores_dir_syncs {
            let pending = std::mem::take(&mut state.pending_names);
            let (here, elsewhere) =
                pending.into_iter().partition::<Vec<_>, _>(|change| change.dir() == Some(dir));
            for change in here {
                change.apply(&mut state.durable_names);
            }
            state.pending_names = elsewhere;
        }
        state.die_unless(survives)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        state.read_step(Op::Space, dir, NO_BYTES)?;
        let total = state.capacity.unwrap_or(u64::MAX);
        Ok(Space { free: total.saturating_sub(state.used()), total, is_read_only: false })
    }
}
