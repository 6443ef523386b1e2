//! A folder's thread with a watcher that delivers only the hints of the test: what is
//! watched, and where each hint makes the thread scan.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use store::MemStore;
use tokio::sync::watch;
use types::{FolderId, PublishedManifest, RelPath};

use crate::index::{Batch, Change, Row, file_row};
use crate::service::SyncService;
use crate::settings::{
    Clock, FolderSettings, HookSettings, Publisher, SyncOptions, SyncSettings, SystemClock, Tuning,
};
use crate::status::{AlarmKind, FolderState, FolderStatus, WatchMode};
use crate::watch::Hint;
use crate::watch::fake::FakeWatcher;

/// Maximum time that a test waits.
const DEADLINE: Duration = Duration::from_secs(60);
/// The number of the only folder in a new index.
const NUMBER: u32 = 1;

#[derive(Debug)]
struct NoPublisher;

impl Publisher for NoPublisher {
    fn publish(&self, _: PublishedManifest) {}

    fn withdraw(&self, _: &FolderId) {}
}

struct Setup {
    dir: tempfile::TempDir,
    watcher: FakeWatcher,
    settings: watch::Sender<SyncSettings>,
    service: Option<SyncService>,
    clock: Arc<dyn Clock>,
    settle: Duration,
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn id() -> FolderId {
    "docs".parse().unwrap()
}

impl Setup {
    /// One empty folder; the service is not started.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docs")).unwrap();
        let folder = FolderSettings {
            id: id(),
            path: dir.path().join("docs"),
            name: "docs".to_owned(),
            exclude: Vec::new(),
            paused: false,
            one_file_system: true,
            exclude_caches: false,
            hooks: HookSettings::default(),
        };
        let settings = SyncSettings {
            folders: vec![folder],
            manifest_max_delay: Duration::ZERO,
            ..SyncSettings::default()
        };
        let settings = watch::Sender::new(settings);
        Self {
            dir,
            watcher: FakeWatcher::default(),
            settings,
            service: None,
            clock: Arc::new(SystemClock::default()),
            settle: Duration::from_secs(3600),
        }
    }

    /// Starts the service and waits for its first scan.
    async fn start(&mut self, watch_limit: Option<usize>) {
        let options = SyncOptions {
            tuning: Tuning { watch_limit, settle: self.settle, ..Tuning::default() },
            clock: self.clock.clone(),
            ..SyncOptions::new(
                self.dir.path().join("data"),
                Arc::new(MemStore::new()),
                Arc::new(NoPublisher),
                self.settings.subscribe(),
                "16Uiu2HAm".to_owned(),
            )
        };
        let watcher = self.watcher.clone();
        let start = |limit, sink| watcher.start(limit, sink);
        self.service = Some(SyncService::start_with(options, &start).unwrap());
        // Only the scan at the start: a requested one would be the second.
        self.until("the first scan", |status| status.last_scan.is_some()).await;
    }

