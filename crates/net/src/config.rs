//! [`NetConfig`]: settings of the node.

use std::net::SocketAddr;

use libp2p::{Multiaddr, StreamProtocol};

/// Settings of the node. The caller has validated them.
#[derive(Clone, Debug, Default)]
pub struct NetConfig {
    /// TCP addresses to listen on. Port 0 selects a free port.
    pub tcp: Vec<SocketAddr>,
    /// UDP addresses to listen on for QUIC. Port 0 selects a free port.
    pub quic: Vec<SocketAddr>,
    /// Addresses to announce to peers in addition to the listening addresses.
    pub announce: Vec<Multiaddr>,
    /// Peers through which the node joins the DHT. Each address ends with `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// True to find peers on the local network with mDNS.
    pub mdns: bool,
    /// True to answer queries of the DHT. `None` answers them if the node has an
    /// address on the public internet.
    pub kademlia_server: Option<bool>,
    /// Maximum number of bytes per second that all streams of our protocols send;
    /// 0 means no limit.
    pub upload_limit: u64,
    /// Maximum number of bytes per second that all streams of our protocols
    /// receive; 0 means no limit.
    pub download_limit: u64,
    /// Further protocols whose inbound streams the owner of the node takes from
    /// [`Net::accept`](crate::Net::accept).
    pub protocols: Vec<StreamProtocol>,
}
