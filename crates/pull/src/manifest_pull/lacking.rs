//! What could not be had of a manifest, and whose fault that is.

use types::Cid;

use super::ManifestPullError;
use crate::puller::PullReport;

/// Whether all of it came.
pub(super) fn whole(report: &PullReport) -> Result<(), ManifestPullError> {
    if report.is_complete() {
        return Ok(());
    }
    let mut lacking = Lacking::default();
    lacking.add(report);
    lacking.result()
}

/// What could not be had.
#[derive(Default)]
pub(super) struct Lacking {
    changed: usize,
    missing: usize,
    first: Option<Cid>,
}

impl Lacking {
    /// Adds what a pull did not bring.
    pub(super) fn add(&mut self, report: &PullReport) {
        self.changed += report.changed.len();
        if let Some(first) = report.missing.first() {
            self.is_missing(*first, report.missing.len());
        }
    }

    /// Adds `count` blocks that are not there, `first` among them.
    pub(super) fn is_missing(&mut self, first: Cid, count: usize) {
        self.first.get_or_insert(first);
        self.missing += count;
    }

    /// Changed files explain themselves: the next manifest follows. Only where
    /// a block is simply not there, the source is to blame.
    pub(super) fn result(self) -> Result<(), ManifestPullError> {
        match self.first {
            _ if self.changed > 0 => Err(ManifestPullError::Changed { count: self.changed }),
            Some(first) => Err(ManifestPullError::Missing { count: self.missing, first }),
            None => Ok(()),
        }
    }
}
