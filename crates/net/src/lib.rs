//! Peer-to-peer network of an instance: block transfer over libp2p connections.
//!
//! * [`Net`] runs the libp2p swarm on a thread of its own. [`NetConfig`] has its
//!   settings, [`identity`] its key.
//! * [`Handle`] is the way to use the node from other threads: connect to peers,
//!   open streams, read counters. Handles are cheap to clone. [`NetEvent`] and
//!   [`PeerInfo`] report what happens.
//! * [`Access`] lists which peer may do what ([`Purposes`]). It can change at any
//!   time.
//! * [`NetStream`] is a long-lived stream of one of our protocols. A [`Limiter`]
//!   bounds the bandwidth of all streams in one direction.
//! * [`BlockProvider`] is the interface from which the node reads the blocks that
//!   it serves. [`BlockClient`] opens a [`BlockSession`] with a peer, which fetches
//!   blocks. The protocol is specified in `docs/formats/wire.md`.
//!
//! Invariants: only the event loop touches the swarm. A fetched block is passed on
//! only after its bytes were hashed. A peer without a purpose cannot learn which
//! blocks exist. Whatever a peer does, it cannot stop the node or make it use more
//! than the amounts in `limits.rs`; a peer that misbehaves loses its stream or its
//! connection.
//!
//! Absent: storage, manifests, and the protocols on top of streams, such as
//! receipts (their crates register them in [`NetConfig::protocols`]).

mod access;
mod addresses;
mod behaviour;
mod blocks;
mod config;
mod dials;
mod environment;
mod error;
mod event_loop;
mod handle;
pub mod identity;
mod limiter;
mod limits;
mod listen;
mod metrics;
mod node;
#[cfg(feature = "sim")]
pub mod sim;
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
pub use environment::{random_fraction, spawn_blocking};
pub use error::{IdentityError, NetError, WrongPeer};
pub use event_loop::{NetEvent, PeerInfo};
pub use handle::Handle;
pub use libp2p::identity::Keypair;
pub use libp2p::{Multiaddr, PeerId, StreamProtocol};
pub use limiter::Limiter;
pub use metrics::MetricsSnapshot;
pub use node::Net;
pub use streams::NetStream;
