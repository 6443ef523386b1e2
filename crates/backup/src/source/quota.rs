//! The quota of a source: the disk space that its snapshots and unfinished pulls may need.
//!
//! The space is measured before the first pull of the task, so that a restart changes nothing. Then
//! each pull adds the blocks that it stores. When the quota is used up, it is measured again from
//! time to time, and after snapshots were removed.

use std::sync::Arc;
use std::time::Duration;

use pull::{ManifestPullError, PullError, StorageBudget};
use tokio::time::Instant;

use super::SourceTask;
use super::work::Completed;

/// Minimum time between two measurements, unless snapshots were removed.
const MEASURE_INTERVAL: Duration = Duration::from_secs(600);

/// The quota of one source.
pub(super) struct Quota {
    /// The budget of the pulls; `None` without a limit.
    pub(super) budget: Option<Arc<StorageBudget>>,
    /// Time of the last measurement.
    measured_at: Option<Instant>,
    is_measuring: bool,
    /// True if snapshots were added or removed since the last measurement.
    is_stale: bool,
}

impl Quota {
    /// Creates a quota of `limit` bytes.
    pub(super) fn new(limit: Option<u64>) -> Self {
        let budget = limit.map(|limit| Arc::new(StorageBudget::new(limit)));
        Self { budget, measured_at: None, is_measuring: false, is_stale: false }
    }

    /// Measures again before the next pull that does not fit.
    pub(super) fn snapshots_changed(&mut self) {
        self.is_stale = true;
    }

    fn is_due(&self, budget: &StorageBudget, now: Instant) -> bool {
        !self.is_measuring
            && self.measured_at.is_none_or(|at| {
                budget.is_exhausted() && (self.is_stale || now - at >= MEASURE_INTERVAL)
            })
    }
}

impl SourceTask {
    /// Reports whether pulls may start now. Starts a measurement if one is due; without room, the
    /// pulls that are due fail.
    pub(super) fn may_pull(&mut self, now: Instant) -> bool {
        let Some(budget) = self.quota.budget.clone() else { return true };
        if !self.folders.values().any(|folder| folder.due(now).is_some()) {
            return false;
        }
        if self.quota.is_due(&budget, now) {
            (self.quota.is_measuring, self.quota.is_stale) = (true, false);
            let measuring = self.context.effects.used_bytes(self.source.peer_id);
            let before = budget.used();
            self.work.spawn(async move { Completed::Measured { before, used: measuring.await } });
        }
        if self.quota.is_measuring {
            return false;
        }
        if budget.is_exhausted() {
            self.fail_due(&ManifestPullError::Pull(PullError::OverQuota), now);
            return false;
        }
        true
    }

    /// Handles the end of a measurement, which started when `before` bytes were used.
    pub(super) fn measured(&mut self, before: u64, used: Result<u64, ManifestPullError>) {
        let now = Instant::now();
        self.quota.is_measuring = false;
        let Some(budget) = &self.quota.budget else { return };
        let source = self.source.name.as_str();
        match used {
            Ok(used) => {
                self.quota.measured_at = Some(now);
                budget.set_measured(before, used);
                if budget.is_exhausted() {
                    tracing::warn!(source, used, "the source has used up its quota");
                }
            }
            Err(error) => {
                tracing::warn!(source, %error, "cannot measure the disk space of a source");
                self.fail_due(&error, now);
            }
        }
    }

    fn fail_due(&mut self, error: &ManifestPullError, now: Instant) {
        for folder in self.folders.values_mut() {
            if let Some(manifest) = folder.due(now).map(|offer| offer.published.manifest_cid) {
                folder.failed(manifest, error, now);
            }
        }
    }
}
