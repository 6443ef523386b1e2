//! The server side of the block protocol, over any byte stream.
//!
//! One loop receives wants, has their blocks read in batches on a blocking thread,
//! and sends the answers. While it sends one batch, the next one is read. If the
//! client does not accept the answers, no further batch is read; if many wants are
//! waiting, no further wants are received. A client that requests without reading
//! thus stops at these limits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::PollSemaphore;

use super::batch::{Batch, Compression, Reply, Wanted, read_batch, sketch_len};
use super::frame::{self, Frame, MAX_WANTS_PER_FRAME, Side, StreamRefusal, Violation};
use super::frame_reader::FrameReader;
use super::link_speed::{LinkSpeed, WaitsFor};
use super::sketch::{PIECE_HASH_LEN, PIECES_MAX};
use super::watchdog::{HELLO_TIMEOUT, Watchdog};
use super::{BlockAnswer, BlockProvider};
use crate::limits::SEND_FRAME;
use crate::metrics::Metrics;

/// Maximum number of wants that wait on one stream, 33 bytes each. The server
/// announces it to the client.
pub(super) const MAX_WANTS_WAITING: usize = 16 << 10;

/// Maximum number of bytes of sketches that wait on one stream. The server receives no
/// wants while a sketch of [`SKETCH_MAX`] bytes more would exceed it.
const MAX_SKETCHES_WAITING: usize = 1 << 20;

/// Maximum length of a sketch in bytes.
const SKETCH_MAX: usize = PIECES_MAX * PIECE_HASH_LEN;

/// Maximum number of blocks in one batch.
const MAX_BATCH: usize = 4 << 10;

/// Length of the buffer for received frames: several WANT frames.
const READ_BUFFER: usize = 64 << 10;

/// Time without a request after which a stream is closed. The client opens another one
/// when it needs it.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Time limit for sending the last frame and the end of the stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reasons for which the server ends a stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("version {version} with hash mode {hash_mode} is not supported")]
    Version { version: u16, hash_mode: u8 },
    #[error("the client was too slow")]
    Stalled,
    #[error("the block provider failed: {0}")]
    Provider(&'static str),
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
}

impl ServeError {
    /// Returns the reason to send to the client, or `None` if nothing can be sent.
    fn refusal(&self) -> Option<StreamRefusal> {
        match self {
            Self::Violation(_) => Some(StreamRefusal::Violation),
            Self::Version { .. } => Some(StreamRefusal::Version),
            Self::Stalled => Some(StreamRefusal::Stalled),
            Self::Provider(_) => Some(StreamRefusal::Internal),
            Self::Io(_) => None,
        }
    }
}

/// Inputs that all streams share.
#[derive(Clone)]
pub(super) struct ServeContext {
    pub(super) provider: Arc<dyn BlockProvider>,
    /// Limits the number of batches that are read at the same time for all streams.
    pub(super) readers: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// Sends an ERROR frame and closes the stream.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, refusal: StreamRefusal) {
    use futures::AsyncWriteExt as _;

    let mut last = Vec::new();
    frame::put_error(&mut last, refusal);
    let sent = async {
        stream.write_all(&last).await?;
        stream.close().await
    };
    // Fails if the client does not read, which makes no difference.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, sent).await;
}

/// Serves one stream until it ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: PeerId,
    context: ServeContext,
) -> Result<(), ServeError> {
    let mut reader = FrameReader::new(Side::Server, READ_BUFFER);
    let greeting = tokio::time::timeout(HELLO_TIMEOUT, greet(&mut stream, &mut reader));
    let greeted = greeting.await.unwrap_or(Err(ServeError::Stalled));
    let (result, may_speak) = match greeted {
        Ok(true) => {
            let mut serving = Serving::new(&mut stream, reader, peer, context.clone());
            let result = std::future::poll_fn(|cx| serving.poll(cx)).await;
            // An ERROR frame can be sent only between frames.
            (result, serving.is_between_frames())
        }
        Ok(false) => (Ok(()), true),
        Err(error) => (Err(error), true),
    };
    let refusal = result.as_ref().err().and_then(ServeError::refusal);
    match refusal {
        Some(refusal) if may_speak => refuse(&mut stream, refusal).await,
        _ if result.is_ok() => {
            use futures::AsyncWriteExt as _;
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.close()).await;
        }
        _ => {}
    }
    match &result {
        Err(ServeError::Violation(_)) => context.metrics.protocol_violations.add(1),
        Err(ServeError::Stalled) => context.metrics.stalled.add(1),
        _ => {}
    }
    result
}

