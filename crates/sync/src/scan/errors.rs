//! The error list: paths that a scan could not read, and errors that have gone.

use std::collections::BTreeSet;

use fstree::TreeReader as _;
use types::RelPath;

use super::{Scan, ScanError, targets};
use crate::index::{Change, Row};

/// Maximum number of entries of the error list that one scan checks.
const ERRORS_MAX: usize = 10_000;

impl Scan<'_> {
    /// Removes the errors of paths that have no row and no longer exist.
    pub(super) fn clear_errors(&mut self) -> Result<(), ScanError> {
        if !self.has_errors {
            return Ok(());
        }
        for (path, _) in self.context.index.errors(self.options.number, ERRORS_MAX)? {
            let Some(dir) = path.parent() else { continue };
            let is_deep = |dir: &RelPath| self.scanned_dirs.get(dir) == Some(&true);
            let is_scanned = self.scanned_dirs.contains_key(&dir)
                || targets::ancestors(&dir).iter().any(is_deep);
            if is_scanned
                && !has_failed(&self.failed, &path)
                && !self.options.retried.contains(&path)
                && !self.options.lane.contains(&path)
                && self.batch.row(&path).is_none()
                && self.context.index.row(self.options.number, &path)?.is_none()
                && self.reader.root.examine(&path).is_ok_and(|found| found.is_none())
            {
                self.gone.push((path, None));
            }
        }
        Ok(())
    }

    /// Puts a path on the error list. The path keeps its last row.
    pub(super) fn fail(&mut self, path: &RelPath, what: String) {
        self.failed.insert(path.clone());
        self.has_errors = true;
        self.start_batch_timer();
        if let Some(row) = self.batch.row(path) {
            let mut row = Box::new(row.clone());
            (row.error, row.is_attribute_error) = (Some(what), false);
            self.batch.add(path.clone(), Change::Put { row, before: None });
        } else {
            self.batch.add(path.clone(), Change::Fail { what, is_marked: true });
        }
    }
}

/// Reports whether a directory could not be listed at the last attempt.
pub(super) fn has_listing_error(row: &Row) -> bool {
    row.is_dir() && row.error.is_some() && !row.is_attribute_error
}

/// Reports whether a path or a directory above it has failed.
pub(super) fn has_failed(failed: &BTreeSet<RelPath>, path: &RelPath) -> bool {
    let mut at = Some(path.clone());
    while let Some(path) = at {
        if failed.contains(&path) {
            return true;
        }
        at = path.parent();
    }
    false
}
