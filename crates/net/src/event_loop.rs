//! [`EventLoop`]: the task that owns the libp2p swarm.
//!
//! Other tasks send it commands through a bounded queue and get the reply through a
//! channel of their own. The loop does not wait, hash or use a disk, because every
//! stream of the node runs on its thread.

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
use crate::streams::OpenRequest;

/// Time limit for closing the connections when the node stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Event of a running node; see [`Handle::events`](crate::Handle::events).
#[derive(Clone, Debug)]
pub enum NetEvent {
    /// The first connection with a peer was established.
    Connected {
        /// Peer id.
        peer: PeerId,
        /// Address of the peer.
        address: Multiaddr,
    },
    /// The last connection with a peer was closed.
    Disconnected {
        /// Peer id.
        peer: PeerId,
    },
    /// A peer without the purpose [`Purposes::BLOCKS`] asked for blocks. Reported at
    /// most once a minute for each peer.
    Refused {
        /// Peer id.
        peer: PeerId,
    },
    /// A peer was found on the local network.
    Discovered {
        /// Peer id.
        peer: PeerId,
        /// One of its addresses.
        address: Multiaddr,
    },
    /// The node started to listen on an address.
    Listening {
        /// The address.
        address: Multiaddr,
    },
    /// The node stopped listening on an address.
    NotListening {
        /// The address.
        address: Multiaddr,
    },
}

/// Connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Peer id.
    pub peer: PeerId,
    /// Remote addresses of its connections.
    pub addresses: Vec<Multiaddr>,
    /// True if the peer opened one of the connections.
    pub inbound: bool,
    /// True if this node opened one of the connections.
    pub outbound: bool,
    /// Round-trip time of the last ping.
    pub rtt: Option<Duration>,
    /// Protocol version that the peer reports, for example `/archivist/1.0.0`.
    pub protocol: Option<String>,
    /// Program that the peer reports, for example `archivist/0.1.0`.
    pub agent: Option<String>,
    /// Start of the oldest connection.
    pub connected_since: SystemTime,
    /// Current purposes of the peer.
    pub purposes: Purposes,
}

/// Command of a [`Handle`](crate::Handle) to the event loop.
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
        open: OpenRequest,
    },
    Peers {
        reply: oneshot::Sender<Vec<PeerInfo>>,
    },
    KnownAddresses {
        peer: PeerId,
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    FindPeer {
        peer: PeerId,
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    #[cfg(test)]
    Panic,
}

/// Facts about a connected peer from identify and ping.
#[derive(Default)]
struct PeerFacts {
    rtt: Option<Duration>,
    protocol: Option<String>,
    agent: Option<String>,
}

/// Swarm of the node with the state that belongs to it.
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
    facts: HashMap<PeerId, PeerFacts>,
    queries: HashMap<QueryId, PeerSearch>,
}

/// Running search for the addresses of a peer in the DHT.
struct PeerSearch {
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

    /// Joins the DHT through `peers`.
    pub(crate) fn bootstrap(&mut self, peers: &[Multiaddr]) {
        for address in peers {
            let Some((peer, address)) = split_peer(address.clone()) else {
                tracing::warn!(
                    %address,
                    "ignored a bootstrap address: it does not end with /p2p/PEER"
                );
                continue;
            };
            self.state.book.add(peer, address.clone());
            self.swarm.behaviour_mut().kademlia.add_address(&peer, address);
        }
        if !peers.is_empty() && self.swarm.behaviour_mut().kademlia.bootstrap().is_err() {
            tracing::warn!("none of the bootstrap addresses can be used");
        }
    }

