//! Directories that are listed, and looked into, before the walk gets there.
//!
//! Threads take the directories that the walk will come to next, in the order
//! of paths, and the walk takes what they found. A directory that no thread has
//! begun, the walk lists itself, so it waits only for what is being done.
//!
//! What is absent: any decision. Only directories that the walk will enter are
//! listed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use types::RelPath;

use crate::beneath::Resolution;
use crate::names::{Buffer, ListError, Names};
use crate::root::{LIST, Looked, look, no_atime};
use crate::stat::{Stat, stat_fd};

/// No further directory is begun while this many names are held.
const HELD_MAX: usize = 50_000;
/// In a directory of more names than this only the names are read ahead: the
/// walk looks at what they are.
const LOOKED_MAX: usize = 4096;

/// A directory as it was a short while ago.
pub(crate) struct Listing {
    pub(crate) stat: Stat,
    pub(crate) names: Names,
    /// What is at the names, in their order; empty for a large directory.
    pub(crate) looked: Vec<Option<Result<Looked, Errno>>>,
}

/// The threads, which end when it is dropped.
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    root: OwnedFd,
    resolution: Resolution,
    state: Mutex<State>,
    /// There is something to do, or it is over.
    todo: Condvar,
    /// Something is done.
    done: Condvar,
}

#[derive(Default)]
struct State {
    todo: BTreeSet<RelPath>,
    doing: HashSet<RelPath>,
    done: HashMap<RelPath, Option<Listing>>,
    /// The names in those that are done.
    held: usize,
    is_over: bool,
}

impl State {
    fn next(&mut self) -> Option<RelPath> {
        if self.held < HELD_MAX { self.todo.pop_first() } else { None }
    }

    fn keep(&mut self, path: RelPath, listing: Option<Listing>) {
        self.held += listing.as_ref().map_or(0, |listing| listing.names.len());
        self.done.insert(path, listing);
    }

    fn give(&mut self, path: &RelPath) -> Option<Listing> {
        let listing = self.done.remove(path).flatten()?;
        self.held -= listing.names.len();
        Some(listing)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut buffer = Buffer::new();
        let mut state = self.lock();
        while !state.is_over {
            let Some(path) = state.next() else {
                state = self.todo.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state = self.do_one(state, path, &mut buffer);
            self.done.notify_one();
        }
    }

    fn do_one<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        path: RelPath,
        buffer: &mut Buffer,
    ) -> MutexGuard<'a, State> {
        state.doing.insert(path.clone());
        drop(state);
        let listing = list(self.root.as_fd(), self.resolution, &path, buffer);
        state = self.lock();
        // It may have been forgotten meanwhile.
        if state.doing.remove(&path) {
            state.keep(path, listing.ok());
        }
        state
    }
}

impl Ahead {
    /// `None` without threads, or where the system gives no more of them.
    pub(crate) fn new(
        root: BorrowedFd<'_>,
        resolution: Resolution,
        threads: usize,
    ) -> Option<Self> {
        if threads == 0 {
            return None;
        }
        let shared = Arc::new(Shared {
            root: root.try_clone_to_owned().ok()?,
            resolution,
            state: Mutex::default(),
            todo: Condvar::new(),
            done: Condvar::new(),
        });
        let spawn = |_| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name("walk-ahead".into());
            builder.spawn(move || shared.work()).ok()
        };
        let threads: Vec<_> = (0..threads).map_while(spawn).collect();
        (!threads.is_empty()).then_some(Self { shared, threads })
    }

    pub(crate) fn add(&self, paths: Vec<RelPath>) {
        if !paths.is_empty() {
            self.shared.lock().todo.extend(paths);
            self.shared.todo.notify_all();
        }
    }

    /// What was found in a directory; `None` where nothing was, or it was not
    /// begun, and is not going to be.
    pub(crate) fn take(&self, path: &RelPath, buffer: &mut Buffer) -> Option<Listing> {
        let shared = &self.shared;
        let mut state = shared.lock();
        if state.todo.remove(path) {
            return None;
        }
        while state.doing.contains(path) {
            state = match state.next() {
                // Instead of waiting.
                Some(next) => shared.do_one(state, next, buffer),
                None => shared.done.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let listing = state.give(path);
        if !state.todo.is_empty() {
            shared.todo.notify_one();
        }
        listing
    }

    /// Forgets a directory that the walk does not enter, or is through with,
    /// and what is below it.
    pub(crate) fn forget(&self, dir: &RelPath) {
        let mut state = self.shared.lock();
        state.todo.retain(|path| !path.is_within(dir));
        state.doing.retain(|path| !path.is_within(dir));
        let done: Vec<_> = state.done.keys().filter(|path| path.is_within(dir)).cloned().collect();
        for path in done {
            state.give(&path);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.todo.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn list(
    root: BorrowedFd<'_>,
    resolution: Resolution,
    path: &RelPath,
    buffer: &mut Buffer,
) -> Result<Listing, ListError> {
    let fd = no_atime(LIST, |flags| resolution.open(root, path.as_bytes(), flags))?;
    let stat = stat_fd(fd.as_fd())?;
    let names = Names::read(fd.as_fd(), buffer)?;
    let mut looked = Vec::new();
    if names.len() <= LOOKED_MAX {
        let all = (0..names.len()).filter_map(|number| names.get(number));
        looked = all.map(|(name, kind)| Some(look(fd.as_fd(), name, kind))).collect();
    }
    Ok(Listing { stat, names, looked })
}
