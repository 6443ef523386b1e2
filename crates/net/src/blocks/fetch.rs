//! The client's half of the protocol, over any byte stream.
//!
//! One loop sends wants, reads answers and hands them on. What was read goes
//! to a blocking thread a buffer at a time, where every block is hashed and
//! the sink takes the whole batch; meanwhile the next buffer fills. When both
//! are full nothing is read, so the stream's window closes and the server
//! stops: that is the back-pressure, and three buffers are all that a session
//! ever holds.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use types::{Cid, EncodedBlock, EncodedError, Encoding};

use super::frame::{self, Frame, MAX_WANTS_PER_FRAME, Side, Violation};
use super::frame_reader::FrameReader;
use super::request::{BlockRequest, FetchOutcome, FetchStats, Fetched, SimilarBlock, Want};
use super::watchdog::{HELLO_TIMEOUT, MIN_PROGRESS, PROGRESS_WINDOW, Watchdog};
use super::{BlockError, FetchError};
use crate::metrics::Metrics;

/// What is handed to a blocking thread at once: enough that waking it, which
/// can take 170 µs, is lost in the hashing.
const HAND_OVER: usize = 1 << 20;

/// Answers in one hand-over at most, however small they are.
const MAX_ANSWERS: usize = 16 << 10;

/// How long an answer waits for others before it is handed over alone.
const LINGER: Duration = Duration::from_millis(2);

/// Bytes of blocks that are asked for and not here: covers 100 ms at 160 MB/s.
/// It bounds nothing by itself, since what comes is read only when there is
/// room; it keeps a slow consumer from asking for what it will not take soon.
const MAX_BYTES_IN_FLIGHT: u64 = 16 << 20;

/// Bytes of questions that are written at once: sketches are longer than names.
const OUT_ENOUGH: usize = 256 << 10;

/// What a block is taken for when its length is not known: between a small
/// file and a chunk. Too little costs nothing (see above), too much would
/// leave a fast link idle.
const ASSUMED_LEN: u32 = 64 << 10;

/// Blocks that are asked for and not here. The server says its own bound.
const MAX_WANTS_IN_FLIGHT: usize = 16 << 10;

/// An open session: the greeting is over.
pub(super) struct Session<S> {
    stream: S,
    reader: FrameReader,
    spare: Option<Vec<u8>>,
    max_wants: usize,
    metrics: Arc<Metrics>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Greets the server.
    pub(super) async fn open(stream: S, metrics: Arc<Metrics>) -> Result<Self, BlockError> {
        let mut session = Self {
            stream,
            reader: FrameReader::new(Side::Client, HAND_OVER),
            spare: None,
            max_wants: 0,
            metrics,
        };
        let greeting = tokio::time::timeout(HELLO_TIMEOUT, session.greet());
        let stalled = BlockError::Stalled { min: frame::PREFIX, within: HELLO_TIMEOUT };
        let result = greeting.await.unwrap_or(Err(stalled));
        session.count(result.as_ref().err());
        result?;
        Ok(session)
    }

    async fn greet(&mut self) -> Result<(), BlockError> {
        use futures::AsyncWriteExt as _;

        let mut hello = Vec::new();
        frame::put_hello(&mut hello);
        // A server that refuses us may close its side before it reads ours:
        // what it says counts, not that the write failed.
        let sent = async {
            self.stream.write_all(&hello).await?;
            self.stream.flush().await
        }
        .await;
        loop {
            if let Some((answer, _)) = self.reader.next().map_err(BlockError::Violation)? {
                return match answer {
                    Frame::Ack { version, hash_mode, max_wants, .. } => {
                        if version != frame::VERSION
                            || hash_mode != frame::HASH_MODE_PLAIN
                            || max_wants == 0
                        {
                            return Err(BlockError::Violation(Violation::Greeting));
                        }
                        self.max_wants = (max_wants as usize).min(MAX_WANTS_IN_FLIGHT);
                        Ok(())
                    }
                    Frame::Error(refusal) => Err(BlockError::Refused(refusal)),
                    other => Err(BlockError::Violation(Violation::OutOfTurn(other.kind()))),
                };
            }
            let (reader, stream) = (&mut self.reader, &mut self.stream);
            match std::future::poll_fn(|cx| reader.poll_read(stream, cx)).await {
                Ok(0) => {
                    sent.map_err(BlockError::Io)?;
                    return Err(BlockError::Closed { outstanding: 0 });
                }
                Ok(_) => {}
                Err(error) => return Err(BlockError::Io(error)),
            }
        }
    }

