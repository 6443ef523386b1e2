//! The source side as a whole: it starts a thread for each folder, and applies
//! changes of the settings.

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

use crate::core::Core;
use crate::error::SyncError;
use crate::folder::{Config, Mailbox, Task};
use crate::handle::SyncHandle;
use crate::index::{Index, ManifestRecord, Totals};
use crate::path_key::FolderNumber;
use crate::publish;
use crate::schedule::Times;
use crate::serve::Files;
use crate::settings::{FolderSettings, SyncOptions, SyncSettings, Tuning};
use crate::status::Board;
use crate::watch::{self, Hint, HintSink, NoWatcher, Watcher};

/// Where the state is, below the data of the instance.
const DIR: &str = "sync";
const IN_PLACE_DIR: &str = "in-place";
/// So many places of blocks that are no more cost less than to look for them.
const PLACES_SLACK: u64 = 10_000;

/// So long all folders together may take to end …
const STOP_MAX: Duration = Duration::from_secs(2);
/// … which is looked for so often.
const STOP_PAUSE: Duration = Duration::from_millis(2);

/// Folders that are watched. Dropping it stops the work, without waiting for
/// its end.
#[derive(Debug)]
pub struct SyncService {
    handle: SyncHandle,
    stop: Arc<Stop>,
    failed: watch_channel::Receiver<Option<Failure>>,
    settings: Option<JoinHandle<()>>,
}

/// Starts a watcher; [`watch::start`] is the one of this platform.
type StartWatcher<'a> = &'a dyn Fn(Option<usize>, HintSink) -> io::Result<Box<dyn Watcher>>;

/// Told to the thread of the settings, which stops all others.
#[derive(Debug, Default)]
struct Stop(Notify);

/// A task that died, and what it said.
#[derive(Clone, Debug)]
struct Failure {
    folder: FolderId,
    text: String,
}

impl SyncService {
    /// Opens the state and starts with all folders. It blocks while it opens
    /// and checks the state. Nothing may be collected in the store before it
    /// returns.
    ///
    /// # Errors
    ///
    /// [`SyncError`]: state that cannot be read stops the start; nothing is
    /// replaced. A folder that cannot be read does not.
    pub fn start(options: SyncOptions) -> Result<Self, SyncError> {
        Self::start_with(options, &watch::start)
    }

