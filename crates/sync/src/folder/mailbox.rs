//! The mailbox of a folder's thread: requests, hints and suspect files from other threads,
//! for the thread to process when it comes to them.
//!
//! **Invariant.** A message that arrives while the thread works is kept until the thread
//! reads it. A request that nobody will read any more is dropped, which its sender notices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

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
use crate::work_monitor::WorkMonitor;

/// Maximum number of files of a folder that are remembered as changing too often.
const HOT_MAX: usize = 1000;

/// The settings that apply to one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) folder: FolderSettings,
    pub(crate) times: Times,
}

/// Receives the result of a requested scan.
pub(crate) type ScanReply = oneshot::Sender<Result<PublishedManifest, SyncError>>;
/// Receives the result of a confirmation.
pub(crate) type ConfirmReply = oneshot::Sender<Result<(), SyncError>>;

/// Requests that wait for the folder's thread.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) config: Option<Config>,
    pub(crate) scans: Vec<ScanReply>,
    pub(crate) confirms: Vec<ConfirmReply>,
    pub(crate) is_stop: bool,
}

/// The part of a folder that has to be scanned.
#[derive(Debug, Default)]
pub(crate) struct PendingScan {
    pub(crate) targets: Targets,
    /// Files to be read even if their stamp has not changed: a block of each was requested,
    /// and its bytes were other ones.
    pub(crate) suspects: BTreeSet<RelPath>,
    /// The versions of `suspects` of which a block was requested that can no longer be had.
    pub(crate) lost: BTreeMap<RelPath, FileId>,
    /// When the first and the last of the hints arrived.
    pub(crate) hints: Option<Span>,
}

#[derive(Debug, Default)]
struct Contents {
    requests: Requests,
    pending_scan: PendingScan,
    /// For each file: the last version that was found overwritten when one of its blocks
    /// was requested, and the number of such versions.
    hot: BTreeMap<RelPath, (FileId, u32)>,
    has_news: bool,
    /// True if the thread has ended: nobody reads requests any more.
    is_closed: bool,
}

/// The mailbox of one folder's thread. See the module.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) id: FolderId,
    pub(crate) number: FolderNumber,
    pub(crate) monitor: Arc<WorkMonitor>,
    /// The monitor of the lane of long files.
    pub(crate) long_monitor: Arc<WorkMonitor>,
    contents: Mutex<Contents>,
    news: Condvar,
}

impl Mailbox {
    pub(crate) fn new(id: FolderId, number: FolderNumber) -> Self {
        Self {
            id,
            number,
            monitor: Arc::new(WorkMonitor::new()),
            long_monitor: Arc::new(WorkMonitor::new()),
            contents: Mutex::default(),
            news: Condvar::new(),
        }
    }

    /// Returns how far the current work is, or how far the last one came.
    pub(crate) fn progress(&self) -> Progress {
        let (scan, long) = (self.monitor.progress(), self.long_monitor.progress());
        Progress {
            entries: scan.entries,
            files: scan.files + long.files,
            bytes: scan.bytes + long.bytes,
            in_work: scan.in_work + long.in_work,
        }
    }

    /// Returns the number of files that were read since the start.
    pub(crate) fn files_read(&self) -> u64 {
        self.monitor.files_read() + self.long_monitor.files_read()
    }

