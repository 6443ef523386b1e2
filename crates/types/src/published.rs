//! What a source says of a folder's newest manifest.

use jiff::Timestamp;

use crate::{Cid, FolderId, SequenceNumber};

/// A manifest that is durable and can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedManifest {
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// Where it is on its machine, for people.
    pub folder_path: String,
    /// The manifest: a dataset over its header.
    pub manifest_cid: Cid,
    /// Its number.
    pub sequence_number: SequenceNumber,
    /// When it was made, by the clock of the source.
    pub updated_at: Timestamp,
    /// Everything in the folder but directories.
    pub file_count: u64,
    /// The lengths of all files together, in bytes.
    pub total_size_bytes: u64,
}
