//! Fetches blocks, or trees of blocks, from peers into the store.
//!
//! Role: the only way in which complete trees are fetched from peers. It compares the wanted tree
//! with the store and fetches the missing blocks. So it can be stopped and run again at any time,
//! and continues with the first missing block.
//!
//! Invariants: a block is stored only after it was verified (`net` returns no other); this module
//! never marks a tree as complete, which is up to the caller that sets the root; memory is bounded
//! by the fan-out of nodes times their depth, and one batch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use net::{
    BlockError, BlockRequest, FetchError, FetchOutcome, Fetched, PeerId, SimilarBlock, Want,
};
use protocols::{SessionPool, blocking};
use store::{BlockRead, BlockWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Cid, Codec};

use crate::budget::StorageBudget;
use crate::error::PullError;
use crate::gather::{BATCH_WANTS, Gathered};
use crate::progress::PullProgress;
use crate::similar::SimilarBlocks;

/// Maximum length of one batch, in bytes, as far as the lengths of its blocks are known.
const BATCH_LEN: u64 = 64 << 20;
/// Maximum length of a batch with similarity hints, in bytes. It is smaller, because the first
/// batch shows whether the link is so fast that the hints are dropped.
const BATCH_LEN_HINTED: u64 = 16 << 20;
/// Minimum number of received bytes that shows how fast a link is.
const SPEED_SAMPLE_MIN: u64 = 1 << 20;
/// Maximum number of attempts to fetch one batch from a peer.
const TRIES: usize = 3;
/// Maximum number of blocks in each list of a report.
const LISTED_MAX: usize = 1000;

/// Result of a pull: the blocks that could not be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullReport {
    /// Blocks that no peer has, at most 1000.
    pub missing: Vec<Cid>,
    /// Blocks of files that have changed on the source, at most 1000.
    pub changed: Vec<Cid>,
    /// True if there are more than listed.
    pub is_cut_short: bool,
}

impl PullReport {
    /// Reports whether all blocks are stored.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.changed.is_empty() && !self.is_cut_short
    }

    fn note(&mut self, cid: Cid, is_changed: bool) {
        let list = if is_changed { &mut self.changed } else { &mut self.missing };
        if list.len() < LISTED_MAX {
            list.push(cid);
        } else {
            self.is_cut_short = true;
        }
    }
}

/// Fetches from a list of peers, in the order of the list. Clones can run at the same time, and
/// share the progress.
#[derive(Clone)]
pub struct Puller {
    store: Arc<dyn BlockWrite>,
    pool: SessionPool,
    peers: Vec<PeerId>,
    progress: Arc<PullProgress>,
    stop: CancellationToken,
    /// The disk space that the source may use, if it is limited.
    budget: Option<Arc<StorageBudget>>,
    /// True if the link was found to be fast. Sending complete blocks is then faster than making
    /// patches, so no more hints are sent until the pull ends.
    is_fast_link: bool,
}

/// The similarity hints of wanted blocks.
type Hints = HashMap<Cid, Arc<SimilarBlock>>;

impl Puller {
    /// Creates a puller. It requests nothing yet.
    pub fn new(
        store: Arc<dyn BlockWrite>,
        pool: SessionPool,
        peers: Vec<PeerId>,
        progress: Arc<PullProgress>,
    ) -> Self {
        let stop = CancellationToken::new();
        Self { store, pool, peers, progress, stop, budget: None, is_fast_link: false }
    }

