//! Blocks from a peer, for threads that read a tree and may block.
//!
//! A fetched node, header or segment lists the blocks that will be requested next. These are
//! prefetched ([`readahead`]) over the same sessions, so that a restore waits for the peer once for
//! each file, not once for each block.

mod readahead;

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

use self::readahead::{Readahead, Taken};
use crate::session_pool::SessionPool;

/// Maximum number of attempts in a row that bring no block.
const TRIES: usize = 3;
/// Assumed length of a node, in bytes: that of a file of some megabytes.
const NODE_LEN: u32 = 4096;

/// Reason why blocks cannot be fetched from the peer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteBlocksError {
    /// The peer or the network failed.
    #[error("cannot fetch blocks from the backup server")]
    Peer(#[source] BlockError),
    /// The caller stopped the work.
    #[error("stopped")]
    Stopped,
}

/// The blocks of a peer, read from the network and not stored. A restore reads the snapshots of a
/// backup server through it: the crate `node` implements `restore::Blocks` with it.
///
/// Several threads may fetch at the same time; their requests use several streams. In addition to
/// the requested blocks, at most 64 MiB of prefetched blocks are in memory. Clones share them.
#[derive(Clone)]
pub struct RemoteBlocks(Arc<Shared>);

struct Shared {
    pool: SessionPool,
    peer: PeerId,
    runtime: runtime::Handle,
    stop: CancellationToken,
    readahead: Mutex<Readahead>,
    /// Notified when a prefetched block arrives or its prefetch fails.
    prefetched: Notify,
}

impl fmt::Debug for RemoteBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBlocks").field("peer", &self.0.peer).finish_non_exhaustive()
    }
}

/// Blocks by CID; `None` if the peer does not have the block.
type Blocks = HashMap<Cid, Option<Bytes>>;

impl RemoteBlocks {
    /// Creates access to the blocks of `peer`, until `stop`. `runtime` runs the sessions and the
    /// prefetching.
    pub fn new(
        pool: SessionPool,
        peer: PeerId,
        runtime: runtime::Handle,
        stop: CancellationToken,
    ) -> Self {
        let (readahead, prefetched) = (Mutex::default(), Notify::new());
        Self(Arc::new(Shared { pool, peer, runtime, stop, readahead, prefetched }))
    }

    /// Returns the bytes of blocks, each verified against its CID, in the order of `wanted`; `None`
    /// if the peer does not have the block. All requested blocks are in memory at the same time, so
    /// request only the next ones. Blocks the thread; must not be called from async code.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteBlocksError::Peer`] if the peer still fails after some attempts, and
    /// [`RemoteBlocksError::Stopped`] after `stop`.
    pub fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, RemoteBlocksError> {
        self.0.runtime.block_on(self.read(wanted))
    }

    /// Same as [`RemoteBlocks::get`], for async code.
    ///
    /// # Errors
    ///
    /// Same as [`RemoteBlocks::get`].
    pub async fn read(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, RemoteBlocksError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let got = tokio::select! {
            // Checked first, so that a stop is not reported as a failure of the peer.
            biased;
            () = self.0.stop.cancelled() => Err(RemoteBlocksError::Stopped),
            got = self.gather(wanted) => got,
        }?;
        let runs = got.iter().filter_map(|(cid, bytes)| run_of(*cid, bytes.as_ref()?));
        let runs: Vec<(Vec<Want>, bool)> = runs.collect();
        if !runs.is_empty() {
            let mut readahead = self.0.readahead.lock();
            for (items, is_wanted) in runs {
                readahead.follow(items, is_wanted);
            }
        }
        self.prefetch();
        Ok(wanted.iter().map(|cid| got.get(cid).cloned().flatten()).collect())
    }

