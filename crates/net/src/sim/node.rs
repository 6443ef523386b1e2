//! [`SimNode`]: a node of a simulated network.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use libp2p::identity::Keypair;
use libp2p::{PeerId, StreamProtocol};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::{broadcast, mpsc, watch};

use super::stream::SimStream;
use super::world::SimNet;
use crate::access::Access;
use crate::blocks::{self, BlockProvider, Server};
use crate::error::NetError;
use crate::event_loop::Command;
use crate::handle::{Handle, Shared};
use crate::limits::{COMMAND_QUEUE, EVENT_QUEUE, INBOUND_QUEUE};
use crate::streams::{Meter, NetStream, OpenRequest};

/// A node of a [`SimNet`]. Dropping it is the end of its process: the other nodes notice
/// it soon.
pub struct SimNode {
    net: SimNet,
    peer: PeerId,
    life: u64,
    handle: Handle,
    accepts: Mutex<HashMap<StreamProtocol, mpsc::Receiver<NetStream>>>,
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNode").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl SimNet {
    /// Adds a node that serves the blocks of `provider` and accepts streams of `protocols`.
    /// Must be called within the async runtime of the simulation. A node that left may join
    /// again with the same key.
    pub fn join(
        &self,
        keypair: Keypair,
        provider: Arc<dyn BlockProvider>,
        access: Access,
        protocols: &[StreamProtocol],
    ) -> SimNode {
        let peer = keypair.public().to_peer_id();
        let meter = Meter::default();
        let (mut inbound, mut accepts) = (HashMap::new(), HashMap::new());
        for protocol in protocols.iter().chain([&blocks::PROTOCOL]) {
            let (sender, receiver) = mpsc::channel(INBOUND_QUEUE);
            inbound.insert(protocol.clone(), sender);
            accepts.insert(protocol.clone(), receiver);
        }
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let mut server = Server::new(provider, access, Arc::clone(&meter.metrics), events.clone());
        let streams = accepts.remove(&blocks::PROTOCOL).expect("the protocol was added above");
        // Ends when the node leaves, because that drops the sender of the streams.
        tokio::spawn(async move { server.run(streams).await });
        let life = self.add(peer, inbound, events.clone());
        let handle = Handle(Arc::new(Shared {
            keypair,
            peer,
            announce: Vec::new(),
            commands,
            events,
            listening: Arc::new(watch::Sender::new(Vec::new())),
            meter: meter.clone(),
            runtime: runtime::Handle::current(),
        }));
        tokio::spawn(run(self.clone(), peer, meter, queue));
        SimNode { net: self.clone(), peer, life, handle, accepts: Mutex::new(accepts) }
    }
}

impl SimNode {
    /// Returns a handle to the node.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns the queue of inbound streams of a protocol to its first caller, and `None` to
    /// later ones.
    pub fn accept(&self, protocol: &StreamProtocol) -> Option<mpsc::Receiver<NetStream>> {
        self.accepts.lock().remove(protocol)
    }

    /// Ends the node as a power cut does: the other nodes notice it late.
    pub fn cut_power(&self) {
        self.net.remove(self.peer, self.life, true);
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        self.net.remove(self.peer, self.life, false);
    }
}

/// Carries out the commands of the handles of a node.
async fn run(net: SimNet, peer: PeerId, meter: Meter, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Connect { peer: to, mut reply, .. } => {
                let net = net.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        biased;
                        () = reply.closed() => {}
                        is_connected = net.connect(peer, to) => {
                            let result = if is_connected { Ok(()) } else { Err(refused(to)) };
                            let _ = reply.send(result);
                        }
                    }
                });
            }
            Command::Open { peer: to, open } => {
                tokio::spawn(open_stream(net.clone(), peer, to, open, meter.clone()));
            }
            Command::Disconnect { peer: to } => net.reset(peer, to),
            Command::Peers { reply } => drop(reply.send(Vec::new())),
            // The simulation has no addresses: a search finds nothing.
            Command::KnownAddresses { reply, .. } | Command::FindPeer { reply, .. } => {
                drop(reply.send(Vec::new()));
            }
            #[cfg(test)]
            Command::Panic => panic!("asked to"),
        }
    }
}

fn refused(peer: PeerId) -> NetError {
    NetError::Unreachable { peer, reason: "connection refused".to_owned() }
}

/// Opens a stream. The other node may receive it although the answer never arrives.
async fn open_stream(net: SimNet, from: PeerId, to: PeerId, open: OpenRequest, meter: Meter) {
    let OpenRequest { protocol, mut reply } = open;
    let opening = async {
        if !net.connect(from, to).await || !net.cross(from, to).await {
            return Err(refused(to));
        }
        let broken =
            || NetError::Stream { peer: to, source: std::io::ErrorKind::ConnectionReset.into() };
        let stream = net.add_stream(from, to).ok_or_else(broken)?;
        let end = |end, peer| {
            let inner = SimStream::new(net.clone(), stream, end);
            NetStream::simulated(inner, peer, protocol.clone(), meter.clone())
        };
        let (own, other) = (end(0, to), end(1, from));
        let queue = net.with(|world| world.node(to)?.inbound.get(&protocol).cloned());
        let Some(queue) = queue else {
            return Err(NetError::UnsupportedProtocol { peer: to, protocol: protocol.clone() });
        };
        queue.try_send(other).map_err(|_| broken())?;
        net.cross(to, from).await;
        Ok(own)
    };
    let result = tokio::select! {
        biased;
        () = reply.closed() => return,
        result = opening => result,
    };
    let _ = reply.send(result);
}
