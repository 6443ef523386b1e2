//! What a source's task does to the world: asking, connecting, pulling,
//! telling. Behind a trait, so that the task's decisions are tested alone, on
//! a clock that does not run.

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

/// From the wish for a connection to having it, for all addresses together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the DHT may take to find a source.
const FIND_TIMEOUT: Duration = Duration::from_secs(20);

/// The snapshots of a source, by folder, oldest first.
pub(crate) type Held = BTreeMap<FolderId, Vec<Snapshot>>;

/// Why the snapshots of a source cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeldError {
    /// The store cannot be read.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The listing panicked; the panic was logged.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// What a source's task does to the world.
pub(crate) trait World: Send + Sync + 'static {
    /// Asks a source what there is.
    fn ask(
        &self,
        url: ManifestUrl,
        ask: PollRequest,
    ) -> BoxFuture<'static, Result<PollResponse, ClientError>>;

    /// The snapshots of a source.
    fn held(&self, source: PeerId) -> BoxFuture<'static, Result<Held, HeldError>>;

    /// Connects to a source, at these addresses or at others that are known or
    /// found.
    fn connect(
        &self,
        source: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> BoxFuture<'static, Result<(), NetError>>;

    /// Pulls a manifest.
    fn pull(&self, job: ManifestJob) -> BoxFuture<'static, Result<Snapshot, ManifestPullError>>;

    /// Tells a source that a snapshot is complete.
    fn acknowledge(
        &self,
        source: PeerId,
        receipt: Receipt,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ExchangeError>>;
}

/// The world as it is.
pub(crate) struct RealWorld {
    pub(crate) client: ManifestClient,
    pub(crate) net: Handle,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) puller: ManifestPuller,
}

impl World for RealWorld {
    fn ask(
        &self,
        url: ManifestUrl,
        ask: PollRequest,
    ) -> BoxFuture<'static, Result<PollResponse, ClientError>> {
        let client = self.client.clone();
        Box::pin(async move { client.poll(&url, &ask).await })
    }

    fn held(&self, source: PeerId) -> BoxFuture<'static, Result<Held, HeldError>> {
        let snapshots = self.snapshots.clone();
        Box::pin(blocking(move || {
            let listing = snapshots.list_of(&source, None)?;
            for damaged in &listing.damaged {
                let (root, reason) = (&damaged.root, &damaged.reason);
                tracing::error!(root, reason, "the record of a snapshot cannot be read");
            }
            let mut held = Held::new();
            for snapshot in listing.snapshots {
                held.entry(snapshot.record.folder.clone()).or_default().push(snapshot);
            }
            Ok(held)
        }))
    }

    fn connect(
        &self,
        source: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> BoxFuture<'static, Result<(), NetError>> {
        let net = self.net.clone();
        Box::pin(async move {
            // An address that names another peer must not keep the others from
            // being tried.
            let of_source =
                |address: &Multiaddr| config::peer_id_of(address).is_none_or(|peer| peer == source);
            let addresses: Vec<_> = addresses.into_iter().filter(of_source).collect();
            let Err(error) = net.connect(source, addresses, CONNECT_TIMEOUT).await else {
                return Ok(());
            };
            match net.find_peer(source, FIND_TIMEOUT).await {
                Ok(found) => net.connect(source, found, CONNECT_TIMEOUT).await,
                // What was configured matters, not that nobody else knows more.
                Err(_) => Err(error),
            }
        })
    }

    fn pull(&self, job: ManifestJob) -> BoxFuture<'static, Result<Snapshot, ManifestPullError>> {
        let puller = self.puller.clone();
        Box::pin(async move { puller.pull(job).await })
    }

    fn acknowledge(
        &self,
        source: PeerId,
        receipt: Receipt,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ExchangeError>> {
        let net = self.net.clone();
        Box::pin(async move { send_receipt(&net, source, receipt).await })
    }
}
