//! The result and the error of accepting a source whose offers do not follow from its snapshots.

use net::PeerId;
use protocols::Panicked;
use types::{Cid, FolderId, SequenceNumber};

/// Reason why a source was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No source has this name.
    #[error("there is no source {0:?}; `archivist source list` lists the sources")]
    NoSource(String),
    /// The source has no refused offer that can be accepted.
    #[error("the source has nothing to accept")]
    Nothing,
    /// The acceptance cannot be stored.
    #[error("cannot store the acceptance")]
    Io(#[source] std::io::Error),
    /// The daemon is disabled or has ended.
    #[error("the backup server is not running: set [backup_server] enabled")]
    NotRunning,
    /// Storing the acceptance panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// Result of [`BackupHandle::accept`](crate::BackupHandle::accept).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The peer that answers instead of the configured one, if any. Nothing has changed yet: the
    /// caller accepts the peer by writing this id into the configuration, as `peer_id` of the
    /// source. The snapshots of the old peer stay.
    pub peer_id: Option<PeerId>,
    /// The folders that continue from the manifests that they offer now.
    pub folders: Vec<AcceptedFolder>,
}

/// A folder that continues from an accepted manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedFolder {
    /// The folder.
    pub folder_id: FolderId,
    /// Display name of the folder.
    pub folder_name: String,
    /// The accepted sequence number.
    pub sequence: SequenceNumber,
    /// CID of the accepted manifest.
    pub manifest_cid: Cid,
}
