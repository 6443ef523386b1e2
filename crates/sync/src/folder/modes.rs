//! Decides how the files are read that change too often to be served from their place.

use std::collections::BTreeMap;

use types::RelPath;

use super::Task;
use crate::error::SyncError;
use crate::hash::ReadMode;

/// Number of versions of a file found overwritten when a block was requested, after which
/// the blocks of the file are copied to the store: the backup server cannot complete any
/// manifest that names such a version, so the next one must be available.
const HOT: u32 = 1;
/// The same for a file of more than [`SHORT_LEN`] bytes.
const HOT_LONG: u32 = 3;
/// Maximum length in bytes of a file that is copied after its first overwritten version.
pub(super) const SHORT_LEN: u64 = 64 << 20;

impl Task {
    /// Returns how each file is read that changes too often to be served from its place.
    pub(super) fn modes(&self) -> Result<BTreeMap<RelPath, ReadMode>, SyncError> {
        let mut modes = BTreeMap::new();
        let mut room = self.context.tuning.spool_max;
        for (path, versions) in self.mailbox.hot() {
            let row = self.context.index.row(self.record.number, &path)?;
            let len = row.map_or(0, |row| row.stamp.size);
            if !is_hot(versions, len) {
                continue;
            }
            if let Some(left) = room.checked_sub(len) {
                room = left;
                modes.insert(path, ReadMode::Spool);
            }
        }
        for path in self.retries.repeated() {
            let row = self.context.index.row(self.record.number, path)?;
            let len = row.map_or(0, |row| row.stamp.size);
            if !modes.contains_key(path)
                && let Some(left) = room.checked_sub(len)
            {
                room = left;
                modes.insert(path.clone(), ReadMode::Clone);
            }
        }
        let overdue = self.retries.overdue(self.now(), &self.context.tuning);
        modes.extend(overdue.into_iter().map(|path| (path, ReadMode::Prefix)));
        Ok(modes)
    }
}

/// Reports whether a file of this length is copied to the store after so many of its versions
/// were found overwritten.
pub(super) fn is_hot(versions: u32, len: u64) -> bool {
    versions >= if len > SHORT_LEN { HOT_LONG } else { HOT }
}
