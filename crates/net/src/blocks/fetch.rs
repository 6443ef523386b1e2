//! The client side of the block protocol, over any byte stream.
//!
//! One loop sends requests, reads answers and passes them on. Each full buffer goes
//! to a blocking thread, which verifies its blocks and calls the sink; meanwhile the
//! next buffer fills. If both are full, the loop stops reading. The window of the
//! stream then closes and the server stops sending. A session thus never uses more
//! than three buffers.

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

/// Length of a buffer, that is, of a batch for the blocking thread, in bytes. To wake
/// that thread needs up to 170 µs, which is little compared with hashing 1 MiB.
const BATCH_BYTES: usize = 1 << 20;

/// Maximum number of answers in one batch.
const MAX_ANSWERS: usize = 16 << 10;

/// Maximum time for which an answer waits for others in its batch.
const LINGER: Duration = Duration::from_millis(2);

/// Maximum number of bytes of blocks that are requested and not received. Covers
/// 100 ms at 160 MB/s. This does not limit memory, because answers are read only if
/// there is room; it keeps a slow consumer from requesting blocks that it cannot
/// process soon.
const MAX_BYTES_IN_FLIGHT: u64 = 16 << 20;

/// Number of bytes of requests after which no further request is added to a write.
/// Sketches make requests long.
const MAX_REQUEST_BYTES: usize = 256 << 10;

/// Assumed length of a block of unknown length, in bytes: between a small file and a
/// chunk. Too small a value does no harm (see above); too large a value would leave a
/// fast link idle.
const ASSUMED_LEN: u32 = 64 << 10;

/// Maximum number of blocks that are requested and not received. The server announces
/// a limit of its own.
const MAX_WANTS_IN_FLIGHT: usize = 16 << 10;

