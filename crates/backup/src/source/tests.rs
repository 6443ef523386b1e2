//! The decisions of a source's task, with fake effects, on a clock that runs only when nothing else
//! does.

mod limits;
mod polling_and_status;
mod pulling;
mod refusing;

use std::collections::BTreeMap;

use config::ManifestUrl;
use manifest::{AnswerAge, Offer, PollRequest, sign};
use multiaddr::Multiaddr;
use net::{Keypair, NetError, PeerId};
use parking_lot::Mutex;
use protocols::{Confirmation, ExchangeError, ReceiptAnswer, SystemClock};
use pull::{ManifestJob, ManifestPullError};
use snapshots::{Signs, Snapshot, SnapshotId, SnapshotRecord};
use store::{Limit, StoreError};
use types::{Cid, Codec, PublishedManifest, SequenceNumber};

use super::work::ATTEMPTS_MAX;
use super::*;
use crate::confirmed_snapshot::LastConfirmation;
use crate::effects::{ReceiptError, StoredError, StoredFolder, StoredSnapshots};
use crate::manager::{Links, Manager};
use crate::settings::BackupSettings;
use crate::status::{SourceState, SourceStatus};

type Fails<T> = Arc<dyn Fn() -> Option<T> + Send + Sync>;

/// Fake effects: a source and a network for the task.
struct Fake {
    keypair: Keypair,
    shown: watch::Sender<(u64, Discovery)>,
    polls: Mutex<Vec<(Instant, PollRequest)>>,
    /// Error of each poll.
    poll_error: Mutex<Option<Fails<ClientError>>>,
    /// Time of each short poll.
    delay: Mutex<Duration>,
    /// True if the source supports long polls.
    has_long_polls: Mutex<bool>,
    pulls: Mutex<Vec<(Instant, u64)>>,
    /// Error of each pull; without one, it gives a snapshot.
    pull_error: Mutex<Option<Fails<ManifestPullError>>>,
    /// Time of each pull.
    pull_time: Mutex<Duration>,
    /// True if pulls ignore `stop`.
    ignores_stop: Mutex<bool>,
    no_connection: Mutex<bool>,
    /// Number of running pulls now, and its maximum so far.
    pulling: Mutex<(usize, usize)>,
    receipts: Mutex<Vec<u64>>,
    /// True if receipts are lost.
    loses_receipts: Mutex<bool>,
    /// The answer of the source to each receipt.
    receipt_answer: Mutex<ReceiptAnswer>,
    stored: Mutex<StoredSnapshots>,
    confirmed: Mutex<Vec<Confirmation>>,
    /// True if the source has stored the receipts of `confirmed`.
    confirmed_is_stored: Mutex<bool>,
    /// Age of the next answers.
    age: Mutex<AnswerAge>,
    /// The measured disk space of the source, and the number of measurements.
    used: Mutex<(u64, usize)>,
}

impl Fake {
    fn new() -> Arc<Self> {
        let keypair = Keypair::generate_ed25519();
        let discovery = Discovery {
            peer: keypair.public().to_peer_id(),
            addresses: Vec::new(),
            manifests: Vec::new(),
            malformed: Vec::new(),
            timestamp: None,
            nonce: None,
        };
        Arc::new(Self {
            keypair,
            shown: watch::Sender::new((1, discovery)),
            polls: Mutex::default(),
            poll_error: Mutex::default(),
            delay: Mutex::default(),
            has_long_polls: Mutex::new(true),
            pulls: Mutex::default(),
            pull_error: Mutex::default(),
            pull_time: Mutex::default(),
            ignores_stop: Mutex::default(),
            no_connection: Mutex::default(),
            pulling: Mutex::default(),
            receipts: Mutex::default(),
            loses_receipts: Mutex::default(),
            receipt_answer: Mutex::new(ReceiptAnswer::Ok),
            stored: Mutex::default(),
            confirmed: Mutex::default(),
            confirmed_is_stored: Mutex::default(),
            age: Mutex::new(AnswerAge::Now),
            used: Mutex::default(),
        })
    }

    fn offer(&self, folder: &str, sequence: u64, content: &str) -> Offer {
        let published = PublishedManifest {
            folder_id: folder.parse().unwrap(),
            folder_name: folder.to_uppercase(),
            folder_path: format!("/{folder}"),
            manifest_cid: Cid::of(Codec::DagCbor, content.as_bytes()),
            sequence_number: SequenceNumber(sequence),
            updated_at: Timestamp::UNIX_EPOCH,
            file_count: 1,
            total_size_bytes: 2,
        };
        let (id, cid) = (&published.folder_id, &published.manifest_cid);
        let signature = sign(&self.keypair, id, published.sequence_number, cid).unwrap();
        Offer { published, signature, confirmed: None }
    }

