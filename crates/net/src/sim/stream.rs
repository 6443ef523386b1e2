//! [`SimStream`]: one end of a simulated stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use futures::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::world::{Flow, SimNet, World};

/// Maximum number of bytes on the way in one direction of a stream.
const WINDOW: usize = 64 << 10;

/// One end of a simulated stream. Dropping it without closing it resets the stream.
pub(crate) struct SimStream {
    net: SimNet,
    stream: u64,
    end: usize,
    is_closed: bool,
    /// Wakes the reader at the next arrival, or when the connection breaks.
    read_alarm: Option<Pin<Box<Sleep>>>,
    write_alarm: Option<Pin<Box<Sleep>>>,
}

impl SimStream {
    /// Returns the end `end` (0 or 1) of a stream.
    pub(super) fn new(net: SimNet, stream: u64, end: usize) -> Self {
        Self { net, stream, end, is_closed: false, read_alarm: None, write_alarm: None }
    }
}

/// Returns an error if the end has noticed that the stream is broken.
fn check(world: &World, stream: u64, end: usize) -> io::Result<()> {
    let now = Instant::now();
    if world.breaks_at(stream, end).is_some_and(|at| at <= now) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let Some(pair) = world.streams.get(&stream) else {
        return Err(io::ErrorKind::ConnectionReset.into());
    };
    let is_open = !world.route(pair.peers[1 - end], pair.peers[end]).is_cut;
    match pair.sent[1 - end].reset_at {
        Some(at) if is_open && at <= now => Err(io::ErrorKind::ConnectionReset.into()),
        _ => Ok(()),
    }
}

/// Has `alarm` wake the task at `at`.
fn wake_at(alarm: &mut Option<Pin<Box<Sleep>>>, at: Option<Instant>, cx: &mut Context<'_>) {
    *alarm = at.map(|at| Box::pin(sleep_until(at)));
    if let Some(sleep) = alarm
        && sleep.as_mut().poll(cx).is_ready()
    {
        cx.waker().wake_by_ref();
    }
}

fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}

/// Returns the next bytes that have arrived; empty at the end of the stream.
fn arrived(flow: &mut Flow, len_max: usize, now: Instant) -> Option<Bytes> {
    let Some((at, piece)) = flow.pieces.front_mut() else {
        return flow.ends_at.filter(|at| *at <= now).map(|_| Bytes::new());
    };
    if *at > now {
        return None;
    }
    let bytes = piece.split_to(piece.len().min(len_max));
    if !piece.has_remaining() {
        flow.pieces.pop_front();
    }
    flow.len -= bytes.len();
    if let Some(writer) = flow.writer.take() {
        writer.wake();
    }
    Some(bytes)
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let (stream, end) = (this.stream, this.end);
        let alarm = &mut this.read_alarm;
        this.net.with(|world| {
            check(world, stream, end)?;
            let (now, breaks_at) = (Instant::now(), world.breaks_at(stream, end));
            let Some(pair) = world.streams.get(&stream) else { return Poll::Ready(Ok(0)) };
            let is_cut = world.route(pair.peers[1 - end], pair.peers[end]).is_cut;
            let Some(pair) = world.streams.get_mut(&stream) else { return Poll::Ready(Ok(0)) };
            let flow = &mut pair.sent[1 - end];
            if !is_cut && let Some(bytes) = arrived(flow, target.len(), now) {
                target[..bytes.len()].copy_from_slice(&bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
            flow.reader = Some(cx.waker().clone());
            let next = flow.pieces.front().map(|(at, _)| *at).or(flow.ends_at);
            let next = earliest([next, flow.reset_at]).filter(|_| !is_cut);
            wake_at(alarm, earliest([next, breaks_at]), cx);
            Poll::Pending
        })
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let (stream, end) = (this.stream, this.end);
        let alarm = &mut this.write_alarm;
        this.net.with(|world| {
            check(world, stream, end)?;
            let breaks_at = world.breaks_at(stream, end);
            let arrival = world.next_arrival(stream, end);
            let Some(pair) = world.streams.get_mut(&stream) else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            let reset_at = pair.sent[1 - end].reset_at;
            let flow = &mut pair.sent[end];
            if flow.len >= WINDOW {
                flow.writer = Some(cx.waker().clone());
                wake_at(alarm, earliest([breaks_at, reset_at]), cx);
                return Poll::Pending;
            }
            let bytes = &bytes[..bytes.len().min(WINDOW - flow.len)];
            flow.pieces.push_back((arrival, Bytes::copy_from_slice(bytes)));
            flow.len += bytes.len();
            if let Some(reader) = flow.reader.take() {
                reader.wake();
            }
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.net.with(|world| check(world, self.stream, self.end)))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::replace(&mut this.is_closed, true) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(this.net.with(|world| {
            check(world, this.stream, this.end)?;
            let arrival = world.next_arrival(this.stream, this.end);
            if let Some(pair) = world.streams.get_mut(&this.stream) {
                let flow = &mut pair.sent[this.end];
                flow.ends_at = Some(arrival);
                if let Some(reader) = flow.reader.take() {
                    reader.wake();
                }
            }
            Ok(())
        }))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.net.drop_end(self.stream, self.end, self.is_closed);
    }
}
