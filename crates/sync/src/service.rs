//! The source side as a whole: starts a thread for each folder and applies changes of the
//! settings.
//!
//! A thread of its own follows the settings. It starts and ends the threads of folders, so that
//! no folder has two threads at the same time.

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use store::InPlaceStore;
use tokio::sync::{Notify, mpsc, watch as watch_channel};
use types::{Dataset, FolderId, ManifestHeader, with_causes};

use crate::context::Context;
use crate::error::SyncError;
use crate::folder::{Config, Mailbox, Task};
use crate::folder_files::FolderFiles;
use crate::handle::SyncHandle;
use crate::index::{Index, ManifestRecord, Totals};
use crate::publish;
use crate::schedule::Times;
use crate::settings::{FolderSettings, SyncOptions, SyncSettings, Tuning};
use crate::status_registry::StatusRegistry;
use crate::watch::{self, HintSink, NoWatcher, PostHint, Watcher};

/// Directory of the state, in the data directory of the instance.
const DIR: &str = "sync";
const IN_PLACE_DIR: &str = "in-place";
/// Number of stale locations of blocks that cost less than their removal.
const STALE_LOCATIONS_MAX: u64 = 10_000;

/// Maximum time that the threads of all folders have to end.
const STOP_MAX: Duration = Duration::from_secs(2);
/// Interval of the checks whether they have ended.
const STOP_PAUSE: Duration = Duration::from_millis(2);

/// The running source side. Dropping it stops the work without waiting for its end.
#[derive(Debug)]
pub struct SyncService {
    handle: SyncHandle,
    stop: Arc<StopSignal>,
    failed: watch_channel::Receiver<Option<ThreadFailure>>,
    settings: Option<JoinHandle<()>>,
}

/// Starts a watcher; [`watch::start`] is the one of this platform.
pub(crate) type StartWatcher<'a> =
    &'a dyn Fn(Option<usize>, HintSink) -> io::Result<Box<dyn Watcher>>;

/// Tells the thread of the settings to stop all other threads.
#[derive(Debug, Default)]
struct StopSignal(Notify);

/// The panic of a folder's thread, or a failed change of the settings.
#[derive(Clone, Debug)]
struct ThreadFailure {
    folder: FolderId,
    text: String,
}

