//! The quota of a source: the disk space that its snapshots and unfinished pulls may need.
//!
//! The space is measured when the task starts to pull, so that a restart changes nothing. Then each
//! pull adds the blocks that it stores. When the quota is used up, it is measured again from time
//! to time, and after snapshots were removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use net::PeerId;
use pull::{ManifestPullError, PullError, StorageBudget};
use tokio::time::Instant;

use crate::effects::Effects;

/// Minimum time between two measurements, unless snapshots were removed.
const MEASURE_INTERVAL: Duration = Duration::from_secs(600);

/// The quota of one source.
pub(super) struct Quota {
    /// The budget of the pulls; `None` without a limit.
    pub(super) budget: Option<Arc<StorageBudget>>,
    /// Time of the last measurement.
    measured_at: tokio::sync::Mutex<Option<Instant>>,
    /// True if snapshots were added or removed since then.
    is_stale: AtomicBool,
}

impl Quota {
    /// Creates a quota of `limit` bytes.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self {
            budget: limit.map(|limit| Arc::new(StorageBudget::new(limit))),
            measured_at: tokio::sync::Mutex::default(),
            is_stale: AtomicBool::new(false),
        }
    }

    /// Measures again before the next pull that does not fit.
    pub(super) fn snapshots_changed(&self) {
        self.is_stale.store(true, Ordering::SeqCst);
    }

    /// Checks that the source may use more disk space. Measures the used space if necessary.
    ///
    /// # Errors
    ///
    /// Returns [`PullError::OverQuota`] if it may not, and the error of the store if the space
    /// cannot be measured.
    pub(super) async fn admit(
        &self,
        effects: &dyn Effects,
        source: PeerId,
    ) -> Result<(), ManifestPullError> {
        let Some(budget) = &self.budget else { return Ok(()) };
        // One pull measures, and the others wait for the result.
        let mut measured_at = self.measured_at.lock().await;
        let is_due = match *measured_at {
            None => true,
            Some(at) => {
                budget.is_exhausted()
                    && (self.is_stale.load(Ordering::SeqCst) || at.elapsed() >= MEASURE_INTERVAL)
            }
        };
        if is_due {
            self.is_stale.store(false, Ordering::SeqCst);
            let before = budget.used();
            let measured = effects.used_bytes(source).await?;
            budget.set_measured(before, measured);
            *measured_at = Some(Instant::now());
        }
        match budget.is_exhausted() {
            true => Err(ManifestPullError::Pull(PullError::OverQuota)),
            false => Ok(()),
        }
    }
}
