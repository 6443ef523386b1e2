//! Both sides of the protocol joined by a pipe. The modules below test each side
//! against peers that break the protocol.

mod differences;
mod hostile_client;
mod hostile_server;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libp2p::PeerId;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use types::{Block, Cid, Codec, EncodedBlock, Encoding, Retry};

use super::fetch::Session;
use super::frame::{self, StreamRefusal, Violation};
use super::request::{BlockRequest, FetchOutcome, FetchStats, Fetched, Want};
use super::serving::{self, IDLE_TIMEOUT, ServeContext, ServeError, refuse, serve};
use super::watchdog::{HELLO_TIMEOUT, PROGRESS_WINDOW};
use super::{BlockAnswer, BlockError, BlockProvider, FetchError};
use crate::metrics::Metrics;

type Pipe = Compat<DuplexStream>;
type Batches = Arc<Mutex<Vec<Vec<Fetched>>>>;

/// Provider of blocks in memory that counts the requests.
#[derive(Default)]
struct Shelf {
    answers: HashMap<Cid, BlockAnswer>,
    calls: AtomicUsize,
    asked: AtomicUsize,
    bytes: AtomicUsize,
}

impl Shelf {
    fn holding(blocks: &[EncodedBlock]) -> Self {
        let answers =
            blocks.iter().map(|block| (block.cid(), BlockAnswer::Block(block.clone()))).collect();
        Self { answers, ..Self::default() }
    }
}

impl BlockProvider for Shelf {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (mut left, mut answers) = (budget, Vec::new());
        for cid in wanted {
            let answer = self.answers.get(cid).cloned().unwrap_or(BlockAnswer::Missing);
            let len = match &answer {
                BlockAnswer::Block(block) => block.payload().len(),
                _ => 0,
            };
            if len > left && !answers.is_empty() {
                break;
            }
            left = left.saturating_sub(len);
            self.bytes.fetch_add(len, Ordering::Relaxed);
            answers.push(answer);
        }
        self.asked.fetch_add(answers.len(), Ordering::Relaxed);
        answers
    }
}

fn block(seed: usize, len: usize) -> EncodedBlock {
    let mut bytes = vec![0; len];
    let mut noise = blake3::Hasher::new();
    noise.update(&seed.to_le_bytes());
    noise.finalize_xof().fill(&mut bytes);
    let codec = if seed.is_multiple_of(7) { Codec::DagCbor } else { Codec::Raw };
    EncodedBlock::plain(Block::new(codec, bytes).unwrap())
}

fn source(provider: Arc<dyn BlockProvider>) -> ServeContext {
    ServeContext { provider, readers: Arc::new(Semaphore::new(4)), metrics: Arc::default() }
}

/// Starts a server on a pipe. Returns the client's end and the task of the server.
fn served(provider: Arc<dyn BlockProvider>) -> (Pipe, JoinHandle<Result<(), ServeError>>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(provider)));
    (near.compat(), server)
}

async fn open(pipe: Pipe) -> Result<Session<Pipe>, BlockError> {
    Session::open(pipe, Arc::default()).await
}

fn wants(cids: impl IntoIterator<Item = Cid>) -> Vec<Want> {
    cids.into_iter().map(Want::from).collect()
}

/// Fetches blocks and collects the batches that the sink got.
async fn fetch(
    session: &mut Session<Pipe>,
    wants: Vec<impl Into<BlockRequest>>,
) -> (Result<FetchStats, FetchError<()>>, Vec<Fetched>) {
    let batches = Batches::default();
    let sink_batches = Arc::clone(&batches);
    let sink = move |batch: Vec<Fetched>| {
        assert!(!batch.is_empty());
        sink_batches.lock().push(batch);
        Ok(())
    };
    let result = session.fetch(wants.into_iter(), sink).await;
    let got = std::mem::take(&mut *batches.lock());
    (result, got.into_iter().flatten().collect())
}

