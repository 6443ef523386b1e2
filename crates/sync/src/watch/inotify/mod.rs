//! Watching directories by inotify: one instance and one thread for all folders.
//!
//! Each directory has a watch of its own. [`tree`] maps watch descriptors to paths,
//! [`events`] turns the events of the system into hints.
//!
//! **Invariant.** A directory is watched through its descriptor, so no symbolic link leads a
//! watch elsewhere.
//!
//! inotify does not report changes through a shared memory map before the file is closed,
//! changes made by other machines on a network file system, and a rename above the root. The
//! regular full scan finds them.

mod events;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fstree::{SourceTree, TreeReader as _, mounts_below};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use types::RelPath;

use super::{Hint, HintSink, WatchResult, Watcher};
use crate::path_key::FolderNumber;
use events::{Event, Hints, State};

/// Events that each watch requests. `MODIFY` is included because a log is written to and
/// never closed; `CLOSE_WRITE` because a write through a memory map causes no `MODIFY`.
/// `EXCL_UNLINK` leaves out files that were deleted and are still open.
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

/// Pause after hints were delivered, in which the system merges further events: a storm of
/// writes costs a few hundred reads of the queue a second at most.
const PAUSE: Duration = Duration::from_millis(10);

/// Pause after the queue could not be read.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Number of bytes that are read at a time: one or two thousand events.
const BUFFER_LEN: usize = 64 << 10;

/// Maximum number of reads before hints are delivered: enough for a queue of the usual
/// length (`fs.inotify.max_queued_events`), and hints stay within a few MiB.
const READS_MAX: usize = 16;

/// Maximum number of mounts in folders that are noted.
const MOUNTS_MAX: usize = 10_000;

/// Number of removed watches after which the queue is read, since each removal is an event:
/// a quarter of the usual queue.
const REMOVALS_MAX: usize = 4096;

/// The watcher for Linux. Dropping it ends its thread.
pub(super) struct InotifyWatcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inotify: OwnedFd,
    /// Readable when the thread must end, or must deliver hints that wait.
    bell: OwnedFd,
    stopping: AtomicBool,
    /// The list of mounts, which reports changes to `poll`; `None` without `/proc`.
    mounts: Option<File>,
    limit: usize,
    /// Locked before `state`.
    buffer: Mutex<Vec<MaybeUninit<u8>>>,
    state: Mutex<State>,
    /// Number of threads that have read events whose hints are not delivered yet.
    delivering: AtomicUsize,
    /// All events until this time were delivered.
    delivered_until: Mutex<Instant>,
    sink: HintSink,
}

impl InotifyWatcher {
    /// Starts the thread. Only that thread calls `sink`, with no lock held. While `sink`
    /// blocks, events wait; too many of them become an overflow. At most `limit`
    /// directories are watched.
    ///
    /// # Errors
    ///
    /// The error of the system: usually, the user has too many inotify instances.
    pub(super) fn start(limit: Option<usize>, sink: HintSink) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stopping: AtomicBool::new(false),
            mounts: File::open("/proc/self/mountinfo").ok(),
            limit: limit.unwrap_or(usize::MAX),
            buffer: Mutex::new(vec![MaybeUninit::uninit(); BUFFER_LEN]),
            state: Mutex::new(State::new()),
            delivering: AtomicUsize::new(0),
            delivered_until: Mutex::new(Instant::now()),
            sink,
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || of_thread.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Watches the directory that is open at `fd` under the path `dir` of the folder.
    fn watch_fd(&self, folder: FolderNumber, dir: &RelPath, fd: BorrowedFd<'_>) -> WatchResult {
        // The lock is held until the tree has the new watch descriptor, so that its events
        // are not read before.
        let mut state = self.shared.state.lock();
        let known = state.tree.find(folder, dir).and_then(|id| state.tree.wd(id));
        if known.is_none() && state.tree.descriptors() >= self.shared.limit {
            return WatchResult::LimitReached;
        }
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if dir.is_root()
            && let Ok(root) = std::fs::read_link(&path)
        {
            let mounts = mounts_below(&root);
            state.root_watched(folder, root, mounts);
        }
        match inotify::add_watch(&self.shared.inotify, path.as_str(), MASK) {
            Ok(wd) => {
                let id = state.tree.make(folder, dir);
                if let Some(orphan) = state.tree.set_wd(id, Some(wd)) {
                    self.shared.unwatch(&mut state, orphan);
                }
                WatchResult::Watched
            }
            Err(Errno::NOSPC) => WatchResult::LimitReached,
            Err(Errno::NOENT) if rustix::fs::stat("/proc/self/fd").is_ok() => WatchResult::Gone,
            Err(Errno::NOENT) => {
                WatchResult::Failed(io::Error::other("watching needs /proc, which is not mounted"))
            }
            Err(errno) => WatchResult::Failed(errno.into()),
        }
    }
}

impl Watcher for InotifyWatcher {
    fn watch_dir(&self, folder: FolderNumber, root: &SourceTree, dir: &RelPath) -> WatchResult {
        // A directory that cannot be opened is gone, or the scan reports the reason.
        let Ok(fd) = root.dir_handle(dir) else { return WatchResult::Gone };
        self.watch_fd(folder, dir, fd.as_fd())
    }

    fn note_mount(&self, folder: FolderNumber, dir: &RelPath) {
        let mounts = &mut self.shared.state.lock().mounts;
        if mounts.len() < MOUNTS_MAX {
            mounts.insert((folder, dir.clone()));
        }
    }

