//! [`Behaviour`]: the part of the stream behaviour that knows all connections.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::mpsc;

use super::handler::{Handler, OpenRequest, Queues};
use super::stream::{Meter, NetStream};
use crate::access::Access;
use crate::limits::{INBOUND_QUEUE, MAX_STRANGERS};

/// Open connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    /// Address of the peer.
    pub(crate) address: Multiaddr,
    /// True if this node opened the connection.
    pub(crate) outbound: bool,
    /// Time at which the connection was established.
    pub(crate) since: SystemTime,
}

impl ConnectionInfo {
    fn is_tcp(&self) -> bool {
        self.address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
    }
}

/// Opens and accepts streams, and limits the connections of strangers.
pub(crate) struct Behaviour {
    queues: Queues,
    meter: Meter,
    access: Access,
    connections: HashMap<PeerId, Vec<(ConnectionId, ConnectionInfo)>>,
    /// Inbound connections of peers that were not on the access list when they
    /// connected.
    strangers: HashMap<ConnectionId, PeerId>,
    events: VecDeque<ToSwarm<Infallible, OpenRequest>>,
}

/// Error: the limit for connections of strangers is reached.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_STRANGERS} peers that are not on the access list are already connected")]
struct TooManyStrangers;

impl Behaviour {
    /// Creates a behaviour for `protocols`. Returns the queues of inbound streams
    /// with it.
    pub(crate) fn new(
        protocols: impl IntoIterator<Item = StreamProtocol>,
        meter: Meter,
        access: Access,
    ) -> (Self, HashMap<StreamProtocol, mpsc::Receiver<NetStream>>) {
        let mut senders = HashMap::new();
        let mut receivers = HashMap::new();
        for protocol in protocols {
            let (sender, receiver) = mpsc::channel(INBOUND_QUEUE);
            senders.insert(protocol.clone(), sender);
            receivers.insert(protocol, receiver);
        }
        let behaviour = Self {
            queues: Arc::new(senders),
            meter,
            access,
            connections: HashMap::new(),
            strangers: HashMap::new(),
            events: VecDeque::new(),
        };
        (behaviour, receivers)
    }

    /// Returns the open connections by peer, the oldest first.
    pub(crate) fn connections(&self) -> &HashMap<PeerId, Vec<(ConnectionId, ConnectionInfo)>> {
        &self.connections
    }

