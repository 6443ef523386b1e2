//! [`Behaviour`]: the part of the stream behaviour that knows all connections.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::mpsc;

use super::handler::{Handler, OpenRequest, Queues};
use super::stream::{Meter, NetStream};
use crate::access::Access;
use crate::limits::{INBOUND_QUEUE, MAX_EVICTED_STRANGERS, MAX_STRANGERS};

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
    /// Inbound connections of peers that were not on the access list when they connected, the
    /// oldest first.
    strangers: Vec<Stranger>,
    /// Connections of strangers that gave way to newer ones and are not closed yet.
    evicted: HashSet<ConnectionId>,
    events: VecDeque<ToSwarm<Infallible, OpenRequest>>,
}

/// Connection of a peer that was not on the access list.
#[derive(Clone, Copy, Debug)]
struct Stranger {
    connection: ConnectionId,
    peer: PeerId,
    /// The network that the peer is in.
    network: Option<[u8; 8]>,
}

impl Stranger {
    fn new(connection: ConnectionId, peer: PeerId, remote: &Multiaddr) -> Self {
        // The owner of an IPv6 address usually has the 2^64 addresses beside it, too.
        let network = remote.iter().find_map(|part| match part {
            Protocol::Ip4(ip) => Some(ip.to_ipv6_mapped()),
            Protocol::Ip6(ip) => Some(ip),
            _ => None,
        });
        let network = network.map(|ip| {
            let octets = ip.octets();
            let part = if ip.to_ipv4_mapped().is_some() { &octets[8..] } else { &octets[..8] };
            let mut network = [0; 8];
            network.copy_from_slice(part);
            network
        });
        Self { connection, peer, network }
    }
}

/// Error: the limit for connections of strangers is reached.
#[derive(Debug, thiserror::Error)]
#[error("too many peers that are not on the access list connect at the same time")]
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
            strangers: Vec::new(),
            evicted: HashSet::new(),
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

    /// Admits a stranger. If there are too many, the oldest one from the network with the most of
    /// them gives way: a new backup server that has a pairing code is a stranger, too.
    fn admit(&mut self, stranger: Stranger) -> Result<(), ConnectionDenied> {
        // A peer may have been added to the access list since it connected.
        let access = &self.access;
        self.strangers.retain(|stranger| access.get(&stranger.peer).is_none());
        if self.strangers.len() >= MAX_STRANGERS {
            if self.evicted.len() >= MAX_EVICTED_STRANGERS {
                return Err(ConnectionDenied::new(TooManyStrangers));
            }
            let mut crowds: HashMap<Option<[u8; 8]>, usize> = HashMap::new();
            for stranger in &self.strangers {
                *crowds.entry(stranger.network).or_default() += 1;
            }
            let most = crowds.values().copied().max();
            let is_first = |stranger: &Stranger| crowds.get(&stranger.network).copied() == most;
            if let Some(at) = self.strangers.iter().position(is_first) {
                let old = self.strangers.remove(at);
                self.evicted.insert(old.connection);
                self.events.push_back(ToSwarm::CloseConnection {
                    peer_id: old.peer,
                    connection: CloseConnection::One(old.connection),
                });
            }
        }
        self.strangers.push(stranger);
        Ok(())
    }

    fn forget_stranger(&mut self, connection: ConnectionId) {
        self.evicted.remove(&connection);
        self.strangers.retain(|stranger| stranger.connection != connection);
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
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.access.get(&peer).is_none() {
            self.admit(Stranger::new(connection, peer, remote))?;
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
                self.forget_stranger(connection_id);
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|(id, _)| *id != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
            }
            // Another behaviour denied a connection that this one had accepted.
            FromSwarm::ListenFailure(failure) => {
                self.forget_stranger(failure.connection_id);
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

    /// Lets a peer connect from an address, and returns the connection that gives way.
    fn enter(
        behaviour: &mut Behaviour,
        id: usize,
        peer: PeerId,
        from: &str,
    ) -> Result<Option<ConnectionId>, ConnectionDenied> {
        let id = ConnectionId::new_unchecked(id);
        let (here, there) = (Multiaddr::empty(), from.parse().unwrap());
        behaviour.handle_established_inbound_connection(id, peer, &here, &there)?;
        Ok(behaviour.events.pop_front().map(|event| match event {
            ToSwarm::CloseConnection { connection: CloseConnection::One(id), .. } => id,
            event => panic!("{event:?}"),
        }))
    }

    #[test]
    fn strangers_leave_room_for_the_peers_on_the_list() {
        let access = Access::new();
        let (mut behaviour, _) = Behaviour::new([TEST], Meter::default(), access.clone());
        let id = ConnectionId::new_unchecked;
        let from = "/ip4/192.0.2.1/tcp/1";
        let strangers: Vec<PeerId> = (0..MAX_STRANGERS).map(|_| PeerId::random()).collect();
        for (id, stranger) in strangers.iter().enumerate() {
            assert_eq!(enter(&mut behaviour, id, *stranger, from).unwrap(), None);
        }
        let friend = PeerId::random();
        access.set(friend, Purposes::BLOCKS);
        assert_eq!(enter(&mut behaviour, 1000, friend, from).unwrap(), None);
        // A peer that is added to the list is no longer a stranger.
        access.set(strangers[0], Purposes::RESTORE);
        assert_eq!(enter(&mut behaviour, 1001, PeerId::random(), from).unwrap(), None);
        // The oldest one gives way.
        let newest = enter(&mut behaviour, 1002, PeerId::random(), from).unwrap();
        assert_eq!(newest, Some(id(1)));
        closed(&mut behaviour, strangers[2], 2);
        assert_eq!(enter(&mut behaviour, 1003, PeerId::random(), from).unwrap(), None);
    }

    #[test]
    fn a_crowd_from_one_network_gives_way_before_a_single_stranger() {
        let (mut behaviour, _) = Behaviour::new([TEST], Meter::default(), Access::new());
        let single = PeerId::random();
        enter(&mut behaviour, 0, single, "/ip4/192.0.2.1/tcp/1").unwrap();
        for at in 1..2 * MAX_STRANGERS {
            let from = format!("/ip6/2001:db8::{at:x}/udp/1/quic-v1");
            let gone = enter(&mut behaviour, at, PeerId::random(), &from).unwrap();
            let expected = (at >= MAX_STRANGERS).then(|| at + 1 - MAX_STRANGERS);
            assert_eq!(gone, expected.map(ConnectionId::new_unchecked));
            // The swarm closes it.
            if let Some(gone) = expected {
                closed(&mut behaviour, PeerId::random(), gone);
            }
        }
        assert!(behaviour.strangers.iter().any(|stranger| stranger.peer == single));
    }

    #[test]
    fn connections_that_close_slowly_are_not_too_many() {
        let (mut behaviour, _) = Behaviour::new([TEST], Meter::default(), Access::new());
        let from = "/ip4/192.0.2.1/tcp/1";
        for id in 0..MAX_STRANGERS + MAX_EVICTED_STRANGERS {
            enter(&mut behaviour, id, PeerId::random(), from).unwrap();
        }
        assert!(enter(&mut behaviour, 1000, PeerId::random(), from).is_err());
        closed(&mut behaviour, PeerId::random(), 0);
        assert!(enter(&mut behaviour, 1001, PeerId::random(), from).is_ok());
    }
}