/// Checks that the delivered answers match the requests, in order, with valid bytes.
fn assert_good_prefix(got: &[Fetched], asked: &[Cid], blocks: &[EncodedBlock]) {
    assert!(got.len() <= asked.len());
    for (fetched, cid) in got.iter().zip(asked) {
        assert_eq!(fetched.cid, *cid);
        if let FetchOutcome::Block(block) = &fetched.outcome {
            let right = blocks.iter().find(|right| right.cid() == *cid).unwrap();
            assert_eq!(block.decode().unwrap(), right.decode().unwrap());
        }
    }
}

fn block_error(result: Result<FetchStats, FetchError<()>>) -> BlockError {
    match result.unwrap_err() {
        FetchError::Block(error) => error,
        FetchError::Sink(()) => panic!("the sink took everything"),
    }
}

// ---- two honest sides ----

/// Carries both directions of a pipe, one of them at 6.5 MB/s: a burst of KiB, and
/// then none for the time that the burst would take.
fn slowly(far: DuplexStream, kib: u64) -> Pipe {
    let (near, middle) = tokio::io::duplex(64 << 10);
    let (mut from_far, mut to_far) = tokio::io::split(far);
    let (mut from_near, mut to_near) = tokio::io::split(middle);
    tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
    tokio::spawn(async move {
        loop {
            let mut burst = (&mut from_far).take(kib << 10);
            match tokio::io::copy(&mut burst, &mut to_near).await {
                Ok(1..) => tokio::time::sleep(Duration::from_millis(kib / 64 * 10)).await,
                _ => return,
            }
        }
    });
    near.compat()
}

