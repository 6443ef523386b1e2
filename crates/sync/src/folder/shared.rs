//! What a folder's task is told, by whom ever, while it works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use store::FileId;
use tokio::sync::oneshot;
use types::{FolderId, PublishedManifest, RelPath};

use crate::error::SyncError;
use crate::path_key::FolderNumber;
use crate::scan::Targets;
use crate::schedule::{Span, Times};
use crate::settings::FolderSettings;
use crate::status::Progress;
use crate::watch::Hint;

/// Work that has come no further for this long is said to be stalled.
const STALL: Duration = Duration::from_secs(30);
/// More files than this are not remembered as changing too often.
const HOT_MAX: usize = 1000;

/// How a folder is to be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) folder: FolderSettings,
    pub(crate) times: Times,
}

/// Somebody who waits for a scan.
pub(crate) type ScanReply = oneshot::Sender<Result<PublishedManifest, SyncError>>;
/// Somebody who waits for a confirmation.
pub(crate) type ConfirmReply = oneshot::Sender<Result<(), SyncError>>;

/// What has to be answered.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) config: Option<Config>,
    pub(crate) scans: Vec<ScanReply>,
    pub(crate) confirms: Vec<ConfirmReply>,
    pub(crate) is_stop: bool,
}

/// What is to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Dirt {
    pub(crate) targets: Targets,
    /// Files whose content is not what it was, whatever their stamp says.
    pub(crate) suspects: BTreeSet<RelPath>,
    pub(crate) hints: Option<Span>,
}

#[derive(Debug, Default)]
struct Inbox {
    requests: Requests,
    dirt: Dirt,
    /// How many versions of files were found changed when somebody asked for a
    /// block, and the last of them.
    hot: BTreeMap<RelPath, (FileId, u32)>,
    has_news: bool,
    /// Nobody reads it any more.
    is_closed: bool,
}

/// How much was done, ever.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) entries: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) in_work: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: FolderId,
    pub(crate) number: FolderNumber,
    pub(crate) counters: Counters,
    inbox: Mutex<Inbox>,
    news: Condvar,
    is_interrupted: AtomicBool,
    /// What was done before the work under way.
    base: Mutex<Progress>,
    begun: Instant,
    moved_ms: AtomicU64,
    is_working: AtomicBool,
}

impl Shared {
    pub(crate) fn new(id: FolderId, number: FolderNumber) -> Self {
        Self {
            id,
            number,
            counters: Counters::default(),
            inbox: Mutex::default(),
            news: Condvar::new(),
            is_interrupted: AtomicBool::new(false),
            base: Mutex::default(),
            begun: Instant::now(),
            moved_ms: AtomicU64::new(0),
            is_working: AtomicBool::new(false),
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        change(&mut inbox);
        inbox.has_news = true;
        self.news.notify_one();
    }

    /// Something may have changed.
    pub(crate) fn hint(&self, hint: Hint, now: Duration) {
        self.tell(|inbox| {
            let dirt = &mut inbox.dirt;
            dirt.hints = Some(Span::with(dirt.hints, now));
            match hint {
                Hint::Dirty(dir) => dirt.targets.add_dir(dir, false),
                Hint::DirtyBelow(dir) => dirt.targets.add_dir(dir, true),
                Hint::Overflow | Hint::RootGone => dirt.targets = Targets::all(),
            }
        });
    }

    /// A file is not what its row says. `written` is the version of it that
    /// something else was written over, where it was that.
    pub(crate) fn suspect(&self, path: RelPath, written: Option<FileId>, now: Duration) {
        self.tell(|inbox| {
            let dirt = &mut inbox.dirt;
            dirt.hints = Some(Span::with(dirt.hints, now));
            if let Some(id) = written
                && (inbox.hot.len() < HOT_MAX || inbox.hot.contains_key(&path))
            {
                let (last, count) = inbox.hot.entry(path.clone()).or_insert((id, 0));
                // All blocks of a version are asked for: that is one change.
                if *count == 0 || *last != id {
                    (*last, *count) = (id, *count + 1);
                }
            }
            dirt.targets.add_file(path.clone());
            dirt.suspects.insert(path);
        });
    }

    /// The files of which at least so many versions were found changed.
    pub(crate) fn hot(&self, count: u32) -> Vec<RelPath> {
        let inbox = self.inbox.lock();
        inbox.hot.iter().filter(|(_, (_, n))| *n >= count).map(|(path, _)| path.clone()).collect()
    }

    /// Asks for something; where nobody is there to answer, the reply is
    /// dropped, which whoever waits for it hears.
    fn ask(&self, ask: impl FnOnce(&mut Requests)) {
        self.tell(|inbox| {
            ask(&mut inbox.requests);
            if inbox.is_closed {
                inbox.requests = Requests::default();
            }
        });
    }

    /// Nobody does the work any more.
    pub(crate) fn close(&self) {
        self.tell(|inbox| {
            inbox.is_closed = true;
            inbox.requests = Requests::default();
        });
    }

    pub(crate) fn request_scan(&self, reply: ScanReply) {
        self.ask(|requests| requests.scans.push(reply));
    }

    pub(crate) fn request_confirm(&self, reply: ConfirmReply) {
        self.ask(|requests| requests.confirms.push(reply));
    }

    pub(crate) fn configure(&self, config: Config) {
        self.tell(|inbox| {
            self.is_interrupted.store(true, Ordering::Release);
            inbox.requests.config = Some(config);
        });
    }

    pub(crate) fn stop(&self) {
        self.tell(|inbox| {
            self.is_interrupted.store(true, Ordering::Release);
            inbox.requests.is_stop = true;
        });
    }

    /// Whether the work under way is to be given up.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.moved();
        self.is_interrupted.load(Ordering::Acquire)
    }

