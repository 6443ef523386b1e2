//! The source side: watches folders, offers manifests, and notifies the backup
//! server.

use std::path::Path;
use std::sync::Arc;

use futures::FutureExt as _;
use manifest::{ManifestRegistry, SeenClients};
use net::{Access, Keypair, Net, PeerId, Purposes};
use protocols::{BackupService, BackupServiceOptions, NotifySettings, Register};
use store::{InPlaceAnswer, PackStore, StoreError};
use sync::{Publisher, SyncError, SyncHandle, SyncOptions, SyncService};
use types::{Cid, Codec, FolderId, PublishedManifest};

use crate::local_blocks::{InPlace, OpenInPlace};
use crate::options;
use crate::receipts::{ListSnapshots, Receipts, compare_always};
use crate::settings::Settings;
use crate::start_error::StartError;
use crate::tasks::Tasks;
use types::with_causes;

/// Publishes manifests in the registry of the manifest server.
#[derive(Debug)]
struct RegistryPublisher(ManifestRegistry);

impl Publisher for RegistryPublisher {
    fn publish(&self, published: PublishedManifest) {
        let folder = published.folder_id.clone();
        if let Err(error) = self.0.publish(published) {
            tracing::error!(%folder, %error, "cannot publish a manifest");
        }
    }

    fn withdraw(&self, folder: &FolderId) {
        self.0.withdraw(folder);
    }
}

/// The blocks that are ranges of watched files.
#[derive(Clone, Debug)]
pub struct WatchedFiles(SyncHandle);

impl WatchedFiles {
    /// Returns the blocks in the files of all watched folders.
    pub fn new(sync: SyncHandle) -> Self {
        Self(sync)
    }
}

impl InPlace for WatchedFiles {
    fn open(&self, cid: &Cid) -> Result<Option<OpenInPlace<'_>>, StoreError> {
        if cid.codec() != Codec::Raw {
            return Ok(None);
        }
        let open = or_missing(cid, self.0.open_block(cid.hash()).map(Some), None)?;
        let cid = *cid;
        Ok(open.map(|block| OpenInPlace {
            len_hint: block.len_hint(),
            read: Box::new(move || or_missing(&cid, block.read(), InPlaceAnswer::Missing)),
        }))
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        match cid.codec() {
            Codec::Raw => or_missing(cid, self.0.has(cid), false),
            Codec::DagCbor | Codec::Json => Ok(false),
        }
    }
}

/// Treats a block that cannot be looked up as missing, and logs the error.
fn or_missing<T>(cid: &Cid, found: Result<T, SyncError>, missing: T) -> Result<T, StoreError> {
    match found {
        Ok(found) => Ok(found),
        Err(SyncError::Store(error)) => Err(error),
        Err(error) => {
            tracing::error!(%cid, error = with_causes(&error), "cannot look up a block");
            Ok(missing)
        }
    }
}

/// The parts of the source side that run before the network.
pub(crate) struct SourceSide {
    pub(crate) sync: SyncService,
    pub(crate) registry: ManifestRegistry,
    pub(crate) manifest_clients: SeenClients,
    pub(crate) receipts: Receipts,
}

