//! The blocks of a manifest that could not be fetched, and the resulting error.

use types::Cid;

use super::ManifestPullError;
use crate::puller::PullReport;

/// Returns an error if a pull did not fetch all blocks.
///
/// # Errors
///
/// Same as [`Unavailable::result`].
pub(super) fn require_complete(report: &PullReport) -> Result<(), ManifestPullError> {
    if report.is_complete() {
        return Ok(());
    }
    let mut unavailable = Unavailable::default();
    unavailable.add(report);
    unavailable.result()
}

/// Numbers of the blocks that could not be fetched.
#[derive(Default)]
pub(super) struct Unavailable {
    changed: usize,
    missing: usize,
    first: Option<Cid>,
}

impl Unavailable {
    /// Adds the blocks that a pull did not fetch.
    pub(super) fn add(&mut self, report: &PullReport) {
        self.changed += report.changed.len();
        if let Some(first) = report.missing.first() {
            self.add_missing(*first, report.missing.len());
        }
    }

    /// Adds `count` missing blocks, `first` among them.
    pub(super) fn add_missing(&mut self, first: Cid, count: usize) {
        self.first.get_or_insert(first);
        self.missing += count;
    }

    /// Returns the error for these blocks, if there are any.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestPullError::Changed`] if a file has changed on the source, whose next
    /// manifest then follows; otherwise [`ManifestPullError::Missing`] if a block is missing.
    pub(super) fn result(self) -> Result<(), ManifestPullError> {
        match self.first {
            _ if self.changed > 0 => Err(ManifestPullError::Changed { count: self.changed }),
            Some(first) => Err(ManifestPullError::Missing { count: self.missing, first }),
            None => Ok(()),
        }
    }
}
