//! Pulling: everything that a name leads to, from peers into the store.
//!
//! Role: the one way in which blocks come from elsewhere. It looks at what is
//! wanted and at what is there, and asks for the difference; so it can be
//! stopped and begun again at any time, and goes on where it was, block by
//! block.
//!
//! Invariants: a block is put only after it was verified (the network crate
//! hands on no other); nothing is taken for complete here, that is for who
//! sets the root; memory is bounded by the fan-out of nodes times their depth
//! and one batch.
//!
//! Order: front to back, as a file is read, so that what is being pulled can
//! be read along.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net::{
    BlockError, BlockRequest, FetchError, FetchOutcome, Fetched, PeerId, SimilarBlock, Want,
};
use protocols::{Panicked, SessionPool, blocking};
use store::{BlockWrite, StoreError, get_sound};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Cid, Codec, Dataset, FileNode};

use crate::likes::Likes;

/// Blocks that are asked for in one go, at most.
const BATCH_WANTS: usize = 4096;
/// … and so many bytes of them, as far as their lengths are known …
const BATCH_LEN: u64 = 64 << 20;
/// … and so many nodes: each is followed by what is below it, and front to
/// back is the order that is wanted.
const BATCH_NODES: usize = 256;
/// … and so many while it is not known whether what comes is worth comparing
/// with what is here: what is asked for first tells.
const BATCH_LEN_ALIKE: u64 = 16 << 20;
/// Fewer bytes do not tell how fast a link is.
const FAST_TELLS: u64 = 1 << 20;
/// How often a peer whose stream broke is asked again for the same batch.
const TRIES: usize = 3;
/// Names of blocks that could not be had are listed up to this number.
const LISTED_MAX: usize = 1000;
/// Nodes that were followed are remembered up to this number, so that a tree
/// that names the same node again and again costs no more than one that does
/// not. Beyond it some are followed again.
const FOLLOWED_MAX: usize = 256 * 1024;

/// How far a pull is; can be watched from elsewhere.
#[derive(Debug)]
pub struct Progress {
    bytes: AtomicU64,
    blocks: AtomicU64,
    fetched_bytes: AtomicU64,
    changed: watch::Sender<u64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        }
    }
}

impl Progress {
    /// Bytes of chunks that are here, fetched or found.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Blocks that were fetched.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Bytes that came over the network, as they came.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Tells when there is more.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Notes blocks that came as differences.
    pub(crate) fn fetched(&self, blocks: u64, bytes: u64) {
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    fn found(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

/// What a pull brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullReport {
    /// Blocks that no peer has; the first thousand of them.
    pub missing: Vec<Cid>,
    /// Blocks of files that have changed since they were named.
    pub changed: Vec<Cid>,
    /// Whether there are more of these than are listed.
    pub is_cut_short: bool,
}

impl PullReport {
    /// Whether everything is here.
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

/// Why a pull ended before its end. What it had brought is in the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store cannot take it, or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody to ask.
    #[error("no peer is connected that could have it")]
    NoPeers,
    /// Nobody answered.
    #[error("no peer could be asked: {}", Reasons(.0))]
    Unreachable(Vec<(PeerId, BlockError)>),
    /// A block that was named as a node is none.
    #[error("block {cid} is not the node that it is named as")]
    Node {
        /// The block.
        cid: Cid,
        /// What is wrong with it.
        #[source]
        source: types::NodeError,
    },
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
    /// The work panicked; the panic was logged.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

struct Reasons<'a>(&'a [(PeerId, BlockError)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (peer, error)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{peer}: {error}")?;
        }
        Ok(())
    }
}

/// Pulls from a list of peers, in the order of the list. Clones pull beside
/// each other, and share what is told of their progress.
#[derive(Clone)]
pub struct Puller {
    store: Arc<dyn BlockWrite>,
    pool: SessionPool,
    peers: Vec<PeerId>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    /// The link is no slow one: what comes is sooner sent whole than compared, and
    /// no more is until the pull ends.
    is_fast: bool,
}

/// What is known to be like what is asked for, by its name.
type Alike = HashMap<Cid, Arc<SimilarBlock>>;

impl Puller {
    /// Nothing is asked yet.
    pub fn new(
        store: Arc<dyn BlockWrite>,
        pool: SessionPool,
        peers: Vec<PeerId>,
        progress: Arc<Progress>,
    ) -> Self {
        Self { store, pool, peers, progress, stop: CancellationToken::new(), is_fast: false }
    }

