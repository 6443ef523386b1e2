//! Sessions of the block protocol, shared by everything that fetches blocks: opening a stream costs
//! two round trips, and a peer serves only a limited number of them.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use net::{BlockError, BlockSession, Handle, PeerId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of sessions with one peer at the same time; a further caller waits.
const SESSIONS_PER_PEER: usize = 4;

/// Pool of open sessions of the block protocol with all peers, at most 4 in use for each peer.
/// [`RemoteBlocks`](crate::RemoteBlocks) and the crate `pull` take sessions from it. Clones share
/// the sessions.
#[derive(Clone)]
pub struct SessionPool {
    net: Handle,
    peers: Arc<Mutex<HashMap<PeerId, Peer>>>,
}

struct Peer {
    limit: Arc<Semaphore>,
    idle: Vec<BlockSession>,
}

impl Default for Peer {
    fn default() -> Self {
        Self { limit: Arc::new(Semaphore::new(SESSIONS_PER_PEER)), idle: Vec::new() }
    }
}

/// A session that returns to the pool when it is dropped, if it is still open.
pub struct PooledSession {
    session: Option<BlockSession>,
    pool: SessionPool,
    _permit: OwnedSemaphorePermit,
}

impl SessionPool {
    /// Returns a pool without open sessions.
    pub fn new(net: Handle) -> Self {
        Self { net, peers: Arc::default() }
    }

    /// Returns the network in which the sessions are opened.
    pub fn net(&self) -> &Handle {
        &self.net
    }

    fn with_peer<T>(&self, peer: PeerId, work: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        work(peers.entry(peer).or_default())
    }

    /// Returns a session with `peer`: an idle one, or a new one. Waits while 4 sessions with `peer`
    /// are in use.
    ///
    /// # Errors
    ///
    /// Returns [`BlockError`] if a new session cannot be opened.
    pub async fn session(&self, peer: PeerId) -> Result<PooledSession, BlockError> {
        let limit = self.with_peer(peer, |peer| peer.limit.clone());
        let permit = limit.acquire_owned().await.map_err(|_| BlockError::Ended)?;
        let session = match self.with_peer(peer, |peer| peer.idle.pop()) {
            Some(session) => session,
            None => self.net.blocks().open(peer).await?,
        };
        Ok(PooledSession { session: Some(session), pool: self.clone(), _permit: permit })
    }

    /// Drops the idle sessions with `peer`. Called after a session has failed, because the others
    /// have probably failed with it.
    pub fn forget(&self, peer: PeerId) {
        let idle = self.with_peer(peer, |peer| std::mem::take(&mut peer.idle));
        drop(idle);
    }
}

impl Deref for PooledSession {
    type Target = BlockSession;

    fn deref(&self) -> &BlockSession {
        self.session.as_ref().expect("only drop takes the session")
    }
}

impl DerefMut for PooledSession {
    fn deref_mut(&mut self) -> &mut BlockSession {
        self.session.as_mut().expect("only drop takes the session")
    }
}

impl Drop for PooledSession {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && session.is_open()
        {
            let peer = session.peer();
            self.pool.with_peer(peer, |peer| peer.idle.push(session));
        }
    }
}
