//! Keeps what is to be kept, and no more: after new snapshots and from time to
//! time, the rules of `[backup_server.keep]` are applied.

use std::time::Duration;

use backup::BackupEvent;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::maintenance;
use crate::v1::ApiState;

/// After a snapshot, more of them may come: not before this.
const AFTER_SNAPSHOT: Duration = Duration::from_secs(600);
/// Rules go by the clock too.
const REGULARLY: Duration = Duration::from_secs(6 * 3600);

/// The task that prunes by itself.
pub(crate) struct Keeper {
    state: ApiState,
}

impl Keeper {
    pub(crate) fn new(state: ApiState) -> Self {
        Self { state }
    }

    /// Prunes when it is due, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut events = self.state.backup.subscribe();
        loop {
            let regularly = tokio::time::sleep(REGULARLY);
            tokio::pin!(regularly);
            let is_stopped = loop {
                tokio::select! {
                    () = stop.cancelled() => break true,
                    () = &mut regularly => break false,
                    event = events.recv() => match event {
                        Ok(BackupEvent::SnapshotCommitted { .. }) | Err(RecvError::Lagged(_)) => {
                            tokio::select! {
                                () = stop.cancelled() => break true,
                                () = tokio::time::sleep(AFTER_SNAPSHOT) => break false,
                            }
                        }
                        Ok(_) => {}
                        Err(RecvError::Closed) => break true,
                    },
                }
            };
            if is_stopped {
                return;
            }
            // What came meanwhile is covered.
            events = self.state.backup.subscribe();
            match maintenance::prune_by_itself(&self.state).await {
                Ok(report) if report.removed.is_empty() => {}
                Ok(report) => {
                    let (removed, freed) = (report.removed.len(), report.freed_bytes);
                    tracing::info!(removed, freed, "snapshots that no rule keeps are removed");
                }
                Err(error) => tracing::warn!(error, "pruning failed; it is tried again later"),
            }
        }
    }
}
