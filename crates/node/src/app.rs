//! Starting an instance in the order of dependence, and ending it in reverse.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup::{BackupDaemon, BackupService, BackupStartError, SnapshotStore, TriggerError};
use disk::{AtomicWrite, DiskFile, Permissions, RealDisk, write_atomic};
use net::{Access, IdentityError, Keypair, Multiaddr, Net, NetError, PeerId, Purposes};
use serde::{Deserialize, Serialize};
use store::{BlockStore as _, OpenReport, PackStore, StoreError};
use sync::SyncError;

use crate::backup_side;
use crate::collector::Collector;
use crate::downloads::Downloads;
use crate::http::{self, ListenError};
use crate::journal::Journal;
use crate::keeper::Keeper;
use crate::listeners::Problems;
use crate::local_blocks::LocalBlocks;
use crate::log_level::LogLevel;
use crate::options::{self, Live};
use crate::pairing::{self, Pairing};
use crate::recompression;
use crate::removed::RemovedFolders;
use crate::rest::{self, NodeState};
use crate::roots;
use crate::settings::Settings;
use crate::source_side::SourceSide;
use crate::tasks::Tasks;
use crate::token;
use crate::traffic::Traffic;
use crate::v1::{self, ApiState, Jobs, Restores};
use crate::web::{self, LoginKeys, Sessions};

/// The sides and the tasks may take this long to end …
const TASKS_END: Duration = Duration::from_millis(2500);
/// The longest `running.json`, in bytes.
const RUNNING_LEN_MAX: u64 = 4096;
/// … the network this long to say goodbye …
const NET_END: Duration = Duration::from_millis(1500);
/// … and the store this long to write its index out.
const STORE_END: Duration = Duration::from_millis(750);
/// All together: less than five seconds.
const _: () = assert!(TASKS_END.as_millis() + NET_END.as_millis() + STORE_END.as_millis() < 5000);

/// What an instance needs to know.
#[derive(Clone, Debug)]
pub struct AppOptions {
    /// The configuration, and its file.
    pub settings: Settings,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Changes what is logged.
    pub log_level: LogLevel,
}

