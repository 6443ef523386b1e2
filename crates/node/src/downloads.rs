//! Fetches of data items from the network: one per CID, however many requests
//! ask for it.
//!
//! A fetch has a partial root, so that the fetched blocks stay if the fetch or the
//! instance ends early, and the next attempt fetches only the rest. The data item
//! is listed once every block is in the store; blocks that are ranges of watched
//! files are copied into the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use net::{Handle, PeerId};
use parking_lot::Mutex;
use protocols::SessionPool;
use pull::{PullError, PullProgress, Puller};
use store::{
    BlockRead as _, BlockWrite, Content, PackStore, Root, Roots as _, StoreError, resolve,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::Cid;

use crate::local_blocks::{CopyingBlocks, LocalBlocks};
use crate::roots;
use crate::tasks::Tasks;

/// Maximum number of fetches in the list; finished ones are dropped first.
const DOWNLOADS_MAX: usize = 1000;

/// The state of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownloadState {
    /// The fetch is running.
    Fetching,
    /// Every block is in the store.
    Complete,
    /// The fetch ended early, for this reason. Another attempt continues it.
    Failed(String),
}

/// One fetch.
#[derive(Debug)]
pub struct Download {
    /// The CID of the content.
    pub cid: Cid,
    /// The length of the content, in bytes.
    pub size: u64,
    /// Counters of the fetched blocks and bytes.
    pub progress: Arc<PullProgress>,
    state: watch::Sender<DownloadState>,
    stop: CancellationToken,
}

impl Download {
    /// Returns the state, as a value to watch.
    pub fn state(&self) -> watch::Receiver<DownloadState> {
        self.state.subscribe()
    }
}

/// Why content cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No connected peer has the content; the text has the answer of each.
    #[error("no connected peer has the content: {0}")]
    Unavailable(String),
    /// No peer sent the content in time.
    #[error("no peer sent the content within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The fetches of an instance. Clones share them.
#[derive(Clone)]
pub struct Downloads {
    store: LocalBlocks,
    net: Handle,
    pool: SessionPool,
    jobs: Arc<Mutex<HashMap<Cid, Arc<Download>>>>,
    tasks: Tasks,
}

impl std::fmt::Debug for Downloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downloads").field("jobs", &self.jobs.lock().len()).finish_non_exhaustive()
    }
}

impl Downloads {
    /// Creates a value without fetches. They end with `tasks`.
    pub fn new(store: LocalBlocks, net: Handle, tasks: Tasks) -> Self {
        let pool = SessionPool::new(net.clone());
        Self { store, net, pool, jobs: Arc::default(), tasks }
    }

    /// Returns the fetch of this CID, if one is running or has ended.
    pub fn get(&self, cid: Cid) -> Option<Arc<Download>> {
        self.jobs.lock().get(&cid).cloned()
    }

    /// Stops the fetch of this CID and drops it from the list.
    pub fn forget(&self, cid: Cid) {
        if let Some(job) = self.jobs.lock().remove(&cid) {
            job.stop.cancel();
        }
    }

