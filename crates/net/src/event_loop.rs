//! The one task that owns the swarm.
//!
//! Everybody else sends commands through a bounded queue and is answered
//! through a channel of their own. Nothing here waits, hashes or touches a
//! disk, since every stream of the node runs on this thread.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use libp2p::kad::{self, QueryId, QueryResult};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, mdns};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Purposes};
use crate::addresses::{AddressBook, is_public, split_peer};
use crate::behaviour::{Behaviour, BehaviourEvent, KADEMLIA};
use crate::dials::{Dials, Waiter};
use crate::error::NetError;
use crate::limits::{MAX_ADDRESSES_PER_PEER, MAX_QUERIES};
use crate::metrics::Metrics;
use crate::streams::Open;

/// How long connections may take to close in an orderly way at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What happened, for whoever wants to know.
#[derive(Clone, Debug)]
pub enum NetEvent {
    /// The first connection with a peer is up.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Its address.
        address: Multiaddr,
    },
    /// The last connection with a peer is gone.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer that is not on the list asked for blocks; told once a minute
    /// for each peer.
    Refused {
        /// The peer.
        peer: PeerId,
    },
    /// A peer was found on the local network.
    Discovered {
        /// The peer.
        peer: PeerId,
        /// One of its addresses.
        address: Multiaddr,
    },
    /// The node listens on one more address.
    Listening {
        /// The address.
        address: Multiaddr,
    },
    /// The node does not listen on an address any more.
    NotListening {
        /// The address.
        address: Multiaddr,
    },
}

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Who it is.
    pub peer: PeerId,
    /// The addresses of its connections.
    pub addresses: Vec<Multiaddr>,
    /// Whether it opened one of them.
    pub inbound: bool,
    /// Whether we opened one of them.
    pub outbound: bool,
    /// The time that the last ping took.
    pub rtt: Option<Duration>,
    /// The protocol that it told us, such as `/archivist/1.0.0`.
    pub protocol: Option<String>,
    /// The program that it told us, such as `archivist/0.1.0`.
    pub agent: Option<String>,
    /// When the oldest of its connections came up.
    pub connected_since: SystemTime,
    /// What it may do.
    pub purposes: Purposes,
}

