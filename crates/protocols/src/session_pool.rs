//! Sessions with peers, shared by everything that pulls: a stream costs two
//! round trips to open, and a peer serves only so many.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use net::{BlockError, BlockSession, Handle, PeerId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Sessions with one peer at a time; who comes later waits.
const SESSIONS_PER_PEER: usize = 4;

/// The sessions of one instance. Clones share them.
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

/// A session that goes back to the pool when it is dropped, if it is good.
pub struct PooledSession {
    session: Option<BlockSession>,
    pool: SessionPool,
    _permit: OwnedSemaphorePermit,
}

impl SessionPool {
    /// No session is open yet.
    pub fn new(net: Handle) -> Self {
        Self { net, peers: Arc::default() }
    }

    /// The network that the sessions are opened in.
    pub fn net(&self) -> &Handle {
        &self.net
    }

    fn with_peer<T>(&self, peer: PeerId, work: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        work(peers.entry(peer).or_default())
    }

    /// A session with `peer`: one that is open, or a new one.
    ///
    /// # Errors
    ///
    /// Those of opening one.
    pub async fn session(&self, peer: PeerId) -> Result<PooledSession, BlockError> {
        let limit = self.with_peer(peer, |peer| peer.limit.clone());
        let permit = limit.acquire_owned().await.map_err(|_| BlockError::Ended)?;
        let session = match self.with_peer(peer, |peer| peer.idle.pop()) {
            Some(session) => session,
            None => self.net.blocks().open(peer).await?,
        };
        Ok(PooledSession { session: Some(session), pool: self.clone(), _permit: permit })
    }

    /// Forgets the open sessions with `peer`: one of them has turned out to be
    /// dead, and so may the others be.
    pub fn forget(&self, peer: PeerId) {
        let idle = self.with_peer(peer, |peer| std::mem::take(&mut peer.idle));
        drop(idle);
    }
}

impl Deref for PooledSession {
    type Target = BlockSession;

    fn deref(&self) -> &BlockSession {
        self.session.as_ref().expect("it is taken only by drop")
    }
}

impl DerefMut for PooledSession {
    fn deref_mut(&mut self) -> &mut BlockSession {
        self.session.as_mut().expect("it is taken only by drop")
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