    fn service(&self) -> &SyncService {
        self.service.as_ref().unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("docs").join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), content).unwrap();
    }

    fn send(&self, hint: Hint) {
        self.watcher.send(NUMBER, hint);
    }

    fn status(&self) -> Arc<FolderStatus> {
        self.service().handle().folder(&id()).unwrap()
    }

    /// Waits until the status satisfies `is_so`.
    async fn until(&self, what: &str, is_so: impl Fn(&FolderStatus) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_so(&self.status()) {
            assert!(Instant::now() < end, "{what} has not come: {:?}", self.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(mut self) {
        self.service.take().unwrap().shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_is_scanned_where_it_points_and_nowhere_else() {
    let mut setup = Setup::new();
    setup.write("a/file", "a");
    setup.write("b/file", "b");
    setup.start(None).await;
    assert_eq!(setup.watcher.dirs(NUMBER), ["", "a", "b"]);
    assert_eq!(setup.status().files, 2);

    setup.write("a/new", "new");
    setup.write("a/deep/er/new", "new");
    setup.write("b/new", "new");
    setup.send(Hint::Dirty(path("a")));
    // A directory that is new is scanned with everything below it.
    setup.until("the scan of a", |status| status.files == 4).await;
    assert_eq!(setup.watcher.dirs(NUMBER), ["", "a", "a/deep", "a/deep/er", "b"]);

    // Not the directory itself: what is below it is not scanned for this hint.
    setup.write("a/deep/er/more", "more");
    setup.write("a/more", "more");
    setup.send(Hint::Dirty(path("a")));
    setup.until("the scan of a alone", |status| status.files == 5).await;
    setup.send(Hint::DirtyBelow(path("a/deep")));
    setup.until("the scan below a/deep", |status| status.files == 6).await;

    // Lost events may have been anywhere.
    setup.send(Hint::Overflow);
    setup.until("the full scan", |status| status.files == 7).await;
    setup.end().await;
}

/// No hint reports the file that appears while its directory is being watched: the scan lists
/// it afterwards, or it is missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_watched_before_it_is_listed() {
    let mut setup = Setup::new();
    setup.write("a/file", "");
    let next: Arc<Mutex<Option<RelPath>>> = Arc::new(Mutex::new(Some(path(""))));
    let (root, wanted) = (setup.at(""), next.clone());
    setup.watcher.on_watch(move |dir| {
        if let Some(dir) = wanted.lock().take_if(|wanted| wanted == dir) {
            std::fs::write(root.join(dir.as_path()).join("late"), "").unwrap();
        }
    });
    setup.start(None).await;
    assert_eq!(setup.status().files, 2, "{:?}", setup.status());
    *next.lock() = Some(path("a"));
    setup.send(Hint::Dirty(path("a")));
    setup.until("the scan of a", |status| status.files == 3).await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_gone_or_paused_are_not_watched() {
    let mut setup = Setup::new();
    setup.write("a/b/file", "");
    setup.write("c/file", "");
    setup.start(None).await;
    std::fs::remove_dir_all(setup.at("a")).unwrap();
    setup.send(Hint::Dirty(path("")));
    setup.until("the scan", |status| status.files == 1).await;
    assert_eq!(setup.watcher.dirs(NUMBER), ["", "c"]);
    setup.settings.send_modify(|settings| settings.folders[0].paused = true);
    setup.until("the pause", |status| status.state == FolderState::Paused).await;
    assert!(setup.watcher.dirs(NUMBER).is_empty());
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_beyond_the_limit_says_that_it_is_scanned() {
    let mut setup = Setup::new();
    setup.write("a/file", "");
    setup.write("b/file", "");
    setup.start(Some(2)).await;
    let watch = setup.status().watch.clone();
    assert_eq!((watch.watched, watch.needed, watch.mode), (2, 3, WatchMode::Scanning));
    setup.end().await;
}

/// On sshfs the ctime is the mtime, so a new mode leaves the stamp of a file unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn new_permissions_are_recorded_even_if_the_stamp_is_the_same() {
    let mut setup = Setup::new();
    setup.write("dir/file", "content");
    setup.start(None).await;
    let handle = setup.service().handle();
    handle.scan_now(&id()).await.unwrap();
    let index = &handle.context.index;
    let paths = [path("dir"), path("dir/file")];
    let rows = paths.each_ref().map(|path| index.row(NUMBER, path).unwrap().unwrap());
    let mut batch = Batch::default();
    for (path, row) in paths.iter().zip(&rows) {
        // The content is not read again.
        let (is_racy, is_unsettled) = (false, false);
        let old = Row { mode: 0o700, uid: 4321, is_racy, is_unsettled, ..row.clone() };
        let (row, before) = (Box::new(old), Some(row.stamp));
        batch.add(path.clone(), Change::Put { row, before });
    }
    index.apply(&id(), &batch, jiff::Timestamp::now()).unwrap();
    handle.scan_now(&id()).await.unwrap();
    for (path, row) in paths.iter().zip(rows) {
        let now = index.row(NUMBER, path).unwrap().unwrap();
        assert_eq!((now.mode, now.uid), (row.mode, row.uid), "{path}");
        assert_eq!(now.content(), row.content());
    }
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_gone_is_an_alarm_and_no_deletion() {
    let mut setup = Setup::new();
    setup.write("file", "");
    setup.start(None).await;
    std::fs::rename(setup.at(""), setup.dir.path().join("away")).unwrap();
    setup.send(Hint::RootGone);
    let is_alarm = |status: &FolderStatus| {
        matches!(status.state, FolderState::Alarm { kind: AlarmKind::RootGone, .. })
    };
    setup.until("the alarm", is_alarm).await;
    assert_eq!(setup.status().files, 1);
    setup.end().await;
}

#[test]
fn a_short_file_is_copied_after_one_overwritten_version_and_a_long_one_after_three() {
    use super::modes::{SHORT_LEN, is_hot};
    assert!(is_hot(1, 0) && is_hot(1, SHORT_LEN) && is_hot(3, SHORT_LEN + 1));
    assert!(!is_hot(2, SHORT_LEN + 1));
}

/// A clock whose files are all new: no file settles because of its age.
#[derive(Debug, Default)]
struct YoungFiles(SystemClock);

impl Clock for YoungFiles {
    fn now(&self) -> jiff::Timestamp {
        self.0.now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn file_time(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

/// Stores another content for a file, as if it had been changed through a mapping: with the
/// same stamp.
fn change_through_mapping(setup: &Setup, file: &str) -> Row {
    let handle = setup.service().handle();
    let index = &handle.context.index;
    let row = index.row(NUMBER, &path(file)).unwrap().unwrap();
    let other = file_row(1, b"what the first store left", 1);
    let stored = Row { kind: other.kind, is_racy: false, ..row.clone() };
    let mut batch = Batch::default();
    batch.add(path(file), Change::Put { row: Box::new(stored), before: Some(row.stamp) });
    index.apply(&id(), &batch, jiff::Timestamp::now()).unwrap();
    row
}

/// The end of a mapping is hinted. Without a hint, files are not read twice: a user who requests a
/// backup of a new folder would wait twice as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_read_shortly_after_a_change_and_hinted_is_read_by_a_requested_scan() {
    let mut setup = Setup::new();
    setup.write("file", "content");
    setup.start(None).await;
    let row = change_through_mapping(&setup, "file");
    assert!(row.is_unsettled);
    let handle = setup.service().handle();
    let cid = || {
        let row = handle.context.index.row(NUMBER, &path("file")).unwrap().unwrap();
        row.content().unwrap().cid
    };
    handle.scan_now(&id()).await.unwrap();
    assert_ne!(cid(), row.content().unwrap().cid);
    setup.send(Hint::Dirty(path("")));
    // The request comes before the scan of the hinted directory, or after it.
    handle.scan_now(&id()).await.unwrap();
    assert_eq!(cid(), row.content().unwrap().cid);
    change_through_mapping(&setup, "file");
    setup.write("other", "");
    setup.send(Hint::Dirty(path("")));
    setup.until("the scan of the directory", |status| status.files == 2).await;
    handle.scan_now(&id()).await.unwrap();
    assert_eq!(cid(), row.content().unwrap().cid);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_read_shortly_after_a_change_is_read_once_more() {
    let mut setup = Setup::new();
    setup.write("file", "content");
    setup.write("empty", "");
    setup.clock = Arc::new(YoungFiles::default());
    setup.settle = Duration::from_millis(1);
    setup.start(None).await;
    let handle = setup.service().handle();
    let end = Instant::now() + DEADLINE;
    // No hint comes.
    while handle.context.index.row(NUMBER, &path("file")).unwrap().unwrap().is_unsettled {
        assert!(Instant::now() < end, "the file has not been read once more");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    setup.end().await;
}

/// A clock that a test sets forward.
#[derive(Debug, Default)]
struct ForwardClock {
    system: SystemClock,
    forward: AtomicU64,
}

impl Clock for ForwardClock {
    fn now(&self) -> jiff::Timestamp {
        self.system.now()
    }

    fn elapsed(&self) -> Duration {
        self.system.elapsed() + Duration::from_secs(self.forward.load(Ordering::Relaxed))
    }
}

/// Loop devices and native asynchronous I/O write without an event.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_changed_is_visited_again_without_a_hint() {
    let mut setup = Setup::new();
    setup.write("image", "first");
    setup.write("other/file", "");
    let clock = Arc::new(ForwardClock::default());
    setup.clock = clock.clone();
    setup.settle = Duration::from_secs(60);
    setup.start(None).await;
    let handle = setup.service().handle();
    let row = || handle.context.index.row(NUMBER, &path("image")).unwrap().unwrap();
    let first = row();
    assert!(first.is_unsettled);
    for is_unsettled in [false, true] {
        if is_unsettled {
            setup.write("image", "the second");
        }
        clock.forward.fetch_add(61, Ordering::Relaxed);
        // The hint wakes the thread; the file is not in that directory.
        setup.send(Hint::Dirty(path("other")));
        let end = Instant::now() + DEADLINE;
        while row().is_unsettled != is_unsettled {
            assert!(Instant::now() < end, "not visited: {:?}", row());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_ne!(row().content().unwrap().cid, first.content().unwrap().cid);
    setup.end().await;
}
