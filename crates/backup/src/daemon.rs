//! The backup daemon: starting and stopping it, and the handle to it.
//!
//! Role: one task for each source (`source`); they share the store, the network and the pull slots.
//! One task writes the state file. One task starts and ends the others according to the settings
//! (`manager`). Other code uses the daemon through a [`BackupHandle`].
//!
//! Invariants: the daemon needs only the store and the settings to start; a slow, dead or hostile
//! source does not delay the others; settings apply while the daemon runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::{Disk, RealDisk, StateError};
use manifest::{ClientError, ManifestClient};
use net::{Handle, Keypair};
use protocols::{Clock, Panicked, SessionPool, blocking};
use pull::ManifestPuller;
use snapshots::SnapshotStore;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::accept::{AcceptError, Accepted};
use crate::confirmed_snapshot::ConfirmedSnapshot;
use crate::effects::{Effects, RealEffects};
use crate::issued_receipts::{IssuedReceipts, ReceiptsUnreadable};
use crate::manager::{Links, Manager};
use crate::offer_file::OfferFile;
use crate::settings::BackupSettings;
use crate::slots::Slots;
use crate::source::Request;
use crate::state_file::{self, STATE_FILE_NAME, StateFile};
use crate::status::{BackupEvent, BackupTotals, SourceStatus};
use crate::status_registry::StatusRegistry;

/// Maximum time of [`BackupDaemon::shutdown`].
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Dependencies of the daemon.
#[derive(Clone)]
pub struct BackupOptions {
    /// The snapshots and their store.
    pub snapshots: SnapshotStore,
    /// The network. The owner of the network must allow the sources.
    pub net: Handle,
    /// Directory of the state file, the acceptances and the signed receipts.
    pub data_dir: PathBuf,
    /// Key that signs the receipts: the identity of this instance.
    pub keypair: Keypair,
    /// Settings; may change at any time.
    pub settings: watch::Receiver<BackupSettings>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for BackupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupOptions").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// Reason why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BackupStartError {
    /// The client for manifest servers cannot be created.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The acceptances cannot be read. Nothing was changed.
    #[error(
        "cannot read the accepted manifests; nothing was changed: give the file back to the user \
         who runs this program, or move it away and run `archivist source accept` again if a \
         source is refused"
    )]
    Acceptances(#[from] StateError),
    /// Reading the acceptances panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// The daemon. Dropping it ends its tasks; [`BackupDaemon::shutdown`] also waits for their end.
#[derive(Debug)]
pub struct BackupDaemon {
    handle: BackupHandle,
    stop: CancellationToken,
    _stops: DropGuard,
    manager: JoinHandle<()>,
    failure: watch::Receiver<Option<String>>,
}

/// Access to the daemon. Clones are equivalent.
#[derive(Clone, Debug)]
pub struct BackupHandle {
    registry: StatusRegistry,
    snapshots: SnapshotStore,
    puller: ManifestPuller,
    issued: IssuedReceipts,
    links: Links,
}

impl BackupDaemon {
    /// Starts the daemon.
    ///
    /// # Errors
    ///
    /// Returns [`BackupStartError`] if the client for manifest servers cannot be created, or the
    /// acceptances cannot be read.
    pub async fn start(options: BackupOptions) -> Result<Self, BackupStartError> {
        let client = ManifestClient::new(Some(options.net.peer_id()))?;
        Self::start_with(options, client, Arc::new(RealDisk)).await
    }

    /// Starts the daemon with this client for manifest servers, and this disk for the signed
    /// receipts and the acceptances, for a simulation.
    ///
    /// # Errors
    ///
    /// Same as [`BackupDaemon::start`].
    pub async fn start_with(
        options: BackupOptions,
        client: ManifestClient,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, BackupStartError> {
        let BackupOptions { snapshots, net, data_dir, keypair, settings, clock } = options;
        let pool = SessionPool::new(net.clone());
        let puller = ManifestPuller::new(snapshots.clone(), pool, clock.clone());
        let events = net.events();
        let issued = IssuedReceipts::new(disk.clone(), &data_dir, keypair);
        let effects: Arc<dyn Effects> = Arc::new(RealEffects {
            client,
            net,
            snapshots: snapshots.clone(),
            puller: puller.clone(),
            issued: issued.clone(),
        });
        let (acceptances, set_backs) = {
            let data_dir = data_dir.clone();
            blocking(move || {
                let accepted = OfferFile::accepted(disk.clone(), &data_dir)?;
                Ok::<_, BackupStartError>((accepted, OfferFile::set_back(disk, &data_dir)?))
            })
            .await?
        };
        let (registry, links, stop) =
            (StatusRegistry::new(), Links::default(), CancellationToken::new());
        let (failed, failure) = watch::channel(None);
        let first = settings.borrow().clone();
        let manager = Manager {
            effects,
            slots: Slots::new(first.max_concurrent_downloads.max(1)),
            common: watch::Sender::new(first.common()),
            registry: registry.clone(),
            acceptances: Arc::new(acceptances),
            set_backs: Arc::new(set_backs),
            clock: clock.clone(),
            links: links.clone(),
            settings,
            running: BTreeMap::new(),
            ending: Vec::new(),
            tasks: JoinSet::new(),
            stop: stop.clone(),
            failed,
        };
        let handle = BackupHandle {
            registry: registry.clone(),
            snapshots: snapshots.clone(),
            puller: puller.clone(),
            issued,
            links,
        };
        let state = StateFile { path: data_dir.join(STATE_FILE_NAME), registry, snapshots, clock };
        let manager = tokio::spawn(manager.run(events, state, puller));
        Ok(Self { handle, _stops: stop.clone().drop_guard(), stop, manager, failure })
    }

    /// Returns a handle to the daemon.
    pub fn handle(&self) -> BackupHandle {
        self.handle.clone()
    }

    /// Waits until a task of the daemon panics, which ends the daemon, and returns a message that
    /// names the task.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_default(),
            Err(_) if self.stop.is_cancelled() => std::future::pending().await,
            Err(_) => "the main task of the backup daemon panicked".to_owned(),
        }
    }

    /// Ends the daemon within two seconds. Blocks that were fetched stay in the store.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let Self { mut manager, .. } = self;
        if tokio::time::timeout(SHUTDOWN_MAX, &mut manager).await.is_err() {
            tracing::warn!("the backup daemon did not end in time and was aborted");
            manager.abort();
        }
    }
}

