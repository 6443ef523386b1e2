//! The backup daemon: B's side of the work, for as long as the instance runs.
//!
//! Role: one task for each source ([`source`]), which share the store, the
//! network and the number of pulls at once; one that writes the state file;
//! one that starts and ends the others as the settings say. Everybody else
//! holds a [`BackupHandle`].
//!
//! Invariants: no state is needed to start but the store and the settings; a
//! source that is slow, dead or hostile holds up no other; settings take
//! effect while it runs.

mod accepted;
mod backoff;
mod board;
mod slots;
mod source;
mod state_file;
mod status;
mod world;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::{BackupServerConfig, SourcePeer};
use manifest::{ClientError, ManifestClient};
use net::{Handle, NetEvent, PeerId};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use types::{Cid, FolderId, SequenceNumber};

use self::accepted::AcceptedFile;
use self::board::Board;
use self::slots::Slots;
use self::source::{Common, Request, SourceTask, Tools};
use self::state_file::StateFile;
use self::world::{RealWorld, World};
use crate::blocking::{Panicked, blocking};
use crate::clock::Clock;
use crate::manifest_pull::{ManifestPullError, ManifestPuller};
use crate::pool::SessionPool;
use crate::snapshot::SnapshotStore;

pub use self::state_file::STATE_FILE_NAME;
pub use self::status::{
    BackupEvent, FolderStatus, Processed, PullStatus, SourceState, SourceStatus, Totals,
};

/// How long [`BackupDaemon::shutdown`] takes at most.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);
/// Requests that wait for a source's task.
const REQUESTS_MAX: usize = 16;

/// What the daemon works with.
#[derive(Clone)]
pub struct BackupOptions {
    /// The snapshots, and the store that they are in. There is one of these
    /// for a store.
    pub snapshots: SnapshotStore,
    /// The network. The sources have to be allowed on it by who owns it.
    pub net: Handle,
    /// Where the state file goes, and what the user has accepted.
    pub data_dir: PathBuf,
    /// What can change while it runs.
    pub settings: watch::Receiver<BackupSettings>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for BackupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupOptions").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// What can change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupSettings {
    /// Whether anything is pulled at all.
    pub enabled: bool,
    /// How often a source is asked that cannot tell of news by itself.
    pub poll_interval: Duration,
    /// How many manifests are pulled at once, of all sources together.
    pub max_concurrent_downloads: usize,
    /// After so many failures in a row more, a source is shown as failed.
    pub max_retries: u32,
    /// The sources.
    pub sources: Vec<SourcePeer>,
}

impl From<&BackupServerConfig> for BackupSettings {
    fn from(config: &BackupServerConfig) -> Self {
        Self {
            enabled: config.enabled,
            poll_interval: config.poll_interval(),
            max_concurrent_downloads: config.max_concurrent_downloads as usize,
            max_retries: config.max_retries,
            sources: config.source_peers.clone(),
        }
    }
}

impl BackupSettings {
    fn common(&self) -> Common {
        Common { poll_interval: self.poll_interval, max_retries: self.max_retries }
    }
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BackupStartError {
    /// There is no way to ask anybody.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The work panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// Why a source was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is none of that name.
    #[error("there is no source {0:?}; `archivist source list` lists them")]
    NoSource(String),
    /// Nothing of it is refused that could be accepted.
    #[error("nothing that the source offers waits to be accepted")]
    Nothing,
    /// It cannot be noted.
    #[error("what was accepted cannot be written down")]
    Io(#[source] std::io::Error),
    /// The daemon is switched off, or has ended.
    #[error("the backup server is not running: set [backup_server] enabled")]
    NotRunning,
    /// The work panicked.
    #[error(transparent)]
    Panicked(Panicked),
}

/// What [`BackupHandle::accept`] has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Another peer answers than the one that is configured. Nothing has
    /// changed yet: to accept it is to write this id into the configuration,
    /// as the source's `peer_id`. What is held of the old one stays.
    pub peer_id: Option<PeerId>,
    /// The folders that go on from the manifests that they offer now.
    pub folders: Vec<AcceptedFolder>,
}

/// A folder that goes on from another state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedFolder {
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// The number that was accepted.
    pub sequence: SequenceNumber,
    /// The manifest that was accepted.
    pub manifest_cid: Cid,
}

/// The daemon. Dropping it ends its tasks soon; [`BackupDaemon::shutdown`]
/// waits for that.
#[derive(Debug)]
pub struct BackupDaemon {
    handle: BackupHandle,
    stop: CancellationToken,
    _stops: DropGuard,
    manager: JoinHandle<()>,
    failure: watch::Receiver<Option<String>>,
}

/// How others use the daemon. Clones are the same.
#[derive(Clone, Debug)]
pub struct BackupHandle {
    board: Board,
    snapshots: SnapshotStore,
    puller: ManifestPuller,
    links: Links,
}

type Links = Arc<Mutex<HashMap<String, Link>>>;

/// The way to a source's task.
#[derive(Clone, Debug)]
struct Link {
    peer: PeerId,
    hint: Arc<Notify>,
    requests: mpsc::Sender<Request>,
}