    fn unwatch_below(&self, folder: FolderNumber, dir: &RelPath) {
        let orphans = {
            let state = &mut self.shared.state.lock();
            // A file system that is mounted on the directory itself is what hides it.
            let stays = |mount: &RelPath| mount == dir || !mount.is_within(dir);
            state.mounts.retain(|(other, mount)| *other != folder || stays(mount));
            state.tree.find(folder, dir).map(|id| state.tree.remove(id))
        };
        self.shared.unwatch_all(&orphans.unwrap_or_default());
    }

    fn unread_time(&self) -> Duration {
        let delivered_until = *self.shared.delivered_until.lock();
        match self.shared.is_delivered() {
            true => Duration::ZERO,
            false => delivered_until.elapsed(),
        }
    }

    fn watched(&self, folder: FolderNumber) -> u64 {
        self.shared.state.lock().tree.watched(folder)
    }
}

impl std::fmt::Debug for InotifyWatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InotifyWatcher").finish_non_exhaustive()
    }
}

impl Drop for InotifyWatcher {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.ring();
        if let Some(thread) = self.thread.take()
            // The sink may drop the watcher.
            && thread.thread().id() != std::thread::current().id()
        {
            // The thread panicked only if the sink did, which has been printed.
            let _ = thread.join();
        }
    }
}

/// State of the queue of events after it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Empty,
    MayHaveMore,
}

impl Shared {
    fn run(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            let mut fds = vec![
                PollFd::new(&self.inotify, PollFlags::IN),
                PollFd::new(&self.bell, PollFlags::IN),
            ];
            fds.extend(self.mounts.as_ref().map(|mounts| PollFd::new(mounts, PollFlags::PRI)));
            let waited = poll(&mut fds, None).map(|_| ());
            if fds.get(2).is_some_and(|mounts| mounts.revents().contains(PollFlags::PRI)) {
                self.mounts_changed();
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            // Silences the bell. An error here says that it was silent already.
            let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
            match waited.and_then(|()| self.deliver()) {
                Ok(()) | Err(Errno::INTR) => self.pause(PAUSE),
                Err(errno) => {
                    tracing::warn!(
                        "cannot read inotify events: {errno}; all folders will be scanned"
                    );
                    let mut hints = Hints::default();
                    self.state.lock().lost(&mut hints);
                    self.send_all(hints);
                    self.pause(ERROR_PAUSE);
                }
            }
        }
    }

    /// Adds hints for the mounts below the folders that are new or gone.
    fn mounts_changed(&self) {
        let roots = self.state.lock().roots();
        let found = roots.into_iter().map(|(folder, root)| (folder, mounts_below(&root)));
        let found: Vec<_> = found.collect();
        self.state.lock().mounts_changed(found);
    }

    /// Waits, unless the bell rings.
    fn pause(&self, time: Duration) {
        let time = Timespec::try_from(time).ok();
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN)];
        // A wait that fails is as good as a short one.
        let _ = poll(&mut fds, time.as_ref());
    }

    fn ring(&self) {
        // The write fails only if the counter of 64 bits is full.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Has the thread deliver hints.
    fn deliver_later(&self, hints: impl IntoIterator<Item = (u32, Hint)>) {
        self.state.lock().waiting.extend(hints);
        self.ring();
    }

    /// Reads the events that wait, and delivers the hints that follow from them.
    fn deliver(&self) -> Result<(), Errno> {
        self.delivering.fetch_add(1, Ordering::SeqCst);
        let started = Instant::now();
        let mut hints = Hints::default();
        hints.set.append(&mut self.state.lock().waiting);
        let result = self.collect(&mut hints);
        self.send_all(hints);
        if let Ok(Queue::Empty) = result {
            *self.delivered_until.lock() = started;
        }
        self.delivering.fetch_sub(1, Ordering::SeqCst);
        result.map(|_| ())
    }

    /// Reports whether hints were delivered for all events until now.
    fn is_delivered(&self) -> bool {
        // In this order: an event that leaves the queue meanwhile is being delivered.
        let is_empty = rustix::io::ioctl_fionread(&self.inotify).is_ok_and(|bytes| bytes == 0);
        is_empty
            && self.delivering.load(Ordering::SeqCst) == 0
            && self.state.lock().waiting.is_empty()
    }

    fn send_all(&self, hints: Hints) {
        for (folder, hint) in hints.set {
            (self.sink)(folder, hint);
        }
    }

    fn collect(&self, hints: &mut Hints) -> Result<Queue, Errno> {
        let mut buffer = self.buffer.lock();
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        for _ in 0..READS_MAX {
            // Other threads get the lock between two reads.
            let mut state = self.state.lock();
            hints.tree_changed();
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(Errno::AGAIN) => return Ok(Queue::Empty),
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
        Ok(Queue::MayHaveMore)
    }

    fn unwatch(&self, state: &mut State, wd: i32) {
        // The call fails if the system has already removed the watch because the directory
        // was deleted.
        if inotify::remove_watch(&self.inotify, wd).is_ok() {
            state.expect_ignored(wd);
        }
    }

    fn unwatch_all(&self, orphans: &[i32]) {
        for some in orphans.chunks(REMOVALS_MAX) {
            {
                let mut state = self.state.lock();
                for wd in some {
                    // Another scan may have watched the directory again meanwhile.
                    if state.tree.of_wd(*wd).is_empty() {
                        self.unwatch(&mut state, *wd);
                    }
                }
            }
            // Each removal is an event, and too many of them would push real events out of
            // the queue. If reading fails here, it fails in the thread, too, which logs it.
            if some.len() == REMOVALS_MAX {
                self.delivering.fetch_add(1, Ordering::SeqCst);
                let mut hints = Hints::default();
                let _ = self.collect(&mut hints);
                self.deliver_later(hints.set);
                self.delivering.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}