    /// What was asked since the last call, and when hints came.
    pub(crate) fn take_requests(&self) -> (Requests, Option<Span>) {
        let mut inbox = self.inbox.lock();
        inbox.has_news = false;
        let requests = std::mem::take(&mut inbox.requests);
        if !requests.is_stop {
            self.is_interrupted.store(false, Ordering::Release);
        }
        (requests, inbox.dirt.hints)
    }

    /// What is to be looked at; hints from now on are new ones.
    pub(crate) fn take_dirt(&self) -> Dirt {
        std::mem::take(&mut self.inbox.lock().dirt)
    }

    /// Waits until something is told, at most so long.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let mut inbox = self.inbox.lock();
        if inbox.has_news {
            return;
        }
        match timeout {
            Some(timeout) => {
                self.news.wait_for(&mut inbox, timeout);
            }
            None => self.news.wait(&mut inbox),
        }
    }

    fn total(&self) -> Progress {
        let counters = &self.counters;
        Progress {
            entries: counters.entries.load(Ordering::Relaxed),
            files: counters.files.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            in_work: counters.in_work.load(Ordering::Relaxed),
        }
    }

    /// Work begins, or ends.
    pub(crate) fn set_working(&self, is_working: bool) {
        if is_working {
            *self.base.lock() = self.total();
        }
        self.moved();
        self.is_working.store(is_working, Ordering::Release);
    }

    fn moved(&self) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(ms, Ordering::Relaxed);
    }

    /// How far the work is that is under way, or was last.
    pub(crate) fn progress(&self) -> Progress {
        // The base first: work that begins in between moves it.
        let base = *self.base.lock();
        let total = self.total();
        Progress {
            entries: total.entries.saturating_sub(base.entries),
            files: total.files.saturating_sub(base.files),
            bytes: total.bytes.saturating_sub(base.bytes),
            in_work: total.in_work,
        }
    }

    /// How many files were read since the start.
    pub(crate) fn files_read(&self) -> u64 {
        self.counters.files.load(Ordering::Relaxed)
    }

    /// Since when work has come no further, where that is long ago.
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        if !self.is_working.load(Ordering::Acquire) {
            return None;
        }
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        Some(self.begun.elapsed().saturating_sub(moved)).filter(|stalled| *stalled >= STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn hints_come_together_and_a_lost_one_means_everything() {
        let shared = Shared::new("docs".parse().unwrap(), 1);
        shared.hint(Hint::Dirty(path("a")), Duration::from_secs(1));
        shared.hint(Hint::DirtyBelow(path("a")), Duration::from_secs(2));
        shared.hint(Hint::Dirty(path("b")), Duration::from_secs(3));
        let dirt = shared.take_dirt();
        let dirs: Vec<_> = dirt.targets.dirs.into_iter().collect();
        assert_eq!(dirs, [(path("a"), true), (path("b"), false)]);
        let span = Span { first: Duration::from_secs(1), last: Duration::from_secs(3) };
        assert_eq!(dirt.hints, Some(span));
        assert!(shared.take_dirt().targets.is_empty());
        for lost in [Hint::Overflow, Hint::RootGone] {
            shared.hint(Hint::Dirty(path("a")), Duration::from_secs(4));
            shared.hint(lost, Duration::from_secs(5));
            assert!(shared.take_dirt().targets.is_all());
        }
    }

    #[test]
    fn too_many_directories_are_everything() {
        let shared = Shared::new("docs".parse().unwrap(), 1);
        for number in 0..25_000 {
            shared.hint(Hint::Dirty(path(&format!("d{number}"))), Duration::ZERO);
        }
        assert!(shared.take_dirt().targets.is_all());
    }

    #[test]
    fn files_that_change_whenever_they_are_asked_for_are_hot() {
        let shared = Shared::new("docs".parse().unwrap(), 1);
        for version in 0..3 {
            shared.suspect(path("hot"), Some(FileId(version)), Duration::ZERO);
            // Its disk is not there, so that nobody can tell.
            shared.suspect(path("away"), None, Duration::ZERO);
            // A large file has many blocks.
            shared.suspect(path("once"), Some(FileId(7)), Duration::ZERO);
        }
        assert_eq!(shared.hot(3), [path("hot")]);
        assert_eq!(shared.hot(1), [path("hot"), path("once")]);
        assert_eq!(shared.take_dirt().suspects.len(), 3);
    }

    #[test]
    fn progress_never_goes_below_nothing() {
        let shared = Shared::new("docs".parse().unwrap(), 1);
        shared.counters.files.store(3, Ordering::Relaxed);
        // Work that begins while somebody asks.
        *shared.base.lock() = Progress { entries: 1, files: 1, bytes: 1, in_work: 0 };
        assert_eq!(shared.progress(), Progress { files: 2, ..Progress::default() });
    }

    #[test]
    fn what_is_told_while_nobody_waits_is_not_lost() {
        let shared = Shared::new("docs".parse().unwrap(), 1);
        shared.stop();
        assert!(shared.is_interrupted());
        // It does not wait.
        shared.wait(None);
        assert!(shared.take_requests().0.is_stop);
        assert!(shared.is_interrupted(), "a stop is for good");
    }
}
