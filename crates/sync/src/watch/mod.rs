//! Watching directories by inotify: one instance and one thread for all
//! folders.
//!
//! What comes of it are hints: where to look. Whoever looks adds a directory
//! first and lists it then, so that what happens in between is told or seen;
//! adds what is below a directory that is new; and removes what is gone.
//!
//! **Invariants.** A directory is watched through its descriptor, so no link
//! leads elsewhere. A change in a watched directory is told; if the system lost
//! events, [`Hint::Overflow`] is. What is not watched is never said to be.
//!
//! Not told: changes through a shared memory map before the file is closed,
//! those made by other machines on a network file system, and a rename above
//! the root. Looking through the folder now and then finds them.

mod hints;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use types::RelPath;

pub(crate) use hints::Hint;
use hints::{Event, Hints, State};

/// What is asked for. `MODIFY`, since a log is written to and never closed;
/// `CLOSE_WRITE`, since writing through a memory map is no `MODIFY`. Not about
/// files that were deleted and are still open.
const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// After hints were handed over, the next ones are collected for this long: a
/// storm of writes costs a few hundred looks at the queue a second, in which
/// the system has merged most of it.
const PAUSE: Duration = Duration::from_millis(10);

/// After the queue could not be read.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// How much is read at a time, in bytes: one or two thousand events.
const BUFFER_LEN: usize = 64 << 10;

/// How often is read before hints are handed over: a queue of the usual length
/// (`fs.inotify.max_queued_events`) fits, and hints stay within some MiB.
const READS_MAX: usize = 16;

/// After so many watches were removed, what the system says to that is read:
/// a quarter of the usual queue.
const REMOVALS_MAX: usize = 4096;

/// What became of the wish to watch a directory.
#[derive(Debug)]
pub(crate) enum AddDir {
    /// It is watched, as of now or already.
    Watched,
    /// There are as many as there may be: by the limit, or by
    /// `fs.inotify.max_user_watches`.
    LimitReached,
    /// It is not there any more.
    Gone,
    /// The system refused: as a rule, a directory that may not be read.
    Failed(io::Error),
}

/// See the module. Dropping it ends its thread.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inotify: OwnedFd,
    /// Readable when the thread is to end, or to hand over what waits.
    bell: OwnedFd,
    stopping: AtomicBool,
    limit: usize,
    /// Locked before `state`.
    buffer: Mutex<Vec<MaybeUninit<u8>>>,
    state: Mutex<State>,
    wake: Box<dyn Fn(u32, Hint) + Send + Sync>,
}

