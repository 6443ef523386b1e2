//! Yamux, with longer frames than the stock wrapper sends.
//!
//! `libp2p-yamux` fixes a data frame at 16 KiB; the cost of a frame is paid
//! per frame, so ours are 64 KiB, which every Yamux takes. The window is
//! bounded: what peers can make us hold for streams that nobody reads is
//! [`RECEIVE_WINDOW`] a connection.

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

/// Inbound streams that wait for the swarm to take them; Yamux itself lets a
/// well-behaved peer open no more than this without an acknowledgement.
const MAX_WAITING_INBOUND: usize = 256;

/// The Yamux upgrade.
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

/// A Yamux connection as the swarm wants it.
///
/// Yamux makes progress only in `poll_next_inbound`, which may turn up an
/// inbound stream when the swarm asked for something else: such streams wait
/// in `inbound`.
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
            // Dropping it sends a reset, so the peer learns of it.
            tracing::warn!(%stream, "resetting an inbound stream: too many wait");
        }
        // Yamux may have more to do, but other streams come first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
