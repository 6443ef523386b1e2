//! [`Handler`]: the part of the behaviour that belongs to one connection.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::{Ready, ready as ready_future};
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

/// Queues for the inbound streams of each protocol.
pub(super) type Queues = Arc<HashMap<StreamProtocol, mpsc::Sender<NetStream>>>;

/// Request for an outbound stream.
pub(crate) struct OpenRequest {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: oneshot::Sender<Result<NetStream, NetError>>,
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenRequest").field(&self.protocol).finish()
    }
}

/// Upgrade that negotiates one of several protocols and returns the plain stream.
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
        ready_future(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready_future(Ok((stream, protocol)))
    }
}

/// Outbound stream in negotiation.
pub(crate) struct PendingOpen {
    open: OpenRequest,
    permit: OwnedSemaphorePermit,
}

/// Opens and accepts the streams of one connection.
pub(crate) struct Handler {
    peer: PeerId,
    queues: Queues,
    meter: Meter,
    waiting: VecDeque<OpenRequest>,
    negotiating: usize,
    /// Limits the outbound streams that are open at the same time.
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
            // Dropping the stream resets it, so the opener gets an error.
            Err(error) => {
                self.meter.metrics.streams_dropped.add(1);
                tracing::warn!(
                    peer = %self.peer, %error,
                    "reset an inbound stream: its queue is full or closed"
                );
            }
        }
    }

    fn failed(&self, open: OpenRequest, error: StreamUpgradeError<Infallible>) {
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
        // The caller may have stopped waiting.
        let _ = open.reply.send(Err(error));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = PendingOpen;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade(self.queues.keys().cloned().collect()), ())
            .with_timeout(NEGOTIATION_TIMEOUT)
    }

    fn on_behaviour_event(&mut self, open: OpenRequest) {
        if self.waiting.len() >= MAX_WAITING_OPENS {
            let _ = open.reply.send(Err(NetError::TooMany("requests for a stream")));
            return;
        }
        self.waiting.push_back(open);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, PendingOpen, Infallible>> {
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
            protocol: SubstreamProtocol::new(upgrade, PendingOpen { open, permit })
                .with_timeout(NEGOTIATION_TIMEOUT),
        })
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Upgrade, Upgrade, (), PendingOpen>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                info: (),
            }) => self.accept(stream, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, protocol),
                info: PendingOpen { open, permit },
            }) => {
                self.negotiating -= 1;
                self.meter.metrics.streams_opened.add(1);
                let meter = self.meter.clone();
                let stream = NetStream::new(stream, self.peer, protocol, meter, Some(permit));
                let _ = open.reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                info: PendingOpen { open, permit: _ },
                error,
            }) => {
                self.negotiating -= 1;
                self.failed(open, error);
            }
            _ => {}
        }
    }
}
