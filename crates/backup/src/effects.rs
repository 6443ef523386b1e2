//! The effects of a source's task: poll, connect, pull, send receipts. They are behind a trait, so
//! that tests run the decisions of the task without them, on a simulated clock.

use std::collections::BTreeMap;
use std::time::Duration;

use config::ManifestUrl;
use futures::future::BoxFuture;
use manifest::{ClientError, ManifestClient, PollRequest, PollResponse};
use multiaddr::Multiaddr;
use net::{Handle, NetError, PeerId};
use protocols::{ExchangeError, Panicked, Receipt, ReceiptAnswer, blocking, send_receipt};
use pull::{ManifestJob, ManifestPullError, ManifestPuller};
use snapshots::{Snapshot, SnapshotError, SnapshotStore};
use types::FolderId;

/// Maximum time to connect to a source, for all its addresses together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum time for the DHT to find a source.
const FIND_TIMEOUT: Duration = Duration::from_secs(20);

/// The stored snapshots of a source, by folder, oldest first.
pub(crate) type StoredSnapshots = BTreeMap<FolderId, Vec<Snapshot>>;

/// Reason why the stored snapshots of a source cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoredError {
    /// The store cannot be read.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The listing panicked; the panic was logged.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// The effects of a source's task.
pub(crate) trait Effects: Send + Sync + 'static {
    /// Polls the manifest server of a source.
    fn poll(
        &self,
        url: ManifestUrl,
        request: PollRequest,
    ) -> BoxFuture<'static, Result<PollResponse, ClientError>>;

    /// Lists the stored snapshots of a source.
    fn stored_snapshots(
        &self,
        source: PeerId,
    ) -> BoxFuture<'static, Result<StoredSnapshots, StoredError>>;

    /// Connects to a source, at these addresses or at others that the network knows or finds.
    fn connect(
        &self,
        source: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> BoxFuture<'static, Result<(), NetError>>;

    /// Pulls a manifest.
    fn pull(&self, job: ManifestJob) -> BoxFuture<'static, Result<Snapshot, ManifestPullError>>;

    /// Sends a receipt to a source.
    fn send_receipt(
        &self,
        source: PeerId,
        receipt: Receipt,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ExchangeError>>;
}

/// The real effects.
pub(crate) struct RealEffects {
    pub(crate) client: ManifestClient,
    pub(crate) net: Handle,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) puller: ManifestPuller,
}

impl Effects for RealEffects {
    fn poll(
        &self,
        url: ManifestUrl,
        request: PollRequest,
    ) -> BoxFuture<'static, Result<PollResponse, ClientError>> {
        let client = self.client.clone();
        Box::pin(async move { client.poll(&url, &request).await })
    }

    fn stored_snapshots(
        &self,
        source: PeerId,
    ) -> BoxFuture<'static, Result<StoredSnapshots, StoredError>> {
        let snapshots = self.snapshots.clone();
        Box::pin(blocking(move || {
            let listing = snapshots.list_of(&source, None)?;
            for damaged in &listing.damaged {
                let (root, reason) = (&damaged.root, &damaged.reason);
                tracing::error!(root, reason, "cannot read the record of a snapshot");
            }
            let mut stored = StoredSnapshots::new();
            for snapshot in listing.snapshots {
                stored.entry(snapshot.record.folder.clone()).or_default().push(snapshot);
            }
            Ok(stored)
        }))
    }

    fn connect(
        &self,
        source: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> BoxFuture<'static, Result<(), NetError>> {
        let net = self.net.clone();
        Box::pin(async move {
            // Addresses that name another peer are skipped, so that the others are tried.
            let of_source =
                |address: &Multiaddr| config::peer_id_of(address).is_none_or(|peer| peer == source);
            let addresses: Vec<_> = addresses.into_iter().filter(of_source).collect();
            let Err(error) = net.connect(source, addresses, CONNECT_TIMEOUT).await else {
                return Ok(());
            };
            match net.find_peer(source, FIND_TIMEOUT).await {
                Ok(found) => net.connect(source, found, CONNECT_TIMEOUT).await,
                // Reports the error of the configured addresses, not that of the search.
                Err(_) => Err(error),
            }
        })
    }

    fn pull(&self, job: ManifestJob) -> BoxFuture<'static, Result<Snapshot, ManifestPullError>> {
        let puller = self.puller.clone();
        Box::pin(async move { puller.pull(job).await })
    }

    fn send_receipt(
        &self,
        source: PeerId,
        receipt: Receipt,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ExchangeError>> {
        let net = self.net.clone();
        Box::pin(async move { send_receipt(&net, source, receipt).await })
    }
}