    fn change(&self, change: impl FnOnce(&mut Discovery)) {
        self.shown.send_modify(|(version, discovery)| {
            *version += 1;
            change(discovery);
        });
    }

    fn show(&self, offers: impl IntoIterator<Item = Offer>) {
        let offers = offers.into_iter().collect();
        self.change(|discovery| discovery.manifests = offers);
    }

    fn publish(&self, sequence: u64) {
        self.show([self.offer("docs", sequence, &format!("docs {sequence}"))]);
    }

    fn poll_times(&self) -> Vec<Instant> {
        self.polls.lock().iter().map(|(at, _)| *at).collect()
    }

    fn pulled(&self) -> Vec<u64> {
        self.pulls.lock().iter().map(|(_, sequence)| *sequence).collect()
    }

    fn fail_polls(&self, error: impl Fn() -> ClientError + Send + Sync + 'static) {
        *self.poll_error.lock() = Some(Arc::new(move || Some(error())));
    }

    fn fail_pulls(&self, error: impl Fn() -> Option<ManifestPullError> + Send + Sync + 'static) {
        *self.pull_error.lock() = Some(Arc::new(error));
    }
}

fn url() -> url::Url {
    "http://192.0.2.1:8085/manifests".parse().unwrap()
}

fn timeout() -> ClientError {
    ClientError::Timeout { url: url(), after: Duration::from_secs(30) }
}

fn snapshot_of(source: PeerId, offer: &Offer) -> Snapshot {
    let published = &offer.published;
    let record = SnapshotRecord {
        source,
        folder: published.folder_id.clone(),
        folder_name: published.folder_name.clone(),
        sequence: published.sequence_number,
        manifest: published.manifest_cid,
        signature: offer.signature.clone(),
        order: published.sequence_number.0,
        received_at: Timestamp::UNIX_EPOCH,
        created_at: Timestamp::UNIX_EPOCH,
        files: 1,
        dirs: 0,
        bytes: 2,
        held: None,
        signs: Signs::default(),
    };
    let cid = record.encode().unwrap().cid();
    Snapshot { id: SnapshotId::of(&cid), cid, record }
}

/// Counts a running pull until it is dropped.
struct Pulling(Arc<Fake>);

impl Pulling {
    fn start(fake: &Arc<Fake>) -> Self {
        let mut pulling = fake.pulling.lock();
        pulling.0 += 1;
        pulling.1 = pulling.1.max(pulling.0);
        Self(fake.clone())
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        self.0.pulling.lock().0 -= 1;
    }
}

