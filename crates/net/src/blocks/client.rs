//! Fetching blocks from other nodes.

use libp2p::PeerId;

use super::fetch::Session;
use super::request::{BlockRequest, FetchStats, Fetched};
use super::{BlockError, FetchError, PROTOCOL};
use crate::handle::Handle;
use crate::streams::NetStream;

/// Opens sessions with peers.
#[derive(Clone)]
pub struct BlockClient {
    node: Handle,
}

impl BlockClient {
    pub(crate) fn new(node: Handle) -> Self {
        Self { node }
    }

    /// Opens a session; connects first where an address is known.
    ///
    /// # Errors
    ///
    /// [`BlockError::Refused`] where the peer does not allow us, and others.
    pub async fn open(&self, peer: PeerId) -> Result<BlockSession, BlockError> {
        let stream = self.node.open(peer, PROTOCOL).await?;
        let metrics = self.node.meter().metrics.clone();
        let session = joined(self.node.spawn(Session::open(stream, metrics)).await)??;
        Ok(BlockSession { peer, session: Some(session), node: self.node.clone() })
    }
}

/// One stream to one peer, for many fetches.
///
/// Dropping it, or a fetch that is under way, resets the stream, and the peer
/// stops soon after.
pub struct BlockSession {
    peer: PeerId,
    // Gone after an error, and while a fetch is under way.
    session: Option<Session<NetStream>>,
    node: Handle,
}

impl BlockSession {
    /// Whom it is with.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Whether another fetch can succeed: not after an error, and not after a
    /// fetch that was dropped.
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Fetches blocks, and returns when every one was answered.
    ///
    /// `asks` is taken from as the answers come. `sink` gets the answers in
    /// the order of the asks, in batches, on a thread where it may block;
    /// while it does, the next batch comes in, and no more than that. It is
    /// given only blocks whose bytes were hashed. A batch that it has begun
    /// is finished even where the fetch is dropped.
    ///
    /// # Errors
    ///
    /// [`FetchError`]; what the sink got before stays good, and the session
    /// is closed.
    pub async fn fetch<W, F, E>(&mut self, asks: W, sink: F) -> Result<FetchStats, FetchError<E>>
    where
        W: IntoIterator<Item: Into<BlockRequest>>,
        W::IntoIter: Send + 'static,
        F: FnMut(Vec<Fetched>) -> Result<(), E> + Send + 'static,
        E: Send + 'static,
    {
        let mut session = self.session.take().ok_or(BlockError::Ended)?;
        let asks = asks.into_iter();
        // On the network's own thread, where the stream's bytes are: a
        // wake-up across threads for each frame would cost more than all else.
        let fetching = self.node.spawn(async move {
            let result = session.fetch(asks, sink).await;
            (session, result)
        });
        let (session, result) = joined(fetching.await)?;
        let stats = result?;
        self.session = Some(session);
        Ok(stats)
    }
}

/// The node's runtime drops its tasks when the node stops.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, BlockError> {
    result.map_err(|error| match error.is_panic() {
        true => BlockError::Panicked,
        false => BlockError::Net(crate::error::NetError::Stopped),
    })
}
