//! The service on a simulated clock, with a channel that records the triggers.

use net::Keypair;
use parking_lot::Mutex;
use types::{Codec, PublishedManifest};

use super::*;
use crate::SystemClock;

const PEER: &str = "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY";

#[derive(Default)]
struct Fake {
    told: Mutex<Vec<Instant>>,
    connect_fails: Mutex<bool>,
    trigger_fails: Mutex<bool>,
    takes: Mutex<Duration>,
}

impl Channel for Fake {
    fn connect(&self, peer: PeerId, _: Multiaddr) -> BoxFuture<'static, Result<(), NetError>> {
        assert_eq!(peer.to_string(), PEER);
        let fails = *self.connect_fails.lock();
        Box::pin(async move { if fails { Err(NetError::NoAddress(peer)) } else { Ok(()) } })
    }

    fn trigger(&self, address: Multiaddr, _: u16) -> BoxFuture<'static, Result<(), TriggerError>> {
        self.told.lock().push(Instant::now());
        let (fails, takes) = (*self.trigger_fails.lock(), *self.takes.lock());
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            if fails { Err(TriggerError::NoHost(address)) } else { Ok(()) }
        })
    }
}

struct Fixture {
    fake: Arc<Fake>,
    registry: ManifestRegistry,
    settings: watch::Sender<NotifySettings>,
    receipts: watch::Sender<BTreeMap<FolderId, SequenceNumber>>,
    service: BackupService,
    stop: CancellationToken,
    start: Instant,
}

fn settings() -> NotifySettings {
    NotifySettings {
        backup_peer: Some(format!("/ip4/192.0.2.1/tcp/8070/p2p/{PEER}").parse().unwrap()),
        trigger_port: 8086,
        auto_notify: true,
        retry_interval: Duration::from_secs(300),
        max_retries: 5,
    }
}

fn published(folder: &str, sequence: u64) -> PublishedManifest {
    PublishedManifest {
        folder_id: folder.parse().unwrap(),
        folder_name: folder.to_owned(),
        folder_path: format!("/home/me/{folder}"),
        manifest_cid: Cid::of(Codec::DagCbor, format!("{folder} {sequence}").as_bytes()),
        sequence_number: SequenceNumber(sequence),
        updated_at: Timestamp::UNIX_EPOCH,
        file_count: 1,
        total_size_bytes: 1,
    }
}

impl Fixture {
    fn new(register: Option<Register>) -> Self {
        let fake = Arc::new(Fake::default());
        let registry = ManifestRegistry::new(Keypair::generate_secp256k1());
        let settings = watch::Sender::new(settings());
        let receipts = watch::Sender::default();
        let register = register.unwrap_or_else(|| Arc::new(|_| Box::pin(async { Ok(()) })));
        let service = BackupService::with_channel(
            fake.clone(),
            registry.clone(),
            settings.subscribe(),
            receipts.subscribe(),
            register,
            SystemClock::shared(),
        );
        let stop = CancellationToken::new();
        tokio::spawn(service.clone().run(stop.clone()));
        Self { fake, registry, settings, receipts, service, stop, start: Instant::now() }
    }

    fn publish(&self, folder: &str, sequence: u64) {
        self.registry.publish(published(folder, sequence)).unwrap();
    }

    fn acknowledge(&self, folder: &str, sequence: u64) {
        let folder: FolderId = folder.parse().unwrap();
        self.receipts.send_modify(|all| {
            all.insert(folder, SequenceNumber(sequence));
        });
    }

