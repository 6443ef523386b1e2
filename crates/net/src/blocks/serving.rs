//! The server's half of the protocol, over any byte stream.
//!
//! One loop reads wants, has them read a batch at a time on a blocking
//! thread, and sends the answers. While one batch is sent the next is read.
//! When the client does not take the answers no further batch is read, and
//! when enough wants wait no further ones are: a client that asks without
//! reading is held at that.

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
use types::Cid;

use super::frame::{self, Frame, MAX_WANTS_PER_FRAME, Side, StreamRefusal, Violation};
use super::frame_reader::FrameReader;
use super::pace::{self, Pace, WaitsFor};
use super::sketch::{PIECE_HASH_LEN, PIECES_MAX, Sketch};
use super::watchdog::{HELLO_TIMEOUT, Watchdog};
use super::{BlockAnswer, BlockProvider};
use crate::limits::SEND_FRAME;
use crate::metrics::Metrics;

/// Wants that wait for one stream; told to the client. 33 bytes each.
pub(super) const MAX_WANTS_WAITING: usize = 16 << 10;

/// Bytes of blocks that are read at once.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes of sketches that wait for one stream: no more wants are taken from it
/// until fewer do. A want frame may bring [`SKETCH_MAX`].
const SKETCHES_WAITING: usize = 1 << 20;

/// The longest sketch, in bytes.
const SKETCH_MAX: usize = PIECES_MAX * PIECE_HASH_LEN;

/// Blocks that are read at once, however small.
const MAX_BATCH: usize = 4 << 10;

/// Room for a few want frames.
const READ_BUFFER: usize = 64 << 10;

/// A stream on which nothing is asked for this long is closed; the client
/// opens another when it needs one.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// The last word, and the end of the stream, have to be sent within this.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a stream ended, other than by the client's will.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("version {version} with hash mode {hash_mode} is not supported")]
    Version { version: u16, hash_mode: u8 },
    #[error("the client was too slow")]
    Stalled,
    #[error("the provider did not answer as it should: {0}")]
    Provider(&'static str),
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
}

impl ServeError {
    /// What the client is told; nothing where there is no way to.
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

/// What all streams share.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) provider: Arc<dyn BlockProvider>,
    /// Bounds how many batches are read at once, for all streams.
    pub(super) readers: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// Says no, and ends the stream.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, refusal: StreamRefusal) {
    use futures::AsyncWriteExt as _;

    let mut last = Vec::new();
    frame::put_error(&mut last, refusal);
    let said = async {
        stream.write_all(&last).await?;
        stream.close().await
    };
    // A client that does not listen is dropped all the same.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, said).await;
}

