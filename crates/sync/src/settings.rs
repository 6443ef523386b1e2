//! What the source side is told: folders, limits, and what it stands on.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::{Disk, RealDisk};
use jiff::Timestamp;
use store::BlockStore;
use tokio::sync::watch;
use types::{BlockScheme, FolderId, PublishedManifest};

/// A folder as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSettings {
    /// Its stable id.
    pub id: FolderId,
    /// Where it is; absolute.
    pub path: PathBuf,
    /// What people call it.
    pub name: String,
    /// What is left out, in the syntax of `.gitignore`.
    pub exclude: Vec<String>,
    /// Whether nothing is to be done about it.
    pub paused: bool,
}

/// What may change while the service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// The folders.
    pub folders: Vec<FolderSettings>,
    /// A manifest is made after this many changes …
    pub manifest_update_threshold: u32,
    /// … or after this long without a further one.
    pub manifest_max_delay: Duration,
    /// How often a folder is looked through whole.
    pub rescan_interval: Duration,
}

impl Default for SyncSettings {
    fn default() -> Self {
        Self {
            folders: Vec::new(),
            manifest_update_threshold: 10,
            manifest_max_delay: Duration::from_millis(2000),
            rescan_interval: Duration::from_secs(3600),
        }
    }
}

/// Who shows manifests to others, and signs them.
///
/// Called only with what is durable. It must not block for long.
pub trait Publisher: Send + Sync + fmt::Debug {
    /// This is the folder's last manifest from now on.
    fn publish(&self, published: PublishedManifest);

    /// The folder is not shown any more.
    fn withdraw(&self, folder: &FolderId);
}

/// What time it is.
pub trait Clock: Send + Sync + fmt::Debug {
    /// By the wall; it may jump.
    fn now(&self) -> Timestamp;

    /// Since some moment in the past; it never goes back.
    fn elapsed(&self) -> Duration;

    /// The current time of the clock that stamps files. A file whose last change is close
    /// to it may change again without a new stamp. Only tests return another time here.
    fn file_time(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What the service stands on.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// The instance's data; `sync` in it is used.
    pub data_dir: PathBuf,
    /// The disk that is on.
    pub disk: Arc<dyn Disk>,
    /// Where manifests and what cannot be served from files are stored.
    pub store: Arc<dyn BlockStore>,
    /// Who shows manifests.
    pub publisher: Arc<dyn Publisher>,
    /// The settings; changes apply at once.
    pub settings: watch::Receiver<SyncSettings>,
    /// The peer id of this instance.
    pub source_peer_id: String,
    /// Cuts, names and encodes the content of the folders.
    pub scheme: BlockScheme,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Directories that are never backed up: what the instance itself writes.
    pub own_dirs: Vec<PathBuf>,
    /// What hardly anyone changes.
    pub tuning: Tuning,
}

impl SyncOptions {
    /// Options with the machine's disk and clock, and the usual tuning. The
    /// data directory itself is never backed up.
    pub fn new(
        data_dir: PathBuf,
        store: Arc<dyn BlockStore>,
        publisher: Arc<dyn Publisher>,
        settings: watch::Receiver<SyncSettings>,
        source_peer_id: String,
    ) -> Self {
        Self {
            own_dirs: vec![data_dir.clone()],
            data_dir,
            disk: Arc::new(RealDisk),
            store,
            publisher,
            settings,
            source_peer_id,
            scheme: BlockScheme::plain(),
            clock: Arc::new(SystemClock::default()),
            tuning: Tuning::default(),
        }
    }
}

/// What hardly anyone changes; tests do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Threads that read files, for each folder.
    pub hash_threads: usize,
    /// The memory that the file index caches in, in bytes.
    pub index_cache: usize,
    /// At most this many directories are watched; `None`: as many as the
    /// system allows.
    pub watch_limit: Option<usize>,
    /// A change is looked at when nothing further has come for this long …
    pub settle: Duration,
    /// … or the first one has waited for this long.
    pub settle_max: Duration,
    /// While changes go on, a manifest is made at least this often.
    pub unrest_max: Duration,
    /// While a folder is looked through for the first time, what was found by
    /// then is published after this long, and again after as long or an eighth
    /// of the time that has passed, whichever is more.
    pub first_look_pause: Duration,
    /// A file that changes while it is read is tried again after this long,
    /// then after twice that …
    pub retry_min: Duration,
    /// … up to this.
    pub retry_max: Duration,
    /// A file that has not been still for this long is on the error list; if
    /// it only grows, what there is of it is taken.
    pub patience: Duration,
    /// Files that change too often to be served from where they are go to the
    /// store, as long as all of a folder together have no more bytes than
    /// this. A larger one is served as long as it is still.
    pub spool_max: u64,
    /// How often a folder in alarm is looked at, and one that failed is tried
    /// again at first.
    pub alarm_interval: Duration,
    /// How often a folder is looked through of which not all directories can
    /// be watched.
    pub unwatched_interval: Duration,
    /// Rows are written to the index after this many changes …
    pub batch_rows: usize,
    /// … or this long.
    pub batch_time: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            hash_threads: threads.clamp(1, 8),
            index_cache: 32 << 20,
            watch_limit: None,
            settle: Duration::from_millis(300),
            settle_max: Duration::from_secs(2),
            unrest_max: Duration::from_secs(10),
            first_look_pause: Duration::from_millis(500),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(300),
            patience: Duration::from_secs(60),
            spool_max: 4 << 30,
            alarm_interval: Duration::from_secs(10),
            unwatched_interval: Duration::from_secs(60),
            batch_rows: 8192,
            batch_time: Duration::from_secs(2),
        }
    }
}