impl BackupDaemon {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`BackupStartError`].
    pub async fn start(options: BackupOptions) -> Result<Self, BackupStartError> {
        let BackupOptions { snapshots, net, data_dir, settings, clock } = options;
        let client = ManifestClient::new(Some(net.peer_id()))?;
        let pool = SessionPool::new(net.clone());
        let puller = ManifestPuller::new(snapshots.clone(), pool, clock.clone());
        let events = net.events();
        let world: Arc<dyn World> = Arc::new(RealWorld {
            client,
            net,
            snapshots: snapshots.clone(),
            puller: puller.clone(),
        });
        let accepted = {
            let data_dir = data_dir.clone();
            blocking(move || Ok::<_, BackupStartError>(AcceptedFile::open(&data_dir))).await?
        };
        let (board, links, stop) = (Board::new(), Links::default(), CancellationToken::new());
        let (failed, failure) = watch::channel(None);
        let first = settings.borrow().clone();
        let manager = Manager {
            world,
            slots: Slots::new(first.max_concurrent_downloads.max(1)),
            common: watch::Sender::new(first.common()),
            board: board.clone(),
            accepted: Arc::new(accepted),
            clock: clock.clone(),
            links: links.clone(),
            settings,
            running: HashMap::new(),
            ending: Vec::new(),
            tasks: JoinSet::new(),
            stop: stop.clone(),
            failed,
        };
        let handle = BackupHandle {
            board: board.clone(),
            snapshots: snapshots.clone(),
            puller: puller.clone(),
            links,
        };
        let state = StateFile { path: data_dir.join(STATE_FILE_NAME), board, snapshots, clock };
        let manager = tokio::spawn(manager.run(events, state, puller));
        Ok(Self { handle, _stops: stop.clone().drop_guard(), stop, manager, failure })
    }

    /// The way to use it.
    pub fn handle(&self) -> BackupHandle {
        self.handle.clone()
    }

    /// Waits until one of its tasks has panicked, which ends the daemon, and
    /// says which.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_default(),
            Err(_) if self.stop.is_cancelled() => std::future::pending().await,
            Err(_) => "the backup daemon's own task panicked".to_owned(),
        }
    }

    /// Ends it, within two seconds. What was fetched is in the store.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let Self { mut manager, .. } = self;
        if tokio::time::timeout(SHUTDOWN_MAX, &mut manager).await.is_err() {
            tracing::warn!("the backup daemon did not end in time; it was cut off");
            manager.abort();
        }
    }
}

impl BackupHandle {
    /// Has every source asked at once, and what has failed tried again.
    /// However often it is called, at most one question to a source is under
    /// way and one waits.
    pub fn poll_now(&self) {
        self.links.lock().values().for_each(|link| link.hint.notify_one());
    }

    /// As [`BackupHandle::poll_now`], for the source of that name; `false`
    /// where none of that name runs.
    pub fn poll_now_source(&self, name: &str) -> bool {
        let links = self.links.lock();
        let link = links.get(name);
        link.inspect(|link| link.hint.notify_one()).is_some()
    }

    /// How the sources are, by name.
    pub fn sources(&self) -> Vec<Arc<SourceStatus>> {
        self.board.sources()
    }

    /// What happens from now on. A listener that falls far behind misses some.
    pub fn subscribe(&self) -> broadcast::Receiver<BackupEvent> {
        self.board.subscribe()
    }

    /// Takes the source as it is now (SPEC section 4): the manifests that are
    /// refused since their numbers do not follow from the last. What is held
    /// stays.
    ///
    /// # Errors
    ///
    /// [`AcceptError`].
    pub async fn accept(&self, name: &str) -> Result<Accepted, AcceptError> {
        let link = self.links.lock().get(name).cloned();
        let Some(link) = link else {
            let is_known = self.sources().iter().any(|source| source.name == name);
            return Err(if is_known {
                AcceptError::NotRunning
            } else {
                AcceptError::NoSource(name.to_owned())
            });
        };
        let (reply, answer) = oneshot::channel();
        link.requests.send(Request::Accept(reply)).await.map_err(|_| AcceptError::NotRunning)?;
        answer.await.map_err(|_| AcceptError::NotRunning)?
    }

    /// The snapshots.
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// What pulls manifests here; others may pull with it, but not a folder
    /// that the daemon pulls.
    pub fn puller(&self) -> &ManifestPuller {
        &self.puller
    }

    /// What was done since the start, and what there is.
    pub fn totals(&self) -> Totals {
        state_file::totals(&self.board, &self.snapshots)
    }
}

/// Starts and ends the sources' tasks.
struct Manager {
    world: Arc<dyn World>,
    slots: Slots,
    common: watch::Sender<Common>,
    board: Board,
    accepted: Arc<AcceptedFile>,
    clock: Arc<dyn Clock>,
    links: Links,
    settings: watch::Receiver<BackupSettings>,
    running: HashMap<String, Running>,
    /// The ends of the tasks that were told to stop, with whose they are: the
    /// next task of that peer waits for them.
    ending: Vec<(PeerId, CancellationToken)>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    failed: watch::Sender<Option<String>>,
}

