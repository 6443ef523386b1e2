//! [`SimNet`]: the nodes, the connections between them and the state of each direction.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use libp2p::{PeerId, StreamProtocol};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::event_loop::NetEvent;
use crate::streams::NetStream;

/// Time after which both ends of a silent connection regard it as broken: about two pings.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Delay of a piece that had to be sent again.
const RETRANSMISSION: Duration = Duration::from_millis(700);

/// Quality of one direction between two nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// Maximum time on the way.
    pub delay_max: Duration,
    /// Probability that a piece has to be sent again, which delays it and all later ones.
    pub loss: f64,
    /// True if nothing arrives. What was sent arrives later, if the connection survives.
    pub is_cut: bool,
}

impl Default for Route {
    fn default() -> Self {
        Self { delay_max: Duration::from_millis(20), loss: 0.0, is_cut: false }
    }
}

/// A simulated network. Clones share it.
#[derive(Clone)]
pub struct SimNet {
    world: Arc<Mutex<World>>,
    /// Notified when a route opens or a node joins or leaves.
    changed: Arc<Notify>,
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet").finish_non_exhaustive()
    }
}

/// The state behind a [`SimNet`].
pub(super) struct World {
    rng: StdRng,
    nodes: BTreeMap<PeerId, NodeEntry>,
    routes: BTreeMap<(PeerId, PeerId), Route>,
    connections: BTreeMap<u64, Connection>,
    pub(super) streams: BTreeMap<u64, StreamPair>,
    next_id: u64,
}

/// A node that has joined.
pub(super) struct NodeEntry {
    /// Distinguishes the lives of a node that joined several times.
    life: u64,
    pub(super) inbound: HashMap<StreamProtocol, mpsc::Sender<NetStream>>,
    pub(super) events: broadcast::Sender<NetEvent>,
}

/// A connection between two lives of nodes.
struct Connection {
    ends: [(PeerId, u64); 2],
    /// Time at which each end notices that the connection is broken.
    breaks_at: [Option<Instant>; 2],
    /// Time at which both notice it, if a cut lasts.
    silent_until: Option<Instant>,
}

