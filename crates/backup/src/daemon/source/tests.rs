//! The decisions of a source's task, against a world that does as it is told,
//! on a clock that runs only when nothing else does.

use std::collections::{BTreeMap, HashMap};

use config::ManifestUrl;
use manifest::{Ask, Offer, sign};
use net::{Keypair, NetError, PeerId};
use parking_lot::Mutex;
use store::{Limit, StoreError};
use types::{Codec, Published, SequenceNumber};

use super::super::status::{SourceState, SourceStatus};
use super::super::world::Held;
use super::super::{BackupSettings, Links, Manager};
use super::*;
use crate::SystemClock;
use crate::manifest_pull::ManifestPullError;
use crate::snapshot::{SnapshotError, SnapshotId, SnapshotRecord};

type Fails<T> = Arc<dyn Fn() -> Option<T> + Send + Sync>;

/// A source, as the task sees it.
struct Fake {
    keypair: Keypair,
    shown: watch::Sender<(u64, Discovery)>,
    asked: Mutex<Vec<(Instant, Ask)>>,
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
        let published = Published {
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
    fn ask(&self, _: ManifestUrl, ask: Ask) -> BoxFuture<'static, Result<Answer, ClientError>> {
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
                return Ok(Answer::Unchanged);
            }
            Ok(Answer::Changed { discovery, etag: tag(version) })
        })
    }

    fn held(&self, _: PeerId) -> BoxFuture<'static, Result<Held, SnapshotError>> {
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