/// Serves one stream to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: PeerId,
    source: Source,
) -> Result<(), ServeError> {
    let mut reader = FrameReader::new(Side::Server, READ_BUFFER);
    let greeting = tokio::time::timeout(HELLO_TIMEOUT, greet(&mut stream, &mut reader));
    let greeted = greeting.await.unwrap_or(Err(ServeError::Stalled));
    let (result, may_speak) = match greeted {
        Ok(true) => {
            let mut serving = Serving::new(&mut stream, reader, peer, source.clone());
            let result = std::future::poll_fn(|cx| serving.poll(cx)).await;
            // Within a frame there is no place for a last word.
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
        Err(ServeError::Violation(_)) => source.metrics.protocol_violations.add(1),
        Err(ServeError::Stalled) => source.metrics.stalled.add(1),
        _ => {}
    }
    result
}

/// Takes the client's greeting and answers it; false where it left at once.
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

/// The client died within a frame.
fn cut_off() -> ServeError {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

/// What is asked for: a block, or its difference to what this is the sketch of.
type Wanted = (Cid, Option<Box<Sketch>>);

/// What is sent for one want.
enum Reply {
    Answer(BlockAnswer),
    /// A difference.
    Patch(Bytes),
}

/// What has been read: the replies to a prefix of what was asked, and the rest.
struct Batch {
    replies: Vec<Reply>,
    rest: Vec<Wanted>,
    patches: usize,
}

/// One stream under way.
struct Serving<'a, S> {
    stream: &'a mut S,
    reader: FrameReader,
    peer: PeerId,
    source: Source,
    ended: bool,
    wants: VecDeque<Wanted>,
    /// Bytes of the sketches among them.
    sketches: usize,
    /// Whether the last batch was differences for the most part.
    were_patches: bool,
    readers: PollSemaphore,
    work: Option<JoinHandle<Result<Batch, ServeError>>>,
    /// The batch after the one that is sent.
    ready: Vec<Reply>,
    pace: Pace,
    sending: std::vec::IntoIter<Reply>,
    /// What fills one frame of the muxer.
    staged: Vec<u8>,
    staged_sent: usize,
    /// What is left of the block that is sent, and how much of that is
    /// written from where it lies.
    payload: Bytes,
    through: usize,
    flushed: bool,
    idle: Pin<Box<Sleep>>,
    write_watch: Watchdog,
    read_watch: Watchdog,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Serving<'a, S> {
    fn new(stream: &'a mut S, reader: FrameReader, peer: PeerId, source: Source) -> Self {
        Self {
            stream,
            reader,
            peer,
            readers: PollSemaphore::new(Arc::clone(&source.readers)),
            source,
            ended: false,
            wants: VecDeque::new(),
            sketches: 0,
            were_patches: false,
            work: None,
            ready: Vec::new(),
            pace: Pace::new(),
            sending: Vec::new().into_iter(),
            staged: Vec::new(),
            staged_sent: 0,
            payload: Bytes::new(),
            through: 0,
            flushed: true,
            idle: Box::pin(tokio::time::sleep(IDLE_TIMEOUT)),
            write_watch: Watchdog::new(),
            read_watch: Watchdog::new(),
        }
    }

    fn is_between_frames(&self) -> bool {
        self.staged_sent == self.staged.len() && self.payload.is_empty()
    }

    /// Nothing is asked, read or unsent.
    fn is_idle(&self) -> bool {
        self.wants.is_empty()
            && self.work.is_none()
            && self.ready.is_empty()
            && self.sending.len() == 0
            && self.is_between_frames()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        self.pace.waits_for(self.waits_for());
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
        self.pace.waits_for(self.waits_for());
        self.poll_patience(cx)
    }

    /// What it waits for, after it has done what it can.
    fn waits_for(&self) -> WaitsFor {
        if !self.is_between_frames() {
            WaitsFor::Link
        } else if self.work.is_some() || !self.wants.is_empty() {
            WaitsFor::Blocks
        } else {
            WaitsFor::Client
        }
    }

    /// Ready when the client was silent or slow for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
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
            && self.sketches + SKETCH_MAX <= SKETCHES_WAITING
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
            // No range is kept here, so the rest may move.
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

    /// Has the next batch read while the one before it is sent.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Result<bool, ServeError> {
        if let Some(work) = &mut self.work {
            let Poll::Ready(done) = Pin::new(work).poll(cx) else {
                return Ok(false);
            };
            self.work = None;
            let batch = done.map_err(|_| ServeError::Provider("it panicked"))??;
            // What was not answered is asked again with the next batch.
            for asked in batch.rest.into_iter().rev() {
                self.sketches += sketch_len(&asked);
                self.wants.push_front(asked);
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
        let asked: Vec<Wanted> = self.wants.drain(..len).collect();
        self.sketches -= asked.iter().map(sketch_len).sum::<usize>();
        let is_idle = self.sending.len() == 0 && self.is_between_frames();
        let packing = Packing {
            is_idle,
            is_slow: self.pace.is_slow(),
            patches: is_idle || self.pace.is_worth_patching(self.were_patches),
        };
        let (peer, source) = (self.peer, self.source.clone());
        self.work = Some(tokio::task::spawn_blocking(move || {
            let batch = read(&source, &peer, asked, &packing);
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
            while self.through > 0 {
                let whole = &self.payload[..self.through];
                let Poll::Ready(written) = Pin::new(&mut *self.stream).poll_write(cx, whole) else {
                    return Ok(moved);
                };
                let written = self.wrote(written?)?;
                self.payload.advance(written);
                self.through -= written;
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
        self.pace.sent(written);
        self.write_watch.progress(written);
        Ok(written)
    }

    /// Prepares what is written next; false where there is nothing. Every
    /// write fills a frame of the muxer, since the cost is per frame: the ends
    /// of blocks and tiny blocks are gathered, whole frames go as they lie.
    fn stage(&mut self) -> bool {
        self.staged.clear();
        self.staged_sent = 0;
        loop {
            if !self.payload.is_empty() {
                if self.staged.is_empty() && self.payload.len() >= SEND_FRAME {
                    self.through = self.payload.len() / SEND_FRAME * SEND_FRAME;
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

    /// Puts the next answer, or the head of its block, to the others.
    fn stage_answer(&mut self) -> bool {
        if self.sending.len() == 0 {
            self.sending = std::mem::take(&mut self.ready).into_iter();
        }
        let Some(reply) = self.sending.next() else {
            return false;
        };
        let metrics = &self.source.metrics;
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

fn sketch_len((_, sketch): &Wanted) -> usize {
    sketch.as_ref().map_or(0, |sketch| sketch.size())
}

/// How a batch is made small.
struct Packing {
    /// Nothing is under way.
    is_idle: bool,
    /// The link is slower than the compressor.
    is_slow: bool,
    /// Differences are made where they are asked for.
    patches: bool,
}

/// Has a batch read, and made small where that pays. Blocks.
fn read(
    source: &Source,
    peer: &PeerId,
    mut asked: Vec<Wanted>,
    packing: &Packing,
) -> Result<Batch, ServeError> {
    let cids: Vec<Cid> = asked.iter().map(|(cid, _)| *cid).collect();
    let answers = source.provider.read(peer, &cids, BATCH_BYTES);
    check(&cids, &answers)?;
    let rest = asked.split_off(answers.len());
    let len: usize = answers.iter().map(payload_len).sum();
    let packs = packing.is_slow || (packing.is_idle && len <= pace::FEW);
    let (mut replies, mut patches) = (Vec::with_capacity(answers.len()), 0);
    for (answer, (_, sketch)) in answers.into_iter().zip(asked) {
        let sketch = sketch.filter(|_| packing.patches);
        replies.push(match sketch.and_then(|sketch| patched(&answer, &sketch)) {
            Some(patch) => {
                patches += 1;
                Reply::Patch(patch)
            }
            None if packs => Reply::Answer(packed(answer)),
            None => Reply::Answer(answer),
        });
    }
    Ok(Batch { replies, rest, patches })
}

/// The block as the difference to what the client has, where that is less.
fn patched(answer: &BlockAnswer, sketch: &Sketch) -> Option<Bytes> {
    let BlockAnswer::Block(block) = answer else { return None };
    // Where memory runs out, the block is sent as it is.
    let patch = sketch.diff(&block.decode().ok()?).ok()??;
    (patch.len() < block.payload().len()).then(|| patch.into())
}

fn payload_len(answer: &BlockAnswer) -> usize {
    match answer {
        BlockAnswer::Block(block) => block.payload().len(),
        BlockAnswer::Missing | BlockAnswer::Changed => 0,
    }
}

fn packed(answer: BlockAnswer) -> BlockAnswer {
    match answer {
        BlockAnswer::Block(block) => BlockAnswer::Block(block.packed(pace::LEVEL)),
        BlockAnswer::Missing | BlockAnswer::Changed => answer,
    }
}

/// A provider that answers too much, nothing, or about other blocks would
/// make every client take us for hostile.
fn check(asked: &[Cid], answers: &[BlockAnswer]) -> Result<(), ServeError> {
    if answers.is_empty() {
        return Err(ServeError::Provider("it answered nothing"));
    }
    if answers.len() > asked.len() {
        return Err(ServeError::Provider("it answered more than was asked"));
    }
    let is_other = |cid: &Cid, answer: &BlockAnswer| match answer {
        BlockAnswer::Block(block) => block.cid() != *cid,
        BlockAnswer::Missing | BlockAnswer::Changed => false,
    };
    if asked.iter().zip(answers).any(|(cid, answer)| is_other(cid, answer)) {
        return Err(ServeError::Provider("it answered with another block"));
    }
    Ok(())
}