    /// Runs until the node is stopped or the last handle is dropped.
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
            // Fails if the peer has disconnected meanwhile.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::debug!("some connections were not closed in time");
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
                // Fails if the peer is not connected, which is the desired state.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Open { peer, open } => {
                if let Err(open) = self.swarm.behaviour_mut().streams.open(peer, open) {
                    self.dial(peer, Vec::new(), Waiter::Open(open));
                }
            }
            Command::Peers { reply } => drop(reply.send(self.peers())),
            Command::KnownAddresses { peer, reply } => {
                drop(reply.send(self.known_addresses(peer)));
            }
            Command::FindPeer { peer, reply } => self.find_peer(peer, reply),
            #[cfg(test)]
            Command::Panic => panic!("asked to"),
        }
    }

    fn dial(&mut self, peer: PeerId, first: Vec<Multiaddr>, waiter: Waiter) {
        let addresses: Vec<Multiaddr> =
            first.into_iter().chain(self.known_addresses(peer)).collect();
        let next = self.state.dials.start(peer, addresses, waiter);
        self.drive(next);
    }

    /// Starts a dial attempt. If an attempt fails immediately, starts the next one.
    fn drive(&mut self, mut next: Option<DialOpts>) {
        while let Some(options) = next {
            let attempt = options.connection_id();
            next = match self.swarm.dial(options) {
                Ok(()) => None,
                Err(error) => self.state.dials.failed(attempt, &error),
            };
        }
    }

    /// Returns the known addresses of a peer, best first.
    fn known_addresses(&mut self, peer: PeerId) -> Vec<Multiaddr> {
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
                let facts = self.state.facts.get(peer);
                PeerInfo {
                    peer: *peer,
                    addresses: infos().map(|info| info.address.clone()).collect(),
                    inbound: infos().any(|info| !info.outbound),
                    outbound: infos().any(|info| info.outbound),
                    rtt: facts.and_then(|facts| facts.rtt),
                    protocol: facts.and_then(|facts| facts.protocol.clone()),
                    agent: facts.and_then(|facts| facts.agent.clone()),
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

    fn find_peer(&mut self, peer: PeerId, reply: oneshot::Sender<Vec<Multiaddr>>) {
        self.state.queries.retain(|_, search| !search.reply.is_closed());
        if self.state.queries.len() >= MAX_QUERIES {
            // Dropping the reply reports to the caller that there was no search.
            return;
        }
        let id = self.swarm.behaviour_mut().kademlia.get_closest_peers(peer);
        self.state.queries.insert(id, PeerSearch { peer, reply, found: Vec::new() });
    }

    fn emit(&self, event: NetEvent) {
        // Fails if there is no subscriber.
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
                    self.emit(NetEvent::Connected { peer, address });
                }
                for waiter in self.state.dials.connected(connection_id, peer) {
                    match waiter {
                        Waiter::Connect(reply) => drop(reply.send(Ok(()))),
                        Waiter::Open(open) => {
                            // Cannot fail: the connection was just established.
                            let _ = self.swarm.behaviour_mut().streams.open(peer, open);
                        }
                    }
                }
            }
            SwarmEvent::ConnectionClosed { peer_id: peer, num_established: 0, cause, .. } => {
                tracing::debug!(%peer, ?cause, "disconnected");
                self.state.facts.remove(&peer);
                self.emit(NetEvent::Disconnected { peer });
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
                    // With an external address, Kademlia answers queries.
                    self.swarm.add_external_address(address.clone());
                }
                self.listening.send_modify(|all| all.push(address.clone()));
                self.emit(NetEvent::Listening { address });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.not_listening(&[address]),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "a listening socket was closed");
                self.not_listening(&addresses);
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listening socket reported an error");
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
            self.emit(NetEvent::NotListening { address: address.clone() });
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
                if let Some(facts) = self.facts_of(peer_id) {
                    facts.protocol = Some(info.protocol_version);
                    facts.agent = Some(info.agent_version);
                }
            }
            BehaviourEvent::Ping(event) => {
                if let Ok(rtt) = event.result
                    && let Some(facts) = self.facts_of(event.peer)
                {
                    facts.rtt = Some(rtt);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                let mut reported = HashSet::new();
                for (peer, address) in found {
                    let address = match split_peer(address.clone()) {
                        Some((_, plain)) => plain,
                        None => address,
                    };
                    self.state.book.add(peer, address.clone());
                    if reported.insert(peer) {
                        self.emit(NetEvent::Discovered { peer, address });
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
                if let Some(search) = self.state.queries.get_mut(&id) {
                    let wanted = search.peer;
                    let found = peers.into_iter().filter(|info| info.peer_id == wanted);
                    search.found.extend(found.flat_map(|info| info.addrs));
                }
                if step.last
                    && let Some(mut search) = self.state.queries.remove(&id)
                {
                    for address in self.known_addresses(search.peer) {
                        if !search.found.contains(&address) {
                            search.found.push(address);
                        }
                    }
                    let _ = search.reply.send(search.found);
                }
            }
            _ => {}
        }
    }

    /// Returns the entry for a peer, or `None` if it is not connected. The entry is
    /// removed with the last connection, so there are no more entries than
    /// connections.
    fn facts_of(&mut self, peer: PeerId) -> Option<&mut PeerFacts> {
        self.swarm.is_connected(&peer).then(|| self.state.facts.entry(peer).or_default())
    }
}
