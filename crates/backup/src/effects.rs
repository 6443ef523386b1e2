//! The effects of a source's task: poll, connect, pull, send receipts. They are behind a trait, so
//! that tests run the decisions of the task without them, on a simulated clock.

use std::collections::BTreeMap;
use std::time::Duration;

use config::ManifestUrl;
use futures::future::BoxFuture;
use manifest::{AnswerAge, ClientError, ManifestClient, PollRequest, PollResponse};
use multiaddr::Multiaddr;
use net::{Handle, NetError, PeerId};
use protocols::{
    Confirmation, ExchangeError, Panicked, ReceiptAnswer, SignedReceipt, blocking, send_receipt,
};
use pull::{ManifestJob, ManifestPullError, ManifestPuller};
use snapshots::{Snapshot, SnapshotError, SnapshotStore};
use types::FolderId;

use crate::confirmed_snapshot::LastConfirmation;
use crate::issued_receipts::{IssueError, IssuedReceipts};

/// Maximum time to connect to a source, for all its addresses together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum time for the DHT to find a source.
const FIND_TIMEOUT: Duration = Duration::from_secs(20);

/// The stored snapshots of a source, by folder.
pub(crate) type StoredSnapshots = BTreeMap<FolderId, StoredFolder>;

/// The stored snapshots of a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredFolder {
    /// The snapshots, oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    /// The newest snapshot, if a user removed it by hand.
    pub(crate) removed: Option<Snapshot>,
}

impl From<Vec<Snapshot>> for StoredFolder {
    fn from(snapshots: Vec<Snapshot>) -> Self {
        Self { snapshots, removed: None }
    }
}

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

/// Reason why a receipt was not delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiptError {
    /// The exchange with the source failed.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The receipt cannot be signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Receipts of the same folder are being sent elsewhere.
    #[error("another receipt of the folder is being sent")]
    Busy,
    /// The work panicked; the panic was logged.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// The answer to a poll.
#[derive(Debug)]
pub(crate) struct Polled {
    /// The answer.
    pub(crate) response: PollResponse,
    /// Its age, as far as the signature of the source proves it.
    pub(crate) age: AnswerAge,
}

/// The effects of a source's task.
pub(crate) trait Effects: Send + Sync + 'static {
    /// Polls the manifest server of a source, and verifies how old its answer is.
    fn poll(
        &self,
        source: PeerId,
        url: ManifestUrl,
        request: PollRequest,
    ) -> BoxFuture<'static, Result<Polled, ClientError>>;

    /// Lists the stored snapshots of a source.
    fn stored_snapshots(
        &self,
        source: PeerId,
    ) -> BoxFuture<'static, Result<StoredSnapshots, StoredError>>;

    /// Returns the snapshots of a source that were confirmed last, as far as the signed receipts
    /// can be read.
    fn confirmed(&self, source: PeerId) -> BoxFuture<'static, Vec<LastConfirmation>>;

    /// Measures the disk space that the snapshots and unfinished pulls of a source need.
    fn used_bytes(&self, source: PeerId) -> BoxFuture<'static, Result<u64, ManifestPullError>>;

    /// Connects to a source, at these addresses or at others that the network knows or finds.
    fn connect(
        &self,
        source: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> BoxFuture<'static, Result<(), NetError>>;

    /// Pulls a manifest.
    fn pull(&self, job: ManifestJob) -> BoxFuture<'static, Result<Snapshot, ManifestPullError>>;

    /// Signs the receipt for a snapshot, and sends it to the source. Returns the source's answer
    /// to this receipt, or to an earlier one that it did not accept.
    fn send_receipt(
        &self,
        source: PeerId,
        confirmation: Confirmation,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ReceiptError>>;
}

/// The real effects.
pub(crate) struct RealEffects {
    pub(crate) client: ManifestClient,
    pub(crate) net: Handle,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) puller: ManifestPuller,
    pub(crate) issued: IssuedReceipts,
}

impl Effects for RealEffects {
    fn poll(
        &self,
        source: PeerId,
        url: ManifestUrl,
        request: PollRequest,
    ) -> BoxFuture<'static, Result<Polled, ClientError>> {
        let client = self.client.clone();
        Box::pin(async move {
            let response = client.poll(&url, &request).await?;
            let (PollResponse::Unchanged { proof } | PollResponse::Changed { proof, .. }) =
                &response;
            let age = proof.as_ref().map_or(AnswerAge::Unknown, |proof| proof.verify(&source));
            Ok(Polled { response, age })
        })
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
                let folder = stored.entry(snapshot.record.folder.clone()).or_default();
                folder.snapshots.push(snapshot);
            }
            for snapshot in snapshots.removed_newest(&source, None)? {
                let folder = stored.entry(snapshot.record.folder.clone()).or_default();
                let newest = folder.snapshots.last();
                if newest.is_none_or(|newest| newest.record.order < snapshot.record.order) {
                    folder.removed = Some(snapshot);
                }
            }
            Ok(stored)
        }))
    }

    fn confirmed(&self, source: PeerId) -> BoxFuture<'static, Vec<LastConfirmation>> {
        let issued = self.issued.clone();
        Box::pin(async move {
            let read = blocking(move || Ok::<_, Panicked>(issued.confirmed_to(&source))).await;
            read.unwrap_or_default()
        })
    }

    fn used_bytes(&self, source: PeerId) -> BoxFuture<'static, Result<u64, ManifestPullError>> {
        let snapshots = self.snapshots.clone();
        Box::pin(blocking(move || Ok(pull::measure_source(&snapshots, &source)?)))
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
        confirmation: Confirmation,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ReceiptError>> {
        let (net, issued) = (self.net.clone(), self.issued.clone());
        Box::pin(async move {
            deliver(&issued, source, confirmation, |receipt| {
                let net = net.clone();
                async move { send_receipt(&net, source, &receipt).await }
            })
            .await
        })
    }
}