    /// Ends with [`PullError::Stopped`] when `stop` is cancelled, after the current batch, so that
    /// none of its blocks are lost.
    #[must_use]
    pub fn until(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Ends with [`PullError::OverQuota`] before it stores a batch that does not fit into the
    /// budget.
    #[must_use]
    pub fn within(self, budget: Option<Arc<StorageBudget>>) -> Self {
        Self { budget, ..self }
    }

    /// Fetches one block, without the blocks to which it refers. Returns `false` if no peer has it.
    ///
    /// # Errors
    ///
    /// Same as [`Puller::blocks`].
    pub async fn block(&mut self, cid: Cid) -> Result<bool, PullError> {
        Ok(self.blocks(vec![cid]).await?.is_complete())
    }

    /// Fetches the missing ones of these blocks, without the blocks to which they refer.
    ///
    /// # Errors
    ///
    /// Returns [`PullError`] if the store or all peers fail, or the pull is stopped.
    pub async fn blocks(&mut self, cids: Vec<Cid>) -> Result<PullReport, PullError> {
        let mut report = PullReport::default();
        let store = self.store.clone();
        let missing = blocking(move || {
            let mut missing = Vec::new();
            let mut seen = HashSet::new();
            for cid in cids {
                if seen.insert(cid) && !store.has(&cid)? {
                    missing.push(Want::from(cid));
                }
            }
            Ok::<_, PullError>(missing)
        });
        for wants in missing.await?.chunks(BATCH_WANTS) {
            self.fetch(wants.to_vec(), Hints::new(), &mut report).await?;
        }
        Ok(report)
    }

    /// Fetches the missing blocks of the tree below `root`. The caller must protect `root` from
    /// collection with a partial root or a pin.
    ///
    /// # Errors
    ///
    /// Same as [`Puller::blocks`], and [`PullError::Node`] if a block is malformed. The blocks that
    /// were fetched before are in the store, but not yet durable.
    pub async fn tree(&mut self, root: Cid) -> Result<PullReport, PullError> {
        self.trees(vec![root.into()], SimilarBlocks::default()).await
    }

    /// Fetches the missing blocks of the trees below `roots`, in this order. Known lengths of roots
    /// that are chunks improve the pipelining. Blocks with a similar block in `similar` may arrive
    /// as patches.
    ///
    /// # Errors
    ///
    /// Same as [`Puller::tree`].
    pub(crate) async fn trees(
        &mut self,
        roots: Vec<Want>,
        mut similar: SimilarBlocks,
    ) -> Result<PullReport, PullError> {
        let mut report = PullReport::default();
        // In reverse order: the next task is the last.
        let mut tasks: Vec<Want> = roots.into_iter().rev().collect();
        let mut followed = HashSet::new();
        loop {
            if self.is_fast_link {
                similar = SimilarBlocks::default();
            }
            let len_max = if similar.is_empty() { BATCH_LEN } else { BATCH_LEN_HINTED };
            let (store, progress) = (self.store.clone(), self.progress.clone());
            let gathered = blocking(move || {
                let mut gathered = Gathered { tasks, followed, similar, ..Gathered::default() };
                gathered.gather(&*store, &progress, len_max)?;
                let readable: Arc<dyn BlockRead> = store.clone();
                let hints = gathered.similar.take(&readable, &gathered.wants)?;
                Ok::<_, PullError>((gathered, hints))
            });
            let (gathered, hints) = gathered.await?;
            (tasks, followed, similar) = (gathered.tasks, gathered.followed, gathered.similar);
            if gathered.wants.is_empty() {
                return Ok(report);
            }
            let nodes: Vec<Cid> =
                gathered.wants.iter().map(|w| w.cid).filter(|c| c.codec() != Codec::Raw).collect();
            let unavailable = self.fetch(gathered.wants, hints, &mut report).await?;
            // The fetched nodes are followed next.
            let fetched = nodes.into_iter().rev().filter(|cid| !unavailable.contains(cid));
            tasks.extend(fetched.map(Want::from));
        }
    }

    /// Fetches wants from the peers, one after the other, until all are stored or all peers were
    /// tried. Returns the wants that no peer has.
    async fn fetch(
        &mut self,
        wants: Vec<Want>,
        mut hints: Hints,
        report: &mut PullReport,
    ) -> Result<HashSet<Cid>, PullError> {
        if self.stop.is_cancelled() {
            return Err(PullError::Stopped);
        }
        if self.peers.is_empty() {
            return Err(PullError::NoPeers);
        }
        let mut left = wants;
        let mut changed = HashSet::new();
        let mut failures = Vec::new();
        let mut has_answered = false;
        for peer in self.peers.clone() {
            match self.fetch_from(peer, left, &mut hints, &mut changed).await {
                Ok(still) => {
                    has_answered = true;
                    left = still;
                }
                Err((_, Failure::Local(error))) => return Err(error),
                Err((still, Failure::Peer(error))) => {
                    tracing::debug!(%peer, %error, "cannot fetch from a peer");
                    failures.push((peer, error));
                    left = still;
                }
            }
            if left.is_empty() {
                break;
            }
        }
        if !has_answered {
            return Err(PullError::Unreachable(failures));
        }
        for want in &left {
            report.note(want.cid, changed.contains(&want.cid));
        }
        self.progress.notify();
        Ok(left.into_iter().map(|want| want.cid).collect())
    }

    /// Fetches wants from one peer, and returns those that it does not have.
    async fn fetch_from(
        &mut self,
        peer: PeerId,
        wants: Vec<Want>,
        hints: &mut Hints,
        changed: &mut HashSet<Cid>,
    ) -> Result<Vec<Want>, (Vec<Want>, Failure)> {
        let mut left: VecDeque<Want> = wants.into();
        let mut unavailable = Vec::new();
        let mut tries = 0;
        loop {
            let result = self.exchange(peer, &mut left, hints, &mut unavailable, changed).await;
            match result {
                Ok(()) if left.is_empty() => return Ok(unavailable),
                // Blocks whose patch failed are requested again, without a hint.
                Ok(()) => {}
                Err(failure) => {
                    self.pool.forget(peer);
                    tries += 1;
                    let is_temporary = match &failure {
                        Failure::Peer(error) => error.retry() == types::Retry::Temporary,
                        Failure::Local(_) => false,
                    };
                    if tries == TRIES || !is_temporary {
                        unavailable.extend(left);
                        return Err((unavailable, failure));
                    }
                }
            }
        }
    }

    /// Makes one attempt, and removes the answered wants from `left`.
    async fn exchange(
        &mut self,
        peer: PeerId,
        left: &mut VecDeque<Want>,
        hints: &mut Hints,
        unavailable: &mut Vec<Want>,
        changed: &mut HashSet<Cid>,
    ) -> Result<(), Failure> {
        let mut session = self.pool.session(peer).await.map_err(Failure::Peer)?;
        let (store, progress) = (self.store.clone(), self.progress.clone());
        let answers = Arc::new(std::sync::Mutex::new(Answers::default()));
        let sink = {
            let answers = answers.clone();
            let budget = self.budget.clone();
            move |batch: Vec<Fetched>| {
                store_batch(&*store, budget.as_deref(), &progress, &answers, batch)
            }
        };
        let request =
            |want: &Want| BlockRequest { want: *want, similar: hints.get(&want.cid).cloned() };
        let requests: Vec<BlockRequest> = left.iter().map(request).collect();
        let started = Instant::now();
        let result = session.fetch(requests, sink).await;
        if let Ok(stats) = &result
            && stats.bytes >= SPEED_SAMPLE_MIN
        {
            #[expect(clippy::cast_precision_loss, reason = "a batch is some MiB")]
            let bytes = stats.bytes as f64;
            self.is_fast_link |=
                bytes > net::SLOW_LINK_BYTES_PER_SEC * started.elapsed().as_secs_f64();
        }
        let answers = std::mem::take(&mut *answers.lock().unwrap_or_else(|e| e.into_inner()));
        // Answers come in the order of the wants, so the answered ones are a prefix.
        let mut patch_failed = Vec::new();
        for want in left.drain(..answers.count.min(left.len())) {
            if answers.patch_failed.contains(&want.cid) {
                hints.remove(&want.cid);
                patch_failed.push(want);
                continue;
            }
            match answers.unavailable.get(&want.cid) {
                Some(is_changed) => {
                    if *is_changed {
                        changed.insert(want.cid);
                    }
                    unavailable.push(want);
                }
                None => {
                    changed.remove(&want.cid);
                }
            }
        }
        left.extend(patch_failed);
        match result {
            Ok(_) => Ok(()),
            Err(FetchError::Sink(error)) => Err(Failure::Local(error)),
            Err(FetchError::Block(error)) => Err(Failure::Peer(error)),
        }
    }
}

/// Reason why an attempt with one peer failed.
enum Failure {
    Peer(BlockError),
    Local(PullError),
}

/// The answers of one attempt so far.
#[derive(Default)]
struct Answers {
    count: usize,
    /// Blocks that the peer does not have; true if their file has changed there.
    unavailable: HashMap<Cid, bool>,
    /// Blocks whose patch gave another block.
    patch_failed: HashSet<Cid>,
}

/// Stores a batch of answers. Runs on a thread that may block.
fn store_batch(
    store: &dyn BlockWrite,
    budget: Option<&StorageBudget>,
    progress: &PullProgress,
    answers: &std::sync::Mutex<Answers>,
    batch: Vec<Fetched>,
) -> Result<(), PullError> {
    let mut blocks = Vec::with_capacity(batch.len());
    let (mut unavailable, mut patch_failed) = (Vec::new(), Vec::new());
    let count = batch.len();
    let mut wire_len = 0;
    for fetched in batch {
        wire_len += fetched.wire_len;
        match fetched.outcome {
            FetchOutcome::Block(block) => blocks.push(block),
            FetchOutcome::Missing => unavailable.push((fetched.cid, false)),
            FetchOutcome::Changed => unavailable.push((fetched.cid, true)),
            FetchOutcome::PatchFailed => patch_failed.push(fetched.cid),
        }
    }
    if let Some(budget) = budget {
        let len = blocks.iter().map(|block| block.payload().len() as u64).sum();
        budget.take(len).map_err(|_| PullError::OverQuota)?;
    }
    store.put(&blocks)?;
    for block in &blocks {
        if block.cid().codec() == Codec::Raw {
            progress.found(u64::from(block.len()));
        }
    }
    progress.fetched(blocks.len() as u64, wire_len);
    let mut answers = answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    answers.count += count;
    answers.unavailable.extend(unavailable);
    answers.patch_failed.extend(patch_failed);
    Ok(())
}
