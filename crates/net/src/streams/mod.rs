//! Long-lived streams for our protocols: a libp2p behaviour that replaces
//! `libp2p-stream`. That crate silently drops inbound streams when its queue is
//! full.
//!
//! The protocols are fixed at the start. Each has a bounded queue of inbound
//! streams. If the queue is full, the stream is reset and counted, so that its
//! opener gets an error. On each connection only a limited number of outbound
//! streams is negotiated at the same time, so that the peer does not have to reset
//! any.
//!
//! The behaviour also limits the number of inbound connections of strangers, which
//! leaves room for the peers on the access list.

mod behaviour;
mod handler;
mod stream;

pub(crate) use behaviour::Behaviour;
pub(crate) use handler::OpenRequest;
pub(crate) use stream::Meter;
pub use stream::NetStream;