    /// Fetches `asks` and hands the answers to `sink`, in order, in batches,
    /// on a blocking thread. After an error the session is of no use.
    pub(super) async fn fetch<W, F, E>(
        &mut self,
        asks: W,
        sink: F,
    ) -> Result<FetchStats, FetchError<E>>
    where
        W: Iterator<Item: Into<BlockRequest>>,
        F: FnMut(Vec<Fetched>) -> Result<(), E> + Send + 'static,
        E: Send + 'static,
    {
        let mut fetch = Fetch {
            asks: asks.fuse(),
            exhausted: false,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            out: Vec::new(),
            written: 0,
            flushed: true,
            items: Vec::new(),
            linger: None,
            work: None,
            sink: Some(sink),
            watchdog: Watchdog::new(),
            end: None,
            stats: FetchStats::default(),
            session: self,
        };
        let result = std::future::poll_fn(|cx| fetch.poll(cx)).await;
        let stats = fetch.stats;
        if let Err(FetchError::Block(error)) = &result {
            self.count(Some(error));
        }
        result.map(|()| stats)
    }

    fn count(&self, error: Option<&BlockError>) {
        match error {
            Some(BlockError::Violation(_) | BlockError::WrongBlock(_)) => {
                self.metrics.protocol_violations.add(1);
            }
            Some(BlockError::Stalled { .. }) => self.metrics.stalled.add(1),
            _ => {}
        }
    }
}

/// What was asked for and has not been answered.
struct Asked {
    cid: Cid,
    len: u32,
    similar: Option<Arc<SimilarBlock>>,
}

/// An answer that lies in the buffer.
struct Item {
    cid: Cid,
    kind: ItemKind,
}

enum ItemKind {
    Block { encoding: Encoding, len: u32, payload: Range<usize> },
    Patch { similar: Arc<SimilarBlock>, patch: Range<usize> },
    Missing,
    Changed,
}

/// What comes back from the blocking thread.
struct Done<F, E> {
    sink: F,
    spare: Option<Vec<u8>>,
    stats: FetchStats,
    error: Option<FetchError<E>>,
}

/// One fetch under way.
struct Fetch<'a, S, W, F, E> {
    session: &'a mut Session<S>,
    asks: std::iter::Fuse<W>,
    exhausted: bool,
    in_flight: VecDeque<Asked>,
    bytes_in_flight: u64,
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    items: Vec<Item>,
    linger: Option<Pin<Box<Sleep>>>,
    work: Option<JoinHandle<Done<F, E>>>,
    sink: Option<F>,
    watchdog: Watchdog,
    /// Why nothing more is read; what came before is still handed on.
    end: Option<BlockError>,
    stats: FetchStats,
}

impl<S, W, F, E> Unpin for Fetch<'_, S, W, F, E> {}

