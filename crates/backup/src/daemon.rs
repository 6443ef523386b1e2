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

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use manifest::{ClientError, ManifestClient};
use net::Handle;
use protocols::{Clock, Panicked, SessionPool, blocking};
use pull::ManifestPuller;
use snapshots::SnapshotStore;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::accept::{AcceptError, Accepted};
use crate::accepted::AcceptedFile;
use crate::board::Board;
use crate::manager::{Links, Manager};
use crate::settings::BackupSettings;
use crate::slots::Slots;
use crate::source::Request;
use crate::state_file::{self, STATE_FILE_NAME, StateFile};
use crate::status::{BackupEvent, SourceStatus, Totals};
use crate::world::{RealWorld, World};

/// How long [`BackupDaemon::shutdown`] takes at most.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

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
