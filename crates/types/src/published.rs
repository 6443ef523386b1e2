//! [`PublishedManifest`]: the announcement of the newest manifest of a folder.

use jiff::Timestamp;

use crate::{Cid, FolderId, SequenceNumber};

/// Announcement of a manifest that is durable on the source.
///
/// The crate `sync` makes it and passes it to `manifest::ManifestRegistry`, which
/// signs the folder id, the sequence number and the CID. The other fields are not
/// signed: a backup server uses them for display only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedManifest {
    /// Id of the folder.
    pub folder_id: FolderId,
    /// Name of the folder, for display.
    pub folder_name: String,
    /// Path of the folder on the source, for display.
    pub folder_path: String,
    /// CID of the manifest, that is, of the dataset with its header.
    pub manifest_cid: Cid,
    /// Sequence number of the manifest.
    pub sequence_number: SequenceNumber,
    /// Creation time of the manifest by the clock of the source. On a backup server,
    /// 1970 if the source sent no valid time.
    pub updated_at: Timestamp,
    /// Number of entries that are not directories.
    pub file_count: u64,
    /// Total length of all files in bytes.
    pub total_size_bytes: u64,
}