impl<S, W, F, E> Fetch<'_, S, W, F, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    W: Iterator<Item: Into<BlockRequest>>,
    F: FnMut(Vec<Fetched>) -> Result<(), E> + Send + 'static,
    E: Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FetchError<E>>> {
        loop {
            let mut moved = self.poll_work(cx)?;
            if self.end.is_none() {
                self.ask();
                moved |= self.poll_write(cx);
                moved |= self.poll_answers(cx);
            }
            moved |= self.poll_hand_over(cx);
            if self.items.is_empty() && self.work.is_none() {
                if let Some(error) = self.end.take() {
                    return Poll::Ready(Err(error.into()));
                }
                if self.exhausted && self.in_flight.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            if !moved && !self.is_stalled(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Ends the fetch where the server has the word and says too little.
    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let waits = self.end.is_none() && !self.in_flight.is_empty() && self.has_room();
        self.watchdog.set_waiting(waits);
        let stalled = self.watchdog.poll_stalled(cx).is_ready();
        if stalled {
            self.end = Some(BlockError::Stalled { min: MIN_PROGRESS, within: PROGRESS_WINDOW });
        }
        stalled
    }

    fn has_room(&self) -> bool {
        self.items.len() < MAX_ANSWERS && self.session.reader.has_room()
    }

    /// Takes the sink back from the blocking thread.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Result<bool, FetchError<E>> {
        let Some(work) = &mut self.work else {
            return Ok(false);
        };
        let Poll::Ready(done) = Pin::new(work).poll(cx) else {
            return Ok(false);
        };
        self.work = None;
        let done = done.map_err(|_| BlockError::Panicked)?;
        self.sink = Some(done.sink);
        self.session.spare = done.spare;
        self.stats.blocks += done.stats.blocks;
        self.stats.bytes += done.stats.bytes;
        self.stats.missing += done.stats.missing;
        self.stats.changed += done.stats.changed;
        self.stats.patched += done.stats.patched;
        match done.error {
            Some(error) => Err(error),
            None => Ok(true),
        }
    }

    /// Asks for more where half of what may be in flight has come, so that
    /// wants travel many to a frame.
    fn ask(&mut self) {
        let max_wants = self.session.max_wants;
        let has_half = self.in_flight.len() <= max_wants / 2
            && self.bytes_in_flight <= MAX_BYTES_IN_FLIGHT / 2;
        if self.exhausted || !has_half || self.written < self.out.len() {
            return;
        }
        self.out.clear();
        self.written = 0;
        let mut batch = Vec::new();
        while self.in_flight.len() < max_wants
            && self.bytes_in_flight < MAX_BYTES_IN_FLIGHT
            && self.out.len() < OUT_ENOUGH
        {
            let Some(ask) = self.asks.next() else {
                self.exhausted = true;
                break;
            };
            let BlockRequest { want: Want { cid, len }, similar } = ask.into();
            let len = len.unwrap_or(ASSUMED_LEN);
            self.bytes_in_flight += u64::from(len);
            match &similar {
                Some(similar) => {
                    self.put_wants(&mut batch);
                    frame::put_similar(&mut self.out, &cid, similar.sketch());
                }
                None => batch.push(cid),
            }
            self.in_flight.push_back(Asked { cid, len, similar });
            if batch.len() == MAX_WANTS_PER_FRAME {
                self.put_wants(&mut batch);
            }
        }
        self.put_wants(&mut batch);
    }

    fn put_wants(&mut self, batch: &mut Vec<Cid>) {
        if !batch.is_empty() {
            frame::put_wants(&mut self.out, batch);
            batch.clear();
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let stream = &mut self.session.stream;
        while self.written < self.out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.out[self.written..]) {
                // The server has closed. It may have said why, and what it
                // sent before is good: reading on tells.
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.written = self.out.len();
                    return true;
                }
                Poll::Ready(Ok(written)) => {
                    self.written += written;
                    self.flushed = false;
                    moved = true;
                }
                Poll::Pending => return moved,
            }
        }
        if !self.flushed && Pin::new(stream).poll_flush(cx).is_ready() {
            self.flushed = true;
        }
        moved
    }

    /// Reads and takes answers while there is room.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.take_answers();
        // Nothing is read that was not asked for: it is the next fetch's.
        while self.end.is_none() && !self.in_flight.is_empty() && self.has_room() {
            let session = &mut *self.session;
            match session.reader.poll_read(&mut session.stream, cx) {
                Poll::Pending => break,
                // Within a frame or not: the peer may have died anywhere.
                Poll::Ready(Ok(0)) => {
                    self.end = Some(BlockError::Closed { outstanding: self.in_flight.len() });
                }
                Poll::Ready(Ok(read)) => {
                    self.watchdog.progress(read);
                    self.take_answers();
                }
                Poll::Ready(Err(error)) => self.end = Some(BlockError::Io(error)),
            }
            moved = true;
        }
        moved
    }

    /// Takes the answers that are whole; a bad one ends the fetch.
    fn take_answers(&mut self) -> bool {
        let before = self.items.len();
        while self.items.len() < MAX_ANSWERS && self.end.is_none() {
            match self.next_answer() {
                Ok(Some(item)) => self.items.push(item),
                Ok(None) => break,
                Err(error) => self.end = Some(error),
            }
        }
        self.items.len() > before
    }

    fn next_answer(&mut self) -> Result<Option<Item>, BlockError> {
        let next = self.session.reader.next().map_err(BlockError::Violation)?;
        let Some((answer, range)) = next else {
            return Ok(None);
        };
        let kind = match answer {
            Frame::Block { encoding, len, payload } => {
                ItemKind::Block { encoding, len, payload: range.end - payload.len()..range.end }
            }
            Frame::Patch(patch) => ItemKind::Patch {
                // Where no sketch was sent, there is nothing that it could be a
                // difference to.
                similar: (self.in_flight.front().and_then(|asked| asked.similar.clone()))
                    .ok_or(BlockError::Violation(Violation::OutOfTurn(answer.kind())))?,
                patch: range.end - patch.len()..range.end,
            },
            Frame::Missing => ItemKind::Missing,
            Frame::Changed => ItemKind::Changed,
            Frame::Error(refusal) => return Err(BlockError::Refused(refusal)),
            other => return Err(BlockError::Violation(Violation::OutOfTurn(other.kind()))),
        };
        let asked = self.in_flight.pop_front();
        let Asked { cid, len, .. } = asked.ok_or(BlockError::Violation(Violation::Unasked))?;
        self.bytes_in_flight -= u64::from(len);
        Ok(Some(Item { cid, kind }))
    }

    /// Hands over what has come: at once where the buffer is full or nothing
    /// more can come, and else when nothing did for a little while.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.work.is_some() {
            return false;
        }
        if self.items.is_empty() {
            self.linger = None;
            // A frame longer than the rest of the buffer.
            if self.end.is_none() && !self.session.reader.has_room() {
                self.session.spare = Some(self.swap());
                return true;
            }
            return false;
        }
        let more_may_come = self.end.is_none() && !(self.exhausted && self.in_flight.is_empty());
        if more_may_come && self.has_room() {
            let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
            if linger.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
        self.linger = None;
        self.start_work();
        true
    }

    /// Takes the full buffer, and leaves another in its place.
    fn swap(&mut self) -> Vec<u8> {
        let spare = self.session.spare.take();
        self.session.reader.replace(spare)
    }

    fn start_work(&mut self) {
        let buffer = self.swap();
        let items = std::mem::take(&mut self.items);
        let mut sink = self.sink.take().expect("the sink is here while no work is under way");
        let metrics = Arc::clone(&self.session.metrics);
        self.work = Some(tokio::task::spawn_blocking(move || {
            let (spare, stats, error) = work(buffer, items, &mut sink, &metrics);
            Done { sink, spare, stats, error }
        }));
    }
}