    /// Same as [`SyncService::start`], with another watcher.
    pub(crate) fn start_with(
        options: SyncOptions,
        start_watcher: StartWatcher<'_>,
    ) -> Result<Self, SyncError> {
        let dir = options.data_dir.join(DIR);
        let index = Arc::new(Index::open(options.disk.clone(), &dir, options.tuning.index_cache)?);
        let files = Arc::new(Files::new(index.clone()));
        let (in_place, is_lost) = InPlaceStore::open(
            options.disk.clone(),
            &dir.join(IN_PLACE_DIR),
            files.clone(),
            options.scheme.clone(),
        )?;
        // Nobody but its owner empties it.
        let is_empty = in_place.places() == 0
            && index.folders()?.iter().any(|(_, record)| record.rows.bytes > 0);
        if is_lost || is_empty {
            tracing::warn!("where blocks are in the files was lost; all files are read again");
            for (folder, _) in index.folders()? {
                index.update(&folder, |record| record.is_rehash_due = true)?;
            }
            // Noted durably; only now may the index be taken for whole.
            in_place.commit()?;
        }
        forget_old_places(&index, &in_place)?;
        let folders: Arc<RwLock<BTreeMap<FolderId, Arc<Mailbox>>>> = Arc::default();
        let watcher = watcher_for(&options, folders.clone(), start_watcher);
        let own_dirs = options.own_dirs.iter().chain([&options.data_dir]);
        let own_dirs = own_dirs.map(|dir| std::fs::canonicalize(dir).unwrap_or(dir.clone()));
        let core = Arc::new(Core {
            index,
            store: options.store,
            in_place: Arc::new(in_place),
            files,
            scheme: options.scheme,
            publisher: options.publisher,
            clock: options.clock,
            tuning: options.tuning,
            source_peer_id: options.source_peer_id,
            own_dirs: own_dirs.collect(),
            board: Board::new(),
            watcher,
        });
        let handle = SyncHandle { core, folders, changing: Arc::default() };
        let (tell_failed, failed) = watch_channel::channel(None);
        let (tell_ended, ended) = mpsc::unbounded_channel();
        let mut folders = Folders {
            handle: handle.clone(),
            threads: BTreeMap::new(),
            ending: BTreeMap::new(),
            failed: Arc::new(tell_failed),
            tell_ended,
            ended,
        };
        let mut settings = options.settings;
        let first = settings.borrow_and_update().clone();
        if let Err(error) = folders.apply(&first) {
            folders.stop();
            return Err(error);
        }
        let stop = Arc::new(Stop::default());
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|source| {
            folders.stop();
            SyncError::State { action: "start a runtime for", path: dir.clone(), source }
        })?;
        let work = move || {
            runtime.block_on(folders.follow(settings, stopped));
        };
        let thread = std::thread::Builder::new().name("sync-settings".to_owned()).spawn(work);
        let thread = thread.map_err(|source| SyncError::State {
            action: "start a thread for",
            path: dir,
            source,
        });
        // (A thread that did not start has dropped the folders, and stopped them.)
        Ok(Self { handle, stop, failed, settings: Some(thread?) })
    }

    /// A handle for the rest of the program.
    pub fn handle(&self) -> SyncHandle {
        self.handle.clone()
    }

    /// Waits until the work on a folder has died, which is for ever as long as
    /// all is well. The process is to stop then: what is not watched must not
    /// look as if it were.
    pub fn failed(&self) -> impl Future<Output = SyncError> + Send + use<> {
        let mut failed = self.failed.clone();
        async move {
            let failure = failed.wait_for(Option::is_some).await.ok().and_then(|f| f.clone());
            match failure {
                Some(Failure { folder, text }) => SyncError::Panicked { folder, text },
                // The service has ended, as it was told to.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops the work at once and waits for its end. Nothing is left half done:
    /// what is not published is found again at the next start. Work that hangs
    /// (on a file system that does not answer, most likely) is waited for two
    /// seconds, and then left to the end of the process.
    pub async fn shutdown(mut self) {
        self.stop.0.notify_one();
        if let Some(thread) = self.settings.take() {
            // A panic in it was told by `failed`.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for SyncService {
    fn drop(&mut self) {
        self.stop.0.notify_one();
    }
}

/// Forgets where blocks were in versions of files that are no more, when they
/// have come to be many. Only before any work: what is being taken in has no
/// row yet.
fn forget_old_places(index: &Index, in_place: &InPlaceStore) -> Result<(), SyncError> {
    let folders = index.folders()?;
    let expected: u64 = folders
        .iter()
        .map(|(_, record)| record.rows.files + record.rows.bytes / types::CHUNK_LEN_AVG as u64)
        .sum();
    if in_place.places() > 2 * expected + PLACES_SLACK {
        let ids = index.file_ids()?;
        in_place.retain(|id| ids.contains(&id))?;
    }
    Ok(())
}

fn watcher_for(
    options: &SyncOptions,
    folders: Arc<RwLock<BTreeMap<FolderId, Arc<Mailbox>>>>,
    start_watcher: StartWatcher<'_>,
) -> Box<dyn Watcher> {
    let clock = options.clock.clone();
    let sink = move |number: FolderNumber, hint: Hint| {
        let folders = folders.read();
        if let Some(mailbox) = folders.values().find(|mailbox| mailbox.number == number) {
            mailbox.hint(hint, clock.elapsed());
        }
    };
    match start_watcher(options.tuning.watch_limit, Box::new(sink)) {
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
struct Folders {
    handle: SyncHandle,
    threads: BTreeMap<FolderId, (Config, JoinHandle<()>)>,
    /// Those of folders that are not wanted any more. A folder is not added
    /// again before its thread has ended: two would work on one state.
    ending: BTreeMap<FolderId, JoinHandle<()>>,
    failed: Arc<watch_channel::Sender<Option<Failure>>>,
    /// Told by every thread when it ends.
    tell_ended: mpsc::UnboundedSender<FolderId>,
    ended: mpsc::UnboundedReceiver<FolderId>,
}

impl Folders {
    /// Applies settings as they change, until it is stopped.
    async fn follow(
        mut self,
        mut settings: watch_channel::Receiver<SyncSettings>,
        stop: Arc<Stop>,
    ) {
        let mut may_change = true;
        loop {
            tokio::select! {
                () = stop.0.notified() => return self.stop(),
                Some(id) = self.ended.recv() => {
                    if self.has_ended(&id) {
                        // It may be wanted again by now.
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
            tracing::error!(error = with_causes(&error), "a change of settings failed");
            if let Some(folder) = settings.folders.first() {
                let failure = Failure { folder: folder.id.clone(), text: with_causes(&error) };
                self.failed.send_replace(Some(failure));
            }
        }
    }

    /// Makes the folders what the settings say.
    fn apply(&mut self, settings: &SyncSettings) -> Result<(), SyncError> {
        let is_wanted = |id: &FolderId| settings.folders.iter().any(|folder| folder.id == *id);
        let unwanted: Vec<_> = self.threads.keys().filter(|id| !is_wanted(id)).cloned().collect();
        for id in unwanted {
            self.remove(&id);
        }
        for folder in &settings.folders {
            let times = times(settings, &self.handle.core.tuning);
            let config = Config { folder: folder.clone(), times };
            match self.threads.get_mut(&folder.id) {
                Some((known, _)) if *known == config => {}
                Some((known, _)) => {
                    *known = config.clone();
                    if let Some(mailbox) = self.handle.folders.read().get(&folder.id) {
                        mailbox.configure(config);
                    }
                }
                // Its old thread ends first, and has it added then.
                None if self.ending.contains_key(&folder.id) => {}
                None => self.add(folder, config)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, folder: &FolderSettings, config: Config) -> Result<(), SyncError> {
        let core = &self.handle.core;
        let _alone = self.handle.changing.lock();
        let record = match core.index.folder(&folder.id)? {
            Some(record) => {
                publish::remove_old_roots(core, &folder.id, Some(record.sequence()))?;
                record
            }
            None => core.index.create_folder(&folder.id, manifest_in_store(core, folder))?,
        };
        core.files.set_root(record.number, folder.path.clone());
        let mailbox = Arc::new(Mailbox::new(folder.id.clone(), record.number));
        if let Some(manifest) = &record.manifest {
            core.publisher.publish(manifest.published(&folder.id));
        }
        let mut task = Task::new(core.clone(), mailbox.clone(), config.clone(), record)?;
        let of_thread = mailbox.clone();
        // Whoever sees the folder may ask for it at once: it is known first.
        self.handle.folders.write().insert(folder.id.clone(), mailbox);
        task.show_rest();
        let failed = self.failed.clone();
        let ended = self.tell_ended.clone();
        let id = folder.id.clone();
        let work = move || {
            let panic = std::panic::catch_unwind(AssertUnwindSafe(|| task.run()));
            of_thread.close();
            if let Err(panic) = panic {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "without a word".to_owned());
                failed.send_replace(Some(Failure { folder: id.clone(), text }));
            }
            // Nobody listens any more when all is stopped.
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

    /// Ends the work on a folder. It is not waited for: a file system that does
    /// not answer would hold up all other folders.
    fn remove(&mut self, id: &FolderId) {
        let Some((_, thread)) = self.threads.remove(id) else { return };
        if let Some(mailbox) = self.handle.folders.read().get(id) {
            mailbox.stop();
            self.handle.core.files.remove_root(mailbox.number);
        }
        self.ending.insert(id.clone(), thread);
    }

    /// The thread of a folder is at its end. Tells whether that was wanted: then
    /// nothing shows the folder any more.
    fn has_ended(&mut self, id: &FolderId) -> bool {
        let Some(thread) = self.ending.remove(id) else { return false };
        // (A panic in it was told.)
        let _ = thread.join();
        let core = &self.handle.core;
        let mailbox = self.handle.folders.write().remove(id);
        if let Some(mailbox) = mailbox {
            core.watcher.unwatch_folder(mailbox.number);
        }
        core.publisher.withdraw(id);
        core.board.remove(id);
        true
    }

    /// Ends all threads, as far as they let themselves be ended.
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
                let _ = thread.join();
            } else {
                tracing::warn!(%folder, "the work on it does not end, and is left");
            }
        }
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        self.stop();
    }
}

fn times(settings: &SyncSettings, tuning: &Tuning) -> Times {
    Times {
        settle: tuning.settle,
        settle_max: tuning.settle_max,
        delay: settings.manifest_max_delay,
        threshold: u64::from(settings.manifest_update_threshold.max(1)),
        unrest_max: tuning.unrest_max,
        rescan: settings.rescan_interval,
        alarm_interval: tuning.alarm_interval,
    }
}

/// The last manifest of a folder that the index knows nothing of: its index
/// was lost, and its numbers have to go on where they were.
fn manifest_in_store(core: &Core, folder: &FolderSettings) -> Option<ManifestRecord> {
    let roots = core.store.roots(&publish::root_prefix(&folder.id));
    let roots =
        roots.into_iter().filter_map(|(name, root)| Some((publish::sequence_of(&name)?, root.cid)));
    let (sequence, cid) = roots.max_by_key(|(sequence, _)| *sequence)?;
    tracing::warn!(folder = %folder.id, %sequence, "the file index is new; numbers go on");
    let header = || {
        let bytes = core.store.get(&cid).ok()??;
        let dataset = Dataset::decode(&bytes).ok()?;
        ManifestHeader::decode(&core.store.get(&dataset.tree).ok()??).ok()
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
        // Damaged; its number is what counts.
        None => ManifestRecord {
            sequence,
            cid,
            at: core.clock.now(),
            folder_name: folder.name.clone(),
            folder_path: folder.path.display().to_string(),
            totals: Totals::default(),
            is_unfinished: false,
        },
    })
}
