//! Collects deleted blocks in the background. However many requests arrive, one
//! collection runs and at most one waits.

use std::sync::Arc;

use store::{GcOptions, PackStore, StoreAdmin as _, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use types::with_causes;

use crate::healing::Healing;
use crate::problems::Problems;

/// Requests collections. Clones send to the same task.
#[derive(Clone, Debug, Default)]
pub struct GcTask {
    requested: Arc<Notify>,
    problems: Problems,
    healing: Healing,
}

impl GcTask {
    /// Creates a task that is not running yet. Errors are shown in `problems`, and
    /// blocks that are missing are looked for by `healing`.
    pub(crate) fn new(problems: Problems, healing: Healing) -> Self {
        Self { requested: Arc::default(), problems, healing }
    }

    /// Requests a collection.
    pub fn request(&self) {
        // There is one permit, so requests made while one waits are merged.
        self.requested.notify_one();
    }

    /// Collects on request, until `stop`.
    pub(crate) async fn run(self, store: Arc<PackStore>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.requested.notified() => {}
            }
            let store = store.clone();
            let done = tokio::task::spawn_blocking(move || store.gc(GcOptions::default())).await;
            match done {
                Ok(Ok(report)) => {
                    tracing::debug!(?report, "collected");
                    self.problems.set_collection(None);
                }
                Ok(Err(error)) => {
                    if matches!(error, StoreError::NotCollected(_)) {
                        self.healing.check_presence();
                    }
                    let error = with_causes(&error);
                    tracing::warn!(error, "cannot free space");
                    self.problems.set_collection(Some(&error));
                }
                Err(error) => tracing::error!(%error, "a collection ended unexpectedly"),
            }
        }
    }
}