impl SourceSide {
    /// Starts to watch. The last manifests are in the registry when this returns.
    pub(crate) async fn start(
        settings: &Settings,
        tasks: &Tasks,
        data_dir: &Path,
        store: Arc<PackStore>,
        keypair: &Keypair,
    ) -> Result<Self, StartError> {
        let registry = ManifestRegistry::new(keypair.clone());
        let own = keypair.public().to_peer_id();
        let mut sync_options = SyncOptions::new(
            data_dir.to_owned(),
            store,
            Arc::new(RegistryPublisher(registry.clone())),
            settings.part(tasks, options::sync_settings),
            own.to_string(),
        );
        let starting = tokio::task::spawn_blocking(move || {
            let disk = sync_options.disk.clone();
            let clock = protocols::SystemClock::shared();
            let receipts = Receipts::open(disk, &sync_options.data_dir, own, clock)?;
            sync_options.confirmations = Arc::new(receipts.clone());
            Ok::<_, StartError>((SyncService::start(sync_options)?, receipts))
        });
        let (sync, receipts) = match starting.await {
            Ok(started) => started?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        receipts.watch(&sync.handle());
        Ok(Self { sync, registry, manifest_clients: SeenClients::new(), receipts })
    }

    /// Returns the blocks in watched files.
    pub(crate) fn in_place(&self) -> Arc<dyn InPlace> {
        Arc::new(WatchedFiles::new(self.sync.handle()))
    }

    /// Starts everything of the source side that needs the network: sending
    /// triggers, receiving receipts, and serving patches.
    pub(crate) fn connect(
        &self,
        settings: &Settings,
        tasks: &Tasks,
        net: &Net,
        access: &Access,
        store: &Arc<PackStore>,
    ) -> Result<BackupService, StartError> {
        let service = BackupService::new(BackupServiceOptions {
            net: net.handle(),
            registry: self.registry.clone(),
            settings: settings.part(tasks, |config| NotifySettings::from(&config.sync)),
            receipts: self.receipts.confirmed(),
            register: register(self.sync.handle()),
            clock: protocols::SystemClock::shared(),
        })?;
        tasks.spawn("backup-service", service.clone().run(tasks.stop_token()));

        if let Some(streams) = net.accept(&protocols::RECEIPT_PROTOCOL) {
            let access = access.clone();
            let serving = protocols::serve_receipts(
                streams,
                move |peer| access.allows(peer, Purposes::RECEIPTS),
                self.receipts.on_receipt(),
            );
            tasks.spawn_until_stop("receipts", serving);
        }
        if let Some(mut streams) = net.accept(&protocols::UNSIGNED_RECEIPT_PROTOCOL) {
            let (receipts, access) = (self.receipts.clone(), access.clone());
            tasks.spawn_until_stop("unsigned receipts", async move {
                while let Some(stream) = streams.recv().await {
                    let peer = stream.peer();
                    if access.allows(&peer, Purposes::RECEIPTS) {
                        receipts.unsigned(peer);
                    }
                }
            });
        }
        let (handle, servers) = (net.handle(), access.clone());
        let list: ListSnapshots = Arc::new(move |peer| {
            let handle = handle.clone();
            async move { protocols::list_remote(&handle, peer, None).await }.boxed()
        });
        let is_server = move |peer: &PeerId| servers.allows(peer, Purposes::RECEIPTS);
        let comparing = compare_always(
            self.receipts.clone(),
            list,
            is_server,
            net.handle().events(),
            tasks.stop_token(),
        );
        tasks.spawn("receipts comparison", comparing);
        if let Some(streams) = net.accept(&protocols::PATCH_PROTOCOL) {
            let access = access.clone();
            let may_fetch = move |peer: &PeerId| access.allows(peer, Purposes::BLOCKS);
            let serving = protocols::serve_patches(streams, may_fetch, store.clone());
            tasks.spawn_until_stop("patches", serving);
        }
        Ok(service)
    }
}

/// Returns the function that scans and publishes folders for "Backup Now". A
/// folder that fails does not stop the others.
fn register(sync: SyncHandle) -> Register {
    Arc::new(move |folders| {
        let sync = sync.clone();
        async move {
            let mut failed = Vec::new();
            for folder in folders {
                if let Err(error) = sync.scan_now(&folder).await {
                    failed.push(format!(
                        "{}: {}",
                        folder_name(&sync, &folder),
                        with_causes(&error)
                    ));
                }
            }
            if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
        }
        .boxed()
    })
}

/// Returns the name of a folder, or its id if it is not watched.
pub fn folder_name(sync: &SyncHandle, folder: &FolderId) -> String {
    sync.folder(folder).map_or_else(|| folder.to_string(), |status| status.name.clone())
}
