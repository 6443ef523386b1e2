//! Freeing what was deleted, in the background: however often it is asked
//! for, one collection runs and at most one waits.

use std::sync::Arc;

use store::{BlockStore, GcOptions, PackStore};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Asks for collections. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Collector {
    wanted: Arc<Notify>,
}

impl Collector {
    /// A collector whose task has not been started.
    pub fn new() -> Self {
        Self { wanted: Arc::new(Notify::new()) }
    }

    /// Asks for a collection, soon.
    pub fn request(&self) {
        // One permit: requests that come while one waits are the same request.
        self.wanted.notify_one();
    }

    /// Collects when asked to, until `stop`.
    pub async fn run(self, store: Arc<PackStore>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
            }
            let store = store.clone();
            let done = tokio::task::spawn_blocking(move || store.gc(GcOptions::default())).await;
            match done {
                Ok(Ok(report)) => tracing::debug!(?report, "collected"),
                Ok(Err(error)) => tracing::warn!(%error, "nothing could be freed"),
                Err(error) => tracing::error!(%error, "a collection broke off"),
            }
        }
    }
}

impl Default for Collector {
    fn default() -> Self {
        Self::new()
    }
}
