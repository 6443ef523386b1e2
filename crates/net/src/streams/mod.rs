//! Long streams for our protocols: a behaviour of our own in the place of
//! `libp2p-stream`, which drops inbound streams without a word when nobody
//! takes them at that instant.
//!
//! The protocols are fixed at start. Each has a bounded queue of inbound
//! streams; a stream that finds it full is reset and counted, so its opener
//! knows. Outbound streams of one connection are opened a few at a time, so
//! the other side never has to reset one for negotiating too many.
//!
//! The behaviour also keeps room for the peers on the list: strangers may
//! take only so many of the inbound connections.

mod behaviour;
mod handler;
mod stream;

pub(crate) use behaviour::Behaviour;
pub(crate) use handler::Open;
pub(crate) use stream::Meter;
pub use stream::NetStream;
