//! Backup servers that list less than they confirmed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use net::NetEvent;
use protocols::{ExchangeError, RemoteError, RemoteListing, RemoteSnapshot};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::super::comparison::ListSnapshots;
use super::*;

/// The answer of the backup server to the request for its list.
#[derive(Clone, Copy)]
enum Lists {
    /// The snapshots with these sequence numbers.
    Snapshots(&'static [u64]),
    Refuses,
    IsAway,
}

/// A running comparison with a fake backup server.
struct Running {
    source: Source,
    receipts: Receipts,
    lists: Arc<Mutex<Lists>>,
    requests: Arc<AtomicUsize>,
    events: broadcast::Sender<NetEvent>,
    stop: CancellationToken,
}

fn snapshot(source: &Source, sequence: u64) -> RemoteSnapshot {
    let at: Timestamp = "2026-11-22T10:30:05Z".parse().unwrap();
    let confirmed = source.sign(sequence, None).confirmation().clone();
    RemoteSnapshot {
        id: "1d16b0b030".to_owned(),
        source: source.key.public().to_peer_id().to_string(),
        folder_id: docs(),
        folder_name: "Documents".to_owned(),
        sequence: SequenceNumber(sequence),
        created_at: at,
        received_at: at,
        files: 1,
        bytes: 1,
        manifest_cid: confirmed.manifest_cid,
        held: None,
        signature: confirmed.manifest_signature.to_base64(),
    }
}

impl Running {
    /// Starts with the receipts of manifests 1 to `count`.
    fn start(count: u64) -> Self {
        let source = Source::new(9);
        let receipts = source.open();
        for signed in source.chain(count) {
            assert_eq!(source.receive(&receipts, &signed), ReceiptAnswer::Ok);
        }
        let lists = Arc::new(Mutex::new(Lists::IsAway));
        let requests = Arc::new(AtomicUsize::new(0));
        let all: Vec<_> = (1..=9).map(|sequence| snapshot(&source, sequence)).collect();
        let list: ListSnapshots = {
            let (lists, requests) = (lists.clone(), requests.clone());
            Arc::new(move |_| {
                requests.fetch_add(1, Ordering::SeqCst);
                let listed = *lists.lock();
                let all = all.clone();
                async move {
                    match listed {
                        Lists::Snapshots(numbers) => {
                            let snapshots =
                                all.into_iter().filter(|one| numbers.contains(&one.sequence.0));
                            Ok(RemoteListing {
                                snapshots: snapshots.collect(),
                                ..Default::default()
                            })
                        }
                        Lists::Refuses => Err(RemoteError::NotAllowed),
                        Lists::IsAway => Err(ExchangeError::Closed.into()),
                    }
                }
                .boxed()
            })
        };
        let (events, receiver) = broadcast::channel(16);
        let stop = CancellationToken::new();
        let peer = source.peer();
        let is_server = move |one: &PeerId| *one == peer;
        let comparing = compare_always(receipts.clone(), list, is_server, receiver, stop.clone());
        tokio::spawn(comparing);
        Self { source, receipts, lists, requests, events, stop }
    }