/// Session after the greeting.
pub(super) struct Session<S> {
    stream: S,
    reader: FrameReader,
    spare: Option<Vec<u8>>,
    max_wants: usize,
    metrics: Arc<Metrics>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Exchanges greetings with the server.
    pub(super) async fn open(stream: S, metrics: Arc<Metrics>) -> Result<Self, BlockError> {
        let mut session = Self {
            stream,
            reader: FrameReader::new(Side::Client, BATCH_BYTES),
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
        // A server that refuses this node may close the stream before it reads the
        // greeting. Its ERROR frame is then more useful than the failed write.
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

    /// Fetches blocks and passes the answers to `sink` in batches, in the order of the
    /// requests, on a blocking thread. The session must not be used after an error.
    pub(super) async fn fetch<R, F, E>(
        &mut self,
        requests: R,
        sink: F,
    ) -> Result<FetchStats, FetchError<E>>
    where
        R: Iterator<Item: Into<BlockRequest>>,
        F: FnMut(Vec<Fetched>) -> Result<(), E> + Send + 'static,
        E: Send + 'static,
    {
        let mut fetch = Fetch {
            requests: requests.fuse(),
            exhausted: false,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            out: Vec::new(),
            written: 0,
            flushed: true,
            answers: Vec::new(),
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

/// Request that was sent and is not answered yet.
struct InFlight {
    cid: Cid,
    len: u32,
    similar: Option<Arc<SimilarBlock>>,
}

/// Answer in the buffer that is not processed yet.
struct BufferedAnswer {
    cid: Cid,
    kind: BufferedKind,
}

/// Kind of an answer. The ranges are positions in the buffer.
enum BufferedKind {
    Block { encoding: Encoding, len: u32, payload: Range<usize> },
    Patch { similar: Arc<SimilarBlock>, patch: Range<usize> },
    Missing,
    Changed,
}

/// Result of the blocking thread.
struct BatchDone<F, E> {
    sink: F,
    spare: Option<Vec<u8>>,
    stats: FetchStats,
    error: Option<FetchError<E>>,
}

/// Running fetch.
struct Fetch<'a, S, R, F, E> {
    session: &'a mut Session<S>,
    requests: std::iter::Fuse<R>,
    exhausted: bool,
    in_flight: VecDeque<InFlight>,
    bytes_in_flight: u64,
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    answers: Vec<BufferedAnswer>,
    linger: Option<Pin<Box<Sleep>>>,
    work: Option<JoinHandle<BatchDone<F, E>>>,
    sink: Option<F>,
    watchdog: Watchdog,
    /// Error that ends the fetch. Nothing more is read; answers from before it are
    /// still passed on.
    end: Option<BlockError>,
    stats: FetchStats,
}

impl<S, R, F, E> Unpin for Fetch<'_, S, R, F, E> {}

impl<S, R, F, E> Fetch<'_, S, R, F, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Iterator<Item: Into<BlockRequest>>,
    F: FnMut(Vec<Fetched>) -> Result<(), E> + Send + 'static,
    E: Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FetchError<E>>> {
        loop {
            let mut moved = self.poll_work(cx)?;
            if self.end.is_none() {
                self.queue_requests();
                moved |= self.poll_write(cx);
                moved |= self.poll_answers(cx);
            }
            moved |= self.poll_hand_over(cx);
            if self.answers.is_empty() && self.work.is_none() {
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

    /// Ends the fetch if the server owes answers and sends too few bytes.
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
        self.answers.len() < MAX_ANSWERS && self.session.reader.has_room()
    }

    /// Takes the sink back from the blocking thread when it is done.
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

    /// Prepares further requests when half of the requests in flight are answered, so
    /// that a frame has many wants.
    fn queue_requests(&mut self) {
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
            && self.out.len() < MAX_REQUEST_BYTES
        {
            let Some(request) = self.requests.next() else {
                self.exhausted = true;
                break;
            };
            let BlockRequest { want: Want { cid, len }, similar } = request.into();
            let len = len.unwrap_or(ASSUMED_LEN);
            self.bytes_in_flight += u64::from(len);
            match &similar {
                Some(similar) => {
                    self.put_wants(&mut batch);
                    frame::put_similar(&mut self.out, &cid, similar.sketch());
                }
                None => batch.push(cid),
            }
            self.in_flight.push_back(InFlight { cid, len, similar });
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
                // The server has closed the stream. It may have sent answers and a
                // reason before; reading shows them.
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

    /// Reads and parses answers while there is room.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.take_answers();
        // Bytes beyond the last answer belong to the next fetch and are not read.
        while self.end.is_none() && !self.in_flight.is_empty() && self.has_room() {
            let session = &mut *self.session;
            match session.reader.poll_read(&mut session.stream, cx) {
                Poll::Pending => break,
                // Within a frame or not: the peer may die at any point.
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

    /// Parses the complete answers in the buffer. An invalid one ends the fetch.
    fn take_answers(&mut self) -> bool {
        let before = self.answers.len();
        while self.answers.len() < MAX_ANSWERS && self.end.is_none() {
            match self.next_answer() {
                Ok(Some(answer)) => self.answers.push(answer),
                Ok(None) => break,
                Err(error) => self.end = Some(error),
            }
        }
        self.answers.len() > before
    }

    fn next_answer(&mut self) -> Result<Option<BufferedAnswer>, BlockError> {
        let next = self.session.reader.next().map_err(BlockError::Violation)?;
        let Some((answer, range)) = next else {
            return Ok(None);
        };
        let kind = match answer {
            Frame::Block { encoding, len, payload } => {
                BufferedKind::Block { encoding, len, payload: range.end - payload.len()..range.end }
            }
            Frame::Patch(patch) => BufferedKind::Patch {
                // Without a sketch in the request, a difference is a violation.
                similar: (self.in_flight.front().and_then(|request| request.similar.clone()))
                    .ok_or(BlockError::Violation(Violation::OutOfTurn(answer.kind())))?,
                patch: range.end - patch.len()..range.end,
            },
            Frame::Missing => BufferedKind::Missing,
            Frame::Changed => BufferedKind::Changed,
            Frame::Error(refusal) => return Err(BlockError::Refused(refusal)),
            other => return Err(BlockError::Violation(Violation::OutOfTurn(other.kind()))),
        };
        let request = self.in_flight.pop_front();
        let InFlight { cid, len, .. } = request.ok_or(BlockError::Violation(Violation::Unasked))?;
        self.bytes_in_flight -= u64::from(len);
        Ok(Some(BufferedAnswer { cid, kind }))
    }

    /// Starts the processing of the received answers: immediately if the buffer is full
    /// or no more answers can come, otherwise when none came for [`LINGER`].
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.work.is_some() {
            return false;
        }
        if self.answers.is_empty() {
            self.linger = None;
            // The next frame is longer than the rest of the buffer.
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

    /// Returns the full buffer and puts another one in its place.
    fn swap(&mut self) -> Vec<u8> {
        let spare = self.session.spare.take();
        self.session.reader.replace(spare)
    }

    fn start_work(&mut self) {
        let buffer = self.swap();
        let answers = std::mem::take(&mut self.answers);
        let mut sink = self.sink.take().expect("no batch is being processed");
        let metrics = Arc::clone(&self.session.metrics);
        self.work = Some(crate::environment::spawn_blocking(move || {
            let (spare, stats, error) = process_batch(buffer, answers, &mut sink, &metrics);
            BatchDone { sink, spare, stats, error }
        }));
    }
}

/// Result of [`process_batch`]: the buffer if it is free again, the totals of the batch,
/// and the error if there is one.
type BatchResult<E> = (Option<Vec<u8>>, FetchStats, Option<FetchError<E>>);

/// Verifies the blocks of a batch and passes them to the sink. Stops at a wrong block,
/// but passes on the answers before it.
fn process_batch<F, E>(
    buffer: Vec<u8>,
    answers: Vec<BufferedAnswer>,
    sink: &mut F,
    metrics: &Metrics,
) -> BatchResult<E>
where
    F: FnMut(Vec<Fetched>) -> Result<(), E>,
{
    let buffer = Bytes::from(buffer);
    let mut stats = FetchStats::default();
    let mut batch = Vec::with_capacity(answers.len());
    let mut wrong: Option<EncodedError> = None;
    for BufferedAnswer { cid, kind } in answers {
        let mut wire_len = 0;
        let outcome = match kind {
            BufferedKind::Block { encoding, len, payload } => {
                wire_len = payload.len() as u64;
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
            // Not a violation: the local block may have changed since the request, or
            // a piece hash of 6 bytes may have matched by chance.
            BufferedKind::Patch { similar, patch } => {
                wire_len = patch.len() as u64;
                match similar.reconstruct(cid, &buffer[patch]) {
                    Some(block) => {
                        stats.blocks += 1;
                        stats.patched += 1;
                        FetchOutcome::Block(block)
                    }
                    None => FetchOutcome::PatchFailed,
                }
            }
            BufferedKind::Missing => {
                stats.missing += 1;
                FetchOutcome::Missing
            }
            BufferedKind::Changed => {
                stats.changed += 1;
                FetchOutcome::Changed
            }
        };
        stats.bytes += wire_len;
        batch.push(Fetched { cid, outcome, wire_len });
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
    // The buffer is free again if the sink kept no slice of it.
    let spare = buffer.is_unique().then(|| Vec::from(buffer));
    (spare, stats, error)
}
