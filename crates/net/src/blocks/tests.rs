//! Both halves of the protocol joined by a pipe, and each of them against
//! peers that do not keep to it.

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
use types::{Block, Cid, Codec, EncodedBlock, Encoding};

use super::fetch::{FetchStats, Fetched, Outcome, Session, Want};
use super::frame::{self, Refusal, Violation};
use super::serving::{self, IDLE_TIMEOUT, ServeError, Source, refuse, serve};
use super::watchdog::{HELLO_TIMEOUT, PROGRESS_WINDOW};
use super::{Answer, BlockError, BlockProvider, FetchError};
use crate::error::Retry;
use crate::metrics::Metrics;

type Pipe = Compat<DuplexStream>;
type Batches = Arc<Mutex<Vec<Vec<Fetched>>>>;

/// Blocks in memory, and what was asked for.
#[derive(Default)]
struct Shelf {
    answers: HashMap<Cid, Answer>,
    calls: AtomicUsize,
    asked: AtomicUsize,
    bytes: AtomicUsize,
}

impl Shelf {
    fn holding(blocks: &[EncodedBlock]) -> Self {
        let answers =
            blocks.iter().map(|block| (block.cid(), Answer::Block(block.clone()))).collect();
        Self { answers, ..Self::default() }
    }
}