#[tokio::test(start_paused = true)]
async fn a_new_manifest_is_pulled_at_once_and_acknowledged() {
    let fake = Fake::new();
    let running = run(&fake);
    running.pass(100.0).await;
    // Held for the interval, over and over; nothing besides.
    assert_eq!(fake.asked_at().len(), 5);
    assert_eq!(running.state(), SourceState::Idle);
    for sequence in [1, 2, 5] {
        let before = Instant::now();
        fake.publish(sequence);
        running.pass(SOON).await;
        let (at, pulled) = *fake.pulls.lock().last().unwrap();
        assert_eq!(pulled, sequence);
        assert!(at - before < Duration::from_millis(60), "{:?}", at - before);
        running.pass(20.0).await;
    }
    assert_eq!(*fake.told.lock(), [1, 2, 5]);
    let status = running.status();
    assert!(status.folders[0].processed.as_ref().unwrap().is_acknowledged);
    assert_eq!((status.pulls.len(), status.errors.len()), (0, 0));
    assert_eq!(running.board.totals().committed, 3);
    assert!(status.long_poll);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_hold_is_asked_at_the_interval_which_can_change() {
    let fake = Fake::new();
    *fake.holds.lock() = false;
    let running = run(&fake);
    running.pass(300.0).await;
    let asked = fake.asked_at();
    assert!((10..20).contains(&asked.len()), "{}", asked.len());
    running.common.send_modify(|common| common.poll_interval = Duration::from_secs(5));
    let before = asked.len();
    running.pass(100.0).await;
    assert!((18..=22).contains(&(fake.asked_at().len() - before)));
    fake.publish(1);
    running.pass(6.0).await;
    assert_eq!(fake.pulled(), [1]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_is_asked_less_and_less_shown_and_found_again() {
    let fake = Fake::new();
    fake.fail_answers(timeout);
    let running = run(&fake);
    running.pass(0.5).await;
    assert_eq!(running.state(), SourceState::Starting);
    assert_eq!(running.status().errors.len(), 1, "it is shown from the first time on");
    running.pass(30.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Failed);
    assert!(status.detail.as_ref().unwrap().contains("did not answer"), "{status:?}");
    running.pass(20_000.0).await;
    let asked = fake.asked_at();
    let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_secs(301)), "{gaps:?}");
    assert!(gaps.iter().skip(10).all(|gap| *gap >= Duration::from_secs(200)), "{gaps:?}");
    *fake.no_answer.lock() = None;
    fake.publish(1);
    // Somebody says so: no need to wait.
    running.hint.notify_one();
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1]);
    assert_eq!(running.state(), SourceState::Idle);
    assert_eq!(running.status().poll_failures, 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_manifest_server_is_an_error_that_is_shown() {
    let html = || ClientError::ContentType { url: url(), found: "text/html".into() };
    let redirect = || ClientError::Redirect { url: url(), target: "https://evil.example".into() };
    for (error, what) in [(html as fn() -> ClientError, "web page"), (redirect, "redirect")] {
        let fake = Fake::new();
        fake.publish(1);
        fake.fail_answers(error);
        let running = run(&fake);
        running.pass(60.0).await;
        let status = running.status();
        assert_eq!(status.state, SourceState::Failed);
        assert!(status.errors[0].contains(what), "{status:?}");
        assert!(fake.pulled().is_empty());
        *fake.no_answer.lock() = None;
        running.pass(300.0).await;
        assert_eq!(fake.pulled(), [1]);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn triggers_coalesce_to_one_that_runs_and_one_that_waits() {
    let fake = Fake::new();
    let running = run(&fake);
    running.pass(5.0).await;
    let before = fake.asked_at().len();
    *fake.delay.lock() = Duration::from_secs(1);
    for _ in 0..100 {
        running.hint.notify_one();
        tokio::task::yield_now().await;
    }
    running.pass(0.5).await;
    // The held question was dropped for a plain one; the others wait.
    assert_eq!(fake.asked.lock().len() - before, 1);
    running.pass(2.0).await;
    let asked = fake.asked.lock().split_off(before);
    let waits: Vec<_> = asked.iter().map(|(_, ask)| ask.wait.as_secs()).collect();
    assert_eq!(waits, [0, 0, 30]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_triggers_does_not_become_a_flood_of_questions() {
    let fake = Fake::new();
    let running = run(&fake);
    running.pass(1.0).await;
    let before = fake.asked_at().len();
    for _ in 0..10_000 {
        running.hint.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = fake.asked_at().len() - before;
    assert!((100..=210).contains(&asked), "{asked} in ten seconds");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_peer_is_refused_whole() {
    let fake = Fake::new();
    let right = fake.keypair.public().to_peer_id();
    let stranger = PeerId::random();
    fake.change(|discovery| discovery.peer = stranger);
    fake.publish(1);
    let running = run(&fake);
    running.pass(50.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Refused);
    assert!(status.errors[0].contains(&stranger.to_string()));
    assert!(status.can_be_accepted);
    assert!(fake.pulled().is_empty());
    // To accept it is to change the configuration, which is not done here.
    let accepted = running.accept().await.unwrap();
    assert_eq!((accepted.peer_id, accepted.folders.len()), (Some(stranger), 0));
    running.pass(50.0).await;
    assert!(fake.pulled().is_empty());
    fake.change(|discovery| discovery.peer = right);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_signed_is_refused_and_hides_no_other_folder() {
    let fake = Fake::new();
    let mut forged = fake.offer("docs", 3, "docs 3");
    forged.published.manifest_cid = Cid::of(Codec::DagCbor, b"another");
    let mut twice = fake.offer("twice", 1, "one");
    twice.published.folder_name = "x".into();
    fake.show([
        forged,
        fake.offer("music", 7, "music 7"),
        twice.clone(),
        fake.offer("twice", 2, "two"),
    ]);
    let running = run(&fake);
    running.pass(5.0).await;
    assert_eq!(fake.pulled(), [7]);
    let status = running.status();
    assert_eq!(status.state, SourceState::Refused);
    assert!(status.errors.iter().any(|error| error.contains("signature")), "{status:?}");
    assert!(!status.can_be_accepted);
    assert!(matches!(running.accept().await, Err(AcceptError::Nothing)));
    // A new folder is not made by a refusal.
    assert_eq!(status.folders.len(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_back_is_refused_until_it_is_accepted() {
    let fake = Fake::new();
    let peer = fake.keypair.public().to_peer_id();
    let (old, new) = (fake.offer("docs", 41, "docs 41"), fake.offer("docs", 42, "docs 42"));
    let snapshots = vec![snapshot_of(peer, &old), snapshot_of(peer, &new)];
    *fake.held.lock() = BTreeMap::from([("docs".parse().unwrap(), snapshots)]);
    let running = run(&fake);
    // An answer from the past; the same number for something else; a number
    // that is lower.
    for (offer, can_be_accepted) in [
        (old, false),
        (fake.offer("docs", 42, "not the same"), true),
        (fake.offer("docs", 5, "docs 5 anew"), true),
    ] {
        fake.show([offer]);
        running.pass(1.0).await;
        let status = running.status();
        assert_eq!(status.state, SourceState::Refused);
        assert_eq!(status.can_be_accepted, can_be_accepted, "{status:?}");
        assert_eq!(status.folders[0].processed.as_ref().unwrap().sequence.0, 42);
    }
    assert!(fake.pulled().is_empty());
    assert!(fake.told.lock().is_empty());
    fake.fail_pulls(|| Some(StoreError::LostWrites.into()));
    let accepted = running.accept().await.unwrap();
    assert_eq!(accepted.folders[0].sequence.0, 5);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [5]);
    // The answer holds over a restart …
    let dir = running.stop().await;
    *fake.no_pull.lock() = None;
    let running = run_with(&fake, &Slots::new(1), dir);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [5, 5]);
    assert_eq!(running.state(), SourceState::Idle);
    assert_eq!(*fake.told.lock(), [5]);
    // … and only for this once.
    fake.show([fake.offer("docs", 7, "docs 7")]);
    running.pass(1.0).await;
    fake.show([fake.offer("docs", 6, "docs 6")]);
    running.pass(1.0).await;
    assert_eq!(fake.pulled(), [5, 5, 7]);
    assert_eq!(running.state(), SourceState::Refused);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_manifest_takes_the_place_of_one_that_is_being_pulled() {
    let fake = Fake::new();
    *fake.pull_time.lock() = Duration::from_secs(100);
    fake.publish(1);
    let running = run(&fake);
    running.pass(10.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Pulling);
    assert_eq!(status.pulls[0].sequence.0, 1);
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1, 2]);
    // An older one does not.
    fake.publish(1);
    running.pass(10.0).await;
    assert_eq!(fake.pulled(), [1, 2]);
    assert_eq!(running.board.totals().failed_attempts, 0);
    running.pass(100.0).await;
    assert_eq!(running.board.totals().committed, 1);
    assert_eq!(running.state(), SourceState::Refused, "what it shows now is old");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_never_stands_still_is_backed_up_and_told_of() {
    let fake = Fake::new();
    *fake.pull_time.lock() = Duration::from_secs(5);
    fake.publish(1);
    let running = run(&fake);
    for sequence in 2..60 {
        running.pass(1.0).await;
        fake.publish(sequence);
    }
    let committed = running.board.totals().committed;
    assert!((6..12).contains(&committed), "{committed}");
    let told = fake.told.lock().len() as u64;
    assert!(told + 1 >= committed, "{told} of {committed}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_nobodys_fault_and_the_next_manifest_follows_at_once() {
    let fake = Fake::new();
    fake.fail_pulls(|| Some(ManifestPullError::Changed { count: 2 }));
    fake.publish(1);
    let running = run(&fake);
    running.pass(600.0).await;
    let tries = fake.pulled().len();
    assert!((10..30).contains(&tries), "{tries}");
    let status = running.status();
    assert_ne!(status.state, SourceState::Failed);
    assert!(status.errors[0].contains("changed"), "{status:?}");
    assert_eq!(running.board.totals().failed_attempts, 0);
    *fake.no_pull.lock() = None;
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled().last(), Some(&2));
    assert_eq!(running.status().errors, Vec::<String>::new());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_manifest_is_tried_once_and_the_next_one_again() {
    let fake = Fake::new();
    let cid = Cid::of(Codec::Json, b"x");
    let source = types::ManifestError::Rule("an empty segment");
    fake.fail_pulls(move || Some(ManifestPullError::Unsound { cid, source: source.clone() }));
    fake.publish(1);
    let running = run(&fake);
    running.pass(2000.0).await;
    running.hint.notify_one();
    running.pass(10.0).await;
    assert_eq!(fake.pulled(), [1]);
    let status = running.status();
    assert_eq!(status.state, SourceState::Refused);
    assert!(status.folders[0].refused.as_ref().unwrap().contains("empty segment"));
    *fake.no_pull.lock() = None;
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1, 2]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_shown_and_tried_again_for_ever() {
    let fake = Fake::new();
    fake.fail_pulls(|| Some(StoreError::Full { limit: Limit::Quota, needed: 5 }.into()));
    fake.publish(1);
    let running = run(&fake);
    running.pass(3.0).await;
    assert!(running.status().errors[0].contains("max_storage"));
    assert_ne!(running.state(), SourceState::Failed);
    running.pass(100.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Failed);
    assert!(status.folders[0].failures > 3);
    running.pass(10_000.0).await;
    let gaps: Vec<_> = fake.pulls.lock().windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.len() > 30);
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_secs(301)));
    // A newer manifest does not make room.
    let before = fake.pulled().len();
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled().len(), before);
    *fake.no_pull.lock() = None;
    running.hint.notify_one();
    running.pass(SOON).await;
    assert_eq!(fake.pulled().last(), Some(&2));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_dead_or_slow_delays_no_other() {
    let slots = Slots::new(1);
    let dead = Fake::new();
    *dead.no_connection.lock() = true;
    dead.publish(1);
    let hanging = Fake::new();
    *hanging.delay.lock() = Duration::from_secs(1_000_000);
    let good = Fake::new();
    let dir = || tempfile::tempdir().unwrap();
    let tasks = [&dead, &hanging, &good].map(|fake| run_with(fake, &slots, dir()));
    tasks[2].pass(1.0).await;
    good.publish(1);
    tasks[2].pass(SOON).await;
    assert_eq!(good.pulled(), [1]);
    // One that pulls for hours gives up its place while others wait.
    let slow = Fake::new();
    *slow.pull_time.lock() = Duration::from_secs(4000);
    *slow.is_stubborn.lock() = true;
    slow.publish(1);
    let slow_task = run_with(&slow, &slots, dir());
    slow_task.pass(1.0).await;
    good.publish(2);
    slow_task.pass(41.0).await;
    assert_eq!(good.pulled(), [1, 2]);
    slow_task.pass(5000.0).await;
    assert_eq!(slow_task.board.totals().committed, 1, "and goes on");
    assert!(dead.pulled().is_empty());
    assert!(tasks[0].status().errors[0].contains("no connection"));
    for task in tasks {
        task.stop().await;
    }
    slow_task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_told_until_it_is_taken_and_again_on_a_new_connection() {
    let fake = Fake::new();
    *fake.no_receipt.lock() = true;
    fake.publish(1);
    let running = run(&fake);
    running.pass(60.0).await;
    let tries = fake.told.lock().len();
    assert!((3..10).contains(&tries), "{tries}");
    assert_eq!(running.state(), SourceState::Idle);
    *fake.no_receipt.lock() = false;
    running.pass(120.0).await;
    let tries = fake.told.lock().len();
    running.pass(1000.0).await;
    assert_eq!(fake.told.lock().len(), tries, "once it is taken, no more");
    running.requests.send(Request::Connected).await.unwrap();
    running.pass(SOON).await;
    assert_eq!(fake.told.lock().len(), tries + 1);
    // Of what it does not show any more, it is not told.
    fake.show([]);
    running.pass(SOON).await;
    running.requests.send(Request::Connected).await.unwrap();
    running.pass(SOON).await;
    assert_eq!(fake.told.lock().len(), tries + 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_soon_whatever_it_is_doing() {
    let fake = Fake::new();
    *fake.pull_time.lock() = Duration::from_secs(4000);
    *fake.no_receipt.lock() = true;
    let many: Vec<_> = (0..50).map(|n| fake.offer(&format!("f{n}"), 1, &format!("{n}"))).collect();
    fake.show(many);
    let running = run(&fake);
    running.pass(1.0).await;
    // Bounded, however many folders there are.
    assert_eq!(running.status().pulls.len(), ATTEMPTS_MAX);
    assert_eq!(fake.pulled().len(), 3);
    let before = Instant::now();
    running.stop().await;
    assert!(before.elapsed() <= Duration::from_secs(2));
    // A panic in a pull is no end of the task.
    let fake = Fake::new();
    fake.fail_pulls(|| panic!("asked to"));
    fake.publish(1);
    let running = run(&fake);
    running.pass(10.0).await;
    assert!(running.status().errors[0].contains("panicked"));
    assert!(fake.pulled().len() > 1);
    running.stop().await;
}

/// Off and on again, while the old task still lets go of its pull.
#[tokio::test(start_paused = true)]
async fn a_source_never_has_two_tasks() {
    let fake = Fake::new();
    *fake.is_stubborn.lock() = true;
    *fake.pull_time.lock() = Duration::from_secs(3600);
    fake.publish(1);
    let on = BackupSettings {
        enabled: true,
        poll_interval: Duration::from_secs(30),
        max_concurrent_downloads: 3,
        max_retries: 3,
        sources: vec![source_of(&fake)],
    };
    let off = BackupSettings { enabled: false, ..on.clone() };
    let (settings, receiver) = watch::channel(on.clone());
    let dir = tempfile::tempdir().unwrap();
    let mut manager = Manager {
        world: Arc::new(fake.clone()),
        slots: Slots::new(3),
        common: watch::Sender::new(on.common()),
        board: Board::new(),
        accepted: Arc::new(AcceptedFile::open(dir.path())),
        clock: SystemClock::shared(),
        links: Links::default(),
        settings: receiver,
        running: HashMap::new(),
        ending: Vec::new(),
        tasks: JoinSet::new(),
        stop: CancellationToken::new(),
        failed: watch::channel(None).0,
    };
    manager.apply();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(*fake.pulling.lock(), (1, 1));
    for settings_now in [&off, &on, &off, &off, &on] {
        settings.send_replace(settings_now.clone());
        manager.apply();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fake.pulls.lock().len(), 2, "the new task pulls");
    assert_eq!(*fake.pulling.lock(), (1, 1), "two tasks pulled at once");
    assert_eq!(manager.ending.len(), 2);
    manager.apply();
    assert_eq!(manager.ending.len(), 0, "what has ended is forgotten");
}