/// Why an instance could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("cannot use {}", path.display())]
    Data {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// The key.
    #[error("cannot use the identity")]
    Identity(#[from] IdentityError),
    /// The network.
    #[error("cannot start the network")]
    Net(#[from] NetError),
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The side of the source.
    #[error("cannot watch the folders")]
    Sync(#[from] SyncError),
    /// The side of the backup server.
    #[error("cannot start the backup daemon")]
    Backup(#[from] BackupStartError),
    /// Telling the backup server.
    #[error("cannot tell the backup server")]
    Trigger(#[from] TriggerError),
}

/// A running instance.
pub struct App {
    tasks: Tasks,
    net: Net,
    source: SourceSide,
    backup: BackupDaemon,
    state: ApiState,
    access: Access,
    api: SocketAddr,
    running: RunningFile,
}

/// What both sides and the network are started with.
struct Parts<'a> {
    settings: &'a Settings,
    tasks: &'a Tasks,
    data_dir: &'a Path,
    store: &'a Arc<PackStore>,
    access: &'a Access,
}

/// Both sides and the network, running.
struct Started {
    net: Net,
    source: SourceSide,
    service: BackupService,
    backup: BackupDaemon,
    blocks: LocalBlocks,
    snapshots: SnapshotStore,
    problems: Problems,
}

impl Parts<'_> {
    /// The source comes first, since the network serves its blocks; then the
    /// network, and then what talks over it.
    async fn start(self, keypair: Keypair) -> Result<Started, StartError> {
        let Parts { settings, tasks, data_dir, store, access } = self;
        let source = SourceSide::start(settings, tasks, data_dir, store.clone(), &keypair).await?;
        let blocks = LocalBlocks::new(store.clone(), source.in_place());
        let provider = Arc::new(blocks.clone());
        let config = settings.get();
        let net =
            Net::start(options::net_config(&config), keypair, provider, access.clone()).await?;
        let problems = Problems::default();
        let service = source.serve(settings, tasks, &net, access, problems.clone()).await?;
        let snapshots = SnapshotStore::new(store.clone());
        let backup =
            backup_side::start(settings, tasks, data_dir, &snapshots, &net, problems.clone())
                .await?;
        if let Some(streams) = net.accept(&backup::SNAPSHOTS_PROTOCOL) {
            let allowed = access.clone();
            let may_restore = move |peer: &PeerId| allowed.allows(peer, Purposes::RESTORE);
            let serving = backup::serve_snapshots(streams, may_restore, snapshots.clone());
            let stop = tasks.stop_token();
            tasks.spawn("snapshots", async move {
                tokio::select! {
                    () = serving => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        if let Some(streams) = net.accept(&backup::PATCH_PROTOCOL) {
            let allowed = access.clone();
            let may_have = move |peer: &PeerId| allowed.allows(peer, Purposes::BLOCKS);
            let serving = backup::serve_patches(streams, may_have, store.clone());
            let stop = tasks.stop_token();
            tasks.spawn("patches", async move {
                tokio::select! {
                    () = serving => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Ok(Started { net, source, service, backup, blocks, snapshots, problems })
    }
}

/// Where things are in a data directory.
struct DataDir<'a>(&'a Path);

impl DataDir<'_> {
    fn store(&self) -> PathBuf {
        self.0.join("store")
    }
    fn key(&self) -> PathBuf {
        self.0.join("identity.key")
    }
    fn token(&self) -> PathBuf {
        self.0.join("api-token")
    }
    fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }
    fn traffic(&self) -> PathBuf {
        self.0.join("traffic.json")
    }
    fn running(&self) -> PathBuf {
        self.0.join("running.json")
    }
}

/// How to reach the instance that runs on a data directory; what the file
/// `running.json` in it holds while it runs. The instance keeps a lock on the
/// file, which goes with its process, however that ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Where its API listens.
    pub api: SocketAddr,
    /// Its process.
    pub pid: u32,
}

impl Running {
    /// Finds the instance that runs on the data in `dir`. What a killed one
    /// has left behind is none: whoever listens there now is somebody else, who
    /// must not be sent the token.
    pub fn find(dir: &Path) -> Option<Self> {
        let file = File::open(DataDir(dir).running()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let mut text = Vec::new();
        file.take(RUNNING_LEN_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Tells it in `dir`, for as long as what is returned lives.
    fn publish(&self, dir: &Path) -> Result<RunningFile, StartError> {
        let path = DataDir(dir).running();
        let text = serde_json::to_vec(self).unwrap_or_default();
        // A file that is found without a lock is one of an instance that has ended.
        let options = AtomicWrite {
            permissions: Permissions::Mode(0o666),
            lock: true,
            ..AtomicWrite::PRIVATE
        };
        match write_atomic(&RealDisk, &path, &text, &options) {
            Ok(lock) => Ok(RunningFile { path, _lock: lock }),
            Err(error) => Err(StartError::Data { path, source: error.into() }),
        }
    }
}

/// The file that tells where a running instance is; gone when this is.
struct RunningFile {
    path: PathBuf,
    _lock: Box<dyn DiskFile>,
}

impl Drop for RunningFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl App {
    /// Starts an instance; returns when all of it listens.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing runs on then.
    pub async fn start(options: AppOptions) -> Result<Self, StartError> {
        let settings = options.settings;
        let config = settings.get();
        let dir = DataDir(&options.data_dir);
        make_data_dir(&options.data_dir)?;
        let api_address = options::api_address(&config);
        let api = http::bind(api_address, "the REST API, [node] api_port").await?;
        let api_addr = api.local_addr().map_err(|source| ListenError {
            address: api_address,
            what: "the REST API",
            source,
        })?;
        // The store's lock comes first: a second daemon on the same data ends
        // here, before it has touched anything.
        let (store_dir, store_options) = (dir.store(), options::store_options(&config));
        let opened =
            tokio::task::spawn_blocking(move || PackStore::open(&store_dir, &store_options));
        let (store, report) = match opened.await {
            Ok(opened) => opened?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        log_report(&report);
        // What an earlier run was restoring needs no hold any more.
        for (name, _) in store.roots(roots::RESTORE) {
            store.remove_root(&name)?;
        }
        let store = Arc::new(store);
        let keypair = net::identity::load_or_create(&dir.key())?;
        let token_path = dir.token();
        let token = token::load_or_create(&token_path)
            .map_err(|source| StartError::Data { path: token_path, source })?;

        let access = Access::new();
        access.replace(options::access_list(&config));
        let tasks = Tasks::new();
        let started = Parts {
            settings: &settings,
            tasks: &tasks,
            data_dir: &options.data_dir,
            store: &store,
            access: &access,
        }
        .start(keypair)
        .await;
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                tasks.end(TASKS_END).await;
                return Err(error);
            }
        };
        let Started { net, source, service, backup, blocks, snapshots, problems } = started;

        let collector = Collector::new(problems.clone());
        tasks.spawn("collector", collector.clone().run(store.clone(), tasks.stop_token()));
        let downloads = Downloads::new(blocks.clone(), net.handle(), tasks.clone());
        let live = Live {
            net: net.handle(),
            access: access.clone(),
            store: store.clone(),
            log_level: options.log_level.clone(),
        };
        tasks.spawn("settings", live.run(settings.clone(), tasks.stop_token()));
        let pairing = Pairing::new(net.handle(), settings.clone());
        if let Some(streams) = net.accept(&pairing::PROTOCOL) {
            tasks.spawn("pairing", pairing.clone().serve(streams, tasks.clone()));
        }
        let node = NodeState {
            store,
            blocks,
            net: net.handle(),
            downloads,
            collector,
            log_level: options.log_level,
            repo: options.data_dir.to_string_lossy().into(),
            token: token.into(),
            settings,
            tasks: tasks.clone(),
        };
        let state = ApiState {
            node,
            sync: source.sync.handle(),
            registry: source.registry.clone(),
            manifest_clients: source.manifest_clients.clone(),
            service,
            backup: backup.handle(),
            snapshots,
            problems,
            pairing,
            jobs: Jobs::default(),
            restores: Restores::default(),
            access: access.clone(),
            login_keys: LoginKeys::default(),
            journal: Journal::default(),
            traffic: Traffic::new(net.handle()),
            removed: RemovedFolders::new(&options.data_dir),
            stop: tasks.stop_token(),
        };
        let kept = state.journal.clone().keep(dir.journal(), tasks.stop_token());
        tasks.spawn("journal file", kept);
        let kept = state.traffic.clone().keep(dir.traffic(), tasks.stop_token());
        tasks.spawn("traffic", kept);
        let journal = state.journal.clone();
        let journal = journal.run(state.sync.clone(), state.backup.clone(), tasks.stop_token());
        tasks.spawn("journal", journal);
        let (removed, stop) = (v1::forget_removed(state.clone()), tasks.stop_token());
        tasks.spawn("removed-folders", async move {
            tokio::select! {
                () = removed => {}
                () = stop.cancelled() => {}
            }
        });
        let keeper = Keeper::new(state.clone());
        tasks.spawn("keeper", keeper.run(tasks.stop_token()));
        let recompressing = recompression::run(state.clone(), tasks.stop_token());
        tasks.spawn("recompression", recompressing);
        let router = rest::router(state.node.clone()).merge(v1::router(state.clone()));
        let sessions = Sessions::new(&state.node.token);
        let router = router.merge(web::router(state.login_keys.clone(), sessions));
        let router = rest::guarded(router);
        tasks.spawn("rest-api", http::serve(api, router, tasks.stop_token()));
        let running = Running { api: api_addr, pid: std::process::id() };
        let running = running.publish(&options.data_dir)?;
        Ok(Self { tasks, net, source, backup, state, access, api: api_addr, running })
    }

    /// Where the API listens.
    pub fn api_addr(&self) -> SocketAddr {
        self.api
    }

    /// Who this instance is.
    pub fn peer_id(&self) -> PeerId {
        self.state.node.net.peer_id()
    }

    /// Where the network listens.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.state.node.net.listen_addrs()
    }

    /// Which peers may do what; changes count at once.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The store.
    pub fn store(&self) -> &Arc<PackStore> {
        &self.state.node.store
    }

    /// Waits until the instance stops by itself: a part of it has died.
    pub async fn failed(&self) {
        let stop = self.tasks.stop_token();
        tokio::select! {
            () = stop.cancelled() => {}
            error = self.source.sync.failed() => {
                self.tasks.fail(format!("the watching of folders has ended: {error}"));
            }
            error = self.backup.failed() => {
                self.tasks.fail(format!("the backup daemon has ended: {error}"));
            }
            ended = self.net.stopped() => {
                let reason = ended.err().map_or("no reason".to_owned(), |error| error.to_string());
                self.tasks.fail(format!("the network has ended: {reason}"));
            }
        }
    }

    /// Ends the instance, within five seconds: what does not end by then is
    /// left to the end of the process, as if it had been killed.
    ///
    /// # Errors
    ///
    /// Why it had stopped by itself, where it had.
    pub async fn shutdown(self) -> Result<(), String> {
        self.state.restores.stop();
        let (_, _, ended) = tokio::join!(
            within(TASKS_END, "the watching of folders", self.source.sync.shutdown()),
            within(TASKS_END, "the backup daemon", self.backup.shutdown()),
            self.tasks.end(TASKS_END),
        );
        if !ended {
            tracing::warn!("some tasks did not end in time");
        }
        if let Err(error) = self.net.shutdown(NET_END).await {
            tracing::warn!(%error, "the network did not end in time");
        }
        let failure = self.tasks.failure();
        drop(self.running);
        // The index is written out as the store goes, unless something still
        // holds it: then the next start does what is left.
        let state = self.state;
        let closing = tokio::task::spawn_blocking(move || drop(state));
        within(STORE_END, "the store", async { drop(closing.await) }).await;
        failure.map_or(Ok(()), Err)
    }
}

/// Waits until a part has ended, at most so long.
async fn within(limit: Duration, what: &str, end: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, end).await.is_err() {
        tracing::warn!("{what} did not end in time");
    }
}

/// The peer id of the instance with its data in `dir`; its key is made where
/// there is none.
///
/// # Errors
///
/// [`StartError::Identity`].
pub fn load_identity(dir: &Path) -> Result<PeerId, StartError> {
    let keypair = net::identity::load_or_create(&DataDir(dir).key())?;
    Ok(keypair.public().to_peer_id())
}

/// Makes the data directory, for its owner alone.
///
/// # Errors
///
/// [`StartError::Data`].
pub fn make_data_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StartError::Data { path: path.to_owned(), source })
}

fn log_report(report: &OpenReport) {
    for damage in &report.damage {
        tracing::error!(damage, "the store is damaged; what is gone counts as absent");
    }
    for pack in &report.lost_packs {
        tracing::error!(pack = %pack.display(), "a file of the store is gone");
    }
    if report.index_rebuilt {
        tracing::info!("the store's index was made anew");
    }
    if report.roots_healed {
        tracing::warn!("one of the two records of what is kept was damaged, and has been healed");
    }
    if report.roots_incomplete {
        tracing::error!(
            "records of what is kept are lost: nothing is freed any more; look whether \
             `archivist snapshots` lists all that there is to keep, and say so with \
             `archivist prune --accept-roots`"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_end_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        within(TASKS_END, "a part", std::future::pending()).await;
        assert_eq!(begun.elapsed(), TASKS_END);
        within(TASKS_END, "a part", async {}).await;
        assert_eq!(begun.elapsed(), TASKS_END);
    }
}
