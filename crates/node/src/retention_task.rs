//! Applies the rules of `[backup_server.keep]` after new snapshots and at
//! regular intervals, and frees the blocks that nothing needs any more.

use std::time::Duration;

use backup::BackupEvent;
use store::StoreAdmin as _;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::maintenance;
use crate::services::Services;

/// Pause after a snapshot: more snapshots follow, and each run reads every
/// record.
const AFTER_SNAPSHOT: Duration = Duration::from_secs(3600);
/// Interval of the regular runs: rules depend on the age of snapshots too.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Pause before the first run. It is shorter, since a computer may never run
/// for a whole interval.
const FIRST: Duration = Duration::from_secs(900);
/// Growth of the store, in bytes, after which a run also collects if it has
/// removed nothing: old manifests of a source and interrupted pulls leave
/// garbage.
const GROWTH: u64 = 64 << 20;

/// Runs whenever a run is due, until the instance stops.
pub(crate) async fn run(services: Services) {
    RetentionTask { stop: services.stop_token(), services }.run().await;
}

struct RetentionTask {
    services: Services,
    stop: CancellationToken,
}

impl RetentionTask {
    async fn run(self) {
        let mut events = self.services.backup_daemon.subscribe();
        let mut collected_at = 0;
        let mut pause = FIRST;
        loop {
            let interval = tokio::time::sleep(pause);
            tokio::pin!(interval);
            let is_stopped = loop {
                tokio::select! {
                    () = self.stop.cancelled() => break true,
                    () = &mut interval => break false,
                    event = events.recv() => match event {
                        Ok(BackupEvent::SnapshotCommitted { .. }) | Err(RecvError::Lagged(_)) => {
                            tokio::select! {
                                () = self.stop.cancelled() => break true,
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
            pause = INTERVAL;
            // This run covers the snapshots that were committed until now.
            events = self.services.backup_daemon.subscribe();
            let has_grown = self.used_bytes().await >= collected_at + GROWTH;
            self.prune(has_grown).await;
            if has_grown {
                collected_at = self.used_bytes().await;
            }
        }
    }

    /// Returns the size of the store in bytes; 0 if it cannot be read.
    async fn used_bytes(&self) -> u64 {
        let store = self.services.store.clone();
        let usage = tokio::task::spawn_blocking(move || store.usage()).await;
        usage.ok().and_then(Result::ok).map_or(0, |usage| usage.used_bytes)
    }

    async fn prune(&self, always_collect: bool) {
        match maintenance::prune_unattended(&self.services, always_collect).await {
            Ok(report) => {
                let (removed, freed) = (report.removed.len(), report.freed_bytes);
                if removed > 0 {
                    tracing::info!(removed, freed, "removed snapshots that no rule keeps");
                }
                if let Some(error) = report.not_collected {
                    tracing::warn!(error, "cannot free space; will retry later");
                }
            }
            Err(error) => tracing::warn!(error, "pruning failed; will retry later"),
        }
    }
}