impl Watcher {
    /// Starts the thread. `wake` is called with hints, by the folder's number,
    /// from that thread alone, with no lock held. While it blocks, events wait;
    /// when too many do, they become an overflow. At most `limit` directories
    /// are watched.
    ///
    /// # Errors
    ///
    /// The system's: as a rule, too many inotify instances of this user.
    pub(crate) fn start(
        limit: Option<usize>,
        wake: impl Fn(u32, Hint) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stopping: AtomicBool::new(false),
            limit: limit.unwrap_or(usize::MAX),
            buffer: Mutex::new(vec![MaybeUninit::uninit(); BUFFER_LEN]),
            state: Mutex::new(State::new()),
            wake: Box::new(wake),
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || of_thread.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Watches a directory, at `fd`, that is at `dir` in the folder. If another
    /// one was watched there, it is not any more. To be called before the
    /// directory is listed.
    pub(crate) fn add_dir(&self, folder: u32, dir: &RelPath, fd: BorrowedFd<'_>) -> AddDir {
        // The lock is held until the descriptor is known here: its events are
        // not read before.
        let mut state = self.shared.state.lock();
        let known = state.tree.find(folder, dir).and_then(|id| state.tree.wd(id));
        if known.is_none() && state.tree.descriptors() >= self.shared.limit {
            return AddDir::LimitReached;
        }
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        match inotify::add_watch(&self.shared.inotify, path.as_str(), MASK) {
            Ok(wd) => {
                let id = state.tree.make(folder, dir);
                if let Some(orphan) = state.tree.set_wd(id, Some(wd)) {
                    self.shared.unwatch(&mut state, orphan);
                }
                AddDir::Watched
            }
            Err(Errno::NOSPC) => AddDir::LimitReached,
            Err(Errno::NOENT) if rustix::fs::stat("/proc/self/fd").is_ok() => AddDir::Gone,
            Err(Errno::NOENT) => {
                AddDir::Failed(io::Error::other("watching takes /proc, which is not mounted"))
            }
            Err(errno) => AddDir::Failed(errno.into()),
        }
    }

    /// Watches a directory and all below it no more.
    pub(crate) fn remove_below(&self, folder: u32, dir: &RelPath) {
        let orphans = {
            let tree = &mut self.shared.state.lock().tree;
            tree.find(folder, dir).map(|id| tree.remove(id))
        };
        self.shared.unwatch_all(&orphans.unwrap_or_default());
    }

    /// Watches nothing of a folder any more.
    pub(crate) fn remove_folder(&self, folder: u32) {
        self.remove_below(folder, &RelPath::root());
    }

    /// How many directories of a folder are watched.
    pub(crate) fn watched(&self, folder: u32) -> u64 {
        self.shared.state.lock().tree.watched(folder)
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.ring();
        if let Some(thread) = self.thread.take()
            // It may be dropped by what `wake` calls.
            && thread.thread().id() != std::thread::current().id()
        {
            // It panicked if `wake` did, which has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            let mut fds =
                [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN)];
            let waited = poll(&mut fds, None).map(|_| ());
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            // It is silent again, and if it was silent before, that is no error.
            let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
            match waited.and_then(|()| self.hand_over()) {
                Ok(()) | Err(Errno::INTR) => self.pause(PAUSE),
                Err(errno) => {
                    tracing::warn!("cannot read what changed in folders: {errno}");
                    let mut hints = Hints::default();
                    self.state.lock().lost(&mut hints);
                    self.wake_all(hints);
                    self.pause(ERROR_PAUSE);
                }
            }
        }
    }

    /// Waits, unless it is to end.
    fn pause(&self, time: Duration) {
        let time = Timespec::try_from(time).ok();
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN)];
        // Whatever ends the wait early, it is no worse than not waiting.
        let _ = poll(&mut fds, time.as_ref());
    }

    fn ring(&self) {
        // It cannot fail: nobody has rung four thousand million times before.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Lets the thread hand over hints.
    fn hand_over_later(&self, hints: impl IntoIterator<Item = (u32, Hint)>) {
        self.state.lock().waiting.extend(hints);
        self.ring();
    }

    /// Reads what there is, and hands over what follows from it.
    fn hand_over(&self) -> Result<(), Errno> {
        let mut hints = Hints::default();
        hints.set.append(&mut self.state.lock().waiting);
        let result = self.collect(&mut hints);
        self.wake_all(hints);
        result
    }

    fn wake_all(&self, hints: Hints) {
        for (folder, hint) in hints.set {
            (self.wake)(folder, hint);
        }
    }

    fn collect(&self, hints: &mut Hints) -> Result<(), Errno> {
        let mut buffer = self.buffer.lock();
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        for _ in 0..READS_MAX {
            // Between reads others have their turn.
            let mut state = self.state.lock();
            hints.tree_changed();
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(errno),
                };
                let name = event.file_name().map(std::ffi::CStr::to_bytes);
                state.take(Event { wd: event.wd(), mask: event.events(), name }, hints);
                if reader.is_buffer_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn unwatch(&self, state: &mut State, wd: i32) {
        // It fails if the system has removed it already, as the directory was
        // deleted.
        if inotify::remove_watch(&self.inotify, wd).is_ok() {
            state.expect_ignored(wd);
        }
    }

    fn unwatch_all(&self, orphans: &[i32]) {
        for some in orphans.chunks(REMOVALS_MAX) {
            {
                let mut state = self.state.lock();
                for wd in some {
                    // Somebody may have added it again meanwhile.
                    if state.tree.of_wd(*wd).is_empty() {
                        self.unwatch(&mut state, *wd);
                    }
                }
            }
            // Each removal is an event: too many would drive out those that
            // matter. If it fails, the thread fails too, and tells.
            if some.len() == REMOVALS_MAX {
                let mut hints = Hints::default();
                let _ = self.collect(&mut hints);
                self.hand_over_later(hints.set);
            }
        }
    }
}