impl BlockProvider for Shelf {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<Answer> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (mut left, mut answers) = (budget, Vec::new());
        for cid in wanted {
            let answer = self.answers.get(cid).cloned().unwrap_or(Answer::Missing);
            let len = match &answer {
                Answer::Block(block) => block.payload().len(),
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

fn source(provider: Arc<dyn BlockProvider>) -> Source {
    Source { provider, readers: Arc::new(Semaphore::new(4)), metrics: Arc::default() }
}

/// A served pipe: the client's end, and the server's result.
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

/// Fetches, and collects what the sink got.
async fn fetch(
    session: &mut Session<Pipe>,
    wants: Vec<Want>,
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

/// What was delivered is what was asked for, in order, and right.
fn assert_good_prefix(got: &[Fetched], asked: &[Cid], blocks: &[EncodedBlock]) {
    assert!(got.len() <= asked.len());
    for (fetched, cid) in got.iter().zip(asked) {
        assert_eq!(fetched.cid, *cid);
        if let Outcome::Block(block) = &fetched.outcome {
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

// ---- two honest halves ----

#[tokio::test]
async fn blocks_of_all_sizes_arrive_in_order() {
    let sizes = [0, 1, 4095, 4096, 70_000, 256 << 10, 1 << 20, 17];
    let mut blocks: Vec<_> = (0..2000).map(|n| block(n, sizes[n % 7] >> (n % 3))).collect();
    blocks.push(block(9001, types::MAX_BLOCK_LEN));
    let text = "all work and no play ".repeat(30_000);
    blocks.push(EncodedBlock::compress(Block::new(Codec::Raw, text).unwrap(), 1));
    let mut shelf = Shelf::holding(&blocks);
    let (missing, changed) = (Cid::of(Codec::Raw, b"gone"), Cid::of(Codec::Raw, b"edited"));
    shelf.answers.insert(changed, Answer::Changed);

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
    assert_eq!(got[100].outcome, Outcome::Changed);
    assert!(got.iter().any(|fetched| fetched.outcome == Outcome::Missing));
    // The payload is what was on the shelf, packed where it was packed.
    let packed = got.iter().find(|fetched| fetched.cid == blocks[2001].cid()).unwrap();
    assert_eq!(packed.outcome, Outcome::Block(blocks[2001].clone()));

    // The same stream serves again, and ends well.
    for turn in 0..50 {
        let some: Vec<Cid> = asked.iter().skip(turn).step_by(97).copied().collect();
        let (result, got) = fetch(&mut session, wants(some.clone())).await;
        result.unwrap();
        assert_eq!(got.len(), some.len());
    }
    let (result, _) = fetch(&mut session, Vec::new()).await;
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
            // Stands still until the test has looked.
            gate.recv().unwrap();
        }
        Ok::<(), ()>(())
    };
    let fetching = tokio::spawn(async move { session.fetch(asked.into_iter(), sink).await });
    let taken = first_came.await.unwrap();
    // The rest goes as far as the bounds let it, and no further.
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
    // Two more buffers here, three batches there, and the pipe.
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
    // 10^5 wants, of which some 16 MiB are asked for at once.
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
        // Asked, and gone at the first wait.
        assert!(futures::poll!(std::pin::pin!(fetching)).is_pending());
        drop(session);
        let _ = server.await.unwrap();
    }
    let asked = shelf.asked.load(Ordering::Relaxed);
    assert!(asked <= 20 * serving::MAX_WANTS_WAITING, "{asked}");
}

// ---- a hostile server ----

/// What an honest server says in a short session, and the client's wants.
async fn short_session() -> (Vec<u8>, Vec<u8>, Vec<Cid>, Vec<EncodedBlock>) {
    let text = Block::new(Codec::Raw, "to be or not to be ".repeat(20)).unwrap();
    let blocks = vec![block(1, 40), EncodedBlock::compress(text, 1), block(2, 0), block(3, 130)];
    assert_eq!(blocks[1].encoding(), Encoding::Zstd);
    let changed = Cid::of(Codec::Raw, b"edited");
    let mut shelf = Shelf::holding(&blocks);
    shelf.answers.insert(changed, Answer::Changed);
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

/// A server that says `bytes` and then closes, or is silent; and what a
/// client makes of it.
async fn against(
    bytes: Vec<u8>,
    close: bool,
    asked: &[Cid],
) -> (Result<FetchStats, BlockError>, Vec<Fetched>) {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(async move {
        far.write_all(&bytes).await.unwrap();
        if close {
            far.shutdown().await.unwrap();
        }
        // Reads on, so that the client is not the one that fails.
        let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
    });
    let outcome = match open(near.compat()).await {
        Err(error) => (Err(error), Vec::new()),
        Ok(mut session) => {
            let (result, got) = fetch(&mut session, wants(asked.iter().copied())).await;
            let result = result.map_err(|error| match error {
                FetchError::Block(error) => error,
                FetchError::Sink(()) => panic!("the sink took everything"),
            });
            (result, got)
        }
    };
    server.abort();
    outcome
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_anywhere_costs_only_the_rest() {
    let (_, answered, asked, blocks) = short_session().await;
    let mut delivered = 0;
    for cut in 0..answered.len() {
        for close in [true, false] {
            let (result, got) = against(answered[..cut].to_vec(), close, &asked).await;
            let error = result.unwrap_err();
            let expected = if close {
                matches!(error, BlockError::Closed { .. })
            } else {
                matches!(error, BlockError::Stalled { .. })
            };
            assert!(expected, "cut at {cut}, closed {close}: {error}");
            assert_good_prefix(&got, &asked, &blocks);
            // What came whole before the cut was handed on.
            assert!(got.len() >= delivered, "cut at {cut}: {} < {delivered}", got.len());
            delivered = got.len();
        }
    }
    assert_eq!(delivered, asked.len() - 1);
    let (result, got) = against(answered, true, &asked).await;
    assert_eq!(result.unwrap().blocks, 4);
    assert_eq!(got.len(), asked.len());
}

#[tokio::test(start_paused = true)]
async fn no_flipped_bit_gets_a_wrong_block_through() {
    let (_, answered, asked, blocks) = short_session().await;
    for byte in 0..answered.len() {
        for bit in 0..8 {
            let mut flipped = answered.clone();
            flipped[byte] ^= 1 << bit;
            let (_, got) = against(flipped, bit % 2 == 0, &asked).await;
            assert_good_prefix(&got, &asked, &blocks);
        }
    }
}

fn greeting() -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_ack(&mut bytes, 100);
    bytes
}

fn put_block(out: &mut Vec<u8>, block: &EncodedBlock) {
    frame::put_block_head(out, block.encoding(), block.len(), block.payload().len());
    out.extend_from_slice(block.payload());
}

#[tokio::test(start_paused = true)]
async fn every_misdeed_of_a_server_has_its_name() {
    let (a, b) = (block(1, 100), block(2, 200));
    let asked = [a.cid(), b.cid()];
    let play = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = greeting();
        put(&mut bytes);
        against(bytes, false, &asked)
    };

    let (result, got) = play(&|out| {
        put_block(out, &a);
        put_block(out, &a);
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::WrongBlock(_)), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    assert_eq!(got.len(), 1, "what was right before stays");

    let (result, got) = play(&|out| {
        put_block(out, &b);
        put_block(out, &a);
    })
    .await;
    assert!(matches!(result.unwrap_err(), BlockError::WrongBlock(_)));
    assert!(got.is_empty());

    let (result, _) = play(&|out| frame::put_wants(out, &asked)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::UnknownFrame(2))), "{error}");

    let (result, got) = play(&|out| {
        put_block(out, &a);
        frame::put_ack(out, 5);
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::OutOfTurn(0x81))), "{error}");
    assert_eq!(got.len(), 1);

    // A prefix that promises 4 GiB is refused before anything else comes.
    let (result, _) = play(&|out| out.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x82])).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::FrameLength { .. })), "{error}");

    let (result, _) = play(&|out| {
        frame::put_block_head(out, Encoding::Plain, 3, 4);
        out.extend_from_slice(b"abcd");
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::BlockLength(3))), "{error}");

    for refusal in [Refusal::NotAllowed, Refusal::Overloaded, Refusal::Stalled] {
        let (result, got) = play(&|out| {
            put_block(out, &a);
            frame::put_error(out, refusal);
        })
        .await;
        let error = result.unwrap_err();
        assert!(matches!(error, BlockError::Refused(found) if found == refusal), "{error}");
        assert_eq!(error.retry(), refusal.retry());
        assert_eq!(got.len(), 1);
    }

    // A greeting that chooses what was not offered, or leaves nothing to ask.
    for (at, value) in [(6, 9), (7, 1)] {
        let mut bytes = greeting();
        bytes[at] = value;
        let error = against(bytes, false, &asked).await.0.unwrap_err();
        assert!(matches!(error, BlockError::Violation(Violation::Greeting)), "{error}");
    }
    let mut nothing = Vec::new();
    frame::put_ack(&mut nothing, 0);
    let error = against(nothing, false, &asked).await.0.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::Greeting)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_were_not_asked_for_end_the_session() {
    let a = block(1, 100);
    let mut bytes = greeting();
    for _ in 0..3 {
        put_block(&mut bytes, &a);
    }
    let (near, mut far) = tokio::io::duplex(1 << 20);
    far.write_all(&bytes).await.unwrap();
    let mut session = open(near.compat()).await.unwrap();
    // The first fetch is content, or sees it at once; the next does.
    let (first, _) = fetch(&mut session, wants([a.cid()])).await;
    let error = match first {
        Err(error) => Err(error),
        Ok(_) => fetch(&mut session, wants([block(2, 5).cid()])).await.0,
    };
    let error = block_error(error);
    let expected =
        matches!(error, BlockError::Violation(Violation::Unasked) | BlockError::WrongBlock(_));
    assert!(expected, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_trickles_loses_the_stream() {
    for pause in [Duration::from_secs(60), Duration::from_secs(1)] {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let big = block(1, 1 << 20);
        let cid = big.cid();
        let trickle = tokio::spawn(async move {
            far.write_all(&greeting()).await.unwrap();
            let mut bytes = Vec::new();
            put_block(&mut bytes, &big);
            for byte in bytes {
                tokio::time::sleep(pause).await;
                if far.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        let mut session = open(near.compat()).await.unwrap();
        let (result, got) = fetch(&mut session, wants([cid])).await;
        let error = block_error(result);
        assert!(matches!(error, BlockError::Stalled { .. }), "{error}");
        assert_eq!(error.retry(), Retry::Temporary);
        assert!(got.is_empty());
        assert!(start.elapsed() <= PROGRESS_WINDOW * 2, "{:?}", start.elapsed());
        drop(session);
        trickle.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_steady_server_is_borne() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let big = block(1, 100_000);
    let cid = big.cid();
    let slow = tokio::spawn(async move {
        far.write_all(&greeting()).await.unwrap();
        let mut bytes = Vec::new();
        put_block(&mut bytes, &big);
        // 100 B/s: a quarter of an hour.
        for piece in bytes.chunks(1000) {
            tokio::time::sleep(Duration::from_secs(10)).await;
            far.write_all(piece).await.unwrap();
        }
        far
    });
    let mut session = open(near.compat()).await.unwrap();
    let (result, _) = fetch(&mut session, wants([cid])).await;
    assert_eq!(result.unwrap().blocks, 1);
    slow.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_greets_is_left() {
    let (near, _far) = tokio::io::duplex(1 << 20);
    let start = Instant::now();
    let error = open(near.compat()).await.err().unwrap();
    assert!(matches!(error, BlockError::Stalled { .. }), "{error}");
    assert!(start.elapsed() <= HELLO_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test]
async fn a_refusal_reaches_the_client_whatever_it_does() {
    let (near, far) = tokio::io::duplex(64);
    let mut far = far.compat();
    let refusing = tokio::spawn(async move { refuse(&mut far, Refusal::NotAllowed).await });
    let error = open(near.compat()).await.err().unwrap();
    assert!(matches!(error, BlockError::Refused(Refusal::NotAllowed)), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    refusing.await.unwrap();
}

// ---- a hostile client ----

/// Says `bytes` to a server; gives its result and its answer.
async fn say(bytes: &[u8], close: bool) -> (Result<(), ServeError>, Vec<u8>) {
    let shelf = Shelf::holding(&[block(1, 40)]);
    let (near, far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(Arc::new(shelf))));
    let (mut read, mut write) = tokio::io::split(near);
    // The server may have closed already.
    let _ = write.write_all(bytes).await;
    if close {
        let _ = write.shutdown().await;
    }
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    (server.await.unwrap(), answer)
}

#[tokio::test(start_paused = true)]
async fn no_bytes_of_a_client_stop_the_server() {
    let (said, _, _, _) = short_session().await;
    for cut in 0..said.len() {
        for close in [true, false] {
            let start = Instant::now();
            let (result, _) = say(&said[..cut], close).await;
            if let Err(error) = result {
                let fair = matches!(error, ServeError::Io(_) | ServeError::Stalled);
                assert!(fair, "cut at {cut}: {error}");
            }
            assert!(start.elapsed() <= IDLE_TIMEOUT + Duration::from_secs(10));
        }
    }
    for byte in 0..said.len() {
        for bit in 0..8 {
            let mut flipped = said.clone();
            flipped[byte] ^= 1 << bit;
            let _ = say(&flipped, bit % 2 == 0).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_misdeed_of_a_client_is_answered() {
    let hello = {
        let mut hello = Vec::new();
        frame::put_hello(&mut hello);
        hello
    };
    let last = |answer: &[u8]| answer.last().copied().unwrap();
    let with_hello = |more: &[u8]| [&hello[..], more].concat();

    let mut want = Vec::new();
    frame::put_wants(&mut want, &[Cid::of(Codec::Raw, b"x")]);
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        want.clone(),
        with_hello(&hello),
        with_hello(&[0, 0, 0, 0]),
        with_hello(&[0xff, 0xff, 0xff, 0xff, 2]),
        with_hello(&[1, 0, 0, 0, 0x83]),
        with_hello(&[&[34, 0, 0, 0, 2, 9][..], &[0; 32]].concat()),
    ] {
        let (result, answer) = say(&bytes, false).await;
        let error = result.unwrap_err();
        assert!(matches!(error, ServeError::Violation(_)), "{error}");
        assert_eq!(answer[answer.len() - 6..], [2, 0, 0, 0, 0xff, Refusal::Violation as u8]);
    }
    // An older version, a keyed hash mode, a smaller block.
    for (at, value) in [(5, 0), (7, 1), (10, 1)] {
        let mut odd = hello.clone();
        odd[at] = value;
        let (result, answer) = say(&odd, false).await;
        assert!(matches!(result, Err(ServeError::Version { .. })));
        assert_eq!(last(&answer), Refusal::Version as u8);
    }
    // A later version with more to say gets this one.
    let mut later = vec![10, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x40, 0, 9, 9];
    later.extend_from_slice(&want);
    let (result, answer) = say(&later, true).await;
    result.unwrap();
    assert_eq!(answer.len(), 16 + 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_or_trickles_loses_the_stream() {
    let mut hello = Vec::new();
    frame::put_hello(&mut hello);
    let start = Instant::now();
    let (result, answer) = say(&[], false).await;
    assert!(matches!(result, Err(ServeError::Stalled)));
    assert_eq!(answer.last(), Some(&(Refusal::Stalled as u8)));
    assert!(start.elapsed() <= HELLO_TIMEOUT + Duration::from_secs(1));

    // Idle between requests is allowed, but not for ever.
    let start = Instant::now();
    let (result, _) = say(&hello, false).await;
    result.unwrap();
    assert!(start.elapsed() >= IDLE_TIMEOUT);
    assert!(start.elapsed() <= IDLE_TIMEOUT + Duration::from_secs(10));

    // A want frame, one byte a second.
    let (near, far) = tokio::io::duplex(1 << 20);
    let shelf = Arc::new(Shelf::default());
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(shelf)));
    let (mut read, mut write) = tokio::io::split(near);
    let cids: Vec<Cid> = (0..1000_u32).map(|n| Cid::of(Codec::Raw, &n.to_le_bytes())).collect();
    frame::put_wants(&mut hello, &cids);
    let start = Instant::now();
    for byte in hello {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if server.is_finished() || write.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    assert!(matches!(server.await.unwrap(), Err(ServeError::Stalled)));
    assert!(start.elapsed() <= PROGRESS_WINDOW * 3);
}

#[tokio::test(start_paused = true)]
async fn wants_without_reading_are_held_at_a_bound() {
    let blocks: Vec<_> = (0..16).map(|n| block(n, 256 << 10)).collect();
    let shelf = Arc::new(Shelf::holding(&blocks));
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(shelf.clone())));
    let (_read, mut write) = tokio::io::split(near);
    let mut spam = Vec::new();
    frame::put_hello(&mut spam);
    write.write_all(&spam).await.unwrap();
    spam.clear();
    let cids: Vec<Cid> = (0..1024).map(|n| blocks[n % 16].cid()).collect();
    frame::put_wants(&mut spam, &cids);
    let mut accepted = 0;
    let start = Instant::now();
    // Until the server has had enough.
    while write.write_all(&spam).await.is_ok() {
        accepted += 1;
        assert!(accepted < 1000, "wants are taken without end");
    }
    assert!(matches!(server.await.unwrap(), Err(ServeError::Stalled)));
    assert!(start.elapsed() <= PROGRESS_WINDOW * 2 + Duration::from_secs(10));
    assert!(accepted <= serving::MAX_WANTS_WAITING / 1024 + 8, "{accepted} frames of 1024 wants");
    let read = shelf.bytes.load(Ordering::Relaxed);
    assert!(read <= 4 << 20, "{read} bytes were read for somebody who takes none");
}

// ---- a provider that does not keep to its contract ----

type Reader = fn(&[Cid]) -> Vec<Answer>;

struct Odd(Reader);

impl BlockProvider for Odd {
    fn read(&self, _: &PeerId, wanted: &[Cid], _: usize) -> Vec<Answer> {
        (self.0)(wanted)
    }
}

#[tokio::test]
async fn a_broken_provider_costs_the_stream_and_nothing_else() {
    let odd: [Reader; 4] = [
        |_| Vec::new(),
        |wanted| vec![Answer::Missing; wanted.len() + 1],
        |wanted| vec![Answer::Block(block(9, 9)); wanted.len()],
        |_| panic!("a bug in the provider"),
    ];
    for provider in odd {
        let (pipe, server) = served(Arc::new(Odd(provider)));
        let mut session = open(pipe).await.unwrap();
        let (result, got) = fetch(&mut session, wants([block(1, 10).cid()])).await;
        let error = block_error(result);
        assert!(matches!(error, BlockError::Refused(Refusal::Internal)), "{error}");
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