#[tokio::test(start_paused = true)]
async fn over_a_slow_link_what_shrinks_is_compressed_and_over_a_fast_one_nothing() {
    let mut blocks = Vec::new();
    for number in 0..100_u32 {
        let text: String = (0..5000).map(|line| format!("{number} {line}\n")).collect();
        blocks.push(EncodedBlock::plain(Block::new(Codec::Raw, text.into_bytes()).unwrap()));
        blocks.push(block(number as usize, 64 << 10));
    }
    let asked: Vec<Cid> = blocks.iter().map(EncodedBlock::cid).collect();
    // System buffers accept 1 MiB and then nothing for a while.
    for (is_slow, kib) in [(false, 64), (true, 64), (true, 1280)] {
        let shelf: Arc<dyn BlockProvider> = Arc::new(Shelf::holding(&blocks));
        let (near, far) = tokio::io::duplex(kib << 10);
        let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(shelf)));
        let pipe = if is_slow { slowly(near, kib as u64) } else { near.compat() };
        let mut session = open(pipe).await.unwrap();
        let (result, got) = fetch(&mut session, wants(asked.iter().copied())).await;
        result.unwrap();
        assert_eq!(got.len(), asked.len());
        assert_good_prefix(&got, &asked, &blocks);
        let packed = |index: usize| {
            got.iter()
                .skip(index)
                .step_by(2)
                .filter(|fetched| match &fetched.outcome {
                    FetchOutcome::Block(block) => block.encoding() == Encoding::Zstd,
                    _ => false,
                })
                .count()
        };
        // The first few are sent before the speed of the link is known.
        assert!(if is_slow { packed(0) > 50 } else { packed(0) == 0 }, "{kib}: {}", packed(0));
        assert_eq!(packed(1), 0, "noise does not shrink");
        drop(session);
        server.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_few_small_blocks_are_compressed_over_any_link() {
    let text = |number: usize| format!("{number} all work and no play\n").repeat(200);
    let blocks: Vec<_> = (0..10)
        .map(|n| EncodedBlock::plain(Block::new(Codec::Raw, text(n).into_bytes()).unwrap()))
        .collect();
    let asked: Vec<Cid> = blocks.iter().map(EncodedBlock::cid).collect();
    let shelf: Arc<dyn BlockProvider> = Arc::new(Shelf::holding(&blocks));
    let (near, far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(shelf)));
    let mut session = open(near.compat()).await.unwrap();
    for _ in 0..2 {
        let (result, got) = fetch(&mut session, wants(asked.iter().copied())).await;
        assert!(result.unwrap().bytes < 2_000);
        assert_good_prefix(&got, &asked, &blocks);
    }
    drop(session);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn blocks_of_all_sizes_arrive_in_order() {
    let sizes = [0, 1, 4095, 4096, 70_000, 256 << 10, 1 << 20, 17];
    let mut blocks: Vec<_> = (0..2000).map(|n| block(n, sizes[n % 7] >> (n % 3))).collect();
    blocks.push(block(9001, types::MAX_BLOCK_LEN));
    let text = "all work and no play ".repeat(30_000);
    blocks.push(EncodedBlock::compress(Block::new(Codec::Raw, text).unwrap(), 1));
    let mut shelf = Shelf::holding(&blocks);
    let (missing, changed) = (Cid::of(Codec::Raw, b"gone"), Cid::of(Codec::Raw, b"edited"));
    shelf.answers.insert(changed, BlockAnswer::Changed);

    let mut asked: Vec<Cid> = blocks.iter().map(EncodedBlock::cid).collect();
    asked.insert(500, missing);
    asked.insert(100, changed);
    // The same block twice is answered twice.
    asked.push(blocks[3].cid());

    let (pipe, server) = served(Arc::new(shelf));
    let mut session = open(pipe).await.unwrap();
    let (result, got) = fetch(&mut session, wants(asked.clone())).await;
    let stats = result.unwrap();
    assert_eq!((stats.missing, stats.changed), (1, 1));
    assert_eq!(stats.blocks, blocks.len() as u64 + 1);
    assert_eq!(got.len(), asked.len());
    assert_good_prefix(&got, &asked, &blocks);
    assert_eq!(got[100].outcome, FetchOutcome::Changed);
    assert!(got.iter().any(|fetched| fetched.outcome == FetchOutcome::Missing));
    // The payload is that of the provider, compressed if it was compressed there.
    let packed = got.iter().find(|fetched| fetched.cid == blocks[2001].cid()).unwrap();
    assert_eq!(packed.outcome, FetchOutcome::Block(blocks[2001].clone()));

    // The same stream serves another fetch and ends normally.
    for turn in 0..50 {
        let some: Vec<Cid> = asked.iter().skip(turn).step_by(97).copied().collect();
        let (result, got) = fetch(&mut session, wants(some.clone())).await;
        result.unwrap();
        assert_eq!(got.len(), some.len());
    }
    let (result, _) = fetch(&mut session, Vec::<Want>::new()).await;
    assert_eq!(result.unwrap(), FetchStats::default());
    drop(session);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn tiny_blocks_travel_many_to_a_hand_over() {
    let blocks: Vec<_> = (0..20_000).map(|n| block(n, n % 60)).collect();
    let shelf = Arc::new(Shelf::holding(&blocks));
    let (pipe, _server) = served(shelf.clone());
    let mut session = open(pipe).await.unwrap();
    let batches = Batches::default();
    let sink_batches = Arc::clone(&batches);
    let asked = wants(blocks.iter().map(EncodedBlock::cid));
    let sink = move |batch: Vec<Fetched>| {
        sink_batches.lock().push(batch);
        Ok::<(), ()>(())
    };
    let stats = session.fetch(asked.into_iter(), sink).await.unwrap();
    assert_eq!(stats.blocks, 20_000);
    let (calls, hand_overs) = (shelf.calls.load(Ordering::Relaxed), batches.lock().len());
    assert!(calls < 500, "{calls} calls to the provider");
    assert!(hand_overs < 500, "{hand_overs} hand-overs");
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_fetch() {
    let blocks: Vec<_> = (0..100).map(|n| block(n, 100_000)).collect();
    let (pipe, server) = served(Arc::new(Shelf::holding(&blocks)));
    let mut session = open(pipe).await.unwrap();
    let asked = wants(blocks.iter().map(EncodedBlock::cid));
    let result = session.fetch(asked.into_iter(), |_| Err("disk full")).await;
    assert!(matches!(result, Err(FetchError::Sink("disk full"))));
    drop(session);
    assert!(server.await.unwrap().is_err());
}

#[tokio::test]
async fn a_sink_that_panics_is_an_error() {
    let (pipe, _server) = served(Arc::new(Shelf::holding(&[block(1, 10)])));
    let mut session = open(pipe).await.unwrap();
    let sink = |_| -> Result<(), ()> { panic!("a bug in the sink") };
    let result = session.fetch(wants([block(1, 10).cid()]).into_iter(), sink).await;
    assert!(matches!(result, Err(FetchError::Block(BlockError::Panicked))));
}

#[tokio::test]
async fn a_slow_sink_holds_the_server_back() {
    let blocks: Vec<_> = (0..200).map(|n| block(n, 256 << 10)).collect();
    let shelf = Arc::new(Shelf::holding(&blocks));
    let (pipe, _server) = served(shelf.clone());
    let mut session = open(pipe).await.unwrap();
    let asked = wants(blocks.iter().map(EncodedBlock::cid));
    let (first, first_came) = tokio::sync::oneshot::channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let mut first = Some(first);
    let sink = move |batch: Vec<Fetched>| {
        if let Some(first) = first.take() {
            first.send(batch.len()).unwrap();
            // Blocks until the test has checked the counters.
            gate.recv().unwrap();
        }
        Ok::<(), ()>(())
    };
    let fetching = tokio::spawn(async move { session.fetch(asked.into_iter(), sink).await });
    let taken = first_came.await.unwrap();
    // The rest proceeds up to the limits and no further.
    let mut before = usize::MAX;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = shelf.bytes.load(Ordering::Relaxed);
        if now == before {
            break;
        }
        before = now;
    }
    let ahead = shelf.bytes.load(Ordering::Relaxed) - taken * (256 << 10);
    // Two more buffers in the client, three batches in the server, and the pipe.
    assert!(ahead <= (6 << 20), "{ahead} bytes were read ahead");
    go_on.send(()).unwrap();
    assert_eq!(fetching.await.unwrap().unwrap().blocks, 200);
}

#[tokio::test]
async fn a_fetch_that_is_dropped_stops_the_server() {
    let blocks: Vec<_> = (0..64).map(|n| block(n, 64 << 10)).collect();
    let shelf = Arc::new(Shelf::holding(&blocks));
    let (pipe, server) = served(shelf.clone());
    let mut session = open(pipe).await.unwrap();
    let (first, first_came) = tokio::sync::oneshot::channel();
    let mut first = Some(first);
    let asked: Vec<Cid> = blocks.iter().map(EncodedBlock::cid).collect();
    // 10^5 wants, of which about 16 MiB are requested at the same time.
    let many = (0..100_000).map(move |n| Want::from(asked[n % asked.len()]));
    let sink = move |_| {
        if let Some(first) = first.take() {
            first.send(()).unwrap();
        }
        Ok::<(), ()>(())
    };
    let fetching = tokio::spawn(async move { session.fetch(many, sink).await });
    first_came.await.unwrap();
    fetching.abort();
    assert!(server.await.unwrap().is_err());
    let asked = shelf.asked.load(Ordering::Relaxed);
    assert!(asked < 10_000, "{asked} of 100,000 blocks were read");
}

#[tokio::test]
async fn a_hundred_thousand_wants_cancelled_at_once() {
    let shelf = Arc::new(Shelf::default());
    for _ in 0..20 {
        let (pipe, server) = served(shelf.clone());
        let mut session = open(pipe).await.unwrap();
        let many = (0..100_000_u32).map(|n| Want::from(Cid::of(Codec::Raw, &n.to_le_bytes())));
        let fetching = session.fetch(many, |_| Ok::<(), ()>(()));
        // Sends requests and is dropped when it first waits.
        assert!(futures::poll!(std::pin::pin!(fetching)).is_pending());
        drop(session);
        let _ = server.await.unwrap();
    }
    let asked = shelf.asked.load(Ordering::Relaxed);
    assert!(asked <= 20 * serving::MAX_WANTS_WAITING, "{asked}");
}

/// Returns the bytes of an honest server in a short session, and the client's wants.
async fn short_session() -> (Vec<u8>, Vec<u8>, Vec<Cid>, Vec<EncodedBlock>) {
    let text = Block::new(Codec::Raw, "to be or not to be ".repeat(20)).unwrap();
    let blocks = vec![block(1, 40), EncodedBlock::compress(text, 1), block(2, 0), block(3, 130)];
    assert_eq!(blocks[1].encoding(), Encoding::Zstd);
    let changed = Cid::of(Codec::Raw, b"edited");
    let mut shelf = Shelf::holding(&blocks);
    shelf.answers.insert(changed, BlockAnswer::Changed);
    let mut asked: Vec<Cid> = blocks.iter().map(EncodedBlock::cid).collect();
    asked.insert(2, Cid::of(Codec::Raw, b"gone"));
    asked.insert(3, changed);

    let mut said = Vec::new();
    frame::put_hello(&mut said);
    frame::put_wants(&mut said, &asked);
    let (near, far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(Arc::new(shelf))));
    let (mut read, mut write) = tokio::io::split(near);
    write.write_all(&said).await.unwrap();
    write.shutdown().await.unwrap();
    let mut answered = Vec::new();
    read.read_to_end(&mut answered).await.unwrap();
    server.await.unwrap().unwrap();
    (said, answered, asked, blocks)
}

