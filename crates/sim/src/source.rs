//! One life of the source: its store and index on a simulated disk, the real scanner without
//! threads, the manifest server without a socket, and the block server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use manifest::{ManifestRegistry, ManifestServer, SeenClients};
use net::sim::{SimNet, SimNode};
use net::{Access, BlockAnswer, BlockProvider, Keypair, PeerId, Purposes};
use node::{LocalBlocks, Receipts, WatchedFiles};
use parking_lot::Mutex;
use protocols::{
    BackupService, BackupServiceOptions, NotifySettings, OnReceipt, PATCH_PROTOCOL,
    RECEIPT_PROTOCOL, ReceiptAnswer, SimulatedTrigger, serve_patches, serve_receipts,
};
use store::PackStore;
use sync::{FolderSettings, Publisher, SteppedSync, SyncOptions, SyncSettings, Tuning};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;
use types::{Cid, FolderId, PublishedManifest, RelPath, SequenceNumber, with_causes};

use crate::check::{STORE_DIR, store_options, tree_of};
use crate::clock::SimClock;
use crate::disk::ProcessDisk;
use crate::lives;
use crate::model::Model;
use crate::server::CurrentRouter;

/// Id of the only folder.
pub(crate) const FOLDER: &str = "docs";

/// A running source. Dropping it ends its process.
pub(crate) struct Source {
    pub(crate) disk: ProcessDisk,
    pub(crate) node: SimNode,
    router: Router,
    sync: Arc<Mutex<SteppedSync>>,
    news: Arc<Notify>,
    tasks: Vec<AbortHandle>,
    more_tasks: Mutex<Vec<AbortHandle>>,
    _stops: DropGuard,
}

/// Parameters of the source, for all its lives.
#[derive(Clone)]
pub(crate) struct SourceSetup {
    pub(crate) net: SimNet,
    pub(crate) key: Keypair,
    pub(crate) server: PeerId,
    pub(crate) clock: SimClock,
    pub(crate) model: Model,
    pub(crate) started: Instant,
    /// The trigger server of the backup server.
    pub(crate) trigger: CurrentRouter,
}

impl SourceSetup {
    /// Joins the network with the identity of the source, which has nothing else.
    pub(crate) fn bare_node(&self) -> SimNode {
        self.net.join(self.key.clone(), Arc::new(NoBlocks), Access::new(), &[])
    }
}

/// The blocks of a source that has lost its disk.
struct NoBlocks;

impl BlockProvider for NoBlocks {
    fn read(&self, _: &PeerId, wanted: &[Cid], _: usize) -> Vec<BlockAnswer> {
        vec![BlockAnswer::Missing; wanted.len()]
    }
}

/// Signs and offers manifests, and shows them to the model.
#[derive(Debug)]
struct SimPublisher {
    registry: ManifestRegistry,
    /// The same manifests, for the announcements. (Two waiting receivers of one channel would be
    /// woken in a random order.)
    announced: ManifestRegistry,
    store: Arc<PackStore>,
    model: Hidden<Model>,
}

/// A value without a debug form.
struct Hidden<T>(T);

impl<T> std::fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Publisher for SimPublisher {
    fn publish(&self, published: PublishedManifest) {
        let tree = tree_of(self.store.clone(), published.manifest_cid);
        self.model.0.published(&published, tree);
        for registry in [&self.registry, &self.announced] {
            if let Err(error) = registry.publish(published.clone()) {
                self.model.0.fail(with_causes(&error));
            }
        }
    }

    fn withdraw(&self, folder: &FolderId) {
        self.registry.withdraw(folder);
        self.announced.withdraw(folder);
    }
}

/// Serves the blocks of the source as the instance does.
struct Provider {
    blocks: LocalBlocks,
    /// Notified if a file has changed: the thread of a folder learns it from its channel.
    news: Arc<Notify>,
}

impl BlockProvider for Provider {
    fn read(&self, peer: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let answers = self.blocks.read(peer, wanted, budget);
        if answers.iter().any(|answer| matches!(answer, BlockAnswer::Changed)) {
            self.news.notify_one();
        }
        answers
    }
}

