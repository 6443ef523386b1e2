//! Blocks from a peer, for threads that read a tree and may block.
//!
//! A node, a header or a segment that was fetched tells what will be wanted
//! next, and that is fetched ahead ([`ahead`]), over the same few sessions. So
//! a restore waits for the peer once for a file, not once for every piece.

mod ahead;

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use net::{BlockError, FetchError, FetchOutcome, Fetched, PeerId, Want};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use types::{
    Cid, Codec, EncodedError, EntryKind, FileNode, ManifestHeader, NodeChild, decode_segment,
};

use self::ahead::{Ahead, Taken};
use crate::session_pool::SessionPool;

/// How often a peer whose stream broke is asked again.
const TRIES: usize = 3;
/// About how long a node is, in bytes: that of a file of some megabytes.
const NODE_LEN: u32 = 4096;

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
/// Besides what it is asked for, it holds at most 64 MiB that it has fetched
/// ahead. Clones share that.
#[derive(Clone)]
pub struct RemoteBlocks(Arc<Shared>);

struct Shared {
    pool: SessionPool,
    peer: PeerId,
    runtime: runtime::Handle,
    stop: CancellationToken,
    ahead: Mutex<Ahead>,
    /// Told when something came ahead, or will not.
    came: Notify,
}

impl fmt::Debug for RemoteBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBlocks").field("peer", &self.0.peer).finish_non_exhaustive()
    }
}

/// Blocks by name; `None` for what the peer does not have.
type Blocks = HashMap<Cid, Option<Bytes>>;

impl RemoteBlocks {
    /// The blocks of `peer`, until `stop`. `runtime` is where its sessions
    /// are waited for.
    pub fn new(
        pool: SessionPool,
        peer: PeerId,
        runtime: runtime::Handle,
        stop: CancellationToken,
    ) -> Self {
        let (ahead, came) = (Mutex::default(), Notify::new());
        Self(Arc::new(Shared { pool, peer, runtime, stop, ahead, came }))
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
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let got = self.0.runtime.block_on(async {
            tokio::select! {
                // First: who stopped it wants no other reason.
                biased;
                () = self.0.stop.cancelled() => Err(RemoteBlocksError::Stopped),
                got = self.gather(wanted) => got,
            }
        })?;
        let runs = got.iter().filter_map(|(cid, bytes)| run_of(*cid, bytes.as_ref()?));
        let runs: Vec<(Vec<Want>, bool)> = runs.collect();
        if !runs.is_empty() {
            let mut ahead = self.0.ahead.lock();
            for (items, is_wanted) in runs {
                ahead.follow(items, is_wanted);
            }
        }
        self.fetch_ahead();
        Ok(wanted.iter().map(|cid| got.get(cid).cloned().flatten()).collect())
    }

    /// Takes what came ahead, waits for what is coming, and fetches the rest.
    async fn gather(&self, wanted: &[Cid]) -> Result<Blocks, RemoteBlocksError> {
        let mut got = Blocks::with_capacity(wanted.len());
        let (mut coming, mut lacking) = (Vec::new(), Vec::new());
        {
            let mut ahead = self.0.ahead.lock();
            let mut seen = std::collections::HashSet::with_capacity(wanted.len());
            for cid in wanted.iter().filter(|cid| seen.insert(**cid)) {
                match ahead.take(cid) {
                    Taken::Here(bytes) => {
                        got.insert(*cid, Some(bytes));
                    }
                    Taken::Coming => coming.push(*cid),
                    Taken::Not => lacking.push(Want::from(*cid)),
                }
            }
            ahead.asked_for(wanted);
        }
        let fetching =
            async { if lacking.is_empty() { Ok(()) } else { self.fetch(lacking, &mut got).await } };
        // In this order: what is wanted now gets the first session that is
        // free, and what comes after it is on its way meanwhile.
        let (fetched, ()) = tokio::join!(fetching, async { self.fetch_ahead() });
        fetched?;
        while !coming.is_empty() {
            let came = self.0.came.notified();
            tokio::pin!(came);
            // From before the look, so that nothing falls between.
            came.as_mut().enable();
            let mut failed = Vec::new();
            {
                let mut ahead = self.0.ahead.lock();
                coming.retain(|cid| match ahead.take(cid) {
                    Taken::Here(bytes) => {
                        got.insert(*cid, Some(bytes));
                        false
                    }
                    Taken::Coming => true,
                    // It could not be had ahead, or another has taken it.
                    Taken::Not => {
                        failed.push(Want::from(*cid));
                        false
                    }
                });
            }
            if !failed.is_empty() {
                self.fetch(failed, &mut got).await?;
            } else if !coming.is_empty() {
                came.await;
            }
        }
        Ok(got)
    }

    /// Begins what is to be fetched ahead.
    fn fetch_ahead(&self) {
        let due = self.0.ahead.lock().due();
        for wants in due {
            let this = self.clone();
            self.0.runtime.spawn(async move {
                // Where this is dropped, too, nobody waits for what will not
                // come.
                let guard = Unfinished { blocks: &this, wants: &wants };
                tokio::select! {
                    () = this.attempt_ahead(&wants) => {}
                    () = this.0.stop.cancelled() => {}
                }
                drop(guard);
            });
        }
    }