    /// Takes prefetched blocks, waits for those in flight, and fetches the rest.
    async fn gather(&self, wanted: &[Cid]) -> Result<Blocks, RemoteBlocksError> {
        let mut got = Blocks::with_capacity(wanted.len());
        let (mut in_flight, mut absent) = (Vec::new(), Vec::new());
        {
            let mut readahead = self.0.readahead.lock();
            let mut seen = std::collections::HashSet::with_capacity(wanted.len());
            for cid in wanted.iter().filter(|cid| seen.insert(**cid)) {
                match readahead.take(cid) {
                    Taken::Here(bytes) => {
                        got.insert(*cid, Some(bytes));
                    }
                    Taken::InFlight => in_flight.push(*cid),
                    Taken::Absent => absent.push(Want::from(*cid)),
                }
            }
            readahead.requested(wanted);
        }
        let fetching =
            async { if absent.is_empty() { Ok(()) } else { self.fetch(absent, &mut got).await } };
        // In this order, so that the requested blocks get the first free session; prefetching runs
        // meanwhile.
        let (fetched, ()) = tokio::join!(fetching, async { self.prefetch() });
        fetched?;
        while !in_flight.is_empty() {
            let prefetched = self.0.prefetched.notified();
            tokio::pin!(prefetched);
            // Enabled before the check, so that no notification is lost in between.
            prefetched.as_mut().enable();
            let mut failed = Vec::new();
            {
                let mut readahead = self.0.readahead.lock();
                in_flight.retain(|cid| match readahead.take(cid) {
                    Taken::Here(bytes) => {
                        got.insert(*cid, Some(bytes));
                        false
                    }
                    Taken::InFlight => true,
                    // The prefetch failed, or another thread has taken the block.
                    Taken::Absent => {
                        failed.push(Want::from(*cid));
                        false
                    }
                });
            }
            if !failed.is_empty() {
                self.fetch(failed, &mut got).await?;
            } else if !in_flight.is_empty() {
                prefetched.await;
            }
        }
        Ok(got)
    }

    /// Starts prefetching the blocks that are due.
    fn prefetch(&self) {
        let due = self.0.readahead.lock().due();
        for wants in due {
            let this = self.clone();
            self.0.runtime.spawn(async move {
                // Also if this task is aborted, so that nobody waits for these blocks.
                let guard = Unfinished { blocks: &this, wants: &wants };
                tokio::select! {
                    biased;
                    () = this.prefetch_once(&wants) => {}
                    () = this.0.stop.cancelled() => {}
                }
                drop(guard);
            });
        }
    }

    /// Prefetches blocks in one attempt. If it fails, the reader requests them again.
    async fn prefetch_once(&self, wants: &[Want]) {
        let Ok(mut session) = self.0.pool.session(self.0.peer).await else { return };
        let this = self.clone();
        let sink = move |batch: Vec<Fetched>| {
            let taken = decode(batch)?;
            let mut readahead = this.0.readahead.lock();
            for (cid, bytes) in taken {
                readahead.received(cid, bytes);
            }
            drop(readahead);
            this.0.prefetched.notify_waiters();
            Ok::<_, EncodedError>(())
        };
        if session.fetch(wants.to_vec(), sink).await.is_err() {
            self.0.pool.forget(self.0.peer);
        }
    }

    /// Fetches blocks that the reader waits for.
    async fn fetch(&self, mut wants: Vec<Want>, all: &mut Blocks) -> Result<(), RemoteBlocksError> {
        let mut tries = 0;
        loop {
            let (answered, result) = self.attempt(&wants, all).await;
            // Answers come in the order of the wants, so the answered ones are a prefix.
            wants.drain(..answered.min(wants.len()));
            let Err(error) = result else { return Ok(()) };
            tracing::debug!(peer = %self.0.peer, %error, "cannot fetch blocks");
            self.0.pool.forget(self.0.peer);
            // An attempt that brought blocks starts the count again.
            tries = if answered > 0 { 1 } else { tries + 1 };
            if tries >= TRIES || error.retry() == types::Retry::Permanent {
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

/// Notifies the waiting readers when a prefetch ends, for whatever reason.
struct Unfinished<'a> {
    blocks: &'a RemoteBlocks,
    wants: &'a [Want],
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let shared = &self.blocks.0;
        let mut readahead = shared.readahead.lock();
        for want in self.wants {
            // No effect on blocks that were received.
            readahead.received(want.cid, None);
        }
        drop(readahead);
        shared.prefetched.notify_waiters();
    }
}

/// Returns the bytes of a batch of answers. Runs on a thread that may block.
fn decode(batch: Vec<Fetched>) -> Result<Vec<(Cid, Option<Bytes>)>, EncodedError> {
    let bytes = |fetched: Fetched| match fetched.outcome {
        // A copy, because the payloads of a batch share a buffer that the session reuses.
        FetchOutcome::Block(block) => {
            Ok((fetched.cid, Some(Bytes::copy_from_slice(&block.decode()?))))
        }
        FetchOutcome::Missing | FetchOutcome::Changed | FetchOutcome::PatchFailed => {
            Ok((fetched.cid, None))
        }
    };
    batch.into_iter().map(bytes).collect()
}

/// Returns the run that a block lists, and whether the reader certainly needs it: a reader of a
/// file's node reads the complete file, but a reader of a segment may need only one file.
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
