//! One life of the backup server: its store on a simulated disk, and the real daemon over the
//! simulated network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::http::header::IF_NONE_MATCH;
use backup::{BackupDaemon, BackupOptions, BackupSettings, IssuedReceipts};
use config::{Age, Keep, SourcePeer};
use manifest::{ClientError, ManifestClient, SimulatedExchange};
use net::sim::{SimNet, SimNode};
use net::{Access, Keypair, PeerId, Purposes};
use node::{InPlace, ListError, LocalBlocks, OpenInPlace, guard_collections};
use parking_lot::Mutex;
use protocols::{SNAPSHOTS_PROTOCOL, TriggerServer, serve_snapshots};
use restore::{Blocks, RestoreOptions};
use snapshots::{PruneDecision, PruneOptions, SnapshotStore, VerifyProgress, prune, verify};
use store::{BlockRead, GcOptions, PackStore, StoreAdmin as _, StoreError};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use types::{Cid, Hash, with_causes};

use crate::check::{STORE_DIR, snapshots, store_options};
use crate::clock::SimClock;
use crate::disk::ProcessDisk;
use crate::lives;
use crate::log::Log;
use crate::model::Model;
use crate::tree::Node;

/// Maximum length of a response of the manifest server.
const BODY_LEN_MAX: usize = 1 << 20;

/// A running backup server. Dropping it ends its process.
pub(crate) struct Server {
    pub(crate) disk: ProcessDisk,
    pub(crate) node: SimNode,
    daemon: BackupDaemon,
    snapshots: SnapshotStore,
    store: Arc<PackStore>,
    trigger: Router,
    serving: AbortHandle,
}

/// A server of the other side, if that side runs.
pub(crate) type CurrentRouter = Arc<Mutex<Option<Router>>>;

/// A source, as the backup server knows it.
#[derive(Clone)]
pub(crate) struct KnownSource {
    pub(crate) peer: PeerId,
    /// Its manifest server.
    pub(crate) router: CurrentRouter,
    pub(crate) model: Model,
}

/// Parameters of the backup server, for all its lives.
#[derive(Clone)]
pub(crate) struct ServerSetup {
    pub(crate) net: SimNet,
    pub(crate) key: Keypair,
    pub(crate) sources: Vec<KnownSource>,
    /// True if the backup server learns of changes by polls, short and long; false if it polls
    /// once an hour, so that triggers must announce them.
    pub(crate) has_polls: bool,
    pub(crate) clock: SimClock,
    pub(crate) log: Log,
    /// Directory of the signed receipts on the simulated disk, and of the state file, on which
    /// nothing depends, on the real one.
    pub(crate) data_dir: PathBuf,
}

impl ServerSetup {
    /// Returns the models of all sources.
    pub(crate) fn models(&self) -> Vec<Model> {
        self.sources.iter().map(|source| source.model.clone()).collect()
    }

    /// Fails the seed.
    fn fail(&self, text: impl Into<String>) {
        self.sources[0].model.fail(text);
    }

    fn model_of(&self, source: &PeerId) -> Option<&Model> {
        self.sources.iter().find(|known| known.peer == *source).map(|known| &known.model)
    }

    /// Returns the sources in the configuration. The last number of the address is that of the
    /// source.
    fn source_peers(&self) -> Vec<SourcePeer> {
        let peer = |(number, source): (usize, &KnownSource)| SourcePeer {
            name: format!("laptop {number}").parse().unwrap(),
            manifest_server_url: format!("http://192.0.2.{number}:8085").parse().unwrap(),
            peer_id: source.peer,
            addresses: Vec::new(),
            quota: config::ByteSize::default(),
            folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
        };
        (1..).zip(&self.sources).map(peer).collect()
    }
}

/// The watched files of the backup server: none.
#[derive(Debug)]
struct NoFiles;

