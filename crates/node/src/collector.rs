//! Freeing what was deleted, in the background: however often it is asked
//! for, one collection runs and at most one waits.

use std::sync::Arc;

use store::{BlockStore, GcOptions, PackStore};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use types::with_causes;

use crate::listeners::Problems;

/// Asks for collections. Clones ask the same one.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    wanted: Arc<Notify>,
    problems: Problems,
}

impl Collector {
    /// A collector whose task has not been started; what keeps it from freeing
    /// space is told in `problems`.
    pub(crate) fn new(problems: Problems) -> Self {
        Self { wanted: Arc::default(), problems }
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
                Ok(Ok(report)) => {
                    tracing::debug!(?report, "collected");
                    self.problems.set_collection(None);
                }
                Ok(Err(error)) => {
                    let error = with_causes(&error);
                    tracing::warn!(error, "nothing could be freed");
                    self.problems.set_collection(Some(&error));
                }
                Err(error) => tracing::error!(%error, "a collection broke off"),
            }
        }
    }
}