/// A source's task.
struct Running {
    source: SourcePeer,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Manager {
    async fn run(
        mut self,
        mut events: broadcast::Receiver<NetEvent>,
        state: StateFile,
        puller: ManifestPuller,
    ) {
        let (written, stop_writing) = {
            let stop = CancellationToken::new();
            (tokio::spawn(state.run(stop.clone())), stop)
        };
        self.tidy(puller).await;
        self.apply();
        let stop = self.stop.clone();
        let mut has_settings = true;
        let mut has_events = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.settings.changed(), if has_settings => match changed {
                    Ok(()) => self.apply(),
                    Err(_) => has_settings = false,
                },
                event = events.recv(), if has_events => match event {
                    Ok(NetEvent::Connected { peer, .. }) => self.connected(Some(peer)),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.connected(None),
                    Err(RecvError::Closed) => has_events = false,
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended
                        && error.is_panic()
                    {
                        let what = "the task of a source panicked".to_owned();
                        tracing::error!(what, "the backup daemon ends");
                        self.failed.send_replace(Some(what));
                        self.stop.cancel();
                    }
                }
            }
        }
        self.links.lock().clear();
        self.running.values().for_each(|running| running.stop.cancel());
        while self.tasks.join_next().await.is_some() {}
        stop_writing.cancel();
        // It logs what goes wrong.
        let _ = written.await;
    }

    /// Removes what pulls have left behind with which nobody goes on.
    async fn tidy(&self, puller: ManifestPuller) {
        let sources = self.settings.borrow().sources.iter().map(|source| source.peer_id).collect();
        let tidied = blocking(move || {
            let sources: Vec<PeerId> = sources;
            puller.tidy(&sources)?;
            Ok::<_, ManifestPullError>(())
        });
        if let Err(error) = tidied.await {
            tracing::warn!(%error, "the roots of pulls that are done could not be removed");
        }
    }

    /// Makes everything as the settings say.
    fn apply(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        self.slots.set(settings.max_concurrent_downloads.max(1));
        let common = settings.common();
        self.common.send_if_modified(|old| std::mem::replace(old, common) != common);
        let is_wanted =
            |running: &Running| settings.enabled && settings.sources.contains(&running.source);
        self.ending.retain(|(_, ended)| !ended.is_cancelled());
        let (links, ending) = (&self.links, &mut self.ending);
        self.running.retain(|name, running| {
            if is_wanted(running) {
                return true;
            }
            running.stop.cancel();
            links.lock().remove(name);
            ending.push((running.source.peer_id, running.ended.clone()));
            false
        });
        let names: Vec<&str> = settings.sources.iter().map(|source| source.name.as_str()).collect();
        for status in self.board.sources() {
            if !names.contains(&status.name.as_str()) {
                self.board.remove(&status.name);
            }
        }
        for source in &settings.sources {
            if !settings.enabled {
                self.board.set(disabled(source), None);
            } else if !self.running.contains_key(source.name.as_str()) {
                self.start(source);
            }
        }
    }

    /// Starts the task of a source, once those that pulled from the same peer
    /// have ended.
    fn start(&mut self, source: &SourcePeer) {
        let before = self.ending.iter().filter(|(peer, _)| *peer == source.peer_id);
        let before: Vec<_> = before.map(|(_, ended)| ended.clone()).collect();
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (hint, (requests, receiver)) = (Arc::new(Notify::new()), mpsc::channel(REQUESTS_MAX));
        let tools = Tools {
            world: self.world.clone(),
            slots: self.slots.clone(),
            board: self.board.clone(),
            accepted: self.accepted.clone(),
            clock: self.clock.clone(),
            common: self.common.subscribe(),
            hint: hint.clone(),
            requests: receiver,
            stop: stop.clone(),
        };
        let name = source.name.to_string();
        self.links.lock().insert(name.clone(), Link { peer: source.peer_id, hint, requests });
        let running = Running { source: source.clone(), stop, ended: ended.clone() };
        self.running.insert(name, running);
        let source = source.clone();
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            for before in before {
                before.cancelled().await;
            }
            SourceTask::new(source, tools).run().await;
        });
    }

    /// Tells the task of `peer`, or all where it is not known whose, that there
    /// is a new connection.
    fn connected(&self, peer: Option<PeerId>) {
        for link in self.links.lock().values() {
            if peer.is_none_or(|peer| peer == link.peer) {
                // A task whose queue is full has heard of one already.
                let _ = link.requests.try_send(Request::Connected);
            }
        }
    }
}

fn disabled(source: &SourcePeer) -> SourceStatus {
    SourceStatus {
        name: source.name.to_string(),
        peer_id: source.peer_id,
        manifest_server_url: source.manifest_server_url.to_string(),
        state: SourceState::Disabled,
        detail: None,
        last_poll: None,
        poll_failures: 0,
        long_poll: false,
        errors: Vec::new(),
        can_be_accepted: false,
        pulls: Vec::new(),
        folders: Vec::new(),
    }
}