/// Receives and answers the greeting of the client. Returns false if the client closed
/// the stream without one.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    reader: &mut FrameReader,
) -> Result<bool, ServeError> {
    use futures::AsyncWriteExt as _;

    loop {
        if let Some((first, _)) = reader.next()? {
            match first {
                Frame::Hello {
                    version: frame::VERSION..,
                    hash_mode: frame::HASH_MODE_PLAIN,
                    max_block_len,
                } if max_block_len as usize >= types::MAX_BLOCK_LEN => break,
                Frame::Hello { version, hash_mode, .. } => {
                    return Err(ServeError::Version { version, hash_mode });
                }
                other => return Err(Violation::OutOfTurn(other.kind()).into()),
            }
        }
        let read = std::future::poll_fn(|cx| reader.poll_read(stream, cx)).await?;
        if read == 0 && reader.is_partial() {
            return Err(cut_off());
        }
        if read == 0 {
            return Ok(false);
        }
    }
    let mut ack = Vec::new();
    frame::put_ack(&mut ack, u32::try_from(MAX_WANTS_WAITING).expect("a small number"));
    stream.write_all(&ack).await?;
    stream.flush().await?;
    Ok(true)
}

/// Returns the error for a stream that ends within a frame.
fn cut_off() -> ServeError {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

/// Stream that is being served.
struct Serving<'a, S> {
    stream: &'a mut S,
    reader: FrameReader,
    peer: PeerId,
    context: ServeContext,
    ended: bool,
    wants: VecDeque<Wanted>,
    /// Number of bytes of the sketches in `wants`.
    sketches: usize,
    /// True if most replies of the last batch were differences.
    were_patches: bool,
    readers: PollSemaphore,
    work: Option<JoinHandle<Result<Batch, &'static str>>>,
    /// Batch after the one in `sending`.
    ready: Vec<Reply>,
    link_speed: LinkSpeed,
    sending: std::vec::IntoIter<Reply>,
    /// Bytes for one frame of the muxer.
    staged: Vec<u8>,
    staged_sent: usize,
    /// Rest of the payload that is being sent.
    payload: Bytes,
    /// Number of bytes of `payload` that are written without a copy to `staged`.
    direct: usize,
    flushed: bool,
    idle: Pin<Box<Sleep>>,
    write_watch: Watchdog,
    read_watch: Watchdog,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Serving<'a, S> {
    fn new(stream: &'a mut S, reader: FrameReader, peer: PeerId, context: ServeContext) -> Self {
        Self {
            stream,
            reader,
            peer,
            readers: PollSemaphore::new(Arc::clone(&context.readers)),
            context,
            ended: false,
            wants: VecDeque::new(),
            sketches: 0,
            were_patches: false,
            work: None,
            ready: Vec::new(),
            link_speed: LinkSpeed::new(),
            sending: Vec::new().into_iter(),
            staged: Vec::new(),
            staged_sent: 0,
            payload: Bytes::new(),
            direct: 0,
            flushed: true,
            idle: Box::pin(tokio::time::sleep(IDLE_TIMEOUT)),
            write_watch: Watchdog::new(),
            read_watch: Watchdog::new(),
        }
    }

    fn is_between_frames(&self) -> bool {
        self.staged_sent == self.staged.len() && self.payload.is_empty()
    }

    /// Reports whether nothing is requested, being read, or unsent.
    fn is_idle(&self) -> bool {
        self.wants.is_empty()
            && self.work.is_none()
            && self.ready.is_empty()
            && self.sending.len() == 0
            && self.is_between_frames()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        self.link_speed.waits_for(self.waits_for());
        loop {
            let mut moved = self.poll_wants(cx)?;
            moved |= self.poll_work(cx)?;
            moved |= self.poll_write(cx)?;
            if self.ended && self.is_idle() {
                return Poll::Ready(match self.reader.is_partial() {
                    true => Err(cut_off()),
                    false => Ok(()),
                });
            }
            if !moved {
                break;
            }
        }
        self.link_speed.waits_for(self.waits_for());
        self.poll_timeouts(cx)
    }

    /// Returns the thing that the stream waits for.
    fn waits_for(&self) -> WaitsFor {
        if !self.is_between_frames() {
            WaitsFor::Link
        } else if self.work.is_some() || !self.wants.is_empty() {
            WaitsFor::Blocks
        } else {
            WaitsFor::Client
        }
    }

    /// Becomes ready when the client was silent or slow for too long.
    fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        self.write_watch.set_waiting(!self.is_between_frames());
        let partial = !self.ended && self.has_room() && self.reader.is_partial();
        self.read_watch.set_waiting(partial);
        let stalled = self.write_watch.poll_stalled(cx).is_ready()
            || self.read_watch.poll_stalled(cx).is_ready();
        if stalled {
            return Poll::Ready(Err(ServeError::Stalled));
        }
        if self.is_idle() && self.idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn has_room(&self) -> bool {
        self.wants.len() + MAX_WANTS_PER_FRAME <= MAX_WANTS_WAITING
            && self.sketches + SKETCH_MAX <= MAX_SKETCHES_WAITING
    }

    fn poll_wants(&mut self, cx: &mut Context<'_>) -> Result<bool, ServeError> {
        let mut moved = false;
        while self.has_room() {
            match self.reader.next()? {
                Some((Frame::Want(body), _)) => {
                    for cid in frame::wants(body) {
                        self.wants.push_back((cid?, None));
                    }
                    moved = true;
                    continue;
                }
                Some((Frame::Similar(body), _)) => {
                    let (cid, sketch) = frame::similar(body)?;
                    self.sketches += sketch.size();
                    self.wants.push_back((cid, Some(Box::new(sketch))));
                    moved = true;
                    continue;
                }
                Some((other, _)) => return Err(Violation::OutOfTurn(other.kind()).into()),
                None => {}
            }
            if self.ended {
                break;
            }
            // No ranges are in use, so the buffer may be compacted.
            self.reader.compact();
            match self.reader.poll_read(self.stream, cx) {
                Poll::Pending => break,
                Poll::Ready(read) => {
                    let read = read?;
                    self.read_watch.progress(read);
                    self.ended = read == 0;
                    self.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
                }
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Starts reading the next batch while the one before it is sent, and takes its
    /// result.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Result<bool, ServeError> {
        if let Some(work) = &mut self.work {
            let Poll::Ready(done) = Pin::new(work).poll(cx) else {
                return Ok(false);
            };
            self.work = None;
            let batch = done.unwrap_or(Err("it panicked")).map_err(ServeError::Provider)?;
            // Wants without a reply are part of the next batch.
            for wanted in batch.rest.into_iter().rev() {
                self.sketches += sketch_len(&wanted);
                self.wants.push_front(wanted);
            }
            self.were_patches = batch.patches > batch.replies.len() / 2;
            self.ready = batch.replies;
            return Ok(true);
        }
        if self.wants.is_empty() || !self.ready.is_empty() {
            return Ok(false);
        }
        let Poll::Ready(Some(permit)) = self.readers.poll_acquire(cx) else {
            return Ok(false);
        };
        let len = self.wants.len().min(MAX_BATCH);
        let wanted: Vec<Wanted> = self.wants.drain(..len).collect();
        self.sketches -= wanted.iter().map(sketch_len).sum::<usize>();
        let is_idle = self.sending.len() == 0 && self.is_between_frames();
        let compression = Compression {
            is_idle,
            is_slow: self.link_speed.is_slow(),
            patches: is_idle || self.link_speed.is_worth_patching(self.were_patches),
        };
        let (peer, provider) = (self.peer, Arc::clone(&self.context.provider));
        self.work = Some(crate::environment::spawn_blocking(move || {
            let batch = read_batch(&*provider, &peer, wanted, &compression);
            drop(permit);
            batch
        }));
        Ok(true)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, ServeError> {
        let mut moved = false;
        loop {
            while self.staged_sent < self.staged.len() {
                let rest = &self.staged[self.staged_sent..];
                let Poll::Ready(written) = Pin::new(&mut *self.stream).poll_write(cx, rest) else {
                    return Ok(moved);
                };
                self.staged_sent += self.wrote(written?)?;
                moved = true;
            }
            while self.direct > 0 {
                let direct = &self.payload[..self.direct];
                let Poll::Ready(written) = Pin::new(&mut *self.stream).poll_write(cx, direct)
                else {
                    return Ok(moved);
                };
                let written = self.wrote(written?)?;
                self.payload.advance(written);
                self.direct -= written;
                moved = true;
            }
            if !self.stage() {
                break;
            }
        }
        if !self.flushed
            && let Poll::Ready(flushed) = Pin::new(&mut *self.stream).poll_flush(cx)
        {
            flushed?;
            self.flushed = true;
        }
        Ok(moved)
    }

    fn wrote(&mut self, written: usize) -> Result<usize, ServeError> {
        if written == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        self.flushed = false;
        self.link_speed.sent(written);
        self.write_watch.progress(written);
        Ok(written)
    }

    /// Prepares the next write. Returns false if there is nothing to write.
    ///
    /// Each write fills a frame of the muxer, because the cost is per frame. Short
    /// blocks and the ends of blocks are gathered in `staged`; the parts of a payload
    /// that fill complete frames are written without a copy.
    fn stage(&mut self) -> bool {
        self.staged.clear();
        self.staged_sent = 0;
        loop {
            if !self.payload.is_empty() {
                if self.staged.is_empty() && self.payload.len() >= SEND_FRAME {
                    self.direct = self.payload.len() / SEND_FRAME * SEND_FRAME;
                    return true;
                }
                let len = self.payload.len().min(SEND_FRAME - self.staged.len());
                self.staged.extend_from_slice(&self.payload.split_to(len));
            }
            let has_room = self.staged.len() + frame::PREFIX + frame::BLOCK_HEAD <= SEND_FRAME;
            if !has_room || !self.payload.is_empty() || !self.stage_answer() {
                return !self.staged.is_empty();
            }
        }
    }

    /// Appends the next reply, or the head of its block, to `staged`.
    fn stage_answer(&mut self) -> bool {
        if self.sending.len() == 0 {
            self.sending = std::mem::take(&mut self.ready).into_iter();
        }
        let Some(reply) = self.sending.next() else {
            return false;
        };
        let metrics = &self.context.metrics;
        match reply {
            Reply::Patch(patch) => {
                frame::put_patch_head(&mut self.staged, patch.len());
                metrics.blocks_sent.add(1);
                metrics.patches_sent.add(1);
                metrics.block_bytes_sent.add(patch.len() as u64);
                self.payload = patch;
            }
            Reply::Answer(BlockAnswer::Block(block)) => {
                let (encoding, len, payload) = (block.encoding(), block.len(), block.payload());
                frame::put_block_head(&mut self.staged, encoding, len, payload.len());
                metrics.blocks_sent.add(1);
                metrics.block_bytes_sent.add(payload.len() as u64);
                self.payload = payload.clone();
            }
            Reply::Answer(BlockAnswer::Missing) => {
                frame::put_missing(&mut self.staged);
                metrics.blocks_not_sent.add(1);
            }
            Reply::Answer(BlockAnswer::Changed) => {
                frame::put_changed(&mut self.staged);
                metrics.blocks_not_sent.add(1);
            }
        }
        true
    }
}