impl Connection {
    fn breaks_at(&self, end: usize) -> Option<Instant> {
        match (self.breaks_at[end], self.silent_until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The two directions of a stream.
pub(super) struct StreamPair {
    connection: u64,
    pub(super) peers: [PeerId; 2],
    /// The bytes that the end with this number has sent.
    pub(super) sent: [Flow; 2],
}

/// One direction of a stream.
#[derive(Default)]
pub(super) struct Flow {
    pub(super) pieces: VecDeque<(Instant, Bytes)>,
    pub(super) len: usize,
    /// Arrival of the end of the stream.
    pub(super) ends_at: Option<Instant>,
    /// Arrival of the reset, if the sender dropped the stream without closing it.
    pub(super) reset_at: Option<Instant>,
    last_arrival: Option<Instant>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Flow {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl World {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn route(&self, from: PeerId, to: PeerId) -> Route {
        self.routes.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Returns the arrival of something that is sent now.
    fn arrival(&mut self, from: PeerId, to: PeerId) -> Instant {
        let route = self.route(from, to);
        let fraction: f64 = self.rng.random_range(0.0..=1.0);
        let again = if self.rng.random_bool(route.loss) { RETRANSMISSION } else { Duration::ZERO };
        Instant::now() + route.delay_max.mul_f64(fraction) + again
    }

    /// Returns the arrival of the next piece of a stream, which is after all earlier ones.
    pub(super) fn next_arrival(&mut self, stream: u64, from: usize) -> Instant {
        let Some(pair) = self.streams.get(&stream) else { return Instant::now() };
        let (sender, receiver) = (pair.peers[from], pair.peers[1 - from]);
        let arrival = self.arrival(sender, receiver);
        let Some(pair) = self.streams.get_mut(&stream) else { return arrival };
        let last = &mut pair.sent[from].last_arrival;
        let arrival = last.map_or(arrival, |last| last.max(arrival));
        *last = Some(arrival);
        arrival
    }

    /// Returns the time at which an end notices that its stream is broken, if it does.
    pub(super) fn breaks_at(&self, stream: u64, end: usize) -> Option<Instant> {
        let pair = self.streams.get(&stream)?;
        self.connections.get(&pair.connection)?.breaks_at(end)
    }

    pub(super) fn node(&self, peer: PeerId) -> Option<&NodeEntry> {
        self.nodes.get(&peer)
    }

    fn life(&self, peer: PeerId) -> Option<u64> {
        self.nodes.get(&peer).map(|node| node.life)
    }

    /// Returns the connection of two nodes that both regard as intact.
    fn connection(&self, a: PeerId, b: PeerId) -> Option<u64> {
        let (a, b) = ((a, self.life(a)?), (b, self.life(b)?));
        let now = Instant::now();
        let found = self.connections.iter().find(|(_, connection)| {
            (connection.ends == [a, b] || connection.ends == [b, a])
                && (0..2).all(|end| connection.breaks_at(end).is_none_or(|at| at > now))
        });
        found.map(|(id, _)| *id)
    }

    fn wake_connection(&mut self, id: u64) {
        for pair in self.streams.values_mut().filter(|pair| pair.connection == id) {
            pair.sent.iter_mut().for_each(Flow::wake);
        }
    }

    /// Applies a change to all connections between two nodes, and wakes their streams.
    fn change_connections(&mut self, a: PeerId, b: PeerId, change: impl Fn(&mut Connection)) {
        let is_between = |connection: &Connection| {
            let ends = connection.ends.map(|(peer, _)| peer);
            ends == [a, b] || ends == [b, a]
        };
        let found: Vec<u64> = self
            .connections
            .iter_mut()
            .filter(|(_, connection)| is_between(connection))
            .map(|(id, connection)| {
                change(connection);
                *id
            })
            .collect();
        found.into_iter().for_each(|id| self.wake_connection(id));
    }
}

impl SimNet {
    /// Creates a network without nodes. All its delays follow from the seed.
    pub fn new(seed: u64) -> Self {
        let world = World {
            rng: StdRng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            routes: BTreeMap::new(),
            connections: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_id: 0,
        };
        Self { world: Arc::new(Mutex::new(world)), changed: Arc::default() }
    }

    /// Runs `work` with the state locked.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.world.lock())
    }

    pub(super) fn add(
        &self,
        peer: PeerId,
        inbound: HashMap<StreamProtocol, mpsc::Sender<NetStream>>,
        events: broadcast::Sender<NetEvent>,
    ) -> u64 {
        let life = self.with(|world| {
            let life = world.id();
            world.nodes.insert(peer, NodeEntry { life, inbound, events });
            life
        });
        self.changed.notify_waiters();
        life
    }

    /// Removes a node. Its own streams break immediately. Its peers notice it soon if the
    /// computer still runs (`is_silent` is false), and late if the computer has lost power.
    pub(super) fn remove(&self, peer: PeerId, life: u64, is_silent: bool) {
        self.with(|world| {
            if world.life(peer) == Some(life) {
                world.nodes.remove(&peer);
            }
            let now = Instant::now();
            let wait = if is_silent { SILENCE_MAX } else { Duration::from_millis(50) };
            let mut broken = Vec::new();
            for (id, connection) in &mut world.connections {
                let Some(own) = connection.ends.iter().position(|end| *end == (peer, life)) else {
                    continue;
                };
                connection.breaks_at[own] = Some(now);
                connection.breaks_at[1 - own].get_or_insert(now + wait);
                broken.push(*id);
            }
            broken.into_iter().for_each(|id| world.wake_connection(id));
        });
        self.changed.notify_waiters();
    }

    /// Changes the quality of the direction from one node to another.
    pub fn set_route(&self, from: PeerId, to: PeerId, route: Route) {
        self.with(|world| {
            world.routes.insert((from, to), route);
            let is_any_cut = world.route(from, to).is_cut || world.route(to, from).is_cut;
            let now = Instant::now();
            world.change_connections(from, to, |connection| match connection.silent_until {
                None if is_any_cut => connection.silent_until = Some(now + SILENCE_MAX),
                Some(at) if !is_any_cut && at > now => connection.silent_until = None,
                _ => {}
            });
        });
        self.changed.notify_waiters();
    }

    /// Breaks all connections between two nodes. Both notice it immediately.
    pub fn reset(&self, a: PeerId, b: PeerId) {
        self.with(|world| {
            let now = Instant::now();
            world.change_connections(a, b, |connection| connection.breaks_at = [Some(now); 2]);
        });
    }

    /// Waits until a message from one node has arrived at the other one. Returns `false` if
    /// that node is not running. The caller limits the time.
    pub async fn cross(&self, from: PeerId, to: PeerId) -> bool {
        let arrival = self.with(|world| world.arrival(from, to));
        sleep_until(arrival).await;
        self.until_open(from, to).await;
        self.with(|world| world.node(to).is_some())
    }

    /// Waits until the direction is not cut.
    async fn until_open(&self, from: PeerId, to: PeerId) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.with(|world| world.route(from, to).is_cut) {
                return;
            }
            changed.await;
        }
    }

    /// Connects two nodes unless they are connected. Returns `false` if the other node is not
    /// running. Waits while a direction is cut.
    pub(super) async fn connect(&self, from: PeerId, to: PeerId) -> bool {
        if self.with(|world| world.connection(from, to)).is_some() {
            return true;
        }
        if !self.cross(from, to).await || !self.cross(to, from).await {
            return false;
        }
        self.with(|world| {
            if world.connection(from, to).is_some() {
                return true;
            }
            let (Some(a), Some(b)) = (world.life(from), world.life(to)) else { return false };
            let id = world.id();
            let ends = [(from, a), (to, b)];
            let connection = Connection { ends, breaks_at: [None; 2], silent_until: None };
            world.connections.insert(id, connection);
            let address = libp2p::Multiaddr::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
            for (own, other) in [(from, to), (to, from)] {
                if let Some(node) = world.node(own) {
                    // Fails if there is no subscriber.
                    let address = address.clone();
                    let _ = node.events.send(NetEvent::Connected { peer: other, address });
                }
            }
            true
        })
    }

    /// Adds a stream on the connection of two nodes. Returns its number, or `None` if there is
    /// no connection.
    pub(super) fn add_stream(&self, from: PeerId, to: PeerId) -> Option<u64> {
        self.with(|world| {
            let connection = world.connection(from, to)?;
            let id = world.id();
            let sent = [Flow::default(), Flow::default()];
            world.streams.insert(id, StreamPair { connection, peers: [from, to], sent });
            Some(id)
        })
    }

    /// Drops one end of a stream. `is_closed` is true if that end was closed before.
    pub(super) fn drop_end(&self, stream: u64, end: usize, is_closed: bool) {
        self.with(|world| {
            let arrival = world.next_arrival(stream, end);
            let Some(pair) = world.streams.get_mut(&stream) else { return };
            if !is_closed {
                pair.sent[end].reset_at = Some(arrival);
            }
            pair.sent.iter_mut().for_each(Flow::wake);
        });
    }
}