    /// Ends with [`PullError::Stopped`] when `stop` is cancelled: after what
    /// is being asked for at that moment, so that none of it is lost.
    #[must_use]
    pub fn until(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Brings one block, without what it refers to. `false`: nobody has it.
    ///
    /// # Errors
    ///
    /// [`PullError`].
    pub async fn block(&mut self, cid: Cid) -> Result<bool, PullError> {
        Ok(self.blocks(vec![cid]).await?.is_complete())
    }

    /// Brings blocks, without what they refer to.
    ///
    /// # Errors
    ///
    /// [`PullError`].
    pub async fn blocks(&mut self, cids: Vec<Cid>) -> Result<PullReport, PullError> {
        let mut report = PullReport::default();
        let store = self.store.clone();
        let lacking = blocking(move || {
            let mut lacking = Vec::new();
            let mut seen = HashSet::new();
            for cid in cids {
                if seen.insert(cid) && !store.has(&cid)? {
                    lacking.push(Want::from(cid));
                }
            }
            Ok::<_, PullError>(lacking)
        });
        for wants in lacking.await?.chunks(BATCH_WANTS) {
            self.fetch(wants.to_vec(), Alike::new(), &mut report).await?;
        }
        Ok(report)
    }

    /// Brings everything that `root` leads to. Whoever calls it keeps `root`
    /// alive with a partial root or a pin.
    ///
    /// # Errors
    ///
    /// [`PullError`]; what came before is in the store, not yet committed.
    pub async fn tree(&mut self, root: Cid) -> Result<PullReport, PullError> {
        self.trees(vec![root.into()], Likes::default()).await
    }

    /// Brings everything that `roots` lead to, in this order; where the length
    /// of a root that is a chunk is known, the pipeline fits better. What
    /// `likes` knows something of may come as the difference to that.
    ///
    /// # Errors
    ///
    /// As [`Puller::tree`].
    pub(crate) async fn trees(
        &mut self,
        roots: Vec<Want>,
        mut likes: Likes,
    ) -> Result<PullReport, PullError> {
        let mut report = PullReport::default();
        // The next last.
        let mut tasks: Vec<Want> = roots.into_iter().rev().collect();
        let mut followed = HashSet::new();
        loop {
            if self.is_fast {
                likes = Likes::default();
            }
            let len_max = if likes.is_empty() { BATCH_LEN } else { BATCH_LEN_ALIKE };
            let (store, progress) = (self.store.clone(), self.progress.clone());
            let gathered = blocking(move || {
                let mut gathered = Gathered { tasks, followed, likes, ..Gathered::default() };
                gathered.gather(&*store, &progress, len_max)?;
                let alike = gathered.likes.take(store.clone(), &gathered.wants)?;
                Ok::<_, PullError>((gathered, alike))
            });
            let (gathered, alike) = gathered.await?;
            (tasks, followed, likes) = (gathered.tasks, gathered.followed, gathered.likes);
            if gathered.wants.is_empty() {
                return Ok(report);
            }
            let nodes: Vec<Cid> =
                gathered.wants.iter().map(|w| w.cid).filter(|c| c.codec() != Codec::Raw).collect();
            let lacking = self.fetch(gathered.wants, alike, &mut report).await?;
            // Now that they are here, they are followed.
            let here = nodes.into_iter().rev().filter(|cid| !lacking.contains(cid));
            tasks.extend(here.map(Want::from));
        }
    }

    /// Gets wants from the peers, one after the other, until all are here or
    /// all peers were asked; returns those that nobody has.
    async fn fetch(
        &mut self,
        wants: Vec<Want>,
        mut alike: Alike,
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
            match self.fetch_from(peer, left, &mut alike, &mut changed).await {
                Ok(still) => {
                    has_answered = true;
                    left = still;
                }
                Err((_, Failure::Store(error))) => return Err(error.into()),
                Err((still, Failure::Peer(error))) => {
                    tracing::debug!(%peer, %error, "a peer could not be asked");
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
        self.progress.tell();
        Ok(left.into_iter().map(|want| want.cid).collect())
    }

    /// Gets wants from one peer; returns those that it does not have.
    async fn fetch_from(
        &mut self,
        peer: PeerId,
        wants: Vec<Want>,
        alike: &mut Alike,
        changed: &mut HashSet<Cid>,
    ) -> Result<Vec<Want>, (Vec<Want>, Failure)> {
        let mut left: VecDeque<Want> = wants.into();
        let mut lacking = Vec::new();
        let mut tries = 0;
        loop {
            let result = self.exchange(peer, &mut left, alike, &mut lacking, changed).await;
            match result {
                Ok(()) if left.is_empty() => return Ok(lacking),
                // What came as a difference to something else is asked for
                // again, and as a difference no more.
                Ok(()) => {}
                Err(failure) => {
                    self.pool.forget(peer);
                    tries += 1;
                    let is_worth_it = match &failure {
                        Failure::Peer(error) => error.retry() == net::Retry::Temporary,
                        Failure::Store(_) => false,
                    };
                    if tries == TRIES || !is_worth_it {
                        lacking.extend(left);
                        return Err((lacking, failure));
                    }
                }
            }
        }
    }

    /// One attempt; what was answered is taken off `left`.
    async fn exchange(
        &mut self,
        peer: PeerId,
        left: &mut VecDeque<Want>,
        alike: &mut Alike,
        lacking: &mut Vec<Want>,
        changed: &mut HashSet<Cid>,
    ) -> Result<(), Failure> {
        let mut session = self.pool.session(peer).await.map_err(Failure::Peer)?;
        let (store, progress) = (self.store.clone(), self.progress.clone());
        let answers = Arc::new(std::sync::Mutex::new(Answers::default()));
        let sink = {
            let answers = answers.clone();
            move |batch: Vec<Fetched>| take(&*store, &progress, &answers, batch)
        };
        let ask =
            |want: &Want| BlockRequest { want: *want, similar: alike.get(&want.cid).cloned() };
        let asks: Vec<BlockRequest> = left.iter().map(ask).collect();
        let begun = Instant::now();
        let result = session.fetch(asks, sink).await;
        if let Ok(stats) = &result
            && stats.bytes >= FAST_TELLS
        {
            #[expect(clippy::cast_precision_loss, reason = "a batch is some MiB")]
            let bytes = stats.bytes as f64;
            self.is_fast |= bytes > net::SLOW_LINK_BYTES_PER_SEC * begun.elapsed().as_secs_f64();
        }
        let answers = std::mem::take(&mut *answers.lock().unwrap_or_else(|e| e.into_inner()));
        // In the order of the wants, so what was answered is a prefix.
        let mut unmade = Vec::new();
        for want in left.drain(..answers.count.min(left.len())) {
            if answers.unmade.contains(&want.cid) {
                alike.remove(&want.cid);
                unmade.push(want);
                continue;
            }
            match answers.lacking.get(&want.cid) {
                Some(is_changed) => {
                    if *is_changed {
                        changed.insert(want.cid);
                    }
                    lacking.push(want);
                }
                None => {
                    changed.remove(&want.cid);
                }
            }
        }
        left.extend(unmade);
        match result {
            Ok(_) => Ok(()),
            Err(FetchError::Sink(error)) => Err(Failure::Store(error)),
            Err(FetchError::Block(error)) => Err(Failure::Peer(error)),
        }
    }
}

/// Why one peer did not give what was wanted.
enum Failure {
    Peer(BlockError),
    Store(StoreError),
}

/// What has been answered so far.
#[derive(Default)]
struct Answers {
    count: usize,
    /// What the peer does not have, and whether it had it once.
    lacking: HashMap<Cid, bool>,
    /// What came as a difference that does not make it.
    unmade: HashSet<Cid>,
}

/// Takes a batch of answers: blocks go to the store. On a blocking thread.
fn take(
    store: &dyn BlockWrite,
    progress: &Progress,
    answers: &std::sync::Mutex<Answers>,
    batch: Vec<Fetched>,
) -> Result<(), StoreError> {
    let mut blocks = Vec::with_capacity(batch.len());
    let (mut lacking, mut unmade) = (Vec::new(), Vec::new());
    let count = batch.len();
    let mut wire_len = 0;
    for fetched in batch {
        wire_len += fetched.wire_len;
        match fetched.outcome {
            FetchOutcome::Block(block) => blocks.push(block),
            FetchOutcome::Missing => lacking.push((fetched.cid, false)),
            FetchOutcome::Changed => lacking.push((fetched.cid, true)),
            FetchOutcome::PatchFailed => unmade.push(fetched.cid),
        }
    }
    store.put(&blocks)?;
    for block in &blocks {
        if block.cid().codec() == Codec::Raw {
            progress.found(u64::from(block.len()));
        }
    }
    progress.fetched_bytes.fetch_add(wire_len, Ordering::Relaxed);
    progress.blocks.fetch_add(blocks.len() as u64, Ordering::Relaxed);
    progress.tell();
    let mut answers = answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    answers.count += count;
    answers.lacking.extend(lacking);
    answers.unmade.extend(unmade);
    Ok(())
}

#[derive(Default)]
struct Gathered {
    /// What is to be followed later, the next last.
    tasks: Vec<Want>,
    /// Nodes that need not be followed again.
    followed: HashSet<Cid>,
    likes: Likes,
    /// What is not here.
    wants: Vec<Want>,
}

impl Gathered {
    /// Follows names that are here, until there is a batch that is not.
    fn gather(
        &mut self,
        store: &dyn BlockWrite,
        progress: &Progress,
        len_max: u64,
    ) -> Result<(), PullError> {
        let mut wanted = HashSet::new();
        let mut nodes = 0;
        let mut len = 0;
        while let Some(task) = self.tasks.pop() {
            let cid = task.cid;
            let is_here = match cid.codec() {
                Codec::Raw => {
                    let is_here = store.has(&cid)?;
                    if is_here {
                        progress.found(u64::from(task.len.unwrap_or(0)));
                    }
                    is_here
                }
                Codec::DagCbor | Codec::Json if self.followed.contains(&cid) => true,
                Codec::DagCbor | Codec::Json => match get_sound(store, &cid)? {
                    Some(bytes) => {
                        self.tasks.extend(below(cid, &bytes)?.into_iter().rev());
                        self.likes.follow(store, &cid, &bytes)?;
                        if self.followed.len() >= FOLLOWED_MAX {
                            self.followed.clear();
                        }
                        self.followed.insert(cid);
                        true
                    }
                    None => {
                        nodes += 1;
                        false
                    }
                },
            };
            if is_here || !wanted.insert(cid) {
                continue;
            }
            self.wants.push(task);
            len += u64::from(task.len.unwrap_or(0));
            if self.wants.len() == BATCH_WANTS || nodes == BATCH_NODES || len >= len_max {
                break;
            }
        }
        Ok(())
    }
}

/// What a node refers to, with the lengths of chunks where it tells them.
fn below(cid: Cid, bytes: &[u8]) -> Result<Vec<Want>, PullError> {
    if cid.codec() == Codec::DagCbor {
        if let Ok(node) = FileNode::decode(bytes) {
            let task = |child: &types::NodeChild| Want {
                cid: child.cid,
                len: match child.cid.codec() {
                    Codec::Raw => u32::try_from(child.len).ok(),
                    _ => None,
                },
            };
            return Ok(node.children().iter().map(task).collect());
        }
        if let Ok(dataset) = Dataset::decode(bytes) {
            let len = match dataset.tree.codec() {
                Codec::Raw => u32::try_from(dataset.size).ok(),
                _ => None,
            };
            return Ok(vec![Want { cid: dataset.tree, len }]);
        }
    }
    let links =
        types::links(cid.codec(), bytes).map_err(|source| PullError::Node { cid, source })?;
    Ok(links.into_iter().map(Want::from).collect())
}