    /// Opens a stream on the best connection with the peer. Returns the request if
    /// there is no connection.
    pub(crate) fn open(&mut self, peer: PeerId, open: OpenRequest) -> Result<(), OpenRequest> {
        let Some(connections) = self.connections.get(&peer) else {
            return Err(open);
        };
        // TCP needs a third of the CPU time of QUIC per byte. Both sides most likely
        // choose the same connection if they choose the oldest.
        let best = connections.iter().find(|(_, info)| info.is_tcp()).or(connections.first());
        let Some((connection, _)) = best else {
            return Err(open);
        };
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(*connection),
            event: open,
        });
        Ok(())
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler::new(peer, Arc::clone(&self.queues), self.meter.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.access.get(&peer).is_none() {
            // A peer may have been added to the access list since it connected.
            let access = &self.access;
            self.strangers.retain(|_, peer| access.get(peer).is_none());
            if self.strangers.len() >= MAX_STRANGERS {
                return Err(ConnectionDenied::new(TooManyStrangers));
            }
            self.strangers.insert(connection, peer);
        }
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let (address, outbound) = match established.endpoint {
                    ConnectedPoint::Dialer { address, .. } => (address, true),
                    ConnectedPoint::Listener { send_back_addr, .. } => (send_back_addr, false),
                };
                let info =
                    ConnectionInfo { address: address.clone(), outbound, since: SystemTime::now() };
                let connections = self.connections.entry(established.peer_id).or_default();
                connections.push((established.connection_id, info));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.strangers.remove(&connection_id);
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|(id, _)| *id != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
            }
            // Another behaviour denied a connection that this one had accepted.
            FromSwarm::ListenFailure(failure) => {
                self.strangers.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::ConnectionId;
    use libp2p::swarm::behaviour::ConnectionEstablished;
    use tokio::sync::oneshot;

    use super::*;
    use crate::access::Purposes;

    const TEST: StreamProtocol = StreamProtocol::new("/test/1.0.0");

    fn established(behaviour: &mut Behaviour, peer: PeerId, id: usize, address: &str) {
        let endpoint = ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        behaviour.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id: ConnectionId::new_unchecked(id),
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    fn closed(behaviour: &mut Behaviour, peer: PeerId, id: usize) {
        let endpoint = ConnectedPoint::Listener {
            local_addr: Multiaddr::empty(),
            send_back_addr: Multiaddr::empty(),
        };
        behaviour.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: peer,
            connection_id: ConnectionId::new_unchecked(id),
            endpoint: &endpoint,
            cause: None,
            remaining_established: 0,
        }));
    }

    /// Returns the connection on which the next stream is opened.
    fn chosen(behaviour: &mut Behaviour, peer: PeerId) -> Option<ConnectionId> {
        let (reply, _) = oneshot::channel();
        behaviour.open(peer, OpenRequest { protocol: TEST, reply }).ok()?;
        match behaviour.events.pop_front() {
            Some(ToSwarm::NotifyHandler { handler: NotifyHandler::One(id), .. }) => Some(id),
            _ => None,
        }
    }

    #[test]
    fn tcp_is_chosen_before_quic_and_the_oldest_before_others() {
        let (mut behaviour, _) = Behaviour::new([TEST], Meter::default(), Access::new());
        let peer = PeerId::random();
        let id = ConnectionId::new_unchecked;
        assert_eq!(chosen(&mut behaviour, peer), None);
        established(&mut behaviour, peer, 1, "/ip4/192.0.2.1/udp/1/quic-v1");
        assert_eq!(chosen(&mut behaviour, peer), Some(id(1)));
        established(&mut behaviour, peer, 2, "/ip4/192.0.2.1/tcp/1");
        established(&mut behaviour, peer, 3, "/ip4/192.0.2.1/tcp/1");
        assert_eq!(chosen(&mut behaviour, peer), Some(id(2)));
        closed(&mut behaviour, peer, 2);
        assert_eq!(chosen(&mut behaviour, peer), Some(id(3)));
        closed(&mut behaviour, peer, 3);
        closed(&mut behaviour, peer, 1);
        assert_eq!(chosen(&mut behaviour, peer), None);
        assert!(behaviour.connections().is_empty());
    }

    #[test]
    fn strangers_leave_room_for_the_peers_on_the_list() {
        let access = Access::new();
        let (mut behaviour, _) = Behaviour::new([TEST], Meter::default(), access.clone());
        let nowhere = Multiaddr::empty();
        let mut enter = |id: usize, peer| {
            let id = ConnectionId::new_unchecked(id);
            behaviour.handle_established_inbound_connection(id, peer, &nowhere, &nowhere).map(drop)
        };
        let strangers: Vec<PeerId> = (0..MAX_STRANGERS).map(|_| PeerId::random()).collect();
        for (id, stranger) in strangers.iter().enumerate() {
            enter(id, *stranger).unwrap();
        }
        let (late, friend) = (PeerId::random(), PeerId::random());
        assert!(enter(1000, late).is_err());
        access.set(friend, Purposes::BLOCKS);
        enter(1001, friend).unwrap();
        // A peer that is added to the list is no longer a stranger.
        access.set(strangers[0], Purposes::RESTORE);
        enter(1002, late).unwrap();
        assert!(enter(1003, PeerId::random()).is_err());
        closed(&mut behaviour, strangers[1], 1);
        let id = ConnectionId::new_unchecked(1004);
        let entered = behaviour.handle_established_inbound_connection(
            id,
            PeerId::random(),
            &nowhere,
            &nowhere,
        );
        assert!(entered.is_ok());
    }
}