fn settings(root: &Path) -> SyncSettings {
    let folder = FolderSettings {
        id: FOLDER.parse().unwrap(),
        path: root.to_owned(),
        name: "Documents".to_owned(),
        exclude: Vec::new(),
        paused: false,
        one_file_system: true,
        exclude_caches: false,
        hooks: sync::HookSettings::default(),
    };
    SyncSettings { folders: vec![folder], ..SyncSettings::default() }
}

impl Source {
    /// Starts the process on a disk.
    pub(crate) fn start(setup: &SourceSetup, disk: ProcessDisk) -> Result<Self, String> {
        let shared = disk.shared();
        let opened = PackStore::open_on(shared.clone(), Path::new(STORE_DIR), &store_options());
        let (store, _) = opened.map_err(|error| with_causes(&error))?;
        let store = Arc::new(store);
        lives::note(setup.model.name, &store);
        let own = setup.key.public().to_peer_id();
        let registry = ManifestRegistry::new(setup.key.clone());
        let announced = ManifestRegistry::new(setup.key.clone());
        let publisher = SimPublisher {
            registry: registry.clone(),
            announced: announced.clone(),
            store: store.clone(),
            model: Hidden(setup.model.clone()),
        };
        let root = setup.model.tree(|tree| tree.root());
        let (_, settings) = watch::channel(settings(&root));
        let mut options = SyncOptions::new(
            Path::new("/data").to_owned(),
            store.clone(),
            Arc::new(publisher),
            settings,
            registry.peer_id().to_string(),
        );
        options.disk = shared.clone();
        options.clock = Arc::new(setup.clock.clone());
        options.tuning = Tuning { hash_threads: 1, index_cache: 1 << 20, ..Tuning::default() };
        let receipts =
            Receipts::open(shared, &options.data_dir, own, Arc::new(setup.clock.clone()))
                .map_err(|error| with_causes(&error))?;
        options.confirmations = Arc::new(receipts.clone());
        let sync = SteppedSync::start(options).map_err(|error| with_causes(&error))?;
        receipts.watch(&sync.handle());
        let (handle, news) = (sync.handle(), Arc::new(Notify::new()));
        let access = Access::new();
        access.set(setup.server, Purposes::BLOCKS | Purposes::RECEIPTS);
        let blocks = LocalBlocks::new(store.clone(), Arc::new(WatchedFiles::new(handle.clone())));
        let provider = Provider { blocks, news: news.clone() };
        let protocols = [RECEIPT_PROTOCOL, PATCH_PROTOCOL];
        let node = setup.net.join(setup.key.clone(), Arc::new(provider), access, &protocols);
        let sync = Arc::new(Mutex::new(sync));
        let mut tasks = Vec::new();
        let server = setup.server;
        let (notify, notify_settings) = notify(setup, &node, &announced, receipts.confirmed())?;
        let streams = node.accept(&RECEIPT_PROTOCOL).unwrap();
        let on_receipt = shown_to_model(receipts.on_receipt(), setup.model.clone());
        let serving = serve_receipts(streams, move |peer| *peer == server, on_receipt);
        tasks.push(tokio::spawn(serving).abort_handle());
        let patches = node.accept(&PATCH_PROTOCOL).unwrap();
        let serving = serve_patches(patches, move |peer| *peer == server, store);
        tasks.push(tokio::spawn(serving).abort_handle());
        let stop = CancellationToken::new();
        let notifying = notify.run(stop.clone());
        let notifying = async move {
            let _open = notify_settings;
            notifying.await;
        };
        tasks.push(tokio::spawn(notifying).abort_handle());
        let manifests = ManifestServer {
            registry,
            addresses: Arc::new(Vec::new),
            whitelist: watch::Sender::default().subscribe(),
            confirmed: receipts.confirmed(),
            clients: SeenClients::new(),
            stop: stop.clone(),
        };
        let stepping = step(sync.clone(), news.clone(), setup.clone());
        tasks.push(tokio::spawn(stepping).abort_handle());
        let _stops = stop.drop_guard();
        let router = manifests.router();
        let more_tasks = Mutex::default();
        Ok(Self { disk, node, router, sync, news, tasks, more_tasks, _stops })
    }

    /// Has a task aborted at the end of the process.
    pub(crate) fn keep(&self, task: AbortHandle) {
        self.more_tasks.lock().push(task);
    }