impl InPlace for NoFiles {
    fn open(&self, _: &Cid) -> Result<Option<OpenInPlace<'_>>, StoreError> {
        Ok(None)
    }

    fn has(&self, _: &Cid) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// Carries requests for manifests over the simulated network.
fn exchange(setup: &ServerSetup) -> SimulatedExchange {
    let (net, sources, has_polls) = (setup.net.clone(), setup.sources.clone(), setup.has_polls);
    let own = setup.key.public().to_peer_id();
    SimulatedExchange(Arc::new(move |mut url, etag| {
        let net = net.clone();
        let number = url.host_str().and_then(|host| host.rsplit('.').next()?.parse().ok());
        let known = sources[number.unwrap_or(1_usize) - 1].clone();
        let (source, router) = (known.peer, known.router);
        if !has_polls {
            // As a source that does not know long polls.
            url.set_query(None);
        }
        Box::pin(async move {
            let broken = || ClientError::Timeout { url: url.clone(), after: Duration::ZERO };
            if !net.cross(own, source).await {
                return Err(broken());
            }
            let router = router.lock().clone().ok_or_else(broken)?;
            let mut request = Request::get(url.as_str());
            if let Some(etag) = etag {
                request = request.header(IF_NONE_MATCH, etag);
            }
            let request = request.body(Body::empty()).unwrap();
            let response = router.oneshot(request).await.map_err(|never| match never {})?;
            if !net.cross(source, own).await {
                return Err(broken());
            }
            let (head, body) = response.into_parts();
            let body = axum::body::to_bytes(body, BODY_LEN_MAX).await.map_err(|_| broken())?;
            Ok(axum::http::Response::from_parts(head, body.to_vec()))
        })
    }))
}

impl Server {
    /// Starts the process on a disk, and compares the store with the model.
    pub(crate) async fn start(setup: &ServerSetup, disk: ProcessDisk) -> Result<Self, String> {
        let shared = disk.shared();
        let opened = PackStore::open_on(shared.clone(), Path::new(STORE_DIR), &store_options());
        let (store, report) = opened.map_err(|error| with_causes(&error))?;
        if report.roots_incomplete {
            setup.fail("records of roots are lost");
        }
        let store = Arc::new(store);
        lives::note("B", &store);
        let snapshots = SnapshotStore::new(store.clone());
        let issued = IssuedReceipts::new(shared.clone(), &setup.data_dir, setup.key.clone());
        match guard_collections(&store, issued, ToString::to_string) {
            // Only a read that fails may hold the collections.
            Err(error @ ListError::Lost { .. }) => setup.fail(error.to_string()),
            Err(error) if !disk.fails_reads() && !disk.sim().is_dead() => {
                setup.fail(with_causes(&error));
            }
            Ok(()) | Err(_) => {}
        }
        let access = Access::new();
        for source in &setup.sources {
            access.set(source.peer, Purposes::BLOCKS | Purposes::RESTORE);
        }
        let provider = Arc::new(LocalBlocks::new(store.clone(), Arc::new(NoFiles)));
        let node =
            setup.net.join(setup.key.clone(), provider, access.clone(), &[SNAPSHOTS_PROTOCOL]);
        let serving = serve_snapshots(
            node.accept(&SNAPSHOTS_PROTOCOL).unwrap(),
            move |peer| access.allows(peer, Purposes::RESTORE),
            backup::list_offered(snapshots.clone()),
        );
        let serving = tokio::spawn(serving).abort_handle();
        let poll_interval = Duration::from_secs(if setup.has_polls { 30 } else { 3600 });
        let settings = BackupSettings {
            enabled: true,
            poll_interval,
            max_concurrent_downloads: 3,
            max_retries: 3,
            sources: setup.source_peers(),
        };
        let (_, settings) = watch::channel(settings);
        let options = BackupOptions {
            snapshots: snapshots.clone(),
            net: node.handle(),
            data_dir: setup.data_dir.clone(),
            keypair: setup.key.clone(),
            settings,
            clock: Arc::new(setup.clock.clone()),
        };
        let client = ManifestClient::simulated(exchange(setup)).unwrap();
        let daemon = BackupDaemon::start_with(options, client, shared).await;
        let daemon = match daemon {
            Ok(daemon) => daemon,
            Err(error) => {
                serving.abort();
                return Err(with_causes(&error));
            }
        };
        let handle = daemon.handle();
        let (_, sources) = watch::channel(setup.source_peers());
        let trigger = TriggerServer::new(Arc::new(move || handle.poll_now()), sources).router();
        Ok(Self { disk, node, daemon, snapshots, store, trigger, serving })
    }

