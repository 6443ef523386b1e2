//! A service on a temporary folder, and the comparison of a manifest with the tree.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod mounts;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use store::{BlockStore, MemStore};
use sync::{
    Clock, FolderSettings, FolderStatus, InPlaceAnswer, Publisher, SyncHandle, SyncOptions,
    SyncService, SyncSettings, SystemClock, Tuning,
};
use tokio::sync::watch;
use types::{
    Cid, Codec, Dataset, Entry, EntryKind, FileNode, FolderId, Hash, ManifestHeader,
    PublishedManifest, RelPath, TreeCheck, decode_segment,
};

/// Maximum time that a test waits.
const DEADLINE: Duration = Duration::from_secs(60);

/// Records the published manifests and the withdrawn folders.
#[derive(Debug, Default)]
pub(crate) struct Recorder(
    pub(crate) Mutex<Vec<PublishedManifest>>,
    pub(crate) Mutex<Vec<FolderId>>,
);

impl Publisher for Recorder {
    fn publish(&self, published: PublishedManifest) {
        self.0.lock().push(published);
    }

    fn withdraw(&self, folder: &FolderId) {
        self.1.lock().push(folder.clone());
    }
}

/// A clock whose time of day can be moved, and the time by which the age of files is
/// judged.
#[derive(Debug, Default)]
pub(crate) struct MovedClock {
    hours: Mutex<i64>,
    file_hours: Mutex<i64>,
    real: SystemClock,
}

impl MovedClock {
    pub(crate) fn advance_hours(&self, hours: i64) {
        *self.hours.lock() += hours;
    }

    /// Sets how far the time by which the age of files is judged is ahead of the clock of
    /// the machine. 1: no file was changed recently enough to be read a second time. -1:
    /// every file was.
    pub(crate) fn set_file_time(&self, hours: i64) {
        *self.file_hours.lock() = hours;
    }
}

fn ahead(time: jiff::Timestamp, hours: &Mutex<i64>) -> jiff::Timestamp {
    time.checked_add(jiff::SignedDuration::from_hours(*hours.lock())).unwrap()
}

impl Clock for MovedClock {
    fn now(&self) -> jiff::Timestamp {
        ahead(self.real.now(), &self.hours)
    }

    fn elapsed(&self) -> Duration {
        self.real.elapsed()
    }

    fn file_time(&self) -> jiff::Timestamp {
        ahead(self.real.file_time(), &self.file_hours)
    }
}

/// A service, and the services that it uses.
pub(crate) struct Setup {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) settings: watch::Sender<SyncSettings>,
    pub(crate) tuning: Tuning,
    /// The run of the kernel.
    pub(crate) boot: u64,
    pub(crate) service: Option<SyncService>,
}

pub(crate) fn id(text: &str) -> FolderId {
    text.parse().unwrap()
}

pub(crate) fn folder(id_text: &str, path: PathBuf) -> FolderSettings {
    FolderSettings {
        id: id(id_text),
        path,
        name: id_text.to_owned(),
        exclude: Vec::new(),
        paused: false,
        one_file_system: true,
        exclude_caches: false,
        hooks: sync::HookSettings::default(),
    }
}

impl Setup {
    /// Creates one empty folder, `docs`, without starting the service.
    pub(crate) fn stopped() -> Self {
        Self::on(Arc::new(MemStore::new()))
    }

    pub(crate) fn on(store: Arc<dyn BlockStore>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docs")).unwrap();
        let settings = SyncSettings {
            folders: vec![folder("docs", dir.path().join("docs"))],
            manifest_max_delay: Duration::from_millis(50),
            ..SyncSettings::default()
        };
        Self {
            store,
            recorder: Arc::default(),
            clock: Arc::default(),
            settings: watch::Sender::new(settings),
            tuning: Tuning {
                quiet_time: Duration::from_millis(20),
                alarm_interval: Duration::from_millis(100),
                // No file is read once more because it is new.
                settle: Duration::ZERO,
                // No manifest during the first scan, even on a slow machine.
                first_scan_interval: Duration::from_hours(1),
                ..Tuning::default()
            },
            boot: 1,
            service: None,
            dir,
        }
    }