/// Sends receipts until the source has the one for this snapshot, or does not accept one.
async fn deliver<F>(
    issued: &IssuedReceipts,
    source: PeerId,
    confirmation: Confirmation,
    send: impl Fn(SignedReceipt) -> F,
) -> Result<ReceiptAnswer, ReceiptError>
where
    F: Future<Output = Result<ReceiptAnswer, ExchangeError>>,
{
    // At most one receipt of the chain is unanswered, and comes before this one.
    for _ in 0..2 {
        let signed = {
            let (issued, confirmation) = (issued.clone(), confirmation.clone());
            blocking(move || Ok::<_, ReceiptError>(issued.next(source, &confirmation)?)).await?
        };
        let answer = send(signed.clone()).await?;
        let is_this = signed.confirmation().manifest_cid == confirmation.manifest_cid
            && signed.confirmation().sequence == confirmation.sequence;
        if matches!(answer, ReceiptAnswer::Ok | ReceiptAnswer::Refused) {
            let issued = issued.clone();
            let is_stored = answer == ReceiptAnswer::Ok;
            blocking(move || Ok::<_, ReceiptError>(issued.answered(&signed, is_stored)?)).await?;
        } else {
            return Ok(answer);
        }
        if is_this {
            return Ok(answer);
        }
    }
    // Another sender works on the same chain; the next attempt continues.
    Err(ReceiptError::Busy)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use disk::Disk as _;
    use disk::sim::SimDisk;
    use net::Keypair;
    use parking_lot::Mutex;
    use types::{Cid, Codec, SequenceNumber};

    use super::*;

    /// A source that answers each receipt as the test says, and keeps those that it received.
    struct Source {
        issued: IssuedReceipts,
        key: Keypair,
        received: Mutex<Vec<SignedReceipt>>,
    }

    impl Source {
        fn new() -> Self {
            let disk = SimDisk::new();
            disk.create_dir(Path::new("/data")).unwrap();
            let server = Keypair::generate_secp256k1();
            Self {
                issued: IssuedReceipts::new(Arc::new(disk), Path::new("/data"), server),
                key: Keypair::generate_secp256k1(),
                received: Mutex::default(),
            }
        }

        async fn confirm(
            &self,
            sequence: u64,
            answer: impl Fn(u64) -> Result<ReceiptAnswer, ExchangeError>,
        ) -> Result<ReceiptAnswer, ReceiptError> {
            let folder_id: FolderId = "docs".parse().unwrap();
            let (number, manifest_cid) =
                (SequenceNumber(sequence), Cid::of(Codec::DagCbor, &sequence.to_le_bytes()));
            let confirmation = Confirmation {
                manifest_signature: manifest::sign(&self.key, &folder_id, number, &manifest_cid)
                    .unwrap(),
                folder_id,
                sequence: number,
                manifest_cid,
                received_at: "2026-11-22T10:30:05Z".parse().unwrap(),
            };
            let source = self.key.public().to_peer_id();
            deliver(&self.issued, source, confirmation, |receipt| {
                let answer = answer(receipt.confirmation().sequence.0);
                self.received.lock().push(receipt);
                async move { answer }
            })
            .await
        }

        fn sequences(&self) -> Vec<u64> {
            let received = std::mem::take(&mut *self.received.lock());
            received.iter().map(|signed| signed.confirmation().sequence.0).collect()
        }
    }

    #[tokio::test]
    async fn an_unanswered_receipt_comes_before_the_next() {
        let source = Source::new();
        // The answer is lost.
        assert!(source.confirm(1, |_| Err(ExchangeError::Closed)).await.is_err());
        assert!(source.confirm(2, |_| Err(ExchangeError::Closed)).await.is_err());
        assert_eq!(source.sequences(), [1, 1]);
        for answer in [ReceiptAnswer::Failed, ReceiptAnswer::UnknownFolder] {
            assert_eq!(source.confirm(2, |_| Ok(answer)).await.unwrap(), answer);
        }
        let answer = source.confirm(3, |_| Ok(ReceiptAnswer::Ok)).await.unwrap();
        assert_eq!(answer, ReceiptAnswer::Ok);
        let received = source.received.lock().clone();
        let [first, again, before, last] = &received[..] else { panic!("{received:?}") };
        assert!(first == again && first == before, "the same bytes");
        assert!(first.follows(None) && last.follows(Some(first)));
        assert_eq!(source.sequences(), [1, 1, 1, 3]);
    }

    #[tokio::test]
    async fn a_refused_receipt_does_not_stop_the_chain() {
        let source = Source::new();
        source.confirm(1, |_| Ok(ReceiptAnswer::Ok)).await.unwrap();
        assert!(source.confirm(2, |_| Err(ExchangeError::Closed)).await.is_err());
        // The source lost its state meanwhile, and never published manifest 2.
        let refuses_two =
            |number| Ok(if number == 2 { ReceiptAnswer::Refused } else { ReceiptAnswer::Ok });
        assert_eq!(source.confirm(3, refuses_two).await.unwrap(), ReceiptAnswer::Ok);
        let received = source.received.lock().clone();
        assert!(received[3].follows(Some(&received[0])), "{received:?}");
        assert_eq!(source.sequences(), [1, 2, 2, 3]);
        let refused = source.confirm(4, |_| Ok(ReceiptAnswer::Refused)).await.unwrap();
        assert_eq!(refused, ReceiptAnswer::Refused);
        assert_eq!(source.sequences(), [4]);
    }
}