    /// Returns the trigger server, as source `number`, from 1 on, reaches it.
    pub(crate) fn trigger(&self, number: u8) -> Router {
        let address = SocketAddr::from(([192, 0, 2, number], 1));
        self.trigger.clone().layer(axum::Extension(ConnectInfo(address)))
    }

    /// Polls the source now.
    pub(crate) fn poll(&self) {
        self.daemon.handle().poll_now();
    }

    /// Compares the store with the model.
    pub(crate) fn check(&self, setup: &ServerSetup) -> Result<(), String> {
        snapshots(&self.snapshots, &setup.models())
    }

    /// Returns a summary of the daemon's status, for the log.
    pub(crate) fn status(&self) -> String {
        let sources = self.daemon.handle().sources();
        let describe = |source: &Arc<backup::SourceStatus>| {
            format!(
                "{:?}, poll failures {}, {:?}",
                source.state, source.poll_failures, source.errors
            )
        };
        sources.iter().map(describe).collect()
    }

    /// Collects garbage.
    pub(crate) fn collect(&self, setup: &ServerSetup, min_live_percent: u8) {
        let options = GcOptions { min_live_percent, ..GcOptions::default() };
        match self.store.gc(options) {
            Ok(report) => {
                let deleted = report.deleted_blocks;
                setup.log.line("B", format_args!("collected, {deleted} blocks deleted"));
            }
            Err(error) => {
                let error = with_causes(&error);
                if error.contains("with a signed receipt") {
                    setup.fail(error.clone());
                }
                setup.log.line("B", format_args!("not collected: {error}"));
            }
        }
    }

    /// Compresses packs again.
    pub(crate) fn recompress(&self, setup: &ServerSetup) {
        match self.store.recompress(u64::MAX, &|| false) {
            Ok(report) => {
                let packs = report.rewritten_packs;
                setup.log.line("B", format_args!("recompressed {packs} packs"));
            }
            Err(error) => setup.log.line("B", format_args!("not recompressed: {error}")),
        }
    }

    /// Applies retention: keeps the newest `last` snapshots.
    pub(crate) fn prune(&self, setup: &ServerSetup, last: u32) {
        let keep = Keep { within: Age::ZERO, last, hourly: 0, daily: 0, weekly: 0, monthly: 0 };
        let mut options = PruneOptions {
            dry_run: true,
            always_collect: false,
            accept_roots: false,
            stop: CancellationToken::new(),
        };
        let now = protocols::Clock::now(&setup.clock);
        // From here on the model does not expect them, even if the process dies meanwhile.
        let Ok(plan) = prune(&self.snapshots, &keep, now, &options) else { return };
        let mut all_removed = Vec::new();
        for model in setup.models() {
            let of_source = |decisions: &[PruneDecision]| -> Vec<(u64, u64)> {
                let records = decisions.iter().map(|decision| &decision.snapshot.record);
                let own = records.filter(|record| record.source == model.source);
                own.map(|record| (record.order, record.sequence.0)).collect()
            };
            let removed = of_source(&plan.removed);
            let newest = of_source(&plan.kept).into_iter().chain(removed.clone()).max();
            if newest.is_some_and(|newest| removed.contains(&newest)) {
                setup.fail("retention removes the newest snapshot");
            }
            let removed: Vec<u64> = removed.into_iter().map(|(_, sequence)| sequence).collect();
            model.prunes(removed.iter().copied());
            all_removed.push(removed);
        }
        options.dry_run = false;
        let result = prune(&self.snapshots, &keep, now, &options);
        let end = match result {
            Ok(report) => format!("{} removed", report.removed.len()),
            Err(error) => with_causes(&error),
        };
        setup.log.line("B", format_args!("pruned {all_removed:?}: {end}"));
    }