impl SyncService {
    /// Opens the state and starts the work on all folders. The call blocks while it opens and
    /// checks the state. The store must not collect garbage before it returns.
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::Locked`], [`SyncError::Version`], [`SyncError::Damaged`],
    /// [`SyncError::Index`], [`SyncError::State`] or [`SyncError::Store`] if the state cannot
    /// be read; it is never replaced. A folder that cannot be read is not an error.
    pub fn start(options: SyncOptions) -> Result<Self, SyncError> {
        Self::start_with(options, &watch::start)
    }

    /// Same as [`SyncService::start`], with another watcher.
    pub(crate) fn start_with(
        options: SyncOptions,
        start_watcher: StartWatcher<'_>,
    ) -> Result<Self, SyncError> {
        let dir = options.data_dir.join(DIR);
        let mut settings = options.settings.clone();
        let handle = open(options, start_watcher)?;
        let (report_failed, failed) = watch_channel::channel(None);
        let (report_ended, ended) = mpsc::unbounded_channel();
        let mut folders = FolderThreads {
            handle: handle.clone(),
            threads: BTreeMap::new(),
            ending: BTreeMap::new(),
            failed: Arc::new(report_failed),
            report_ended,
            ended,
            have_all_ended: true,
        };
        let first = settings.borrow_and_update().clone();
        if let Err(error) = folders.apply(&first) {
            folders.stop();
            return Err(error);
        }
        let stop = Arc::new(StopSignal::default());
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|source| {
            folders.stop();
            SyncError::State { action: "start a runtime for", path: dir.clone(), source }
        })?;
        let work = move || {
            runtime.block_on(folders.follow_settings(settings, stopped));
        };
        let thread = std::thread::Builder::new().name("sync-settings".to_owned()).spawn(work);
        let thread = thread.map_err(|source| SyncError::State {
            action: "start a thread for",
            path: dir,
            source,
        });
        // (If the thread did not start, its closure was dropped, which stops all folders.)
        Ok(Self { handle, stop, failed, settings: Some(thread?) })
    }

    /// Returns a handle for the rest of the program.
    pub fn handle(&self) -> SyncHandle {
        self.handle.clone()
    }

    /// Waits until the thread of a folder has panicked, and returns the error. The process must
    /// stop then, since a folder without a thread would look as if it were watched.
    pub fn failed(&self) -> impl Future<Output = SyncError> + Send + use<> {
        let mut failed = self.failed.clone();
        async move {
            let failure = failed.wait_for(Option::is_some).await.ok().and_then(|f| f.clone());
            match failure {
                Some(ThreadFailure { folder, text }) => SyncError::Panicked { folder, text },
                // The service has ended normally.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops the work and waits for its end. Unpublished changes are found again at the next
    /// start. If the work hangs, usually because a file system does not answer, this returns
    /// after two seconds, and the work ends with the process.
    pub async fn shutdown(mut self) {
        self.stop.0.notify_one();
        if let Some(thread) = self.settings.take() {
            // The result is an error only if that thread has panicked.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for SyncService {
    fn drop(&mut self) {
        self.stop.0.notify_one();
    }
}

/// Makes a folder known, publishes its last manifest, and returns its task with its mailbox.
pub(crate) fn add_folder(
    handle: &SyncHandle,
    folder: &FolderSettings,
    config: Config,
) -> Result<(Task, Arc<Mailbox>), SyncError> {
    let context = &handle.context;
    let _alone = handle.changing.lock();
    let record = match context.index.folder(&folder.id)? {
        Some(record) => {
            publish::remove_old_roots(context, &folder.id, Some(record.sequence()))?;
            record
        }
        None => context.index.create_folder(&folder.id, manifest_in_store(context, folder))?,
    };
    context.files.set_root(record.number, folder.path.clone());
    let mailbox = Arc::new(Mailbox::new(folder.id.clone(), record.number));
    if let Some(manifest) = &record.manifest {
        context.publisher.publish(manifest.published(&folder.id));
    }
    let mut task = Task::new(context.clone(), mailbox.clone(), config, record)?;
    // The handle knows the folder before its status is visible, so that a request that
    // follows the status succeeds.
    handle.folders.write().insert(folder.id.clone(), mailbox.clone());
    task.show_rest();
    Ok((task, mailbox))
}

/// Opens the state without starting any work. See [`SyncService::start`].
pub(crate) fn open(
    options: SyncOptions,
    start_watcher: StartWatcher<'_>,
) -> Result<SyncHandle, SyncError> {
    let dir = options.data_dir.join(DIR);
    let index = Arc::new(Index::open(
        options.disk.clone(),
        &dir,
        options.tuning.index_cache,
        options.boot,
    )?);
    let files = Arc::new(FolderFiles::new(index.clone()));
    let (in_place, is_lost) = InPlaceStore::open(
        options.disk.clone(),
        &dir.join(IN_PLACE_DIR),
        files.clone(),
        options.scheme.clone(),
    )?;
    // An empty index although there are files was lost, too.
    let is_empty =
        in_place.places() == 0 && index.folders()?.iter().any(|(_, record)| record.rows.bytes > 0);
    if is_lost || is_empty {
        tracing::warn!("the locations of blocks in files were lost; all files are read again");
        for (folder, _) in index.folders()? {
            index.update(&folder, |record| record.is_rehash_due = true)?;
        }
        // The request to read all files is durable; only now is the empty index valid.
        in_place.commit()?;
    }
    remove_stale_locations(&index, &in_place)?;
    let folders: Arc<RwLock<BTreeMap<FolderId, Arc<Mailbox>>>> = Arc::default();
    let hints = post_hint(&options, folders.clone());
    let watcher = watcher_for(&options, hints.clone(), start_watcher);
    let own_dirs = options.own_dirs.iter().chain([&options.data_dir]);
    let own_dirs = own_dirs.map(|dir| std::fs::canonicalize(dir).unwrap_or(dir.clone()));
    let context = Arc::new(Context {
        index,
        store: options.store,
        scheme: options.scheme,
        in_place: Arc::new(in_place),
        files,
        publisher: options.publisher,
        clock: options.clock,
        tuning: options.tuning,
        source_peer_id: options.source_peer_id,
        state_dir: dir,
        own_dirs: own_dirs.collect(),
        statuses: StatusRegistry::new(options.confirmations),
        watcher,
        hints,
    });
    Ok(SyncHandle { context, folders, changing: Arc::default() })
}

/// Removes the locations of blocks in former versions of files, if there are many. Call it
/// before any work begins, since files that are being read have no rows yet.
fn remove_stale_locations(index: &Index, in_place: &InPlaceStore) -> Result<(), SyncError> {
    let folders = index.folders()?;
    let expected: u64 = folders
        .iter()
        .map(|(_, record)| record.rows.files + record.rows.bytes / types::CHUNK_LEN_AVG as u64)
        .sum();
    if in_place.places() > 2 * expected + STALE_LOCATIONS_MAX {
        let ids = index.file_ids()?;
        in_place.retain(|id| ids.contains(&id))?;
    }
    Ok(())
}

/// Returns the function that posts hints to the folders with a running thread.
fn post_hint(
    options: &SyncOptions,
    folders: Arc<RwLock<BTreeMap<FolderId, Arc<Mailbox>>>>,
) -> PostHint {
    let clock = options.clock.clone();
    PostHint(Arc::new(move |number, hint| {
        let folders = folders.read();
        if let Some(mailbox) = folders.values().find(|mailbox| mailbox.number == number) {
            mailbox.hint(hint, clock.elapsed());
        }
    }))
}

fn watcher_for(
    options: &SyncOptions,
    hints: PostHint,
    start_watcher: StartWatcher<'_>,
) -> Box<dyn Watcher> {
    let sink = Box::new(move |number, hint| (hints.0)(number, hint));
    match start_watcher(options.tuning.watch_limit, sink) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(
                error = with_causes(&error),
                "cannot watch folders for changes; they are scanned every minute instead"
            );
            Box::new(NoWatcher)
        }
    }
}

/// The threads of all folders.
struct FolderThreads {
    handle: SyncHandle,
    threads: BTreeMap<FolderId, (Config, JoinHandle<()>)>,
    /// Threads of folders that are no longer configured. A folder is not added again before
    /// its thread has ended, since two threads must not change the same state.
    ending: BTreeMap<FolderId, JoinHandle<()>>,
    failed: Arc<watch_channel::Sender<Option<ThreadFailure>>>,
    /// Each thread sends the id of its folder when it ends.
    report_ended: mpsc::UnboundedSender<FolderId>,
    ended: mpsc::UnboundedReceiver<FolderId>,
    /// False if a thread has panicked, or did not end in time.
    have_all_ended: bool,
}

impl FolderThreads {
    /// Applies changes of the settings until the stop signal.
    async fn follow_settings(
        mut self,
        mut settings: watch_channel::Receiver<SyncSettings>,
        stop: Arc<StopSignal>,
    ) {
        let mut may_change = true;
        loop {
            tokio::select! {
                () = stop.0.notified() => return self.stop(),
                Some(id) = self.ended.recv() => {
                    if self.has_ended(&id) {
                        // The folder may be configured again by now.
                        self.apply_or_fail(&settings.borrow().clone());
                    }
                }
                changed = settings.changed(), if may_change => {
                    may_change = changed.is_ok();
                    if may_change {
                        self.apply_or_fail(&settings.borrow_and_update().clone());
                    }
                }
            }
        }
    }

    fn apply_or_fail(&mut self, settings: &SyncSettings) {
        if let Err(error) = self.apply(settings) {
            tracing::error!(error = with_causes(&error), "cannot apply a change of the settings");
            if let Some(folder) = settings.folders.first() {
                let failure =
                    ThreadFailure { folder: folder.id.clone(), text: with_causes(&error) };
                self.failed.send_replace(Some(failure));
            }
        }
    }

    /// Starts, configures and ends threads according to the settings.
    fn apply(&mut self, settings: &SyncSettings) -> Result<(), SyncError> {
        let is_configured = |id: &FolderId| settings.folders.iter().any(|folder| folder.id == *id);
        let removed: Vec<_> =
            self.threads.keys().filter(|id| !is_configured(id)).cloned().collect();
        for id in removed {
            self.remove(&id);
        }
        for folder in &settings.folders {
            let times = times(settings, &self.handle.context.tuning);
            let config = Config { folder: folder.clone(), times };
            match self.threads.get_mut(&folder.id) {
                Some((known, _)) if *known == config => {}
                Some((known, _)) => {
                    *known = config.clone();
                    if let Some(mailbox) = self.handle.folders.read().get(&folder.id) {
                        mailbox.configure(config);
                    }
                }
                // The folder is added when its old thread has ended.
                None if self.ending.contains_key(&folder.id) => {}
                None => self.add(folder, config)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, folder: &FolderSettings, config: Config) -> Result<(), SyncError> {
        let (task, of_thread) = add_folder(&self.handle, folder, config.clone())?;
        let failed = self.failed.clone();
        let ended = self.report_ended.clone();
        let id = folder.id.clone();
        let work = move || {
            let panic = std::panic::catch_unwind(AssertUnwindSafe(|| task.run()));
            of_thread.close();
            if let Err(panic) = panic {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "no message".to_owned());
                failed.send_replace(Some(ThreadFailure { folder: id.clone(), text }));
            }
            // Sending fails if the service has stopped.
            let _ = ended.send(id);
        };
        let name = format!("sync-{}", folder.id);
        let thread = std::thread::Builder::new().name(name).spawn(work);
        let thread = thread.map_err(|source| SyncError::State {
            action: "start a thread for",
            path: folder.path.clone(),
            source,
        })?;
        self.threads.insert(folder.id.clone(), (config, thread));
        Ok(())
    }

    /// Tells the thread of a folder to end, without waiting for it: a file system that does not
    /// answer would delay all other folders.
    fn remove(&mut self, id: &FolderId) {
        let Some((_, thread)) = self.threads.remove(id) else { return };
        if let Some(mailbox) = self.handle.folders.read().get(id) {
            mailbox.stop();
            self.handle.context.files.remove_root(mailbox.number);
        }
        self.ending.insert(id.clone(), thread);
    }

    /// Removes a folder whose thread has ended. Returns false if the thread was not told to
    /// end: then it has panicked.
    fn has_ended(&mut self, id: &FolderId) -> bool {
        let Some(thread) = self.ending.remove(id) else { return false };
        // (A panic was reported by the thread itself.)
        let _ = thread.join();
        let context = &self.handle.context;
        let mailbox = self.handle.folders.write().remove(id);
        if let Some(mailbox) = mailbox {
            context.watcher.unwatch_folder(mailbox.number);
        }
        context.publisher.withdraw(id);
        context.statuses.remove(id);
        true
    }

    /// Tells all threads to end, and waits for them for a limited time.
    fn stop(&mut self) {
        for mailbox in self.handle.folders.read().values() {
            mailbox.stop();
        }
        let threads = std::mem::take(&mut self.threads).into_iter();
        let threads = threads.map(|(id, (_, thread))| (id, thread));
        let threads: Vec<_> = threads.chain(std::mem::take(&mut self.ending)).collect();
        let end = Instant::now() + STOP_MAX;
        while threads.iter().any(|(_, thread)| !thread.is_finished()) && Instant::now() < end {
            std::thread::sleep(STOP_PAUSE);
        }
        for (folder, thread) in threads {
            if thread.is_finished() {
                self.have_all_ended &= thread.join().is_ok();
            } else {
                self.have_all_ended = false;
                tracing::warn!(%folder, "the work on the folder does not end; no longer waiting for it");
            }
        }
        if self.have_all_ended
            && let Err(error) = self.handle.context.index.close()
        {
            tracing::warn!(error = with_causes(&error), "cannot close the file index");
        }
    }
}

impl Drop for FolderThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn times(settings: &SyncSettings, tuning: &Tuning) -> Times {
    Times {
        quiet_time: tuning.quiet_time,
        quiet_time_max: tuning.quiet_time_max,
        delay: settings.manifest_max_delay,
        threshold: u64::from(settings.manifest_update_threshold.max(1)),
        publish_interval_max: tuning.publish_interval_max,
        rescan: settings.rescan_interval,
        alarm_interval: tuning.alarm_interval,
    }
}

/// Returns the last manifest of a folder without a record: its index was lost, and its sequence
/// numbers have to continue.
fn manifest_in_store(context: &Context, folder: &FolderSettings) -> Option<ManifestRecord> {
    let roots = context.store.roots(&publish::root_prefix(&folder.id));
    let roots =
        roots.into_iter().filter_map(|(name, root)| Some((publish::sequence_of(&name)?, root.cid)));
    let (sequence, cid) = roots.max_by_key(|(sequence, _)| *sequence)?;
    tracing::warn!(folder = %folder.id, %sequence,
        "the file index was lost; sequence numbers continue after the last manifest in the store");
    let header = || {
        let bytes = context.store.get(&cid).ok()??;
        let dataset = Dataset::decode(&bytes).ok()?;
        ManifestHeader::decode(&context.store.get(&dataset.tree).ok()??).ok()
    };
    Some(match header() {
        Some(header) => ManifestRecord {
            sequence,
            cid,
            at: header.created_at,
            folder_name: header.folder_name,
            folder_path: header.folder_path,
            totals: Totals {
                files: header.stats.total_files,
                dirs: header.stats.total_dirs,
                bytes: header.stats.total_size_bytes,
            },
            is_unfinished: false,
        },
        // The manifest is damaged; only its sequence number matters.
        None => ManifestRecord {
            sequence,
            cid,
            at: context.clock.now(),
            folder_name: folder.name.clone(),
            folder_path: folder.path.display().to_string(),
            totals: Totals::default(),
            is_unfinished: false,
        },
    })
}