    /// Returns the times of the triggers since the last call, in seconds.
    fn told(&self) -> Vec<u64> {
        let told = std::mem::take(&mut *self.fake.told.lock());
        told.iter().map(|at| at.duration_since(self.start).as_secs()).collect()
    }

    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn state(&self, folder: &str) -> Option<NotifyState> {
        self.service.states().borrow().get(&folder.parse::<FolderId>().unwrap()).cloned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_is_told_at_once_and_again_until_it_is_acknowledged() {
    let fixture = Fixture::new(None);
    fixture.pass(5).await;
    assert!(fixture.told().is_empty());
    fixture.publish("docs", 1);
    fixture.pass(700).await;
    assert_eq!(fixture.told(), [5, 305, 605]);
    assert_eq!(fixture.state("docs").unwrap().attempts, 3);
    fixture.acknowledge("docs", 1);
    fixture.pass(10_000).await;
    assert!(fixture.told().is_empty());
    assert_eq!(fixture.state("docs"), None);
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_after_its_retries_and_a_newer_manifest_begins_anew() {
    let fixture = Fixture::new(None);
    *fixture.fake.trigger_fails.lock() = true;
    fixture.publish("docs", 1);
    fixture.pass(1799).await;
    assert_eq!(fixture.told(), [0, 300, 600, 900, 1200, 1500]);
    assert!(!fixture.state("docs").unwrap().is_overdue);
    fixture.pass(10_000).await;
    assert!(fixture.told().is_empty());
    let state = fixture.state("docs").unwrap();
    assert!(state.is_overdue);
    assert!(state.error.unwrap().contains("no host"));
    *fixture.fake.trigger_fails.lock() = false;
    fixture.publish("docs", 2);
    fixture.pass(301).await;
    assert_eq!(fixture.told(), [11_799, 12_099]);
    let state = fixture.state("docs").unwrap();
    assert_eq!((state.attempts, state.error, state.is_overdue), (2, None, false));
    // A receipt for an earlier manifest confirms nothing; one for a later manifest does.
    fixture.acknowledge("docs", 1);
    fixture.pass(300).await;
    assert_eq!(fixture.told(), [12_399]);
    fixture.acknowledge("docs", 3);
    fixture.pass(10_000).await;
    assert!(fixture.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn folders_have_their_own_retries() {
    let fixture = Fixture::new(None);
    fixture.publish("docs", 1);
    fixture.pass(100).await;
    fixture.publish("music", 7);
    fixture.pass(250).await;
    assert_eq!(fixture.told(), [0, 100, 300]);
    fixture.acknowledge("docs", 1);
    fixture.pass(100).await;
    assert_eq!(fixture.told(), [400]);
    // A withdrawn folder is not notified.
    fixture.registry.withdraw(&"music".parse().unwrap());
    fixture.pass(10_000).await;
    assert!(fixture.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn manifests_that_come_while_it_is_told_are_told_together_afterwards() {
    let fixture = Fixture::new(None);
    *fixture.fake.takes.lock() = Duration::from_secs(10);
    fixture.publish("docs", 1);
    for sequence in 2..=6 {
        fixture.pass(1).await;
        fixture.publish("docs", sequence);
        fixture.publish("music", sequence);
    }
    fixture.pass(100).await;
    assert_eq!(fixture.told(), [0, 10]);
    assert_eq!(fixture.state("docs").unwrap().sequence, SequenceNumber(6));
}

#[tokio::test(start_paused = true)]
async fn settings_count_when_they_change() {
    let fixture = Fixture::new(None);
    fixture.settings.send_modify(|settings| settings.auto_notify = false);
    fixture.publish("docs", 1);
    fixture.pass(1000).await;
    assert!(fixture.told().is_empty());
    fixture.settings.send_modify(|settings| settings.auto_notify = true);
    fixture.pass(1).await;
    assert_eq!(fixture.told(), [1000]);
    // A shorter interval applies immediately.
    fixture.settings.send_modify(|settings| settings.retry_interval = Duration::from_secs(10));
    fixture.pass(12).await;
    assert_eq!(fixture.told(), [1010]);
    // Another port: notified immediately.
    fixture.settings.send_modify(|settings| settings.trigger_port = 9000);
    fixture.pass(1).await;
    assert_eq!(fixture.told(), [1013]);
    fixture.settings.send_modify(|settings| settings.backup_peer = None);
    fixture.pass(1000).await;
    assert!(fixture.told().is_empty());
    // The task ends with `stop`.
    fixture.settings.send_modify(|all| *all = settings());
    fixture.stop.cancel();
    fixture.pass(1).await;
    fixture.told();
    fixture.publish("docs", 2);
    fixture.pass(1000).await;
    assert!(fixture.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn backup_now_says_what_is_wrong() {
    let registering: Register = Arc::new(|folders| {
        Box::pin(async move {
            match folders.iter().map(FolderId::as_str).collect::<Vec<_>>()[..] {
                ["broken"] => Err("it is not mounted".into()),
                _ => Ok(()),
            }
        })
    });
    let fixture = Fixture::new(Some(registering));
    let service = &fixture.service;
    let [docs, broken]: [FolderId; 2] = ["docs", "broken"].map(|id| id.parse().unwrap());
    let all = [docs.clone(), broken.clone()];
    let error = service.backup_now(std::slice::from_ref(&docs)).await.unwrap_err();
    assert!(matches!(error, BackupNowError::NotRegistered(_)));
    let error = service.backup_now(&all).await.unwrap_err();
    assert!(matches!(error, BackupNowError::NothingRegistered));
    let error = service.backup_now(std::slice::from_ref(&broken)).await.unwrap_err();
    assert!(error.to_string().contains("not mounted"), "{error}");
    assert!(fixture.told().is_empty());
    fixture.publish("broken", 1);
    fixture.publish("docs", 4);
    // A paused folder, which the caller leaves out.
    fixture.publish("music", 7);
    let report = service.backup_now(std::slice::from_ref(&docs)).await.unwrap();
    let sequences: Vec<_> = report.manifests.iter().map(|one| one.sequence.0).collect();
    assert_eq!(sequences, [4]);
    let steps: Vec<_> = report.steps.iter().map(|step| (step.step, step.is_warning)).collect();
    let [register, connect, trigger] =
        [NotifyStep::Register, NotifyStep::Connect, NotifyStep::Trigger];
    assert_eq!(steps, [(register, false), (connect, false), (trigger, false)]);
    // The manifest that was registered earlier is used, with a warning.
    let report = service.backup_now(std::slice::from_ref(&broken)).await.unwrap();
    assert!(report.steps[0].is_warning);
    *fixture.fake.trigger_fails.lock() = true;
    let report = service.backup_now(&all).await.unwrap();
    assert_eq!(report.manifests.len(), 2);
    assert!(report.steps[2].is_warning);
    *fixture.fake.connect_fails.lock() = true;
    let error = service.backup_now(&all).await.unwrap_err();
    assert!(matches!(error, BackupNowError::Connect { is_triggered: false, .. }), "{error}");
    fixture.settings.send_modify(|settings| settings.backup_peer = None);
    let error = service.backup_now(&all).await.unwrap_err();
    assert!(matches!(error, BackupNowError::NoBackupPeer));
}

#[tokio::test(start_paused = true)]
async fn backup_now_begins_what_was_given_up_again() {
    let fixture = Fixture::new(None);
    fixture.publish("docs", 1);
    fixture.pass(3000).await;
    assert!(fixture.state("docs").unwrap().is_overdue);
    fixture.told();
    fixture.service.backup_now(&["docs".parse().unwrap()]).await.unwrap();
    fixture.pass(301).await;
    assert_eq!(fixture.told(), [3000, 3300]);
    assert!(!fixture.state("docs").unwrap().is_overdue);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_waited_for() {
    let fixture = Fixture::new(None);
    let folder: FolderId = "docs".parse().unwrap();
    let wait = |sequence| {
        let after = Duration::from_secs(60);
        fixture.service.wait_for_receipt(&folder, SequenceNumber(sequence), after)
    };
    fixture.acknowledge("docs", 3);
    fixture.acknowledge("music", 9);
    assert_eq!(wait(2).await, Ok(SequenceNumber(3)));
    assert!(matches!(wait(4).await, Err(WaitError::Timeout { .. })));
    // The remaining time of a caller is hardly ever a whole number of seconds.
    let after = Duration::from_millis(19_999);
    let late = fixture.service.wait_for_receipt(&folder, SequenceNumber(4), after).await;
    let text = late.unwrap_err().to_string();
    assert_eq!(text, "the backup server has not confirmed manifest 4 within 20 s");
    let (waited, ()) = tokio::join!(wait(4), async {
        fixture.pass(30).await;
        fixture.acknowledge("docs", 5);
    });
    assert_eq!(waited, Ok(SequenceNumber(5)));
    let waiting = fixture.service.clone();
    let waiting = tokio::spawn(async move {
        let folder: FolderId = "docs".parse().unwrap();
        waiting.wait_for_receipt(&folder, SequenceNumber(6), Duration::from_secs(60)).await
    });
    fixture.pass(1).await;
    drop(fixture.receipts);
    assert_eq!(waiting.await.unwrap(), Err(WaitError::Stopped));
}