    /// See [`crate::FolderStatus::stalled_for`].
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        self.monitor.stalled_for().max(self.long_monitor.stalled_for())
    }

    fn post(&self, change: impl FnOnce(&mut Contents)) {
        let mut contents = self.contents.lock();
        change(&mut contents);
        contents.has_news = true;
        self.news.notify_one();
    }

    /// Wakes the thread up, because a file of the lane was read.
    pub(crate) fn wake(&self) {
        self.post(|_| ());
    }

    /// Posts a hint of the watcher, which arrived at `now`.
    pub(crate) fn hint(&self, hint: Hint, now: Duration) {
        self.post(|contents| {
            let pending_scan = &mut contents.pending_scan;
            pending_scan.hints = Some(Span::with(pending_scan.hints, now));
            match hint {
                Hint::Dirty(dir) => pending_scan.targets.add_dir(dir, false),
                Hint::DirtyBelow(dir) => pending_scan.targets.add_dir(dir, true),
                Hint::Overflow | Hint::RootGone => pending_scan.targets = Targets::all(),
            }
        });
    }

    /// Posts that the content of a file is not what its row says. `lost` is the version of the
    /// row, unless it may come back.
    pub(crate) fn suspect(&self, path: RelPath, lost: Option<FileId>, now: Duration) {
        self.post(|contents| {
            let pending_scan = &mut contents.pending_scan;
            pending_scan.hints = Some(Span::with(pending_scan.hints, now));
            pending_scan.targets.add_file(path.clone());
            pending_scan.lost.extend(lost.map(|id| (path.clone(), id)));
            pending_scan.suspects.insert(path);
        });
    }

    /// Notes that a block of a version of a file was requested after it was overwritten.
    pub(crate) fn overwritten(&self, path: &RelPath, id: FileId) {
        let hot = &mut self.contents.lock().hot;
        if hot.len() >= HOT_MAX && !hot.contains_key(path) {
            let coolest = hot.iter().min_by_key(|(_, (_, count))| *count);
            let coolest = coolest.map(|(path, _)| path.clone());
            coolest.and_then(|path| hot.remove(&path));
        }
        let (last, count) = hot.entry(path.clone()).or_insert((id, 0));
        // Requests for several blocks of one version are one change.
        if *count == 0 || *last != id {
            (*last, *count) = (id, *count + 1);
        }
    }

    /// Returns the files of which versions were found overwritten when a block was requested,
    /// with the number of these versions.
    pub(crate) fn hot(&self) -> Vec<(RelPath, u32)> {
        let contents = self.contents.lock();
        contents.hot.iter().map(|(path, (_, count))| (path.clone(), *count)).collect()
    }

    /// Posts a request. If the mailbox is closed, the reply is dropped, and the requester
    /// sees its channel close.
    fn request(&self, add: impl FnOnce(&mut Requests)) {
        self.post(|contents| {
            add(&mut contents.requests);
            if contents.is_closed {
                contents.requests = Requests::default();
            }
        });
    }

    /// Drops all requests, and every later one: the folder's thread has ended.
    pub(crate) fn close(&self) {
        self.post(|contents| {
            contents.is_closed = true;
            contents.requests = Requests::default();
        });
    }

    pub(crate) fn request_scan(&self, reply: ScanReply) {
        self.request(|requests| requests.scans.push(reply));
    }

    pub(crate) fn request_confirm(&self, reply: ConfirmReply) {
        self.request(|requests| requests.confirms.push(reply));
    }

    /// Posts new settings, and interrupts the current work.
    pub(crate) fn configure(&self, config: Config) {
        self.post(|contents| {
            self.monitor.interrupt();
            contents.requests.config = Some(config);
        });
    }

    /// Posts that the thread must end, and interrupts the current work.
    pub(crate) fn stop(&self) {
        self.post(|contents| {
            self.monitor.interrupt();
            contents.requests.is_stop = true;
        });
    }

    /// Takes the requests out of the mailbox; also returns when the hints that still wait
    /// arrived. Unless one of the requests is to stop, work is no longer interrupted.
    pub(crate) fn take_requests(&self) -> (Requests, Option<Span>) {
        let mut contents = self.contents.lock();
        contents.has_news = false;
        let requests = std::mem::take(&mut contents.requests);
        if !requests.is_stop {
            self.monitor.clear_interrupt();
        }
        (requests, contents.pending_scan.hints)
    }

    /// Takes out of the mailbox what has to be scanned.
    pub(crate) fn take_pending_scan(&self) -> PendingScan {
        std::mem::take(&mut self.contents.lock().pending_scan)
    }

    /// Waits until something is posted, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let mut contents = self.contents.lock();
        if contents.has_news {
            return;
        }
        match timeout {
            Some(timeout) => {
                self.news.wait_for(&mut contents, timeout);
            }
            None => self.news.wait(&mut contents),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> Mailbox {
        Mailbox::new("docs".parse().unwrap(), 1)
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn hints_come_together_and_a_lost_one_means_everything() {
        let mailbox = mailbox();
        mailbox.hint(Hint::Dirty(path("a")), Duration::from_secs(1));
        mailbox.hint(Hint::DirtyBelow(path("a")), Duration::from_secs(2));
        mailbox.hint(Hint::Dirty(path("b")), Duration::from_secs(3));
        let pending_scan = mailbox.take_pending_scan();
        let dirs: Vec<_> = pending_scan.targets.dirs.into_iter().collect();
        assert_eq!(dirs, [(path("a"), true), (path("b"), false)]);
        let span = Span { first: Duration::from_secs(1), last: Duration::from_secs(3) };
        assert_eq!(pending_scan.hints, Some(span));
        assert!(mailbox.take_pending_scan().targets.is_empty());
        for lost in [Hint::Overflow, Hint::RootGone] {
            mailbox.hint(Hint::Dirty(path("a")), Duration::from_secs(4));
            mailbox.hint(lost, Duration::from_secs(5));
            assert!(mailbox.take_pending_scan().targets.is_all());
        }
    }

    #[test]
    fn too_many_directories_are_everything() {
        let mailbox = mailbox();
        for number in 0..25_000 {
            mailbox.hint(Hint::Dirty(path(&format!("d{number}"))), Duration::ZERO);
        }
        assert!(mailbox.take_pending_scan().targets.is_all());
    }

    #[test]
    fn files_that_change_whenever_they_are_requested_are_hot() {
        let mailbox = mailbox();
        for version in 0..3 {
            mailbox.overwritten(&path("hot"), FileId(version));
            // Several blocks of one version of a large file.
            mailbox.overwritten(&path("once"), FileId(7));
        }
        assert_eq!(mailbox.hot(), [(path("hot"), 3), (path("once"), 1)]);
        // There is room for a file that became hot later.
        for number in 0..2 * HOT_MAX as u64 {
            mailbox.overwritten(&path(&format!("other {number}")), FileId(number));
        }
        mailbox.overwritten(&path("late"), FileId(8));
        let hot = mailbox.hot();
        assert_eq!(hot.len(), HOT_MAX);
        assert!(hot.contains(&(path("hot"), 3)) && hot.contains(&(path("late"), 1)));
    }

    #[test]
    fn a_message_that_arrives_before_the_wait_is_not_lost() {
        let mailbox = mailbox();
        mailbox.stop();
        assert!(mailbox.monitor.is_interrupted());
        // Returns immediately.
        mailbox.wait(None);
        assert!(mailbox.take_requests().0.is_stop);
        assert!(mailbox.monitor.is_interrupted(), "a stop is permanent");
    }
}