/// What the owner of the node can ask of the event loop.
pub(crate) enum Command {
    Connect {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), NetError>>,
    },
    Disconnect {
        peer: PeerId,
    },
    Open {
        peer: PeerId,
        open: Open,
    },
    Peers {
        reply: oneshot::Sender<Vec<PeerInfo>>,
    },
    Known {
        peer: PeerId,
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    Find {
        peer: PeerId,
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    #[cfg(test)]
    Panic,
}

/// What a peer told about itself.
#[derive(Default)]
struct Told {
    rtt: Option<Duration>,
    protocol: Option<String>,
    agent: Option<String>,
}

/// The state of the node.
pub(crate) struct EventLoop {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: broadcast::Sender<NetEvent>,
    pub(crate) listening: Arc<watch::Sender<Vec<Multiaddr>>>,
    pub(crate) access: Access,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
    state: State,
}

#[derive(Default)]
struct State {
    book: AddressBook,
    dials: Dials,
    told: HashMap<PeerId, Told>,
    queries: HashMap<QueryId, Query>,
}

struct Query {
    peer: PeerId,
    reply: oneshot::Sender<Vec<Multiaddr>>,
    found: Vec<Multiaddr>,
}

impl EventLoop {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        commands: mpsc::Receiver<Command>,
        events: broadcast::Sender<NetEvent>,
        listening: Arc<watch::Sender<Vec<Multiaddr>>>,
        access: Access,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let state = State::default();
        Self { swarm, commands, events, listening, access, metrics, stop, state }
    }

    /// Enters the DHT through `peers`.
    pub(crate) fn bootstrap(&mut self, peers: &[Multiaddr]) {
        for address in peers {
            let Some((peer, address)) = split_peer(address.clone()) else {
                tracing::warn!(%address, "a bootstrap address does not end in /p2p/…; ignored");
                continue;
            };
            self.state.book.add(peer, address.clone());
            self.swarm.behaviour_mut().kademlia.add_address(&peer, address);
        }
        if !peers.is_empty() && self.swarm.behaviour_mut().kademlia.bootstrap().is_err() {
            tracing::warn!("there is no usable bootstrap address");
        }
    }

    /// Runs until it is told to stop or nobody holds a handle any more.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
        self.close().await;
    }

    async fn close(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // It may have gone meanwhile.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::debug!("some connections did not close in time");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { peer, addresses, reply } => {
                for address in addresses.iter().rev() {
                    self.state.book.add(peer, address.clone());
                }
                if self.swarm.is_connected(&peer) {
                    let _ = reply.send(Ok(()));
                } else {
                    self.dial(peer, addresses, Waiter::Connect(reply));
                }
            }
            Command::Disconnect { peer } => {
                // Not connected is what was wanted.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Open { peer, open } => {
                if let Err(open) = self.swarm.behaviour_mut().streams.open(peer, open) {
                    self.dial(peer, Vec::new(), Waiter::Open(open));
                }
            }
            Command::Peers { reply } => drop(reply.send(self.peers())),
            Command::Known { peer, reply } => drop(reply.send(self.known(peer))),
            Command::Find { peer, reply } => self.find(peer, reply),
            #[cfg(test)]
            Command::Panic => panic!("asked to"),
        }
    }

    fn dial(&mut self, peer: PeerId, first: Vec<Multiaddr>, waiter: Waiter) {
        let addresses: Vec<Multiaddr> = first.into_iter().chain(self.known(peer)).collect();
        let next = self.state.dials.start(peer, addresses, waiter);
        self.drive(next);
    }

    /// Dials; an attempt that fails before it begins leads to the next.
    fn drive(&mut self, mut next: Option<DialOpts>) {
        while let Some(options) = next {
            let attempt = options.connection_id();
            next = match self.swarm.dial(options) {
                Ok(()) => None,
                Err(error) => self.state.dials.failed(attempt, &error),
            };
        }
    }

    /// All addresses of a peer that we know, best first.
    fn known(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let mut known: Vec<Multiaddr> = self.state.book.get(&peer).cloned().collect();
        if let Some(bucket) = self.swarm.behaviour_mut().kademlia.kbucket(peer) {
            let entries = bucket.iter().filter(|entry| *entry.node.key.preimage() == peer);
            for address in entries.flat_map(|entry| entry.node.value.iter()) {
                let plain = match split_peer(address.clone()) {
                    Some((_, plain)) => plain,
                    None => address.clone(),
                };
                if !known.contains(&plain) {
                    known.push(plain);
                }
            }
        }
        known.truncate(2 * MAX_ADDRESSES_PER_PEER);
        known
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let connections = self.swarm.behaviour().streams.connections();
        let mut peers: Vec<PeerInfo> = connections
            .iter()
            .map(|(peer, connections)| {
                let infos = || connections.iter().map(|(_, info)| info);
                let told = self.state.told.get(peer);
                PeerInfo {
                    peer: *peer,
                    addresses: infos().map(|info| info.address.clone()).collect(),
                    inbound: infos().any(|info| !info.outbound),
                    outbound: infos().any(|info| info.outbound),
                    rtt: told.and_then(|told| told.rtt),
                    protocol: told.and_then(|told| told.protocol.clone()),
                    agent: told.and_then(|told| told.agent.clone()),
                    connected_since: infos()
                        .map(|info| info.since)
                        .min()
                        .unwrap_or_else(SystemTime::now),
                    purposes: self.access.get(peer),
                }
            })
            .collect();
        peers.sort_by_key(|info| (info.connected_since, info.peer));
        peers
    }

    fn find(&mut self, peer: PeerId, reply: oneshot::Sender<Vec<Multiaddr>>) {
        self.state.queries.retain(|_, query| !query.reply.is_closed());
        if self.state.queries.len() >= MAX_QUERIES {
            // Dropping the reply tells that nothing was looked up.
            return;
        }
        let id = self.swarm.behaviour_mut().kademlia.get_closest_peers(peer);
        self.state.queries.insert(id, Query { peer, reply, found: Vec::new() });
    }

    fn tell(&self, event: NetEvent) {
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    pub(crate) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id: peer,
                connection_id,
                endpoint,
                num_established,
                ..
            } => {
                let address = endpoint.get_remote_address().clone();
                tracing::debug!(%peer, %address, "connected");
                if num_established.get() == 1 {
                    self.tell(NetEvent::Connected { peer, address });
                }
                for waiter in self.state.dials.connected(connection_id, peer) {
                    match waiter {
                        Waiter::Connect(reply) => drop(reply.send(Ok(()))),
                        Waiter::Open(open) => {
                            // The connection is up, so there is one.
                            let _ = self.swarm.behaviour_mut().streams.open(peer, open);
                        }
                    }
                }
            }
            SwarmEvent::ConnectionClosed { peer_id: peer, num_established: 0, cause, .. } => {
                tracing::debug!(%peer, ?cause, "disconnected");
                self.state.told.remove(&peer);
                self.tell(NetEvent::Disconnected { peer });
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                let next = self.state.dials.failed(connection_id, &error);
                self.drive(next);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "an inbound connection failed");
                if matches!(error, ListenError::Denied { .. }) {
                    self.metrics.connections_denied.add(1);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                if is_public(&address) {
                    // Which makes Kademlia answer questions.
                    self.swarm.add_external_address(address.clone());
                }
                self.listening.send_modify(|all| all.push(address.clone()));
                self.tell(NetEvent::Listening { address });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.not_listening(&[address]),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "a listening socket was closed");
                self.not_listening(&addresses);
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listening socket had an error");
            }
            _ => {}
        }
    }

    fn not_listening(&mut self, gone: &[Multiaddr]) {
        self.listening.send_modify(|all| all.retain(|address| !gone.contains(address)));
        for address in gone {
            if is_public(address) {
                self.swarm.remove_external_address(address);
            }
            self.tell(NetEvent::NotListening { address: address.clone() });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let speaks_kademlia = info.protocols.contains(&KADEMLIA);
                for address in info.listen_addrs.iter().take(MAX_ADDRESSES_PER_PEER) {
                    self.state.book.add(peer_id, address.clone());
                    if speaks_kademlia {
                        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
                        kademlia.add_address(&peer_id, address.clone());
                    }
                }
                if let Some(told) = self.told(peer_id) {
                    told.protocol = Some(info.protocol_version);
                    told.agent = Some(info.agent_version);
                }
            }
            BehaviourEvent::Ping(event) => {
                if let Ok(rtt) = event.result
                    && let Some(told) = self.told(event.peer)
                {
                    told.rtt = Some(rtt);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                let mut told = HashSet::new();
                for (peer, address) in found {
                    let address = match split_peer(address.clone()) {
                        Some((_, plain)) => plain,
                        None => address,
                    };
                    self.state.book.add(peer, address.clone());
                    if told.insert(peer) {
                        self.tell(NetEvent::Discovered { peer, address });
                    }
                }
            }
            BehaviourEvent::Kademlia(kad::Event::OutboundQueryProgressed {
                id,
                result: QueryResult::GetClosestPeers(result),
                step,
                ..
            }) => {
                let peers = match result {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                if let Some(query) = self.state.queries.get_mut(&id) {
                    let wanted = query.peer;
                    let found = peers.into_iter().filter(|info| info.peer_id == wanted);
                    query.found.extend(found.flat_map(|info| info.addrs));
                }
                if step.last
                    && let Some(mut query) = self.state.queries.remove(&id)
                {
                    for address in self.known(query.peer) {
                        if !query.found.contains(&address) {
                            query.found.push(address);
                        }
                    }
                    let _ = query.reply.send(query.found);
                }
            }
            _ => {}
        }
    }

    // The entry goes when the peer's last connection does, so there are no
    // more of them than connections; what comes later is not taken.
    fn told(&mut self, peer: PeerId) -> Option<&mut Told> {
        self.swarm.is_connected(&peer).then(|| self.state.told.entry(peer).or_default())
    }
}
