//! [`Muxer`]: the Yamux upgrade with longer frames than that of `libp2p-yamux`.
//!
//! `libp2p-yamux` 0.48.0 sends data frames of 16 KiB and does not let its user change
//! that. Much of the cost is per frame, so this upgrade sends 64 KiB, which every Yamux
//! implementation accepts. It also bounds the memory for streams that are not read to
//! [`RECEIVE_WINDOW`] per connection. The Yamux protocol itself is the crate `yamux`.
//!
//! The buffer for inbound streams follows the code of `libp2p-yamux`. This file can be
//! deleted when `libp2p-yamux` lets its user set `split_send_size` and
//! `max_connection_receive_window`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite, future};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Connection, ConnectionError, Mode};

use super::coalesce::Coalesce;
use crate::limits::{MAX_STREAMS_PER_CONNECTION, RECEIVE_WINDOW, SEND_FRAME};

/// Maximum number of inbound streams that wait for the swarm. Yamux lets a well-behaved
/// peer open no more than this without an acknowledgement.
const MAX_WAITING_INBOUND: usize = 256;

/// Yamux upgrade of a connection.
#[derive(Clone)]
pub(super) struct Config(yamux::Config);

impl Default for Config {
    fn default() -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(MAX_STREAMS_PER_CONNECTION)
            .set_max_connection_receive_window(Some(RECEIVE_WINDOW))
            .set_split_send_size(SEND_FRAME);
        Self(config)
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = future::Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Muxer::new(socket, self.0, Mode::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = future::Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Muxer::new(socket, self.0, Mode::Client)))
    }
}

/// Yamux connection with the interface that the swarm uses.
///
/// Yamux makes progress only in `poll_next_inbound`, which may return an inbound stream
/// when the swarm polls for something else. Such streams wait in `inbound`.
pub(super) struct Muxer<C> {
    connection: Connection<Coalesce<C>>,
    inbound: VecDeque<yamux::Stream>,
    inbound_waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(socket: C, config: yamux::Config, mode: Mode) -> Self {
        let connection = Connection::new(Coalesce::new(socket), config, mode);
        Self { connection, inbound: VecDeque::new(), inbound_waker: None }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        Poll::Ready(match ready!(self.connection.poll_next_inbound(cx)) {
            Some(stream) => stream.map_err(to_io),
            None => Err(to_io(ConnectionError::Closed)),
        })
    }
}

fn to_io(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<yamux::Stream>> {
        if let Some(stream) = self.inbound.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = self.poll_stream(cx);
        if polled.is_pending() {
            self.inbound_waker = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<yamux::Stream>> {
        self.connection.poll_new_outbound(cx).map_err(to_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(to_io)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = ready!(self.poll_stream(cx))?;
        if self.inbound.len() < MAX_WAITING_INBOUND {
            self.inbound.push_back(stream);
            if let Some(waker) = self.inbound_waker.take() {
                waker.wake();
            }
        } else {
            // Dropping the stream sends a reset to the peer.
            tracing::warn!(%stream, "reset an inbound stream: too many are waiting");
        }
        // Yamux may have more to do, but other tasks get a turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