    /// Lets time pass, on the paused clock.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The backup server connects; returns the problems after the comparison.
    async fn connect(&self, lists: Lists) -> String {
        *self.lists.lock() = lists;
        let before = self.requests.load(Ordering::SeqCst);
        let peer = self.source.peer();
        self.events.send(NetEvent::Connected { peer, address: address() }).unwrap();
        self.pass(Duration::from_secs(31)).await;
        assert!(self.requests.load(Ordering::SeqCst) > before);
        problems(&self.receipts)
    }
}

fn address() -> net::Multiaddr {
    "/ip4/192.0.2.1/tcp/8070".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lost_or_hidden_snapshot_is_reported_until_it_is_there_again() {
    let running = Running::start(3);
    assert_eq!(running.connect(Lists::Snapshots(&[1, 2, 3])).await, "");
    // Retention removes older ones.
    assert_eq!(running.connect(Lists::Snapshots(&[3])).await, "");
    // A later one, whose receipt is on the way, explains that the confirmed one is gone.
    assert_eq!(running.connect(Lists::Snapshots(&[4])).await, "");
    let found = running.connect(Lists::Snapshots(&[1, 2])).await;
    assert!(
        found.contains("does not list snapshot 3, which it confirmed at 2026-11-22"),
        "{found}"
    );
    assert!(running.connect(Lists::Snapshots(&[])).await.contains("does not list snapshot 3"));
    // A server that cannot be reached has not shown it again.
    assert!(running.connect(Lists::IsAway).await.contains("does not list snapshot 3"));
    let refused = running.connect(Lists::Refuses).await;
    assert!(refused.contains("confirmed snapshots, but does not list them"), "{refused}");
    *running.lists.lock() = Lists::Snapshots(&[2, 3]);
    // Without a connection or a request of the user.
    running.pass(Duration::from_secs(601)).await;
    assert_eq!(problems(&running.receipts), "");
    running.stop.cancel();
}

#[test]
fn another_manifest_with_the_number_does_not_explain_a_missing_one() {
    let source = Source::new(9);
    let newest = [source.sign(3, None)];
    let missing = |snapshots: Vec<RemoteSnapshot>, damaged| {
        let listing = RemoteListing { snapshots, damaged, ..RemoteListing::default() };
        super::super::comparison::missing(&newest, &listing)
    };
    assert!(missing(vec![snapshot(&source, 3)], 1).is_empty());
    let other = RemoteSnapshot { manifest_cid: cid("other", 3), ..snapshot(&source, 3) };
    assert_eq!(missing(vec![other], 0).len(), 1);
    let of_folder = RemoteSnapshot { folder_id: "other".parse().unwrap(), ..snapshot(&source, 4) };
    let text = missing(vec![of_folder], 2).remove(&docs()).unwrap();
    assert!(text.contains("cannot read the records of 2 snapshots"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn it_compares_each_day_and_not_with_each_of_many_connections() {
    let running = Running::start(3);
    assert_eq!(running.connect(Lists::Snapshots(&[3])).await, "");
    let before = running.requests.load(Ordering::SeqCst);
    *running.lists.lock() = Lists::Snapshots(&[]);
    running.pass(Duration::from_secs(25 * 3600)).await;
    assert!(problems(&running.receipts).contains("does not list snapshot 3"));
    let daily = running.requests.load(Ordering::SeqCst);
    assert!(daily > before);
    for _ in 0..1000 {
        let peer = running.source.peer();
        running.events.send(NetEvent::Connected { peer, address: address() }).unwrap();
        running.pass(Duration::from_millis(10)).await;
    }
    running.pass(Duration::from_secs(30)).await;
    assert!(running.requests.load(Ordering::SeqCst) <= daily + 3);
    // Other peers are not asked.
    let stranger = PeerId::random();
    running.events.send(NetEvent::Connected { peer: stranger, address: address() }).unwrap();
    running.pass(Duration::from_secs(1)).await;
    running.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_new_receipt_ends_the_problem_soon() {
    let running = Running::start(3);
    assert!(running.connect(Lists::Snapshots(&[])).await.contains("does not list"));
    *running.lists.lock() = Lists::Snapshots(&[4]);
    let chain = running.source.chain(4);
    assert_eq!(running.source.receive(&running.receipts, &chain[3]), ReceiptAnswer::Ok);
    running.pass(Duration::from_secs(31)).await;
    assert_eq!(problems(&running.receipts), "");
    // A folder that is not watched any more is not compared.
    assert!(running.connect(Lists::Snapshots(&[])).await.contains("does not list"));
    running.source.folders.0.lock().clear();
    running.pass(Duration::from_secs(601)).await;
    assert_eq!(problems(&running.receipts), "");
    running.stop.cancel();
}
