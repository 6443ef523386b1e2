//! The part of the behaviour that sits on one connection.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::{Ready, ready as now};
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::PollSemaphore;

use super::stream::{Meter, NetStream};
use crate::error::NetError;
use crate::limits::{
    MAX_NEGOTIATING_STREAMS, MAX_OUTBOUND_STREAMS, MAX_WAITING_OPENS, NEGOTIATION_TIMEOUT,
};

/// Where the inbound streams of each protocol go.
pub(super) type Queues = Arc<HashMap<StreamProtocol, mpsc::Sender<NetStream>>>;

/// A request for an outbound stream.
pub(crate) struct Open {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: oneshot::Sender<Result<NetStream, NetError>>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Open").field(&self.protocol).finish()
    }
}

/// Agrees on one of some protocols and hands out the bare stream.
#[derive(Clone)]
pub(crate) struct Upgrade(Vec<StreamProtocol>);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        now(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        now(Ok((stream, protocol)))
    }
}

/// A stream that is being negotiated.
pub(crate) struct Pending {
    open: Open,
    permit: OwnedSemaphorePermit,
}

/// The streams of one connection.
pub(crate) struct Handler {
    peer: PeerId,
    queues: Queues,
    meter: Meter,
    waiting: VecDeque<Open>,
    negotiating: usize,
    /// Bounds the outbound streams that are open, however long they live.
    open: PollSemaphore,
}

impl Handler {
    pub(super) fn new(peer: PeerId, queues: Queues, meter: Meter) -> Self {
        let open = PollSemaphore::new(Arc::new(Semaphore::new(MAX_OUTBOUND_STREAMS)));
        Self { peer, queues, meter, waiting: VecDeque::new(), negotiating: 0, open }
    }

    fn accept(&self, stream: Stream, protocol: StreamProtocol) {
        let Some(queue) = self.queues.get(&protocol) else {
            return;
        };
        let stream = NetStream::new(stream, self.peer, protocol, self.meter.clone(), None);
        match queue.try_send(stream) {
            Ok(()) => self.meter.metrics.streams_accepted.add(1),
            // Dropping the stream resets it, which its opener sees.
            Err(error) => {
                self.meter.metrics.streams_dropped.add(1);
                tracing::warn!(peer = %self.peer, %error, "reset an inbound stream");
            }
        }
    }

    fn failed(&self, open: Open, error: StreamUpgradeError<Infallible>) {
        let peer = self.peer;
        let stream = |source| NetError::Stream { peer, source };
        let error = match error {
            StreamUpgradeError::Timeout => stream(io::ErrorKind::TimedOut.into()),
            StreamUpgradeError::NegotiationFailed => {
                NetError::UnsupportedProtocol { peer, protocol: open.protocol }
            }
            StreamUpgradeError::Io(error) => stream(error),
            StreamUpgradeError::Apply(never) => match never {},
        };
        // Whoever asked may have gone.
        let _ = open.reply.send(Err(error));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Pending;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade(self.queues.keys().cloned().collect()), ())
            .with_timeout(NEGOTIATION_TIMEOUT)
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.waiting.len() >= MAX_WAITING_OPENS {
            let _ = open.reply.send(Err(NetError::TooMany("streams asked for")));
            return;
        }
        self.waiting.push_back(open);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, Pending, Infallible>> {
        self.waiting.retain(|open| !open.reply.is_closed());
        if self.waiting.is_empty() || self.negotiating >= MAX_NEGOTIATING_STREAMS {
            return Poll::Pending;
        }
        let Some(permit) = ready!(self.open.poll_acquire(cx)) else {
            return Poll::Pending;
        };
        let Some(open) = self.waiting.pop_front() else {
            return Poll::Pending;
        };
        self.negotiating += 1;
        let upgrade = Upgrade(vec![open.protocol.clone()]);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
            protocol: SubstreamProtocol::new(upgrade, Pending { open, permit })
                .with_timeout(NEGOTIATION_TIMEOUT),
        })
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Pending>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                info: (),
            }) => self.accept(stream, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, protocol),
                info: Pending { open, permit },
            }) => {
                self.negotiating -= 1;
                self.meter.metrics.streams_opened.add(1);
                let meter = self.meter.clone();
                let stream = NetStream::new(stream, self.peer, protocol, meter, Some(permit));
                let _ = open.reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                info: Pending { open, permit: _ },
                error,
            }) => {
                self.negotiating -= 1;
                self.failed(open, error);
            }
            _ => {}
        }
    }
}