    pub(crate) fn new() -> Self {
        let mut setup = Self::stopped();
        setup.start();
        setup
    }

    /// From its next start on, the service scans and publishes only when the test requests
    /// it, apart from the scan at the start. Otherwise, on a busy machine, work that a hint
    /// has started runs between any two steps of a test: it sees files half written, uses up
    /// injected faults, and is counted.
    pub(crate) fn work_on_request_only(&mut self) {
        let never = Duration::from_hours(1);
        self.tuning.quiet_time = never;
        self.tuning.quiet_time_max = never;
        self.tuning.publish_interval_max = never;
        self.tuning.alarm_interval = never;
        self.settings.send_modify(|settings| {
            settings.manifest_max_delay = never;
            settings.manifest_update_threshold = u32::MAX;
        });
    }

    pub(crate) fn options(&self) -> SyncOptions {
        SyncOptions {
            clock: self.clock.clone(),
            tuning: self.tuning.clone(),
            boot: Some(self.boot),
            ..SyncOptions::new(
                self.dir.path().join("data"),
                self.store.clone(),
                self.recorder.clone(),
                self.settings.subscribe(),
                "16Uiu2HAm".to_owned(),
            )
        }
    }

    pub(crate) fn start(&mut self) {
        self.service = Some(SyncService::start(self.options()).unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(service) = self.service.take() {
            service.shutdown().await;
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start();
    }

    pub(crate) fn handle(&self) -> SyncHandle {
        self.service.as_ref().unwrap().handle()
    }

    /// Returns a path in the folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("docs").join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) async fn sync(&self) -> PublishedManifest {
        self.handle().scan_now(&id("docs")).await.unwrap()
    }

    /// Same as [`Setup::sync`], until no file was changed so shortly before the scan that the
    /// next scan would read it again.
    pub(crate) async fn calm(&self) -> PublishedManifest {
        let end = Instant::now() + DEADLINE;
        loop {
            let before = self.files_read();
            let published = self.sync().await;
            if self.files_read() == before {
                return published;
            }
            assert!(Instant::now() < end, "files are read again and again");
        }
    }

    pub(crate) fn status(&self) -> Arc<FolderStatus> {
        self.handle().folder(&id("docs")).unwrap()
    }

    pub(crate) fn files_read(&self) -> u64 {
        self.status().files_read
    }

    /// Waits until the status satisfies `is_so`.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&FolderStatus) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_so(&self.status()) {
            assert!(Instant::now() < end, "{what} has not come: {:?}", self.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the last manifest has this content for a file. (A manifest with the
    /// content before the change may come first.)
    pub(crate) async fn until_published(&self, name: &str, content: &[u8]) {
        let (path, wanted) = (RelPath::new(name).unwrap(), Hash::of(content));
        let is_published = || {
            let entries = self.entries(self.published().last()?);
            let kind = &entries.get(&path)?.kind;
            Some(matches!(kind, EntryKind::File { blake3, .. } if *blake3 == wanted))
        };
        self.until(name, |_| is_published().unwrap_or(false)).await;
    }

    pub(crate) fn published(&self) -> Vec<PublishedManifest> {
        self.recorder.0.lock().clone()
    }

    /// Checks a manifest, and returns its header and its entries.
    pub(crate) fn manifest(
        &self,
        published: &PublishedManifest,
    ) -> (ManifestHeader, BTreeMap<RelPath, Entry>) {
        let get = |cid: &Cid| self.store.get(cid).unwrap().unwrap();
        let dataset = Dataset::decode(&get(&published.manifest_cid)).unwrap();
        assert_eq!(dataset.tree.codec(), Codec::Json);
        let bytes = get(&dataset.tree);
        assert_eq!(dataset.size, bytes.len() as u64);
        let header = ManifestHeader::decode(&bytes).unwrap();
        assert_eq!(header.sequence_number, published.sequence_number);
        assert_eq!(header.stats.total_files, published.file_count);
        assert_eq!(header.stats.total_size_bytes, published.total_size_bytes);
        let mut check = TreeCheck::new();
        let mut entries = BTreeMap::new();
        for segment in &header.segments {
            let bytes = get(&segment.cid);
            assert_eq!(bytes.len() as u64, segment.bytes);
            let mut count = 0;
            decode_segment(&bytes, |entry| {
                if count == 0 {
                    assert_eq!(entry.path, segment.first_path);
                }
                count += 1;
                check.next(&entry).unwrap();
                entries.insert(entry.path.clone(), entry);
                ControlFlow::<()>::Continue(())
            })
            .unwrap();
            assert_eq!(count, segment.entries);
        }
        let files = entries.values().filter(|entry| entry.kind != EntryKind::Dir).count();
        assert_eq!(header.stats.total_files, files as u64);
        assert_eq!(header.stats.total_dirs, (entries.len() - files) as u64);
        (header, entries)
    }

    pub(crate) fn entries(&self, published: &PublishedManifest) -> BTreeMap<RelPath, Entry> {
        self.manifest(published).1
    }

    pub(crate) fn names(&self, published: &PublishedManifest) -> Vec<String> {
        self.entries(published).keys().map(ToString::to_string).collect()
    }

    /// Returns the bytes of a file of a manifest, as a backup server would receive them.
    pub(crate) fn content(&self, cid: Cid) -> Result<Vec<u8>, InPlaceAnswer> {
        let mut bytes = Vec::new();
        let mut todo = vec![cid];
        while let Some(cid) = todo.pop() {
            if cid.codec() == Codec::Raw {
                match self.handle().block(cid.hash()).unwrap() {
                    InPlaceAnswer::Block(block) => {
                        bytes.extend_from_slice(&block.decode().unwrap());
                    }
                    answer => match self.store.get(&cid).unwrap() {
                        Some(block) => bytes.extend_from_slice(&block),
                        None => return Err(answer),
                    },
                }
            } else {
                let node =
                    self.store.get(&cid).unwrap().expect("the store has every node of a manifest");
                let node = FileNode::decode(&node).unwrap();
                todo.extend(node.children().iter().rev().map(|child| child.cid));
            }
        }
        Ok(bytes)
    }

    /// Compares a manifest with the folder: every name, every byte.
    pub(crate) fn check(&self, published: &PublishedManifest) {
        self.check_tree(published, &self.dir.path().join("docs"), &[]);
    }

    pub(crate) fn check_tree(&self, published: &PublishedManifest, root: &Path, without: &[&str]) {
        let mut entries = self.entries(published);
        use fstree::TreeReader as _;
        let tree = fstree::SourceTree::open(root).unwrap();
        for item in
            tree.walk(&RelPath::root(), Default::default(), |_, _| fstree::Visit::Descend).unwrap()
        {
            let fstree::WalkItem::Entry(found) = item else { panic!("{item:?}") };
            if without.iter().any(|name| found.path.to_string().starts_with(name)) {
                continue;
            }
            let entry = entries.remove(&found.path);
            let entry = entry.unwrap_or_else(|| panic!("{} is not in the manifest", found.path));
            let path = root.join(found.path.as_path());
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!(entry.error, None, "{}", found.path);
            assert_eq!(entry.metadata.mode, metadata.permissions().mode() & 0o7777);
            assert_eq!(entry.metadata.mtime_ns, found.stamp.mtime_ns(), "{}", found.path);
            assert_eq!(entry.metadata.uid, metadata.uid());
            assert_eq!(entry.metadata.hard_link, found.hard_link);
            match &entry.kind {
                EntryKind::File { cid, size, blake3, .. } => {
                    let bytes = std::fs::read(&path).unwrap();
                    assert_eq!(*size, bytes.len() as u64);
                    assert_eq!(*blake3, Hash::of(&bytes), "{}", found.path);
                    assert!(self.content(*cid).unwrap() == bytes, "{}", found.path);
                }
                kind => assert_eq!(Some(kind.clone()), found.entry_kind()),
            }
        }
        assert!(entries.is_empty(), "not in the folder: {:?}", entries.keys());
    }
}

/// Returns incompressible bytes, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
