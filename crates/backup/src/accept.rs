//! Accepting a source whose offers do not follow from the last snapshot: results and errors.

use net::PeerId;
use protocols::Panicked;
use types::{Cid, FolderId, SequenceNumber};

/// Why a source was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is none of that name.
    #[error("there is no source {0:?}; `archivist source list` lists them")]
    NoSource(String),
    /// Nothing of it is refused that could be accepted.
    #[error("nothing that the source offers waits to be accepted")]
    Nothing,
    /// It cannot be noted.
    #[error("what was accepted cannot be written down")]
    Io(#[source] std::io::Error),
    /// The daemon is switched off, or has ended.
    #[error("the backup server is not running: set [backup_server] enabled")]
    NotRunning,
    /// The work panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// What [`BackupHandle::accept`] has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Another peer answers than the one that is configured. Nothing has
    /// changed yet: to accept it is to write this id into the configuration,
    /// as the source's `peer_id`. What is held of the old one stays.
    pub peer_id: Option<PeerId>,
    /// The folders that go on from the manifests that they offer now.
    pub folders: Vec<AcceptedFolder>,
}

/// A folder that goes on from another state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedFolder {
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// The number that was accepted.
    pub sequence: SequenceNumber,
    /// The manifest that was accepted.
    pub manifest_cid: Cid,
}
