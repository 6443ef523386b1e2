//! The decisions of a source's task, against a world that does as it is told,
//! on a clock that runs only when nothing else does.

mod asking;
mod pulling;
mod refusing;

use std::collections::{BTreeMap, HashMap};

use config::ManifestUrl;
use manifest::{Offer, PollRequest, sign};
use net::{Keypair, NetError, PeerId};
use parking_lot::Mutex;
use protocols::SystemClock;
use pull::ManifestPullError;
use snapshots::{SnapshotId, SnapshotRecord};
use store::{Limit, StoreError};
use types::{Codec, PublishedManifest, SequenceNumber};

use super::*;
use crate::manager::{Links, Manager};
use crate::settings::BackupSettings;
use crate::status::{SourceState, SourceStatus};
use crate::world::{Held, HeldError};

type Fails<T> = Arc<dyn Fn() -> Option<T> + Send + Sync>;

/// A source, as the task sees it.
struct Fake {
    keypair: Keypair,
    shown: watch::Sender<(u64, Discovery)>,
    asked: Mutex<Vec<(Instant, PollRequest)>>,
    /// Says no instead of an answer.
    no_answer: Mutex<Option<Fails<ClientError>>>,
    /// How long each answer takes.
    delay: Mutex<Duration>,
    holds: Mutex<bool>,
    pulls: Mutex<Vec<(Instant, u64)>>,
    /// What becomes of a pull; without it, a snapshot.
    no_pull: Mutex<Option<Fails<ManifestPullError>>>,
    /// Pulls take so long.
    pull_time: Mutex<Duration>,
    /// Pulls do not stop when they are told to.
    is_stubborn: Mutex<bool>,
    no_connection: Mutex<bool>,
    /// Pulls that are under way, and the most that ever were.
    pulling: Mutex<(usize, usize)>,
    told: Mutex<Vec<u64>>,
    no_receipt: Mutex<bool>,
    held: Mutex<Held>,
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
        };
        Arc::new(Self {
            keypair,
            shown: watch::Sender::new((1, discovery)),
            asked: Mutex::default(),
            no_answer: Mutex::default(),
            delay: Mutex::default(),
            holds: Mutex::new(true),
            pulls: Mutex::default(),
            no_pull: Mutex::default(),
            pull_time: Mutex::default(),
            is_stubborn: Mutex::default(),
            no_connection: Mutex::default(),
            pulling: Mutex::default(),
            told: Mutex::default(),
            no_receipt: Mutex::default(),
            held: Mutex::default(),
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
        Offer { published, signature }
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

    fn asked_at(&self) -> Vec<Instant> {
        self.asked.lock().iter().map(|(at, _)| *at).collect()
    }

    fn pulled(&self) -> Vec<u64> {
        self.pulls.lock().iter().map(|(_, sequence)| *sequence).collect()
    }

    fn fail_answers(&self, error: impl Fn() -> ClientError + Send + Sync + 'static) {
        *self.no_answer.lock() = Some(Arc::new(move || Some(error())));
    }

    fn fail_pulls(&self, error: impl Fn() -> Option<ManifestPullError> + Send + Sync + 'static) {
        *self.no_pull.lock() = Some(Arc::new(error));
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
    };
    let cid = record.encode().unwrap().cid();
    Snapshot { id: SnapshotId::of(&cid), cid, record }
}

/// A pull that is under way, until it has ended or was dropped.
struct Pulling(Arc<Fake>);

impl Pulling {
    fn begin(fake: &Arc<Fake>) -> Self {
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

impl World for Arc<Fake> {
    fn ask(
        &self,
        _: ManifestUrl,
        ask: PollRequest,
    ) -> BoxFuture<'static, Result<PollResponse, ClientError>> {
        let fake = self.clone();
        Box::pin(async move {
            fake.asked.lock().push((Instant::now(), ask.clone()));
            let delay = *fake.delay.lock();
            tokio::time::sleep(delay).await;
            let no_answer = fake.no_answer.lock().clone();
            if let Some(error) = no_answer.and_then(|no_answer| no_answer()) {
                return Err(error);
            }
            let mut shown = fake.shown.subscribe();
            let tag = |version: u64| Some(version.to_string());
            if *fake.holds.lock() {
                let news = shown.wait_for(|(version, _)| ask.since != tag(*version));
                let _ = tokio::time::timeout(ask.wait, news).await;
            }
            let (version, discovery) = shown.borrow().clone();
            if ask.since == tag(version) {
                return Ok(PollResponse::Unchanged);
            }
            Ok(PollResponse::Changed { discovery, etag: tag(version) })
        })
    }

    fn held(&self, _: PeerId) -> BoxFuture<'static, Result<Held, HeldError>> {
        let held = self.held.lock().clone();
        Box::pin(async move { Ok(held) })
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
            let _pulling = Pulling::begin(&fake);
            let time = *fake.pull_time.lock();
            let is_stubborn = *fake.is_stubborn.lock();
            tokio::select! {
                () = job.stop.cancelled(), if !is_stubborn => {
                    return Err(ManifestPullError::Stopped);
                }
                () = tokio::time::sleep(time) => {}
            }
            let no_pull = fake.no_pull.lock().clone();
            match no_pull.and_then(|no_pull| no_pull()) {
                Some(error) => Err(error),
                None => Ok(snapshot_of(job.source, &job.offer)),
            }
        })
    }

    fn acknowledge(
        &self,
        _: PeerId,
        receipt: Receipt,
    ) -> BoxFuture<'static, Result<ReceiptAnswer, ExchangeError>> {
        let is_lost = *self.no_receipt.lock();
        self.told.lock().push(receipt.sequence.0);
        Box::pin(
            async move { if is_lost { Err(ExchangeError::Closed) } else { Ok(ReceiptAnswer::Ok) } },
        )
    }
}

/// A task that runs.
struct Running {
    board: Board,
    hint: Arc<Notify>,
    requests: mpsc::Sender<Request>,
    common: watch::Sender<Common>,
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
    }
}

fn run_with(fake: &Arc<Fake>, slots: &Slots, dir: tempfile::TempDir) -> Running {
    let source = source_of(fake);
    let common = Common { poll_interval: Duration::from_secs(30), max_retries: 3 };
    let (common, hint) = (watch::Sender::new(common), Arc::new(Notify::new()));
    let (requests, receiver) = mpsc::channel(16);
    let (board, stop) = (Board::new(), CancellationToken::new());
    let tools = Tools {
        world: Arc::new(fake.clone()),
        slots: slots.clone(),
        board: board.clone(),
        accepted: Arc::new(AcceptedFile::open(dir.path())),
        clock: SystemClock::shared(),
        common: common.subscribe(),
        hint: hint.clone(),
        requests: receiver,
        stop: stop.clone(),
    };
    let task = tokio::spawn(SourceTask::new(source, tools).run());
    Running { board, hint, requests, common, stop, task, dir }
}

impl Running {
    /// Lets so much time pass, all of it.
    async fn pass(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    fn status(&self) -> Arc<SourceStatus> {
        self.board.sources().pop().unwrap()
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