    /// Verifies all snapshots. None may be reported as incomplete.
    pub(crate) fn verify(&self, setup: &ServerSetup, full: bool) {
        let (progress, stop) = (VerifyProgress::default(), CancellationToken::new());
        let text = match verify(&self.snapshots, full, &progress, &stop) {
            Ok(report) => {
                // A block that cannot be read is reported, and may be intact.
                let is_certain = !self.disk.sim().is_dead() && !self.disk.fails_reads();
                if !report.is_ok() && is_certain {
                    setup.fail(format!("verify reports damage: {:?}", report.problems));
                }
                format!("verified {} snapshots", report.snapshots)
            }
            Err(error) => with_causes(&error),
        };
        setup.log.line("B", text);
    }

    /// Restores a snapshot into the directory `target`, and compares it with the published
    /// tree. `which` chooses the snapshot, `u32::MAX` the newest. A restore that reports a
    /// problem is not a fault.
    pub(crate) fn restore(
        &self,
        setup: &ServerSetup,
        target: &Path,
        which: u32,
    ) -> Result<(), String> {
        let Ok(listing) = self.snapshots.list() else { return Ok(()) };
        let count = listing.snapshots.len();
        let at = if which == u32::MAX { count.saturating_sub(1) } else { which as usize };
        let Some(snapshot) = at.checked_rem(count).and_then(|at| listing.snapshots.get(at)) else {
            return Ok(());
        };
        let sequence = snapshot.record.sequence.0;
        let model = setup.model_of(&snapshot.record.source).ok_or("a snapshot of a stranger")?;
        let readable: Arc<dyn BlockRead> = self.store.clone();
        let blocks: Arc<dyn Blocks> = Arc::new(readable);
        let options = RestoreOptions { workers: 1, ..RestoreOptions::default() };
        let progress = restore::Progress::default();
        let restored =
            restore::restore(&blocks, snapshot.record.manifest, target, &options, &progress);
        match restored {
            Ok(report) if report.is_complete() => {
                setup.log.line("B", format_args!("restored {sequence}"));
                let tree = model.manifest(sequence).and_then(|known| known.tree);
                match tree {
                    Some(tree) if tree != directory(target)? => {
                        Err(format!("the restored snapshot {sequence} is another tree"))
                    }
                    _ => Ok(()),
                }
            }
            Ok(report) => {
                let failed = report.failed;
                setup.log.line("B", format_args!("restored {sequence} in part: {failed:?}"));
                Ok(())
            }
            Err(error) => {
                let error = with_causes(&error);
                setup.log.line("B", format_args!("did not restore {sequence}: {error}"));
                Ok(())
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Returns the tree in a directory.
pub(crate) fn directory(root: &Path) -> Result<BTreeMap<String, Node>, String> {
    let mut tree = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    let failed = |error: std::io::Error| format!("cannot read a restored tree: {error}");
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let metadata = path.symlink_metadata().map_err(failed)?;
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let node = if metadata.is_dir() {
                dirs.push(path);
                Node::Dir
            } else if metadata.is_symlink() {
                Node::Link(std::fs::read_link(path).map_err(failed)?.display().to_string())
            } else {
                let bytes = std::fs::read(path).map_err(failed)?;
                let mtime_ns = i128::from(metadata.mtime()) * 1_000_000_000
                    + i128::from(metadata.mtime_nsec());
                Node::File { hash: Hash::of(&bytes), len: bytes.len() as u64, mtime_ns }
            };
            tree.insert(name, node);
        }
    }
    Ok(tree)
}
