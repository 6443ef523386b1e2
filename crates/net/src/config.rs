//! What a node needs to know to start.

use std::net::SocketAddr;

use libp2p::{Multiaddr, StreamProtocol};

/// The node's configuration; checked by whoever reads it from a file.
#[derive(Clone, Debug, Default)]
pub struct NetConfig {
    /// Where to listen for TCP. Port 0 takes any free one.
    pub tcp: Vec<SocketAddr>,
    /// Where to listen for QUIC, on UDP. Port 0 takes any free one.
    pub quic: Vec<SocketAddr>,
    /// Addresses to tell other peers besides those we listen on.
    pub announce: Vec<Multiaddr>,
    /// Peers to enter the DHT through; each address ends in `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Whether to answer questions of the DHT. `None`: where we have an
    /// address that the public network can reach.
    pub kademlia_server: Option<bool>,
    /// Bytes per second that all streams of our protocols may send; 0 is no
    /// limit.
    pub upload_limit: u64,
    /// Bytes per second that all streams of our protocols may receive; 0 is
    /// no limit.
    pub download_limit: u64,
    /// Protocols other than that of blocks whose streams the owner of the
    /// node takes through [`Net::accept`](crate::Net::accept).
    pub protocols: Vec<StreamProtocol>,
}
