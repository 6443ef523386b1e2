//! `backup-daemon-state.json`: how the backup daemon is, for people and other
//! programs (`docs/formats/state.md`).
//!
//! It is written, and read by nobody here: all that it says is derived from
//! the store and the sources. So losing it loses nothing, and whatever stands
//! in it at the start is of no matter.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::{AtomicWrite, RealDisk, write_atomic};
use jiff::Timestamp;
use protocols::{Clock, Panicked, blocking};
use serde::{Serialize, Serializer};
use snapshots::SnapshotStore;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::status::{SourceStatus, Totals};

/// The name of the file.
pub const STATE_FILE_NAME: &str = "backup-daemon-state.json";
const VERSION: u32 = 1;
/// While pulls go on, the file is written this often.
const EVERY: Duration = Duration::from_secs(1);
/// When one ends, at once, but not more often than this.
const EVERY_END: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct State {
    version: u32,
    updated_at: Timestamp,
    totals: Totals,
    #[serde(serialize_with = "all")]
    sources: Vec<Arc<SourceStatus>>,
}

fn all<S: Serializer>(sources: &[Arc<SourceStatus>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(sources.iter().map(|source| &**source))
}

/// Writes the file whenever there is something new, until `stop`.
pub(crate) struct StateFile {
    pub(crate) path: PathBuf,
    pub(crate) board: Board,
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
    /// Runs until it is told to stop, and writes once more.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut version = self.board.watch();
        let mut is_failing = false;
        while !stop.is_cancelled() {
            let seen = *version.borrow_and_update();
            self.write(&mut is_failing).await;
            let written_at = tokio::time::Instant::now();
            tokio::select! {
                () = stop.cancelled() => break,
                changed = version.changed() => if changed.is_err() { break },
            }
            // More of the kind that can wait is waited for; an end is not.
            let ended = async {
                let ended = version.wait_for(|now| now.ends != seen.ends).await.is_ok();
                tokio::time::sleep_until(written_at + if ended { EVERY_END } else { EVERY }).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(written_at + EVERY) => {}
                () = ended => {}
            }
        }
        self.write(&mut is_failing).await;
    }

    async fn write(&self, is_failing: &mut bool) {
        let state = State {
            version: VERSION,
            updated_at: self.clock.now(),
            totals: totals(&self.board, &self.snapshots),
            sources: self.board.sources(),
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
            // Nobody needs the file: no reason to stop, nor to say it twice.
            Err(error) if !std::mem::replace(is_failing, true) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the state file cannot be written");
            }
            Err(_) => {}
        }
    }
}

/// The totals, with what there is now.
pub(crate) fn totals(board: &Board, snapshots: &SnapshotStore) -> Totals {
    Totals { snapshots: snapshots.count(), ..board.totals() }
}
