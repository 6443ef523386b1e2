//! A backup server without a daemon: the test starts each pull.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::sync::Arc;

use manifest::Offer;
use net::Net;
use protocols::{SessionPool, SystemClock};
use pull::{ManifestJob, ManifestProgress, ManifestPullError, ManifestPuller};
use snapshots::{Snapshot, SnapshotStore};
use store::{BlockStore, MemStore};
use testkit::{PATIENCE, Source, plain_net};
use tokio_util::sync::CancellationToken;

/// A node whose pulls the test starts.
pub(crate) struct Hand {
    pub(crate) net: Net,
    pub(crate) pool: SessionPool,
}

impl Hand {
    pub(crate) async fn new(source: &Source) -> Self {
        let net = plain_net().await;
        let handle = net.handle();
        source.allow(handle.peer_id());
        let addresses = source.net.handle().listen_addrs();
        handle.connect(source.peer(), addresses, PATIENCE).await.unwrap();
        let pool = SessionPool::new(net.handle());
        Self { net, pool }
    }

    pub(crate) fn puller(&self, store: Arc<dyn BlockStore>) -> ManifestPuller {
        ManifestPuller::new(SnapshotStore::new(store), self.pool.clone(), SystemClock::shared())
    }
}

pub(crate) fn job(source: &Source, offer: &Offer) -> ManifestJob {
    ManifestJob {
        budget: None,
        source: source.peer(),
        offer: offer.clone(),
        after: None,
        peers: vec![source.peer()],
        progress: Arc::new(ManifestProgress::default()),
        stop: CancellationToken::new(),
    }
}

pub(crate) fn offer(source: &Source, folder: &str) -> Offer {
    source.registry.get(&folder.parse().unwrap()).unwrap()
}

pub(crate) async fn pull(
    puller: &ManifestPuller,
    source: &Source,
    offer: &Offer,
) -> Result<Snapshot, ManifestPullError> {
    puller.pull(job(source, offer)).await
}

/// Pulls the offered manifest into a new store; returns the store and the puller.
pub(crate) async fn pulled(hand: &Hand, source: &Source) -> (Arc<dyn BlockStore>, ManifestPuller) {
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let puller = hand.puller(store.clone());
    pull(&puller, source, &offer(source, "docs")).await.unwrap();
    (store, puller)
}

/// Pulls the offered manifest and returns the number of received bytes.
pub(crate) async fn cost(puller: &ManifestPuller, source: &Source) -> u64 {
    let job = job(source, &offer(source, "docs"));
    let progress = job.progress.clone();
    puller.pull(job).await.unwrap();
    progress.numbers().fetched_bytes
}