/// What has happened to a batch: the buffer again, what it held, what failed.
type Worked<E> = (Option<Vec<u8>>, FetchStats, Option<FetchError<E>>);

/// Hashes the blocks of a batch and gives them to the sink.
fn work<F, E>(buffer: Vec<u8>, items: Vec<Item>, sink: &mut F, metrics: &Metrics) -> Worked<E>
where
    F: FnMut(Vec<Fetched>) -> Result<(), E>,
{
    let buffer = Bytes::from(buffer);
    let mut stats = FetchStats::default();
    let mut batch = Vec::with_capacity(items.len());
    let mut wrong: Option<EncodedError> = None;
    for Item { cid, kind } in items {
        let mut travelled = 0;
        let outcome = match kind {
            ItemKind::Block { encoding, len, payload } => {
                travelled = payload.len() as u64;
                match EncodedBlock::verify(cid, encoding, len, buffer.slice(payload)) {
                    Ok(block) => {
                        stats.blocks += 1;
                        FetchOutcome::Block(block)
                    }
                    Err(error) => {
                        wrong = Some(error);
                        break;
                    }
                }
            }
            // Nobody is to blame: what it is a difference to is ours, and may
            // be gone.
            ItemKind::Patch { similar, patch } => {
                travelled = patch.len() as u64;
                match similar.block(cid, &buffer[patch]) {
                    Some(block) => {
                        stats.blocks += 1;
                        stats.patched += 1;
                        FetchOutcome::Block(block)
                    }
                    None => FetchOutcome::PatchFailed,
                }
            }
            ItemKind::Missing => {
                stats.missing += 1;
                FetchOutcome::Missing
            }
            ItemKind::Changed => {
                stats.changed += 1;
                FetchOutcome::Changed
            }
        };
        stats.bytes += travelled;
        batch.push(Fetched { cid, outcome, travelled });
    }
    metrics.blocks_received.add(stats.blocks);
    metrics.block_bytes_received.add(stats.bytes);
    metrics.patches_received.add(stats.patched);
    let taken = if batch.is_empty() { Ok(()) } else { sink(batch) };
    let error = match (taken, wrong) {
        (Err(error), _) => Some(FetchError::Sink(error)),
        (Ok(()), Some(error)) => Some(BlockError::WrongBlock(error).into()),
        (Ok(()), None) => None,
    };
    // Where the sink kept nothing, the buffer is ours again.
    let spare = buffer.is_unique().then(|| Vec::from(buffer));
    (spare, stats, error)
}