    /// Resolves a CID to its content. Fetches the block of the CID if it is not
    /// stored here.
    ///
    /// # Errors
    ///
    /// Returns [`DownloadError::Timeout`] after `timeout`,
    /// [`DownloadError::Unavailable`] if no peer has the block, and
    /// [`DownloadError::Store`] if the store fails.
    pub async fn content(&self, cid: Cid, timeout: Duration) -> Result<Content, DownloadError> {
        let asked = tokio::time::timeout(timeout, self.root_block(cid)).await;
        asked.map_err(|_| DownloadError::Timeout(timeout))??;
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || resolve(&store, cid)).await;
        match found {
            Ok(found) => found?.ok_or_else(|| {
                DownloadError::Unavailable("its block was removed meanwhile".into())
            }),
            Err(error) => Err(DownloadError::Unavailable(error.to_string())),
        }
    }

    /// Fetches the block of this CID, from all connected peers at the same time.
    async fn root_block(&self, cid: Cid) -> Result<(), DownloadError> {
        let store = self.store.clone();
        let is_here = tokio::task::spawn_blocking(move || store.has(&cid)).await;
        if is_here.is_ok_and(|is_here| matches!(is_here, Ok(true))) {
            return Ok(());
        }
        let mut asked: FuturesUnordered<_> = self
            .peers()
            .await
            .into_iter()
            .map(|peer| async move {
                let mut puller =
                    self.puller(self.store.store().clone(), vec![peer], Arc::default());
                (peer, puller.block(cid).await)
            })
            .collect();
        let mut reasons = Vec::new();
        while let Some((peer, result)) = asked.next().await {
            match result {
                Ok(true) => return Ok(()),
                Ok(false) => reasons.push(format!("{peer} does not have it")),
                Err(PullError::Store(error)) => return Err(error.into()),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        if reasons.is_empty() {
            reasons.push("no peer is connected".into());
        }
        Err(DownloadError::Unavailable(reasons.join("; ")))
    }

    async fn peers(&self) -> Vec<PeerId> {
        let peers = self.net.peers().await.unwrap_or_default();
        peers.into_iter().map(|peer| peer.peer).collect()
    }

    fn puller(
        &self,
        store: Arc<dyn BlockWrite>,
        peers: Vec<PeerId>,
        progress: Arc<PullProgress>,
    ) -> Puller {
        Puller::new(store, self.pool.clone(), peers, progress)
    }

    /// Starts to fetch all blocks of `content`, unless that is running or done
    /// already.
    pub fn start(&self, cid: Cid, content: &Content) -> Arc<Download> {
        if let Some(job) = self.get(cid)
            && matches!(*job.state.borrow(), DownloadState::Fetching | DownloadState::Complete)
        {
            return job;
        }
        let job = Arc::new(Download {
            cid,
            size: content.size,
            progress: Arc::default(),
            state: watch::Sender::new(DownloadState::Fetching),
            stop: self.tasks.stop_token().child_token(),
        });
        {
            let mut jobs = self.jobs.lock();
            // Another request may have been faster.
            if let Some(other) = jobs.get(&cid)
                && *other.state.borrow() == DownloadState::Fetching
            {
                return other.clone();
            }
            if jobs.len() >= DOWNLOADS_MAX {
                jobs.retain(|_, job| *job.state.borrow() == DownloadState::Fetching);
            }
            jobs.insert(cid, job.clone());
        }
        let (this, running) = (self.clone(), job.clone());
        self.tasks.spawn("fetch", async move {
            let end = tokio::select! {
                end = this.fetch(&running) => end,
                () = running.stop.cancelled() => DownloadState::Failed("the fetch was stopped".into()),
            };
            running.state.send_replace(end);
        });
        job
    }

    async fn fetch(&self, job: &Download) -> DownloadState {
        match self.try_fetch(job).await {
            Ok(()) => DownloadState::Complete,
            Err(reason) => {
                tracing::info!(cid = %job.cid, reason, "a fetch failed");
                DownloadState::Failed(reason)
            }
        }
    }

    async fn try_fetch(&self, job: &Download) -> Result<(), String> {
        let cid = job.cid;
        let epoch = self.store.store().write_epoch();
        let partial = Root { cid, partial: true };
        self.with_store(move |store| store.set_root(&roots::fetch(cid), partial, epoch)).await?;
        let copying = Arc::new(CopyingBlocks::new(self.store.clone(), job.stop.clone()));
        let mut puller = self.puller(copying, self.peers().await, job.progress.clone());
        let report = puller.tree(cid).await.map_err(|error| error.to_string())?;
        if let Some(missing) = report.missing.first().or(report.changed.first()) {
            let count = report.missing.len() + report.changed.len();
            return Err(format!(
                "no connected peer has {count} of the blocks, for example {missing}"
            ));
        }
        let whole = Root { cid, partial: false };
        self.with_store(move |store| {
            store.set_root(&roots::data(cid), whole, epoch)?;
            store.remove_root(&roots::fetch(cid))
        })
        .await?;
        Ok(())
    }

    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&PackStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let store = self.store.store().clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
