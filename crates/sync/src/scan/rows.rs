//! A cursor over the rows of a range, which advances together with a walk.

use std::collections::VecDeque;
use std::ops::Range;

use types::RelPath;

use crate::error::SyncError;
use crate::index::{Index, RawRow, Row};
use crate::path_key::{FolderNumber, within_range};

/// Number of rows that are read at first: few, since most scans are of one directory.
const PAGE_FIRST: usize = 64;
/// Number of rows that are read at a time later.
const PAGE_MAX: usize = 2048;

/// A cursor over the rows of a range.
///
/// Each page is read in a transaction of its own, so that the index need not keep an old
/// state during the scan. A scan changes no row that the cursor has not passed.
#[derive(Debug)]
pub(crate) struct RowCursor<'a> {
    index: &'a Index,
    number: FolderNumber,
    /// The part of the range that was not read yet.
    rest: Range<Vec<u8>>,
    page: VecDeque<RawRow>,
    page_len: usize,
}

impl<'a> RowCursor<'a> {
    pub(crate) fn new(index: &'a Index, number: FolderNumber, range: Range<Vec<u8>>) -> Self {
        Self { index, number, rest: range, page: VecDeque::new(), page_len: PAGE_FIRST }
    }

    /// Returns the next row without advancing.
    pub(crate) fn peek(&mut self) -> Result<Option<&RawRow>, SyncError> {
        if self.page.is_empty() && self.rest.start < self.rest.end {
            let rows = self.index.snapshot()?.raw_rows(&self.rest, self.page_len)?;
            match rows.last() {
                Some(last) if rows.len() == self.page_len => {
                    self.rest.start.clone_from(&last.key);
                    self.rest.start.push(0);
                }
                _ => self.rest.start.clone_from(&self.rest.end),
            }
            self.page = rows.into();
            self.page_len = PAGE_MAX;
        }
        Ok(self.page.front())
    }

    /// Returns the next row and advances.
    pub(crate) fn take(&mut self) -> Result<Option<(RelPath, Row)>, SyncError> {
        if self.peek()?.is_none() {
            return Ok(None);
        }
        let Some(raw) = self.page.pop_front() else { return Ok(None) };
        let row = self.index.decode_row(&raw.key, &raw.value)?;
        let path = raw.path().ok_or_else(|| self.index.damaged("an impossible path"))?;
        Ok(Some((path, row)))
    }

    /// Skips the rows of `path` and of all paths below it.
    pub(crate) fn skip_within(&mut self, path: &RelPath) {
        let end = within_range(self.number, path).end;
        while self.page.front().is_some_and(|raw| raw.key < end) {
            self.page.pop_front();
        }
        if self.page.is_empty() && self.rest.start < end {
            self.rest.start = end.min(self.rest.end.clone());
        }
    }
}
