//! The block protocol: a client names blocks, a server sends them. Specified in
//! `docs/formats/wire.md`.
//!
//! The server side is [`Server`], which reads blocks through a [`BlockProvider`].
//! The client side is [`BlockClient`], whose [`BlockSession`] uses one stream for
//! many fetches. Both sides work on any byte stream, so that they can be tested
//! against each other and against hostile peers without a network.
//!
//! Invariants: a block is passed on only after its bytes were hashed. Answers come
//! in the order of the requests. Each side uses a bounded amount of memory, whatever
//! the other side does. Nothing hashes, compresses or uses a disk on the network
//! thread.

mod batch;
mod client;
mod fetch;
mod frame;
mod frame_reader;
mod link_speed;
mod request;
mod server;
mod serving;
mod sketch;
#[cfg(test)]
mod tests;
mod watchdog;

use std::io;
use std::time::Duration;

use libp2p::{PeerId, StreamProtocol};
use types::{Cid, EncodedBlock, EncodedError, Retry};

pub use client::{BlockClient, BlockSession};
pub use frame::{StreamRefusal, Violation};
pub use link_speed::SLOW_LINK_BYTES_PER_SEC;
pub use request::{BlockRequest, FetchOutcome, FetchStats, Fetched, SimilarBlock, Want};
pub(crate) use server::Server;
pub use sketch::Sketch;

use crate::error::NetError;

/// Name of the protocol in libp2p.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/blocks/1.0.0");

/// Answer of a [`BlockProvider`] about one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockAnswer {
    /// The block.
    Block(EncodedBlock),
    /// The provider does not have the block.
    Missing,
    /// The provider had the block, but the file that contains it has changed.
    Changed,
}

/// Source of the blocks that a node serves.
///
/// The node calls it on threads that may block, and on several at the same time.
pub trait BlockProvider: Send + Sync + 'static {
    /// Answers a prefix of `wanted`, in order.
    ///
    /// `wanted` is not empty. The result has at least one answer, and further ones
    /// as long as the payloads stay within `budget` bytes in total. The node has
    /// checked that `peer` may fetch blocks.
    fn read(&self, peer: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer>;
}

/// Errors that end a block session. Blocks that the sink got before remain valid.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// There is no stream to the peer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The peer refused the stream or ended it with a reason.
    #[error("the peer ended the stream: {0}")]
    Refused(StreamRefusal),
    /// The peer sent other bytes than those of the requested block.
    #[error("the peer sent a wrong block")]
    WrongBlock(#[source] EncodedError),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(Violation),
    /// The peer sent too few bytes in the given time.
    #[error("the peer sent less than {min} bytes in {within:?}")]
    Stalled {
        /// Required number of bytes.
        min: usize,
        /// Time in which they were required.
        within: Duration,
    },
    /// The peer closed the stream before it sent all answers.
    #[error("the stream was closed with {outstanding} answers missing")]
    Closed {
        /// Number of missing answers.
        outstanding: usize,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// The session ended earlier, by an error or by a fetch that was dropped.
    #[error("the session has ended")]
    Ended,
    /// The sink or the verification of a batch panicked. The panic was logged.
    #[error("the processing of a batch of blocks panicked")]
    Panicked,
}

impl BlockError {
    /// Reports whether a new session with the same peer may succeed.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Net(error) => error.retry(),
            Self::Refused(refusal) => refusal.retry(),
            Self::WrongBlock(_) | Self::Violation(_) | Self::Panicked => Retry::Permanent,
            Self::Stalled { .. } | Self::Closed { .. } | Self::Io(_) | Self::Ended => {
                Retry::Temporary
            }
        }
    }
}

/// Errors that end a fetch. `E` is the error type of the sink.
#[derive(Debug, thiserror::Error)]
pub enum FetchError<E> {
    /// The peer or the connection failed.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The sink failed; contains its error.
    #[error("the received blocks could not be processed")]
    Sink(E),
}
