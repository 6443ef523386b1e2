//! The file systems that are mounted in a folder and do not answer. A call to such a mount
//! blocks its thread, so a thread of its own asks each one before a scan, and the scan leaves
//! out those that do not answer in time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fstree::Mount;
use types::RelPath;

/// Maximum time for an answer. It delays only the scan that first finds a mount hanging.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Interval at which a mount that does not answer is examined again.
const AGAIN: Duration = Duration::from_secs(30);
/// File systems that never wait for another computer or program. (`autofs` waits only if
/// something below it is opened.)
const LOCAL: [&str; 24] = [
    "autofs",
    "bcachefs",
    "binfmt_misc",
    "bpf",
    "btrfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "iso9660",
    "mqueue",
    "overlay",
    "proc",
    "squashfs",
    "sysfs",
    "tmpfs",
    "vfat",
    "xfs",
    "zfs",
];

/// Reports whether a call to a file system of this type may wait for another computer or for a
/// program.
pub(crate) fn may_hang(file_system: &str) -> bool {
    !LOCAL.contains(&file_system)
}

/// Asks the file system at a path; returns when it has answered.
type Ask = Arc<dyn Fn(&Path) + Send + Sync>;

/// The mounts of one folder that did not answer.
pub(super) struct HungMounts {
    ask: Ask,
    /// The questions without an answer so far, by the id of the mount.
    open: BTreeMap<u64, Arc<AtomicBool>>,
    /// The mount points that did not answer before the last scan.
    hung: Vec<RelPath>,
    again_at: Option<Duration>,
}

impl HungMounts {
    pub(super) fn new() -> Self {
        Self::asking(Arc::new(|path| {
            // The attributes may come from a cache; the space never does.
            let _ = std::fs::symlink_metadata(path);
            let _ = rustix::fs::statvfs(path);
        }))
    }

    fn asking(ask: Ask) -> Self {
        Self { ask, open: BTreeMap::new(), hung: Vec::new(), again_at: None }
    }

    /// Asks the file systems that are mounted below `root`, and returns the mount points of
    /// those that do not answer. `now` is the time of the clock.
    pub(super) fn update(&mut self, root: &Path, now: Duration) -> Vec<RelPath> {
        self.update_from(fstree::mounts_below(root), root, now, ANSWER_MAX)
    }

    fn update_from(
        &mut self,
        mounts: Vec<Mount>,
        root: &Path,
        now: Duration,
        limit: Duration,
    ) -> Vec<RelPath> {
        let mounts: Vec<_> =
            mounts.into_iter().filter(|mount| may_hang(&mount.file_system)).collect();
        self.open.retain(|id, has_answered| {
            mounts.iter().any(|mount| mount.id == *id) && !has_answered.load(Ordering::Acquire)
        });
        let (answer, answers) = mpsc::channel();
        let mut asked = 0;
        for mount in &mounts {
            if !self.open.contains_key(&mount.id) {
                let has_answered = Arc::new(AtomicBool::new(false));
                let path = root.join(mount.path.as_path());
                if self.start(path, has_answered.clone(), answer.clone()) {
                    self.open.insert(mount.id, has_answered);
                    asked += 1;
                }
            }
        }
        let end = Instant::now() + limit;
        while asked > 0
            && answers.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok()
        {
            asked -= 1;
        }
        self.open.retain(|_, has_answered| !has_answered.load(Ordering::Acquire));
        let is_hung = |mount: &&Mount| self.open.contains_key(&mount.id);
        self.hung = mounts.iter().filter(is_hung).map(|mount| mount.path.clone()).collect();
        self.again_at = (!self.hung.is_empty()).then_some(now + AGAIN);
        self.hung.clone()
    }

    /// Starts a question. Returns false if the system cannot start a thread.
    fn start(
        &self,
        path: PathBuf,
        has_answered: Arc<AtomicBool>,
        answer: mpsc::Sender<()>,
    ) -> bool {
        let ask = self.ask.clone();
        let work = move || {
            ask(&path);
            has_answered.store(true, Ordering::Release);
            // Sending fails if the answer came too late.
            let _ = answer.send(());
        };
        std::thread::Builder::new().name("sync-mount".to_owned()).spawn(work).is_ok()
    }

    /// Returns the mount points that did not answer before the last scan.
    pub(super) fn hung(&self) -> &[RelPath] {
        &self.hung
    }

    /// Returns when the mounts that did not answer are examined again.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.again_at
    }

    /// Returns the directories with mounts that are due to be examined again.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<RelPath> {
        if self.again_at.take_if(|at| *at <= now).is_none() {
            return Vec::new();
        }
        self.hung.iter().filter_map(RelPath::parent).collect()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::{Condvar, Mutex};

    use super::*;

    fn mount(id: u64, path: &str, file_system: &str) -> Mount {
        Mount { id, path: RelPath::new(path).unwrap(), file_system: file_system.to_owned() }
    }

    #[test]
    fn a_mount_that_does_not_answer_is_asked_once_and_left_out_until_it_does() {
        let is_hung = Arc::new((Mutex::new(true), Condvar::new()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (hangs, asks) = (is_hung.clone(), asked.clone());
        let mut mounts = HungMounts::asking(Arc::new(move |path| {
            asks.lock().push(path.to_owned());
            let mut is_hung = hangs.0.lock();
            while *is_hung && path.ends_with("remote") {
                hangs.1.wait(&mut is_hung);
            }
        }));
        let all =
            || vec![mount(1, "a/remote", "fuse.x"), mount(2, "b", "nfs4"), mount(3, "c", "ext4")];
        let root = Path::new("/f");
        let hung = [RelPath::new("a/remote").unwrap()];
        let now = Duration::from_secs(100);
        // (The limit is long enough for the other one to answer.)
        assert_eq!(mounts.update_from(all(), root, now, Duration::from_secs(2)), hung);
        assert_eq!(mounts.next_at(), Some(now + AGAIN));
        assert!(mounts.take_due(now).is_empty());
        assert_eq!(mounts.take_due(now + AGAIN), [RelPath::new("a").unwrap()]);
        assert_eq!(mounts.update_from(all(), root, now, Duration::from_secs(60)), hung);
        let remote =
            |paths: &[PathBuf]| paths.iter().filter(|path| path.ends_with("remote")).count();
        assert_eq!(remote(&asked.lock()), 1);
        assert!(!asked.lock().iter().any(|path| path.ends_with("c")));
        *is_hung.0.lock() = false;
        is_hung.1.notify_all();
        let end = Instant::now() + Duration::from_secs(60);
        while !mounts.update_from(all(), root, now, Duration::from_secs(60)).is_empty() {
            assert!(Instant::now() < end, "the answer is not noticed");
        }
        assert_eq!(mounts.next_at(), None);
        // Unmounted.
        *is_hung.0.lock() = true;
        // (On a busy machine, the other one has not answered either.)
        let found = mounts.update_from(all(), root, now, Duration::from_millis(1));
        assert!(found.contains(&hung[0]), "{found:?}");
        assert!(mounts.update_from(Vec::new(), root, now, Duration::ZERO).is_empty());
        *is_hung.0.lock() = false;
        is_hung.1.notify_all();
    }
}
