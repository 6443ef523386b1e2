//! [`BlockClient`]: fetches blocks from other nodes.
//!
//! The protocol itself is in `fetch.rs`. This file connects it to the node: it
//! opens the stream and runs each fetch on the network thread.

use libp2p::PeerId;

use super::fetch::Session;
use super::request::{BlockRequest, FetchStats, Fetched};
use super::{BlockError, FetchError, PROTOCOL};
use crate::handle::Handle;
use crate::streams::NetStream;

impl Handle {
    /// Returns a client for fetching blocks from other nodes.
    pub fn blocks(&self) -> BlockClient {
        BlockClient { node: self.clone() }
    }
}

/// Opens block sessions with peers; made by [`Handle::blocks`].
#[derive(Clone)]
pub struct BlockClient {
    node: Handle,
}

impl BlockClient {
    /// Opens a session with a peer. Connects first if necessary.
    ///
    /// # Errors
    ///
    /// Returns [`BlockError::Net`] if there is no stream to the peer,
    /// [`BlockError::Refused`] if the peer refuses to serve this node, and another
    /// [`BlockError`] if the greeting fails.
    pub async fn open(&self, peer: PeerId) -> Result<BlockSession, BlockError> {
        let stream = self.node.open(peer, PROTOCOL).await?;
        let metrics = self.node.meter().metrics.clone();
        let session = joined(self.node.spawn(Session::open(stream, metrics)).await)??;
        Ok(BlockSession { peer, session: Some(session), node: self.node.clone() })
    }
}

/// Session with one peer: one stream, used for any number of fetches.
///
/// Dropping the session, or the future of a fetch, resets the stream. The peer
/// then stops soon.
pub struct BlockSession {
    peer: PeerId,
    // `None` after an error and while a fetch is running.
    session: Option<Session<NetStream>>,
    node: Handle,
}

impl BlockSession {
    /// Returns the peer of the session.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Reports whether the session can be used for another fetch. It cannot after
    /// an error or after a fetch that was dropped.
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Fetches blocks. Returns when each request was answered.
    ///
    /// The session takes the next items of `requests` as answers arrive. It passes
    /// the answers to `sink` in batches, in the order of the requests. `sink` runs
    /// on a thread on which it may block; meanwhile at most one further batch is
    /// received. Every block that it gets has been verified. If the fetch is
    /// dropped, a running call of `sink` still completes.
    ///
    /// # Errors
    ///
    /// Returns [`FetchError::Block`] if the peer or the connection fails, and
    /// [`FetchError::Sink`] if `sink` fails. The session is then closed. Answers that
    /// `sink` got before remain valid.
    pub async fn fetch<R, F, E>(
        &mut self,
        requests: R,
        sink: F,
    ) -> Result<FetchStats, FetchError<E>>
    where
        R: IntoIterator<Item: Into<BlockRequest>>,
        R::IntoIter: Send + 'static,
        F: FnMut(Vec<Fetched>) -> Result<(), E> + Send + 'static,
        E: Send + 'static,
    {
        let mut session = self.session.take().ok_or(BlockError::Ended)?;
        let requests = requests.into_iter();
        // Runs on the network thread, on which the bytes of the stream arrive. A
        // wake-up across threads for each frame would cost more than all the rest.
        let fetching = self.node.spawn(async move {
            let result = session.fetch(requests, sink).await;
            (session, result)
        });
        let (session, result) = joined(fetching.await)?;
        let stats = result?;
        self.session = Some(session);
        Ok(stats)
    }
}

/// Converts the error of a task. The runtime of the node cancels its tasks when
/// the node stops.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, BlockError> {
    result.map_err(|error| match error.is_panic() {
        true => BlockError::Panicked,
        false => BlockError::Net(crate::error::NetError::Stopped),
    })
}
