//! Blocks from a peer, for threads that read a tree and may block.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use net::{BlockError, FetchError, Fetched, Outcome, PeerId, Want};
use parking_lot::Mutex;
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use types::{Cid, EncodedError};

use crate::pool::SessionPool;

/// How often a peer whose stream broke is asked again.
const TRIES: usize = 3;

/// Why blocks cannot be had from the peer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteBlocksError {
    /// The peer or the network.
    #[error("the backup server cannot be asked")]
    Peer(#[source] BlockError),
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
}

/// The blocks that a peer has. What it returns is what `restore::Blocks` asks
/// for; the two are put together where both are known.
///
/// Several threads may ask at once; their questions go over several streams.
#[derive(Clone)]
pub struct RemoteBlocks {
    pool: SessionPool,
    peer: PeerId,
    runtime: runtime::Handle,
    stop: CancellationToken,
}

impl fmt::Debug for RemoteBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBlocks").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What has come so far.
#[derive(Default)]
struct Got {
    blocks: HashMap<Cid, Option<Bytes>>,
    answered: usize,
}

impl RemoteBlocks {
    /// The blocks of `peer`, until `stop`. `runtime` is where its sessions
    /// run.
    pub fn new(
        pool: SessionPool,
        peer: PeerId,
        runtime: runtime::Handle,
        stop: CancellationToken,
    ) -> Self {
        Self { pool, peer, runtime, stop }
    }

    /// The bytes of blocks, each checked against its name, in the order of
    /// `wanted`; `None` for what the peer does not have. It holds as much as
    /// it is asked for, so ask for what is needed next. Blocks; not to be
    /// called from async code.
    ///
    /// # Errors
    ///
    /// [`RemoteBlocksError`] where the peer cannot be asked, even after a few
    /// tries.
    pub fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, RemoteBlocksError> {
        let mut seen = std::collections::HashSet::new();
        let wants: Vec<Want> =
            wanted.iter().filter(|cid| seen.insert(**cid)).map(|cid| Want::from(*cid)).collect();
        if wants.is_empty() {
            return Ok(Vec::new());
        }
        let got = self.runtime.block_on(async {
            tokio::select! {
                got = self.fetch(wants) => got,
                () = self.stop.cancelled() => Err(RemoteBlocksError::Stopped),
            }
        })?;
        Ok(wanted.iter().map(|cid| got.get(cid).cloned().flatten()).collect())
    }

    async fn fetch(
        &self,
        mut wants: Vec<Want>,
    ) -> Result<HashMap<Cid, Option<Bytes>>, RemoteBlocksError> {
        let mut all = HashMap::with_capacity(wants.len());
        let mut tries = 0;
        loop {
            let (answered, result) = self.attempt(&wants, &mut all).await;
            // In the order of the wants, so what was answered is a prefix.
            wants.drain(..answered.min(wants.len()));
            let error = match result {
                Ok(()) => return Ok(all),
                Err(error) => error,
            };
            tracing::debug!(peer = %self.peer, %error, "blocks could not be fetched");
            self.pool.forget(self.peer);
            // One that got somewhere may go on.
            tries = if answered > 0 { 1 } else { tries + 1 };
            if tries >= TRIES || error.retry() == net::Retry::Permanent {
                return Err(RemoteBlocksError::Peer(error));
            }
        }
    }

    async fn attempt(
        &self,
        wants: &[Want],
        all: &mut HashMap<Cid, Option<Bytes>>,
    ) -> (usize, Result<(), BlockError>) {
        let mut session = match self.pool.session(self.peer).await {
            Ok(session) => session,
            Err(error) => return (0, Err(error)),
        };
        let got = Arc::new(Mutex::new(Got::default()));
        let into = got.clone();
        let sink = move |batch: Vec<Fetched>| take(&into, batch);
        let result = session.fetch(wants.to_vec(), sink).await;
        let got = std::mem::take(&mut *got.lock());
        all.extend(got.blocks);
        let result = match result {
            Ok(_) => Ok(()),
            Err(FetchError::Sink(error)) => Err(BlockError::WrongBlock(error)),
            Err(FetchError::Block(error)) => Err(error),
        };
        (got.answered, result)
    }
}

/// Takes a batch of answers. On a blocking thread.
fn take(got: &Mutex<Got>, batch: Vec<Fetched>) -> Result<(), EncodedError> {
    let mut taken = Vec::with_capacity(batch.len());
    for fetched in batch {
        let bytes = match fetched.outcome {
            // A copy: the payloads of a batch share a buffer that the session
            // wants to have again.
            Outcome::Block(block) => Some(Bytes::copy_from_slice(&block.decode()?)),
            Outcome::Missing | Outcome::Changed => None,
        };
        taken.push((fetched.cid, bytes));
    }
    let mut got = got.lock();
    got.answered += taken.len();
    got.blocks.extend(taken);
    Ok(())
}
