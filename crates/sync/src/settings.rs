//! The inputs of the source side: folders, limits, and the services that it uses.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::{Disk, RealDisk};
use jiff::Timestamp;
use store::BlockStore;
use tokio::sync::watch;
use types::{BlockScheme, FolderId, Hash, PublishedManifest};

use crate::status::Receipt;

/// The configuration of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSettings {
    /// The permanent id.
    pub id: FolderId,
    /// The absolute path.
    pub path: PathBuf,
    /// The display name.
    pub name: String,
    /// Patterns of excluded paths, in the syntax of `.gitignore`.
    pub exclude: Vec<String>,
    /// True if the folder is neither scanned nor published.
    pub paused: bool,
    /// True if file systems that are mounted in the folder, and subvolumes in it, are left out.
    pub one_file_system: bool,
    /// True if the contents of directories with a `CACHEDIR.TAG` are left out.
    pub exclude_caches: bool,
    /// Programs of the user that run when a manifest is made.
    pub hooks: HookSettings,
}

/// Programs of the user that run before and after a manifest is made, for example to dump a
/// database. Each is a path with arguments; empty: none. No shell is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookSettings {
    /// The program that runs before a manifest.
    pub before: Vec<String>,
    /// The program that runs after a manifest.
    pub after: Vec<String>,
    /// Time after which a program is ended.
    pub timeout: Duration,
    /// Minimum time between two runs.
    pub interval: Duration,
}

/// Settings that may change while the service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// The folders.
    pub folders: Vec<FolderSettings>,
    /// Number of changes after which a manifest is made immediately.
    pub manifest_update_threshold: u32,
    /// Time without a further change after which a manifest is made.
    pub manifest_max_delay: Duration,
    /// Time between two full scans of a folder.
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

/// Signs manifests and offers them to backup servers.
///
/// The service passes only durable manifests. A call must not block for long.
pub trait Publisher: Send + Sync + fmt::Debug {
    /// Makes this manifest the current one of its folder.
    fn publish(&self, published: PublishedManifest);

    /// Stops offering the folder.
    fn withdraw(&self, folder: &FolderId);
}

/// Tells which snapshots the backup servers have confirmed.
///
/// A call must not block for long, and must not use the service.
pub trait Confirmations: Send + Sync + fmt::Debug {
    /// Returns the newest confirmed snapshot of a folder.
    fn newest(&self, folder: &FolderId) -> Option<Receipt>;
}

/// No snapshot is confirmed.
#[derive(Debug)]
struct NoConfirmations;

impl Confirmations for NoConfirmations {
    fn newest(&self, _: &FolderId) -> Option<Receipt> {
        None
    }
}

/// A source of time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the time of day; it may jump.
    fn now(&self) -> Timestamp;

    /// Returns the time since a fixed moment in the past; it never goes back.
    fn elapsed(&self) -> Duration;

    /// Returns the current time of the clock that stamps files. A file whose last change is
    /// close to it may change again without a new stamp. Only tests return another time.
    fn file_time(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The clock of this computer.
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

/// The services that the source side uses, and its settings.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// The data directory of the instance; the service uses `sync` in it.
    pub data_dir: PathBuf,
    /// The disk of the data directory.
    pub disk: Arc<dyn Disk>,
    /// Stores manifests, and the contents that cannot be served from the files.
    pub store: Arc<dyn BlockStore>,
    /// Cuts, names and encodes the content of the folders.
    pub scheme: BlockScheme,
    /// Receives each manifest.
    pub publisher: Arc<dyn Publisher>,
    /// The confirmed snapshots, for the status of the folders; [`SyncOptions::new`] knows none.
    pub confirmations: Arc<dyn Confirmations>,
    /// The settings; changes apply immediately.
    pub settings: watch::Receiver<SyncSettings>,
    /// The peer id of this instance.
    pub source_peer_id: String,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// Identifies the present run of the computer's kernel; `None` if it is unknown.
    pub boot: Option<u64>,
    /// Directories that are never backed up, because the instance writes to them.
    pub own_dirs: Vec<PathBuf>,
    /// Parameters that only tests change.
    pub tuning: Tuning,
}

impl SyncOptions {
    /// Returns options with the disk and the clock of this computer and the default tuning.
    /// The data directory itself is never backed up.
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
            scheme: BlockScheme::plain(),
            publisher,
            confirmations: Arc::new(NoConfirmations),
            settings,
            source_peer_id,
            clock: Arc::new(SystemClock::default()),
            boot: boot_number(),
            tuning: Tuning::default(),
        }
    }
}

/// Returns a hash of the random id that Linux gives to each run of the kernel.
fn boot_number() -> Option<u64> {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let hash = Hash::of(&id);
    let start = hash.as_bytes()[..8].iter();
    Some(start.fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

/// Parameters without a setting; only tests change them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Number of threads that read files, for each folder.
    pub hash_threads: usize,
    /// Size of the cache of the file index, in bytes.
    pub index_cache: usize,
    /// Maximum number of watched directories; `None`: as many as the system allows.
    pub watch_limit: Option<usize>,
    /// Time without a further hint after which the hinted directories are scanned.
    pub quiet_time: Duration,
    /// Maximum time between the first hint and the scan.
    pub quiet_time_max: Duration,
    /// Maximum time between two manifests while changes continue.
    pub publish_interval_max: Duration,
    /// During the first scan of a folder, the results so far are published at this interval,
    /// or at an eighth of the time that has passed, whichever is longer.
    pub first_scan_interval: Duration,
    /// Pause before a file that changed while it was read is read again. It doubles with each
    /// attempt.
    pub retry_min: Duration,
    /// Maximum pause between two attempts.
    pub retry_max: Duration,
    /// Time after a change of a file during which a program may change it again through a shared
    /// mapping without a new stamp: the kernel sets the times when a page is first written to,
    /// and again only after it has written the page to the disk. It does so after 30 s
    /// (`vm.dirty_expire_centisecs`), when its flusher runs next (`vm.dirty_writeback_centisecs`,
    /// 5 s). After that time, and at twice, four times and eight times that age, a file that has
    /// changed is visited again; never if it is zero.
    pub settle: Duration,
    /// Time after which a file that keeps changing is put on the error list; if the file only
    /// grows, its beginning is backed up.
    pub unstable_after: Duration,
    /// Length in bytes from which a file is read beside the scans, so that other files need not
    /// wait for it.
    pub long_len: u64,
    /// Maximum number of bytes of one folder's files that are copied to the store because
    /// they change too often to be served from their place. A file beyond the limit is served
    /// while it does not change.
    pub spool_max: u64,
    /// Interval of the scans of a folder in alarm, and first pause after a failure.
    pub alarm_interval: Duration,
    /// Interval of the full scans of a folder of which some directories cannot be watched.
    pub unwatched_interval: Duration,
    /// Number of changes after which rows are written to the index.
    pub batch_rows: usize,
    /// Time after which rows are written to the index.
    pub batch_time: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            hash_threads: threads.clamp(1, 8),
            index_cache: 32 << 20,
            watch_limit: None,
            quiet_time: Duration::from_millis(300),
            quiet_time_max: Duration::from_secs(2),
            publish_interval_max: Duration::from_secs(10),
            first_scan_interval: Duration::from_millis(500),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(300),
            settle: Duration::from_secs(40),
            unstable_after: Duration::from_secs(60),
            long_len: 32 << 20,
            spool_max: 4 << 30,
            alarm_interval: Duration::from_secs(10),
            unwatched_interval: Duration::from_secs(60),
            batch_rows: 8192,
            batch_time: Duration::from_secs(2),
        }
    }
}
