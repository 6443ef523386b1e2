//! [`NetStream`]: a stream of one of our protocols, with bandwidth limits.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep_until};

use crate::limiter::Limiter;
use crate::metrics::Metrics;

/// Bandwidth limits and counters that all streams of a node share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    pub(crate) upload: Limiter,
    pub(crate) download: Limiter,
    pub(crate) metrics: Arc<Metrics>,
}

/// The stream below a [`NetStream`].
#[cfg(not(feature = "sim"))]
pub(crate) type InnerStream = libp2p::Stream;
/// The stream below a [`NetStream`]: a real or a simulated one.
#[cfg(feature = "sim")]
pub(crate) type InnerStream = futures::future::Either<libp2p::Stream, crate::sim::SimStream>;

/// Bidirectional byte stream to a peer. Dropping it without closing it resets it.
pub struct NetStream {
    limited: Limited<InnerStream>,
    peer: PeerId,
    protocol: StreamProtocol,
    // One of the outbound streams that may be open on the connection.
    _permit: Option<OwnedSemaphorePermit>,
}

impl NetStream {
    pub(crate) fn new(
        stream: libp2p::Stream,
        peer: PeerId,
        protocol: StreamProtocol,
        meter: Meter,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        #[cfg(feature = "sim")]
        let stream = futures::future::Either::Left(stream);
        Self { limited: Limited::new(stream, meter), peer, protocol, _permit: permit }
    }

    /// Returns a stream over a simulated one.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(
        stream: crate::sim::SimStream,
        peer: PeerId,
        protocol: StreamProtocol,
        meter: Meter,
    ) -> Self {
        let limited = Limited::new(futures::future::Either::Right(stream), meter);
        Self { limited, peer, protocol, _permit: None }
    }

    /// Returns the peer at the other end.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Returns the protocol of the stream.
    pub fn protocol(&self) -> &StreamProtocol {
        &self.protocol
    }
}

impl fmt::Debug for NetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetStream")
            .field("peer", &self.peer)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for NetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.limited).poll_read(cx, target)
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.limited).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.limited).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.limited).poll_close(cx)
    }
}

/// Stream that respects the limits of a [`Meter`].
///
/// The time for a piece is booked after it has passed; the next piece waits for
/// the end of the booking.
struct Limited<S> {
    inner: S,
    meter: Meter,
    read_wait: Wait,
    write_wait: Wait,
}

impl<S> Limited<S> {
    fn new(inner: S, meter: Meter) -> Self {
        Self { inner, meter, read_wait: Wait::default(), write_wait: Wait::default() }
    }
}

/// Delay of one direction of a stream until its next piece.
#[derive(Default)]
struct Wait(Option<Pin<Box<Sleep>>>);

impl Wait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = &mut self.0 {
            ready!(sleep.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(())
    }

    fn book(&mut self, limiter: &Limiter, bytes: usize) {
        self.0 = limiter.book(bytes).map(|until| Box::pin(sleep_until(until)));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.read_wait.poll(cx));
        let len = target.len().min(this.meter.download.piece());
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut target[..len]))?;
        this.read_wait.book(&this.meter.download, read);
        this.meter.metrics.stream_bytes_received.add(read as u64);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write_wait.poll(cx));
        let len = bytes.len().min(this.meter.upload.piece());
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &bytes[..len]))?;
        this.write_wait.book(&this.meter.upload, written);
        this.meter.metrics.stream_bytes_sent.add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    /// Returns the time that `streams` streams need to transfer `len` bytes each.
    async fn carry(sender: &Meter, receiver: &Meter, streams: usize, len: usize) -> Duration {
        let start = Instant::now();
        let pairs = (0..streams).map(|_| {
            let (near, far) = tokio::io::duplex(64 << 10);
            let mut near = Limited::new(near.compat(), sender.clone());
            let mut far = Limited::new(far.compat(), receiver.clone());
            async move {
                let send = async {
                    near.write_all(&vec![7; len]).await.unwrap();
                    near.close().await.unwrap();
                };
                let receive = async {
                    let (mut buffer, mut received) = (vec![0; 64 << 10], 0);
                    loop {
                        match far.read(&mut buffer).await.unwrap() {
                            0 => return received,
                            read => received += read,
                        }
                    }
                };
                let ((), received) = tokio::join!(send, receive);
                assert_eq!(received, len);
            }
        });
        futures::future::join_all(pairs).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn either_side_limits_all_its_streams_together() {
        let slow = |rate| Meter {
            upload: Limiter::new(rate),
            download: Limiter::new(rate),
            ..Meter::default()
        };
        for rate in [10_000_u64, 1_000_000, 20_000_000] {
            for streams in [1, 5] {
                let len = usize::try_from(rate).unwrap() * 10 / streams;
                for (sender, receiver) in
                    [(slow(rate), Meter::default()), (Meter::default(), slow(rate))]
                {
                    let took = carry(&sender, &receiver, streams, len).await.as_secs_f64();
                    assert!((9.0..=11.0).contains(&took), "{rate} B/s x {streams}: {took} s");
                    assert_eq!(sender.metrics.snapshot().stream_bytes_sent, rate * 10);
                    assert_eq!(receiver.metrics.snapshot().stream_bytes_received, rate * 10);
                }
            }
        }
    }
}
