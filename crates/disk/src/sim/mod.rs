//! A disk in memory that fails on demand and loses power.
//!
//! The disk separates the content that a program sees from the content that a
//! power cut leaves: written bytes survive only after `sync` of their file,
//! names only after `sync_dir` of their directory. Every operation that changes
//! the disk has a number, so that a test can run the same work once for each
//! number N and fail, or cut the power, at the Nth operation.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt as _, SeedableRng};

use crate::disk::{Disk, DiskFile, Space};

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
    locked: bool,
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

impl State {
    /// Counts an operation and returns the fault that it must suffer, if any.
    fn step(&mut self) -> Result<(), Fault> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if at == number => Err(fault),
            Some((at, fault @ Fault::FailForever(_))) if at < number => Err(fault),
            _ => Ok(()),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(dead()) } else { Ok(()) }
    }

    /// Counts an operation that has no effect if it fails. Returns `Ok(false)` if
    /// the process dies after the operation.
    fn step_whole(&mut self) -> io::Result<bool> {
        self.alive()?;
        match self.step() {
            Ok(()) => Ok(true),
            Err(Fault::Die) => Ok(false),
            Err(Fault::Fail(kind) | Fault::FailForever(kind)) => Err(kind.into()),
        }
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        let survives = self.step_whole()?;
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
                inodes: state.inodes.iter().map(|i| Inode { locked: false, ..i.clone() }).collect(),
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
        state.alive()?;
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
        Ok(Box::new(SimFile { disk: self.clone(), inode, has_lock: false.into() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state.lock();
        state.alive()?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode, has_lock: false.into() }))
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
        state.alive()?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let children = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(children.filter_map(|path| path.file_name()).map(ToOwned::to_owned).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let survives = state.step_whole()?;
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

    fn space(&self, _: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        state.alive()?;
        let total = state.capacity.unwrap_or(u64::MAX);
        Ok(Space { free: total.saturating_sub(state.used()), total })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
    has_lock: std::sync::atomic::AtomicBool,
}

impl SimFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.alive()?;
        let growth = match &change {
            Change::Write { offset, data } => {
                (offset + data.len()).saturating_sub(state.inodes[self.inode].current.len()) as u64
            }
            Change::Truncate(_) => 0,
        };
        let full = state.capacity.is_some_and(|capacity| state.used() + growth > capacity);
        let outcome = if full && growth > 0 {
            state.operations += 1;
            Err(Fault::Fail(io::ErrorKind::StorageFull))
        } else {
            state.step()
        };
        let applied = match (&outcome, change) {
            (Err(Fault::Fail(_) | Fault::FailForever(_)), Change::Truncate(_)) => None,
            // A write that fails may have happened in part.
            (Err(Fault::Fail(_) | Fault::FailForever(_)), Change::Write { offset, mut data }) => {
                data.truncate(if full { 0 } else { data.len() / 2 });
                Some(Change::Write { offset, data })
            }
            (Ok(()) | Err(Fault::Die), change) => Some(change),
        };
        if let Some(change) = applied {
            let inode = &mut state.inodes[self.inode];
            change.apply(&mut inode.current);
            inode.pending.push(change);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(Fault::Die) => state.die_unless(false),
            Err(Fault::Fail(kind) | Fault::FailForever(kind)) => Err(kind.into()),
        }
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state.lock();
        state.alive()?;
        let content = &state.inodes[self.inode].current;
        let start = position(offset)?.min(content.len());
        let len = buf.len().min(content.len() - start);
        buf[..len].copy_from_slice(&content[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.change(Change::Write { offset: position(offset)?, data: parts.concat() })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        match state.step_whole() {
            Ok(survives) => {
                if survives && !state.ignores_file_syncs {
                    let inode = &mut state.inodes[self.inode];
                    for change in std::mem::take(&mut inode.pending) {
                        change.apply(&mut inode.durable);
                    }
                }
                state.die_unless(survives)
            }
            Err(error) => {
                // The system regards the pages as clean now and will never
                // write them.
                state.inodes[self.inode].pending.clear();
                Err(error)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state.lock();
        state.alive()?;
        Ok(state.inodes[self.inode].current.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Change::Truncate(position(len)?))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.write_at(&[&vec![0; position(len)?]], 0)
    }

    fn lock(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.alive()?;
        let inode = &mut state.inodes[self.inode];
        if inode.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        inode.locked = true;
        self.has_lock.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn copy_permissions(&self, _: &Path) -> io::Result<()> {
        self.disk.state.lock().alive()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if *self.has_lock.get_mut() {
            self.disk.state.lock().inodes[self.inode].locked = false;
        }
    }
}