    /// Fetches ahead once: what fails is asked for again by who wants it.
    async fn attempt_ahead(&self, wants: &[Want]) {
        let Ok(mut session) = self.0.pool.session(self.0.peer).await else { return };
        let this = self.clone();
        let sink = move |batch: Vec<Fetched>| {
            let taken = decode(batch)?;
            let mut ahead = this.0.ahead.lock();
            for (cid, bytes) in taken {
                ahead.came(cid, bytes);
            }
            drop(ahead);
            this.0.came.notify_waiters();
            Ok::<_, EncodedError>(())
        };
        if session.fetch(wants.to_vec(), sink).await.is_err() {
            self.0.pool.forget(self.0.peer);
        }
    }

    /// Fetches what is wanted now.
    async fn fetch(&self, mut wants: Vec<Want>, all: &mut Blocks) -> Result<(), RemoteBlocksError> {
        let mut tries = 0;
        loop {
            let (answered, result) = self.attempt(&wants, all).await;
            // In the order of the wants, so what was answered is a prefix.
            wants.drain(..answered.min(wants.len()));
            let Err(error) = result else { return Ok(()) };
            tracing::debug!(peer = %self.0.peer, %error, "blocks could not be fetched");
            self.0.pool.forget(self.0.peer);
            // One that got somewhere may go on.
            tries = if answered > 0 { 1 } else { tries + 1 };
            if tries >= TRIES || error.retry() == net::Retry::Permanent {
                return Err(RemoteBlocksError::Peer(error));
            }
        }
    }

    async fn attempt(&self, wants: &[Want], all: &mut Blocks) -> (usize, Result<(), BlockError>) {
        let mut session = match self.0.pool.session(self.0.peer).await {
            Ok(session) => session,
            Err(error) => return (0, Err(error)),
        };
        let got = Arc::new(Mutex::new(Vec::new()));
        let into = got.clone();
        let sink = move |batch: Vec<Fetched>| {
            let taken = decode(batch)?;
            into.lock().extend(taken);
            Ok(())
        };
        let result = session.fetch(wants.to_vec(), sink).await;
        let got = std::mem::take(&mut *got.lock());
        let answered = got.len();
        all.extend(got);
        let result = match result {
            Ok(_) => Ok(()),
            Err(FetchError::Sink(error)) => Err(BlockError::WrongBlock(error)),
            Err(FetchError::Block(error)) => Err(error),
        };
        (answered, result)
    }
}

/// Tells those who wait, when fetching ahead ends in whatever way.
struct Unfinished<'a> {
    blocks: &'a RemoteBlocks,
    wants: &'a [Want],
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let shared = &self.blocks.0;
        let mut ahead = shared.ahead.lock();
        for want in self.wants {
            // Those that came are not touched.
            ahead.came(want.cid, None);
        }
        drop(ahead);
        shared.came.notify_waiters();
    }
}

/// The bytes of a batch of answers. On a blocking thread.
fn decode(batch: Vec<Fetched>) -> Result<Vec<(Cid, Option<Bytes>)>, EncodedError> {
    let bytes = |fetched: Fetched| match fetched.outcome {
        // A copy: the payloads of a batch share a buffer that the session
        // wants to have again.
        FetchOutcome::Block(block) => {
            Ok((fetched.cid, Some(Bytes::copy_from_slice(&block.decode()?))))
        }
        FetchOutcome::Missing | FetchOutcome::Changed | FetchOutcome::PatchFailed => {
            Ok((fetched.cid, None))
        }
    };
    batch.into_iter().map(bytes).collect()
}

/// In which order blocks will be wanted, by what a block says; and whether
/// that is sure: who reads a node of a file reads all of it, but who reads a
/// segment may want one file.
fn run_of(cid: Cid, bytes: &Bytes) -> Option<(Vec<Want>, bool)> {
    let want = |cid: Cid, len: u64| Want {
        cid,
        len: match cid.codec() {
            Codec::Raw => u32::try_from(len).ok(),
            Codec::DagCbor | Codec::Json => Some(NODE_LEN),
        },
    };
    match cid.codec() {
        Codec::Raw => None,
        Codec::DagCbor => {
            let node = FileNode::decode(bytes).ok()?;
            let child = |child: &NodeChild| want(child.cid, child.len);
            Some((node.children().iter().map(child).collect(), true))
        }
        Codec::Json => {
            if let Ok(header) = ManifestHeader::decode(bytes) {
                let segments = header.segments.iter();
                let segment = |one: &types::SegmentRef| Want {
                    cid: one.cid,
                    len: u32::try_from(one.bytes).ok(),
                };
                return Some((segments.map(segment).collect(), false));
            }
            let mut items = Vec::new();
            decode_segment(bytes, |entry| {
                if let EntryKind::File { cid, size, .. } = entry.kind {
                    items.push(want(cid, size));
                }
                ControlFlow::<()>::Continue(())
            })
            .ok()?;
            Some((items, false))
        }
    }
}
