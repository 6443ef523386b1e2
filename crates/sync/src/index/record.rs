//! What the index knows of a folder as a whole.
//!
//! One JSON value a folder: it is small, and can be read by people.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, PublishedManifest, SequenceNumber};

use crate::path_key::FolderNumber;
use crate::root_id::RootId;
use crate::status::AlarmKind;

/// How long a file has to have been as it was for its loss to count, in hours,
/// and how long the losses are added up.
pub(crate) const LOSS_WINDOW: u32 = 24;

/// A row of the table `folders`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FolderRecord {
    /// What its keys begin with. Never used again for another folder.
    pub(crate) number: FolderNumber,
    /// The directory that it is bound to.
    pub(crate) root: Option<RootId>,
    /// Counts the transactions that changed rows: says what a manifest covers.
    pub(crate) counter: u64,
    /// Changes since the last manifest that are worth one.
    pub(crate) pending: u64,
    /// Whether it was scanned whole at least once.
    pub(crate) is_scanned: bool,
    /// The rows, counted.
    pub(crate) rows: Totals,
    /// Paths in the error list.
    pub(crate) errors: u64,
    /// When it was last scanned whole.
    pub(crate) last_scan: Option<Timestamp>,
    /// The last manifest.
    pub(crate) manifest: Option<ManifestRecord>,
    /// The alarm that stops it.
    pub(crate) alarm: Option<AlarmRecord>,
    /// Why its manifests are published as held.
    pub(crate) held: Option<String>,
    /// Files of the last manifest that were deleted or rewritten since.
    pub(crate) lost: u64,
    /// Paths of the last manifest that are there no more.
    pub(crate) deleted: u64,
    /// Every file is to be read again: where their blocks are was lost.
    pub(crate) is_rehash_due: bool,
    /// Files lost hour by hour: the hour since 1970, and how many.
    pub(crate) losses: Vec<(u32, u64)>,
    /// Those of them that were deleted.
    pub(crate) removals: Vec<(u32, u64)>,
    /// What the backup peer has said to have.
    pub(crate) receipt: Option<ReceiptRecord>,
}

/// Counts of what is in a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Totals {
    /// Everything but directories.
    pub(crate) files: u64,
    /// Directories, without the root.
    pub(crate) dirs: u64,
    /// The lengths of all files together.
    pub(crate) bytes: u64,
}

/// A manifest that is durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestRecord {
    /// Its number.
    pub(crate) sequence: SequenceNumber,
    /// Its name.
    pub(crate) cid: Cid,
    /// When it was made.
    pub(crate) at: Timestamp,
    /// What the folder was called in it.
    pub(crate) folder_name: String,
    /// Where the folder was.
    pub(crate) folder_path: String,
    /// What is in it.
    pub(crate) totals: Totals,
    /// It was made before the folder had been looked through once.
    #[serde(default)]
    pub(crate) is_unfinished: bool,
}

/// Why a folder stands still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlarmRecord {
    /// Which guard said no.
    pub(crate) kind: AlarmKind,
    /// In words.
    pub(crate) text: String,
    /// Since when.
    pub(crate) since: Timestamp,
}

/// The word of the backup peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiptRecord {
    /// The newest manifest that it has whole.
    pub(crate) sequence: SequenceNumber,
    /// When it said so.
    pub(crate) at: Timestamp,
}

impl FolderRecord {
    /// A folder that nothing is known of.
    pub(crate) fn new(number: FolderNumber) -> Self {
        Self {
            number,
            root: None,
            counter: 0,
            pending: 0,
            is_scanned: false,
            rows: Totals::default(),
            errors: 0,
            last_scan: None,
            manifest: None,
            alarm: None,
            held: None,
            lost: 0,
            deleted: 0,
            is_rehash_due: false,
            losses: Vec::new(),
            removals: Vec::new(),
            receipt: None,
        }
    }

    /// The number of the last manifest; 0 before the first.
    pub(crate) fn sequence(&self) -> SequenceNumber {
        self.manifest.as_ref().map_or(SequenceNumber(0), |manifest| manifest.sequence)
    }

    /// Counts lost files, and how many of them were deleted; forgets what was
    /// lost long ago.
    pub(crate) fn add_losses(&mut self, hour: u32, count: u64, removed: u64) {
        add_at(&mut self.losses, hour, count);
        add_at(&mut self.removals, hour, removed);
    }

    /// How many files were lost within the window, and of how many.
    pub(crate) fn recent_losses(&self) -> (u64, u64) {
        let sum = |counts: &[(u32, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
        (sum(&self.losses), self.rows.files.saturating_add(sum(&self.removals)))
    }
}

fn add_at(counts: &mut Vec<(u32, u64)>, hour: u32, count: u64) {
    counts.retain(|(then, _)| hour.saturating_sub(*then) < LOSS_WINDOW && *then <= hour);
    if count == 0 {
        return;
    }
    match counts.last_mut() {
        Some((then, sum)) if *then == hour => *sum += count,
        _ => counts.push((hour, count)),
    }
}

impl ManifestRecord {
    /// As it is told to others.
    pub(crate) fn published(&self, folder: &FolderId) -> PublishedManifest {
        PublishedManifest {
            folder_id: folder.clone(),
            folder_name: self.folder_name.clone(),
            folder_path: self.folder_path.clone(),
            manifest_cid: self.cid,
            sequence_number: self.sequence,
            updated_at: self.at,
            file_count: self.totals.files,
            total_size_bytes: self.totals.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_forgotten_after_a_day() {
        let mut record = FolderRecord::new(1);
        record.rows.files = 100;
        record.add_losses(100, 5, 5);
        record.add_losses(100, 2, 0);
        record.add_losses(110, 1, 0);
        assert_eq!(record.recent_losses(), (8, 105));
        record.add_losses(124, 0, 0);
        assert_eq!(record.recent_losses(), (1, 100));
        // A clock that goes back does not keep them for ever.
        record.add_losses(50, 3, 0);
        assert_eq!(record.losses, [(50, 3)]);
    }

    #[test]
    fn a_record_reads_back() {
        let mut record = FolderRecord::new(7);
        record.root = Some(RootId { inode: 2, device: 3, born: None, file_system: Some(u64::MAX) });
        record.add_losses(100, 5, 1);
        let json = serde_json::to_vec(&record).unwrap();
        assert_eq!(serde_json::from_slice::<FolderRecord>(&json).unwrap(), record);
    }
}