impl Effects for Arc<Fake> {
    fn poll(
        &self,
        _: PeerId,
        _: ManifestUrl,
        request: PollRequest,
    ) -> BoxFuture<'static, Result<Polled, ClientError>> {
        let fake = self.clone();
        Box::pin(async move {
            fake.polls.lock().push((Instant::now(), request.clone()));
            let delay = *fake.delay.lock();
            tokio::time::sleep(delay).await;
            let poll_error = fake.poll_error.lock().clone();
            if let Some(error) = poll_error.and_then(|poll_error| poll_error()) {
                return Err(error);
            }
            let mut shown = fake.shown.subscribe();
            let tag = |version: u64| Some(version.to_string());
            if *fake.has_long_polls.lock() {
                let news = shown.wait_for(|(version, _)| request.since != tag(*version));
                let _ = tokio::time::timeout(request.wait, news).await;
            }
            let (version, discovery) = shown.borrow().clone();
            let age = *fake.age.lock();
            let response = match request.since == tag(version) {
                true => PollResponse::Unchanged { proof: None },
                false => PollResponse::Changed {
                    discovery: Box::new(discovery),
                    etag: tag(version),
                    proof: None,
                },
            };
            Ok(Polled { response, age })
        })
    }

    fn stored_snapshots(
        &self,
        _: PeerId,
    ) -> BoxFuture<'static, Result<StoredSnapshots, StoredError>> {
        let stored = self.stored.lock().clone();
        Box::pin(async move { Ok(stored) })
    }

    fn used_bytes(&self, _: PeerId) -> BoxFuture<'static, Result<u64, ManifestPullError>> {
        let mut used = self.used.lock();
        used.1 += 1;
        let measured = used.0;
        Box::pin(async move { Ok(measured) })
    }

    fn confirmed(&self, _: PeerId) -> BoxFuture<'static, Vec<LastConfirmation>> {
        let confirmed = self.confirmed.lock().clone();
        let is_stored = *self.confirmed_is_stored.lock();
        let last = move |confirmation| LastConfirmation { confirmation, is_stored };
        Box::pin(async move { confirmed.into_iter().map(last).collect() })
    }

    fn connect(&self, peer: PeerId, _: Vec<Multiaddr>) -> BoxFuture<'static, Result<(), NetError>> {
        let is_hopeless = *self.no_connection.lock();
        Box::pin(async move {
            if !is_hopeless {
                return Ok(());
            }
            let after = Duration::from_secs(15);
            tokio::time::sleep(after).await;
            Err(NetError::Timeout { peer, after })
        })
    }

    fn pull(&self, job: ManifestJob) -> BoxFuture<'static, Result<Snapshot, ManifestPullError>> {
        let fake = self.clone();
        Box::pin(async move {
            let sequence = job.offer.published.sequence_number.0;
            fake.pulls.lock().push((Instant::now(), sequence));
            let _pulling = Pulling::start(&fake);
            let time = *fake.pull_time.lock();
            let ignores_stop = *fake.ignores_stop.lock();
            tokio::select! {
                () = job.stop.cancelled(), if !ignores_stop => {
                    return Err(ManifestPullError::Stopped);
                }
                () = tokio::time::sleep(time) => {}
            }
            let pull_error = fake.pull_error.lock().clone();
            match pull_error.and_then(|pull_error| pull_error()) {
                Some(error) => Err(error),
                None => Ok(snapshot_of(job.source, &job.offer)),
            }
        })
    }

    fn send_receipt(
        &self,
        _: PeerId,
        confirmation: Confirmation,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ReceiptError>> {
        let (is_lost, answer) = (*self.loses_receipts.lock(), *self.receipt_answer.lock());
        self.receipts.lock().push(confirmation.sequence.0);
        Box::pin(
            async move { if is_lost { Err(ExchangeError::Closed.into()) } else { Ok(answer) } },
        )
    }
}

/// A running task.
struct Running {
    registry: StatusRegistry,
    hint: Arc<Notify>,
    requests: mpsc::Sender<Request>,
    common: watch::Sender<CommonSettings>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

fn run(fake: &Arc<Fake>) -> Running {
    run_with(fake, &Slots::new(3), tempfile::tempdir().unwrap())
}

fn source_of(fake: &Fake) -> SourcePeer {
    SourcePeer {
        name: "desktop".parse().unwrap(),
        manifest_server_url: "http://192.0.2.1:8085".parse().unwrap(),
        peer_id: fake.keypair.public().to_peer_id(),
        addresses: Vec::new(),
        quota: config::ByteSize::default(),
        folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
    }
}

fn run_with(fake: &Arc<Fake>, slots: &Slots, dir: tempfile::TempDir) -> Running {
    run_source(fake, source_of(fake), slots, dir)
}

fn run_source(
    fake: &Arc<Fake>,
    source: SourcePeer,
    slots: &Slots,
    dir: tempfile::TempDir,
) -> Running {
    let common = CommonSettings { poll_interval: Duration::from_secs(30), max_retries: 3 };
    let (common, hint) = (watch::Sender::new(common), Arc::new(Notify::new()));
    let (requests, receiver) = mpsc::channel(16);
    let (registry, stop) = (StatusRegistry::new(), CancellationToken::new());
    let context = TaskContext {
        effects: Arc::new(fake.clone()),
        slots: slots.clone(),
        registry: registry.clone(),
        acceptances: Arc::new(OfferFile::accepted(Arc::new(disk::RealDisk), dir.path()).unwrap()),
        set_backs: Arc::new(OfferFile::set_back(Arc::new(disk::RealDisk), dir.path()).unwrap()),
        clock: SystemClock::shared(),
        common: common.subscribe(),
        hint: hint.clone(),
        requests: receiver,
        stop: stop.clone(),
    };
    let task = tokio::spawn(SourceTask::new(source, context).run());
    Running { registry, hint, requests, common, stop, task, dir }
}

impl Running {
    /// Lets a time pass on the simulated clock.
    async fn pass(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    fn status(&self) -> Arc<SourceStatus> {
        self.registry.sources().pop().unwrap()
    }

    fn state(&self) -> SourceState {
        self.status().state
    }

    async fn accept(&self) -> Result<Accepted, AcceptError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Accept(reply)).await.unwrap();
        answer.await.unwrap()
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.cancel();
        self.task.await.unwrap();
        self.dir
    }
}

const SOON: f64 = 0.2;