impl BackupHandle {
    /// Polls every source immediately, and retries failed pulls. At most one poll of a source runs
    /// and one waits, however often this is called.
    pub fn poll_now(&self) {
        self.links.lock().values().for_each(|link| link.hint.notify_one());
    }

    /// Same as [`BackupHandle::poll_now`], for the source with this name. Returns `false` if no
    /// such source is running.
    pub fn poll_now_source(&self, name: &str) -> bool {
        let links = self.links.lock();
        let link = links.get(name);
        link.inspect(|link| link.hint.notify_one()).is_some()
    }

    /// Returns the statuses of the sources, by name.
    pub fn sources(&self) -> Vec<Arc<SourceStatus>> {
        self.registry.sources()
    }

    /// Returns a receiver of all later events. A receiver that is far behind misses some.
    pub fn subscribe(&self) -> broadcast::Receiver<BackupEvent> {
        self.registry.subscribe()
    }

    /// Accepts the current offers of a source (SPEC section 4): the manifests that are refused
    /// because their sequence numbers do not follow from the newest snapshots. All snapshots stay.
    ///
    /// # Errors
    ///
    /// Returns [`AcceptError`] if the source does not exist or run, has nothing to accept, or the
    /// acceptance cannot be stored.
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

    /// Reports that others have added or removed snapshots: every source lists its snapshots again.
    pub async fn snapshots_changed(&self) {
        let links: Vec<_> = self.links.lock().values().cloned().collect();
        for link in links {
            // A task that is ending needs no news.
            let _ = link.requests.send(Request::SnapshotsChanged).await;
        }
    }

    /// Returns the snapshots that were confirmed last, for each source and folder. Blocks the
    /// thread.
    ///
    /// # Errors
    ///
    /// Returns [`ReceiptsUnreadable`] if the signed receipts cannot be read.
    pub fn confirmed(&self) -> Result<Vec<ConfirmedSnapshot>, ReceiptsUnreadable> {
        self.issued.confirmed()
    }

    /// Returns the snapshots.
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// Returns the puller of the daemon. Others may use it, but not for a folder that the daemon
    /// pulls.
    pub fn puller(&self) -> &ManifestPuller {
        &self.puller
    }

    /// Returns the totals of all sources.
    pub fn totals(&self) -> BackupTotals {
        state_file::totals(&self.registry, &self.snapshots)
    }
}
