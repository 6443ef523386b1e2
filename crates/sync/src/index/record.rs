//! The record of a folder in the index.
//!
//! Each folder has one JSON value, which is small and can be read by people.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, PublishedManifest, RelPath, SequenceNumber};

use crate::left_out::LeftOut;
use crate::path_key::FolderNumber;
use crate::root_id::RootId;
use crate::status::AlarmKind;

/// Time before the last known work on a folder from which on its files are not trusted after a
/// crash of the computer. The kernel writes time stamps to the disk within half a minute.
const DISTRUSTED: SignedDuration = SignedDuration::from_mins(10);
/// Age in hours from which the loss of a content is counted, and the time for which losses are
/// added up.
pub(crate) const LOSS_WINDOW: u32 = 24;

/// A row of the table `folders`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FolderRecord {
    /// The prefix of its keys. Never used again for another folder.
    pub(crate) number: FolderNumber,
    /// The identity of its directory.
    pub(crate) root: Option<RootId>,
    /// Number of transactions that changed rows; defines what a manifest covers.
    pub(crate) counter: u64,
    /// Number of changes since the last manifest that require a new one.
    pub(crate) pending: u64,
    /// True after the first full scan.
    pub(crate) is_scanned: bool,
    /// Totals over all rows.
    pub(crate) rows: Totals,
    /// Number of paths on the error list.
    pub(crate) errors: u64,
    /// When the last full scan ended.
    pub(crate) last_scan: Option<Timestamp>,
    /// The last manifest.
    pub(crate) manifest: Option<ManifestRecord>,
    /// The alarm that has stopped the folder.
    pub(crate) alarm: Option<AlarmRecord>,
    /// Why the user should check the folder and confirm it. Manifests carry this text as
    /// `held` until then.
    #[serde(rename = "held")]
    pub(crate) awaiting_confirmation: Option<String>,
    /// Number of files of the last manifest that were deleted or rewritten since.
    pub(crate) lost: u64,
    /// Number of paths of the last manifest that no longer exist.
    pub(crate) deleted: u64,
    /// True if every file has to be read again, because the locations of blocks were lost.
    pub(crate) is_rehash_due: bool,
    /// Set after a crash of the computer: files whose ctime is not older are read by the next
    /// full scan. After a crash, a file may have a newer content than its time stamps say:
    /// `fdatasync` makes the content durable, and not the times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) distrusted_since: Option<Timestamp>,
    /// Lost files by hour: the hour since 1970, and their number.
    pub(crate) losses: Vec<(u32, u64)>,
    /// Deleted files by hour; they are included in `losses`.
    pub(crate) removals: Vec<(u32, u64)>,
    /// The file systems mounted in the folder, and the subvolumes in it, that were entered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounts: Vec<EnteredMount>,
    /// The directories that the last scans left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<LeftOut>,
}

/// A file system that is mounted in a folder, or a subvolume in it, and is backed up with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnteredMount {
    /// The mount point.
    #[serde(with = "path_text")]
    pub(crate) path: RelPath,
    /// The identity of the root of the file system.
    pub(crate) id: RootId,
    /// True if it is a subvolume, which cannot be unmounted.
    pub(crate) is_subvolume: bool,
}

/// Stores a path as text, or as a list of bytes if it is not UTF-8.
pub(crate) mod path_text {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use types::RelPath;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &RelPath, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(path.as_bytes()) {
            Ok(text) => text.serialize(to),
            Err(_) => path.as_bytes().serialize(to),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RelPath, D::Error> {
        let bytes = match Stored::deserialize(from)? {
            Stored::Text(text) => text.into_bytes(),
            Stored::Bytes(bytes) => bytes,
        };
        RelPath::new(bytes).map_err(D::Error::custom)
    }
}

/// Totals of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Totals {
    /// Number of entries that are not directories.
    pub(crate) files: u64,
    /// Number of directories, without the root.
    pub(crate) dirs: u64,
    /// Sum of the lengths of all files, in bytes.
    pub(crate) bytes: u64,
}