// ---- a provider that breaks its contract ----

type Reader = fn(&[Cid]) -> Vec<BlockAnswer>;

struct Odd(Reader);

impl BlockProvider for Odd {
    fn read(&self, _: &PeerId, wanted: &[Cid], _: usize) -> Vec<BlockAnswer> {
        (self.0)(wanted)
    }
}

#[tokio::test]
async fn a_broken_provider_costs_the_stream_and_nothing_else() {
    let odd: [Reader; 4] = [
        |_| Vec::new(),
        |wanted| vec![BlockAnswer::Missing; wanted.len() + 1],
        |wanted| vec![BlockAnswer::Block(block(9, 9)); wanted.len()],
        |_| panic!("a bug in the provider"),
    ];
    for provider in odd {
        let (pipe, server) = served(Arc::new(Odd(provider)));
        let mut session = open(pipe).await.unwrap();
        let (result, got) = fetch(&mut session, wants([block(1, 10).cid()])).await;
        let error = block_error(result);
        assert!(matches!(error, BlockError::Refused(StreamRefusal::Internal)), "{error}");
        assert!(got.is_empty());
        assert!(matches!(server.await.unwrap(), Err(ServeError::Provider(_))));
    }
}

#[tokio::test]
async fn the_counters_tell_what_happened() {
    let blocks: Vec<_> = (0..10).map(|n| block(n, 1000)).collect();
    let source = source(Arc::new(Shelf::holding(&blocks)));
    let sent = Arc::clone(&source.metrics);
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source));
    let received: Arc<Metrics> = Arc::default();
    let mut session = Session::open(near.compat(), Arc::clone(&received)).await.unwrap();
    let mut asked = wants(blocks.iter().map(EncodedBlock::cid));
    asked.push(Want::from(Cid::of(Codec::Raw, b"gone")));
    let (result, _) = fetch(&mut session, asked).await;
    result.unwrap();
    drop(session);
    server.await.unwrap().unwrap();
    let (sent, received) = (sent.snapshot(), received.snapshot());
    assert_eq!((sent.blocks_sent, sent.block_bytes_sent, sent.blocks_not_sent), (10, 10_000, 1));
    assert_eq!((received.blocks_received, received.block_bytes_received), (10, 10_000));
}
