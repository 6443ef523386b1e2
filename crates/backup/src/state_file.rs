//! `backup-daemon-state.json`: the status of the daemon, for users and other programs
//! (`docs/formats/state.md`).
//!
//! This program writes the file and never reads it, because everything in it is derived from the
//! store and the sources. A lost or damaged file has no consequences.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::{AtomicWrite, RealDisk, write_atomic};
use jiff::Timestamp;
use protocols::{Clock, Panicked, blocking};
use serde::{Serialize, Serializer};
use snapshots::SnapshotStore;
use tokio_util::sync::CancellationToken;

use crate::status::{BackupTotals, SourceStatus};
use crate::status_registry::StatusRegistry;

/// Name of the file.
pub const STATE_FILE_NAME: &str = "backup-daemon-state.json";
const VERSION: u32 = 1;
/// Minimum time between two writes during pulls.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between two writes after a pull has ended.
const WRITE_INTERVAL_END: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct State {
    version: u32,
    updated_at: Timestamp,
    totals: BackupTotals,
    #[serde(serialize_with = "all")]
    sources: Vec<Arc<SourceStatus>>,
}

fn all<S: Serializer>(sources: &[Arc<SourceStatus>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(sources.iter().map(|source| &**source))
}

/// Writes the state file after each change.
pub(crate) struct StateFile {
    pub(crate) path: PathBuf,
    pub(crate) registry: StatusRegistry,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) clock: Arc<dyn Clock>,
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

impl StateFile {
    /// Runs until `stop`, and then writes the file once more.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut version = self.registry.watch();
        let mut is_failing = false;
        while !stop.is_cancelled() {
            let seen = *version.borrow_and_update();
            self.write(&mut is_failing).await;
            let written_at = tokio::time::Instant::now();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = version.changed() => if changed.is_err() { break },
            }
            // Other changes are collected for a while; the end of a pull is written soon.
            let ended = async {
                let ended = version.wait_for(|now| now.ends != seen.ends).await.is_ok();
                tokio::time::sleep_until(
                    written_at + if ended { WRITE_INTERVAL_END } else { WRITE_INTERVAL },
                )
                .await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(written_at + WRITE_INTERVAL) => {}
                () = ended => {}
            }
        }
        self.write(&mut is_failing).await;
    }

    async fn write(&self, is_failing: &mut bool) {
        let state = State {
            version: VERSION,
            updated_at: self.clock.now(),
            totals: totals(&self.registry, &self.snapshots),
            sources: self.registry.sources(),
        };
        let path = self.path.clone();
        let written = blocking(move || {
            let mut json = serde_json::to_vec_pretty(&state).map_err(std::io::Error::from)?;
            json.push(b'\n');
            write_atomic(&RealDisk, &path, &json, &AtomicWrite::PRIVATE)
                .map_err(std::io::Error::from)?;
            Ok::<_, WriteError>(())
        });
        match written.await {
            Ok(()) => *is_failing = false,
            // Nothing depends on the file, so the task continues; the error is logged once.
            Err(error) if !std::mem::replace(is_failing, true) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot write the state file");
            }
            Err(_) => {}
        }
    }
}

/// Returns the totals, including the current number of snapshots.
pub(crate) fn totals(registry: &StatusRegistry, snapshots: &SnapshotStore) -> BackupTotals {
    BackupTotals { snapshots: snapshots.count(), ..registry.totals() }
}