/// A manifest that is durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestRecord {
    /// Its sequence number.
    pub(crate) sequence: SequenceNumber,
    /// Its CID.
    pub(crate) cid: Cid,
    /// When it was made.
    pub(crate) at: Timestamp,
    /// The display name of the folder at that time.
    pub(crate) folder_name: String,
    /// The path of the folder at that time.
    pub(crate) folder_path: String,
    /// Totals of its entries.
    pub(crate) totals: Totals,
    /// True if it was made before the first full scan had ended.
    #[serde(default)]
    pub(crate) is_unfinished: bool,
}

/// An alarm of a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlarmRecord {
    /// The guard that raised it.
    pub(crate) kind: AlarmKind,
    /// The reason, and what to do.
    pub(crate) text: String,
    /// When it was raised.
    pub(crate) since: Timestamp,
}

impl FolderRecord {
    /// Notes that the computer crashed after the last work on the folder.
    pub(super) fn distrust_recent_files(&mut self) {
        let manifest = self.manifest.as_ref().map(|manifest| manifest.at);
        let Some(last_work) = manifest.max(self.last_scan) else { return };
        let since = last_work.saturating_sub(DISTRUSTED).unwrap_or(Timestamp::MIN);
        // A crash before the last one may not have been dealt with.
        self.distrusted_since = Some(self.distrusted_since.map_or(since, |old| old.min(since)));
    }

    /// Returns the record of a new folder.
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
            awaiting_confirmation: None,
            lost: 0,
            deleted: 0,
            is_rehash_due: false,
            distrusted_since: None,
            losses: Vec::new(),
            removals: Vec::new(),
            mounts: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Returns the sequence number of the last manifest; 0 before the first.
    pub(crate) fn sequence(&self) -> SequenceNumber {
        self.manifest.as_ref().map_or(SequenceNumber(0), |manifest| manifest.sequence)
    }

    /// Adds lost files, and how many of them were deleted. Drops the losses before the window.
    pub(crate) fn add_losses(&mut self, hour: u32, count: u64, removed: u64) {
        add_at(&mut self.losses, hour, count);
        add_at(&mut self.removals, hour, removed);
    }

    /// Returns the number of files that were lost within the window, and the number of files
    /// without these losses.
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
    /// Returns the manifest in its public form.
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
        // A clock that goes back does not keep losses permanently.
        record.add_losses(50, 3, 0);
        assert_eq!(record.losses, [(50, 3)]);
    }

    #[test]
    fn a_record_reads_back() {
        let mut record = FolderRecord::new(7);
        record.root = Some(RootId {
            inode: 2,
            device: 3,
            born: None,
            file_system: Some(u64::MAX),
            ground: Some(crate::root_id::RootGround::Fuse(
                "fuse.sshfs".to_owned(),
                "host:/srv".to_owned(),
            )),
        });
        record.add_losses(100, 5, 1);
        let json = serde_json::to_vec(&record).unwrap();
        assert_eq!(serde_json::from_slice::<FolderRecord>(&json).unwrap(), record);
    }

    #[test]
    fn fuzz_folder_record() {
        let mut record = FolderRecord::new(3);
        record.losses = vec![(500_000, 7)];
        record.manifest = Some(ManifestRecord {
            sequence: SequenceNumber(9),
            cid: Cid::of(types::Codec::Json, b"manifest"),
            at: Timestamp::UNIX_EPOCH,
            folder_name: "Documents".into(),
            folder_path: "/home/me".into(),
            totals: Totals { files: 1, dirs: 2, bytes: 3 },
            is_unfinished: true,
        });
        let examples = [FolderRecord::new(1), record].map(|one| serde_json::to_vec(&one).unwrap());
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Ok(record) = serde_json::from_slice::<FolderRecord>(bytes) {
                let again = serde_json::to_vec(&record).unwrap();
                assert_eq!(serde_json::from_slice::<FolderRecord>(&again).unwrap(), record);
            }
        });
    }
}
