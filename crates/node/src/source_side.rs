//! The source side: watches folders, offers manifests, and notifies the backup
//! server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt as _;
use manifest::{ManifestRegistry, SeenClients};
use net::{Access, Keypair, Net, PeerId, Purposes};
use protocols::{
    BackupService, BackupServiceOptions, NotifySettings, OnReceipt, ReceiptAnswer, Register,
};
use store::{InPlaceAnswer, PackStore, StoreError};
use sync::{Publisher, SyncError, SyncHandle, SyncOptions, SyncService};
use tokio::sync::watch;
use types::{Cid, Codec, FolderId, PublishedManifest, SequenceNumber};

use crate::local_blocks::{InPlace, OpenInPlace};
use crate::options;
use crate::settings::Settings;
use crate::start_error::StartError;
use crate::tasks::Tasks;
use types::with_causes;

/// Shows manifests through the registry.
#[derive(Debug)]
struct RegistryPublisher(ManifestRegistry);

impl Publisher for RegistryPublisher {
    fn publish(&self, published: PublishedManifest) {
        let folder = published.folder_id.clone();
        if let Err(error) = self.0.publish(published) {
            tracing::error!(%folder, %error, "a manifest cannot be shown");
        }
    }

    fn withdraw(&self, folder: &FolderId) {
        self.0.withdraw(folder);
    }
}

/// The blocks that are ranges of watched files.
#[derive(Clone, Debug)]
struct Places(SyncHandle);

impl InPlace for Places {
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

/// What cannot be looked up is not there, for who asks; the log has why.
fn or_missing<T>(cid: &Cid, found: Result<T, SyncError>, missing: T) -> Result<T, StoreError> {
    match found {
        Ok(found) => Ok(found),
        Err(SyncError::Store(error)) => Err(error),
        Err(error) => {
            tracing::error!(%cid, error = with_causes(&error), "a block cannot be looked up");
            Ok(missing)
        }
    }
}

/// What runs before the network does.
pub(crate) struct SourceSide {
    pub(crate) sync: SyncService,
    pub(crate) registry: ManifestRegistry,
    pub(crate) manifest_clients: SeenClients,
}

impl SourceSide {
    /// Starts watching; the last manifests are shown when it returns.
    pub(crate) async fn start(
        settings: &Settings,
        tasks: &Tasks,
        data_dir: &Path,
        store: Arc<PackStore>,
        keypair: &Keypair,
    ) -> Result<Self, StartError> {
        let registry = ManifestRegistry::new(keypair.clone());
        let sync_options = SyncOptions::new(
            data_dir.to_owned(),
            store,
            Arc::new(RegistryPublisher(registry.clone())),
            settings.part(tasks, options::sync_settings),
            keypair.public().to_peer_id().to_string(),
        );
        let starting = tokio::task::spawn_blocking(move || SyncService::start(sync_options));
        let sync = match starting.await {
            Ok(started) => started?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        Ok(Self { sync, registry, manifest_clients: SeenClients::new() })
    }

    /// The blocks that are in files.
    pub(crate) fn in_place(&self) -> Arc<dyn InPlace> {
        Arc::new(Places(self.sync.handle()))
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
        let receipts = watch::Sender::new(acknowledged(&self.sync.handle()));
        let service = BackupService::new(BackupServiceOptions {
            net: net.handle(),
            registry: self.registry.clone(),
            settings: settings.part(tasks, |config| NotifySettings::from(&config.sync)),
            receipts: receipts.subscribe(),
            register: register(self.sync.handle(), settings.clone()),
            clock: protocols::SystemClock::shared(),
        })?;
        tasks.spawn("backup-service", service.clone().run(tasks.stop_token()));

        if let Some(streams) = net.accept(&protocols::RECEIPT_PROTOCOL) {
            let access = access.clone();
            let serving = protocols::serve_receipts(
                streams,
                move |peer| access.allows(peer, Purposes::RECEIPTS),
                on_receipt(self.sync.handle(), receipts),
            );
            tasks.spawn_until_stop("receipts", serving);
        }
        if let Some(streams) = net.accept(&protocols::PATCH_PROTOCOL) {
            let access = access.clone();
            let may_fetch = move |peer: &PeerId| access.allows(peer, Purposes::BLOCKS);
            let serving = protocols::serve_patches(streams, may_fetch, store.clone());
            tasks.spawn_until_stop("patches", serving);
        }
        Ok(service)
    }
}

/// What the backup server has acknowledged of each folder.
fn acknowledged(sync: &SyncHandle) -> BTreeMap<FolderId, SequenceNumber> {
    let folders = sync.folders();
    let known = folders.iter().filter_map(|folder| Some((folder.id.clone(), folder.receipt?)));
    known.map(|(id, receipt)| (id, receipt.sequence)).collect()
}

/// Has folders scanned and published, for "Backup Now"; one that cannot be
/// keeps none of the others from it.
fn register(sync: SyncHandle, settings: Settings) -> Register {
    Arc::new(move |folder| {
        let (sync, settings) = (sync.clone(), settings.clone());
        async move {
            let wanted = match folder {
                Some(folder) => vec![folder],
                None => {
                    let config = settings.get();
                    let folders = config.sync.folders.iter().filter(|folder| !folder.paused);
                    folders.map(|folder| folder.id.clone()).collect()
                }
            };
            let mut failed = Vec::new();
            for folder in wanted {
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

/// What is done with what the backup server has acknowledged.
fn on_receipt(
    sync: SyncHandle,
    receipts: watch::Sender<BTreeMap<FolderId, SequenceNumber>>,
) -> OnReceipt {
    Arc::new(move |peer, receipt| {
        let folder = &receipt.folder_id;
        let Some(status) = sync.folder(folder) else {
            return ReceiptAnswer::UnknownFolder;
        };
        let is_current = receipt.sequence == status.sequence;
        if receipt.sequence > status.sequence
            || (is_current && status.manifest_cid != Some(receipt.manifest_cid))
        {
            tracing::warn!(%peer, %folder, sequence = %receipt.sequence,
                "a receipt for what was never published was refused");
            return ReceiptAnswer::Refused;
        }
        let is_news = status.receipt.is_none_or(|known| known.sequence < receipt.sequence);
        if is_news {
            let sequence = receipt.sequence;
            tracing::info!(%peer, folder = status.name, %sequence, "the backup server has it whole");
            if let Err(error) = sync.receipt(folder, sequence, jiff::Timestamp::now()) {
                // The backup server says it again when it is connected anew.
                tracing::error!(%folder, error = with_causes(&error), "a receipt is not noted");
            }
            receipts.send_if_modified(|all| {
                let known = all.entry(folder.clone()).or_insert(sequence);
                let is_newer = *known <= sequence;
                *known = sequence.max(*known);
                is_newer
            });
        }
        ReceiptAnswer::Ok
    })
}
