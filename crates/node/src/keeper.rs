//! Keeps what is to be kept, and no more: after new snapshots and from time to
//! time, the rules of `[backup_server.keep]` are applied, and what nothing
//! needs any more is freed.

use std::time::Duration;

use backup::BackupEvent;
use store::BlockStore as _;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::maintenance;
use crate::v1::ApiState;

/// After a snapshot, more of them come; looking through everything costs.
const AFTER_SNAPSHOT: Duration = Duration::from_secs(3600);
/// Rules go by the clock too.
const REGULARLY: Duration = Duration::from_secs(6 * 3600);
/// The first time comes sooner: a machine may never run that long.
const FIRST: Duration = Duration::from_secs(900);
/// What a source has published before, and what pulls have left behind, is
/// looked for when the store has grown by so many bytes since the last time.
const GROWTH: u64 = 64 << 20;

/// The task that prunes by itself.
pub(crate) struct Keeper {
    state: ApiState,
}

impl Keeper {
    pub(crate) fn new(state: ApiState) -> Self {
        Self { state }
    }

    /// What the store takes, in bytes.
    async fn used(&self) -> u64 {
        let store = self.state.node.store.clone();
        let usage = tokio::task::spawn_blocking(move || store.usage()).await;
        usage.ok().and_then(Result::ok).map_or(0, |usage| usage.used_bytes)
    }

    /// Prunes when it is due, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut events = self.state.backup.subscribe();
        let mut collected_at = 0;
        let mut pause = FIRST;
        loop {
            let regularly = tokio::time::sleep(pause);
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
            pause = REGULARLY;
            // What came meanwhile is covered.
            events = self.state.backup.subscribe();
            let has_grown = self.used().await >= collected_at + GROWTH;
            let pruned = maintenance::prune_by_itself(&self.state, has_grown).await;
            if has_grown {
                collected_at = self.used().await;
            }
            match pruned {
                Ok(report) => {
                    let (removed, freed) = (report.removed.len(), report.freed_bytes);
                    if removed > 0 {
                        tracing::info!(removed, freed, "snapshots that no rule keeps are removed");
                    }
                    if let Some(error) = report.not_collected {
                        tracing::warn!(error, "nothing could be freed; it is tried again later");
                    }
                }
                Err(error) => tracing::warn!(error, "pruning failed; it is tried again later"),
            }
        }
    }
}
