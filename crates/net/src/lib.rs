//! The network: who this node is, how it talks to others, and the protocol
//! by which blocks travel.
//!
//! [`Net`] owns a thread with the libp2p swarm; everybody else holds a
//! [`Handle`]. Only the event loop touches the swarm. Nothing from the
//! network can stop the node or make it hold more than the stated bounds
//! (`limits.rs`): a peer that misbehaves loses its stream or its connection.
//!
//! * [`identity`]: the node's key.
//! * [`NetConfig`], [`Net`], [`Handle`], [`NetEvent`], [`PeerInfo`]: the node.
//! * [`Access`], [`Purposes`]: which peer may do what.
//! * [`NetStream`]: a long-lived stream of one of our protocols.
//! * [`BlockProvider`], [`BlockClient`], [`BlockSession`]: blocks, both ways
//!   (docs/formats/wire.md).
//! * [`Limiter`]: the bandwidth limit of one direction.

mod access;
mod addresses;
mod behaviour;
mod blocks;
mod config;
mod dials;
mod error;
mod event_loop;
mod handle;
pub mod identity;
mod limiter;
mod limits;
mod listen;
mod metrics;
mod node;
mod streams;
mod transport;

pub use access::{Access, Purposes};
pub use addresses::split_peer;
pub use behaviour::{AGENT_VERSION, PROTOCOL_VERSION};
pub use blocks::{
    BlockAnswer, BlockClient, BlockError, BlockProvider, BlockRequest, BlockSession, FetchError,
    FetchOutcome, FetchStats, Fetched, PROTOCOL as BLOCK_PROTOCOL, SLOW_LINK_BYTES_PER_SEC,
    SimilarBlock, Sketch, StreamRefusal, Violation, Want,
};
pub use config::NetConfig;
pub use error::{IdentityError, NetError, Retry, WrongPeer};
pub use event_loop::{NetEvent, PeerInfo};
pub use handle::Handle;
pub use libp2p::identity::Keypair;
pub use libp2p::{Multiaddr, PeerId, StreamProtocol};
pub use limiter::Limiter;
pub use metrics::MetricsSnapshot;
pub use node::Net;
pub use streams::NetStream;
