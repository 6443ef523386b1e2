//! The block protocol: B names blocks, A sends them.
//!
//! The bytes on the wire are described in docs/formats/wire.md. One side is
//! [`Server`], which reads blocks through a [`BlockProvider`]; the other is
//! [`BlockClient`], whose [`BlockSession`] keeps one stream for many fetches.
//! Both halves are written over any byte stream, so they are tested against
//! each other and against hostile peers without a network.
//!
//! Invariants: a block is handed on only when its bytes were hashed; answers
//! come in the order of the wants; neither side holds more than stated
//! amounts, whatever the other does; and nothing here hashes, unpacks or
//! touches a disk on the network thread.

mod client;
mod fetch;
mod frame;
mod frame_reader;
mod pace;
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
use types::{Cid, EncodedBlock, EncodedError};

pub use client::{BlockClient, BlockSession};
pub use frame::{StreamRefusal, Violation};
pub use pace::SLOW_LINK_BYTES_PER_SEC;
pub use request::{BlockRequest, FetchOutcome, FetchStats, Fetched, SimilarBlock, Want};
pub(crate) use server::Server;
pub use sketch::Sketch;

use crate::error::{NetError, Retry};

/// The name of the protocol.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/blocks/1.0.0");

/// What a node answers about one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockAnswer {
    /// Here it is.
    Block(EncodedBlock),
    /// It is not here.
    Missing,
    /// It was here, but the file that held it has changed since.
    Changed,
}

/// Where the blocks that we serve come from.
///
/// Called on threads that may block; several calls may run at once.
pub trait BlockProvider: Send + Sync + 'static {
    /// Answers a prefix of `wanted`, which is never empty: the first entry at
    /// least, and then as many as keep the payloads within `budget` bytes in
    /// total. `peer` has been checked against the access list.
    fn read(&self, peer: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer>;
}

/// Why a fetch ended early. What was handed to the sink before it stays good.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// There is no stream to the peer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The peer says no.
    #[error("the peer ended the stream: {0}")]
    Refused(StreamRefusal),
    /// The peer sent other bytes than those of the block that was asked for.
    #[error("the peer sent a wrong block")]
    WrongBlock(#[source] EncodedError),
    /// The peer does not keep to the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(Violation),
    /// The peer sent nothing, or next to nothing, for too long.
    #[error("the peer sent less than {min} bytes in {within:?}")]
    Stalled {
        /// What it should have sent.
        min: usize,
        /// In which time.
        within: Duration,
    },
    /// The peer closed the stream while answers were outstanding.
    #[error("the stream closed with {outstanding} answers outstanding")]
    Closed {
        /// How many answers are missing.
        outstanding: usize,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// The session ended with an earlier error, or a fetch on it was dropped.
    #[error("the session has ended")]
    Ended,
    /// The work on a batch panicked; the panic was logged.
    #[error("the work on a batch of blocks panicked")]
    Panicked,
}

impl BlockError {
    /// Whether the same peer may do better on a new session.
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

/// Why a fetch ended early: the network's side, or the sink's.
#[derive(Debug, thiserror::Error)]
pub enum FetchError<E> {
    /// The peer or the network.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// What the sink returned.
    #[error("the blocks could not be taken")]
    Sink(E),
}