    /// Returns the manifest server.
    pub(crate) fn router(&self) -> Router {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        self.router.clone().layer(axum::Extension(ConnectInfo(address)))
    }

    /// Reports a change in a directory, as the watcher of the system does.
    pub(crate) fn hint(&self, dir: &str) {
        self.sync.lock().hint(&FOLDER.parse().unwrap(), RelPath::new(dir).unwrap());
        self.news.notify_one();
    }

    /// Returns the number of paths that cannot be read.
    pub(crate) fn errors(&self) -> u64 {
        let handle = self.sync.lock().handle();
        handle.folder(&FOLDER.parse().unwrap()).map_or(0, |status| status.error_count)
    }

    /// Returns a summary of the folder's status, for the log.
    pub(crate) fn status(&self) -> String {
        let handle = self.sync.lock().handle();
        let status = handle.folder(&FOLDER.parse().unwrap());
        status.map_or_else(String::new, |status| {
            format!(
                "{:?}, {} pending, {} errors, held {:?}",
                status.state,
                status.pending_changes,
                status.error_count,
                status.awaiting_confirmation
            )
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.tasks.iter().chain(&*self.more_tasks.lock()).for_each(AbortHandle::abort);
    }
}

/// Returns the service that announces each manifest to the backup server, and its settings.
fn notify(
    setup: &SourceSetup,
    node: &SimNode,
    registry: &ManifestRegistry,
    confirmed: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
) -> Result<(BackupService, watch::Sender<NotifySettings>), String> {
    let (net, own, server) = (setup.net.clone(), setup.model.source, setup.server);
    let router = setup.trigger.clone();
    let trigger = SimulatedTrigger(Arc::new(move || {
        let (net, router) = (net.clone(), router.clone());
        Box::pin(async move {
            if !net.cross(own, server).await {
                return false;
            }
            let Some(router) = router.lock().clone() else { return false };
            let request = Request::post("/trigger").body(Body::empty()).unwrap();
            let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            net.cross(server, own).await && response.status() == axum::http::StatusCode::ACCEPTED
        })
    }));
    let settings = NotifySettings {
        backup_peer: format!("/ip4/192.0.2.100/tcp/8070/p2p/{server}").parse().ok(),
        trigger_port: 8086,
        auto_notify: true,
        retry_interval: Duration::from_secs(300),
        max_retries: 5,
    };
    let (sender, settings) = watch::channel(settings);
    let options = BackupServiceOptions {
        net: node.handle(),
        registry: registry.clone(),
        settings,
        receipts: confirmed,
        register: Arc::new(|_| Box::pin(async { Ok(()) })),
        clock: Arc::new(setup.clock.clone()),
    };
    let service = BackupService::simulated(options, trigger);
    Ok((service.map_err(|error| with_causes(&error))?, sender))
}

/// Runs the work of the folder when it is due, and checks what the source promises.
async fn step(sync: Arc<Mutex<SteppedSync>>, news: Arc<Notify>, setup: SourceSetup) {
    let mut checked = None;
    loop {
        let (next, status) = {
            let mut sync = sync.lock();
            let next = sync.step();
            (next, sync.handle().folder(&FOLDER.parse().unwrap()))
        };
        if let Some(status) = status
            && let Some(covers_until) = status.covers_until
            && checked != Some((status.sequence, covers_until))
        {
            checked = Some((status.sequence, covers_until));
            let errors: BTreeSet<String> =
                status.errors.iter().map(|problem| problem.path.to_string()).collect();
            setup.model.check_cover(status.sequence.0, covers_until, &errors);
        }
        // At least a millisecond, so that time passes.
        let due =
            next.map(|at| (setup.started + at).max(Instant::now() + Duration::from_millis(1)));
        let waiting = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = news.notified() => {}
            () = waiting => {}
        }
    }
}

/// Shows each receipt to the model that the source has stored.
fn shown_to_model(receive: OnReceipt, model: Model) -> OnReceipt {
    Arc::new(move |peer, signed| {
        let answer = receive(peer, signed.clone());
        if answer == ReceiptAnswer::Ok {
            if !signed.is_signed() {
                model.fail("a receipt was accepted without a valid signature");
            }
            model.receipt(signed.confirmation());
        }
        answer
    })
}
