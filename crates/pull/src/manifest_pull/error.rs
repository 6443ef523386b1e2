//! The error of pulling a manifest.

use protocols::Panicked;
use snapshots::{SnapshotError, TreeError};
use store::StoreError;
use types::{Cid, ManifestError};

use crate::error::PullError;

/// Reason why a manifest did not become a snapshot. The fetched blocks are in the store.
#[derive(Debug, thiserror::Error)]
pub enum ManifestPullError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshots cannot be read, or the new one cannot be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Blocks cannot be fetched.
    #[error(transparent)]
    Pull(PullError),
    /// The offered block is not a manifest.
    #[error("{cid} is not a manifest: {reason}")]
    NotManifest {
        /// CID of the offered block.
        cid: Cid,
        /// Reason why it is not a manifest.
        reason: String,
    },
    /// The header or a segment is malformed or unsafe to restore.
    #[error("the manifest cannot be restored safely: {source}")]
    Unsound {
        /// CID of the header or segment.
        cid: Cid,
        /// Error of the check.
        #[source]
        source: ManifestError,
    },
    /// The manifest differs from the signed offer; holds the field.
    #[error("the manifest differs from the signed offer in its {0}")]
    NotAsSigned(&'static str),
    /// The manifest has the number after the last one and follows another manifest: the source was
    /// set back to an older state, or another computer uses its key.
    #[error("the manifest follows {previous}, but {taken} was taken with that number")]
    SetBack {
        /// Manifest that the source names as the one before.
        previous: Cid,
        /// Manifest that was taken with that number.
        taken: Cid,
    },
    /// A file does not match its entry in the manifest.
    #[error("block {cid} is not the file that the manifest describes: {reason}")]
    NotFile {
        /// CID of a chunk or node of the file.
        cid: Cid,
        /// The difference.
        reason: &'static str,
    },
    /// Files have changed on the source since it made the manifest.
    #[error("files changed on the source ({} affected); its next manifest follows", blocks(.count))]
    Changed {
        /// Number of blocks that are no longer available.
        count: usize,
    },
    /// The source does not have blocks of its manifest.
    #[error("the source is missing {} of its manifest, the first is {first}", blocks(.count))]
    Missing {
        /// Number of missing blocks. At most 1000 are counted for each batch of files.
        count: usize,
        /// CID of one of them.
        first: Cid,
    },
    /// The store lost blocks during the pull: a sync failed, or damage was found.
    #[error("the store lost blocks during the pull; they are fetched again")]
    Lost,
    /// The caller stopped the pull.
    #[error("the pull was stopped")]
    Stopped,
    /// A task of the pull panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

fn blocks(count: &usize) -> String {
    if *count == 1 { "1 block".to_owned() } else { format!("{count} blocks") }
}

impl From<TreeError> for ManifestPullError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Store(error) => Self::Store(error),
            TreeError::NotManifest { cid, reason } => Self::NotManifest { cid, reason },
            TreeError::Manifest { cid, source } => Self::Unsound { cid, source },
        }
    }
}

impl ManifestPullError {
    /// Reports whether the manifest itself is bad, so that only another manifest helps.
    pub fn is_bad_manifest(&self) -> bool {
        matches!(
            self,
            Self::NotManifest { .. }
                | Self::Unsound { .. }
                | Self::NotAsSigned(_)
                | Self::NotFile { .. }
                | Self::Pull(PullError::Node { .. })
        )
    }

    /// Reports whether the store failed. Nothing is then known about the blocks that were stored
    /// before.
    pub(crate) fn is_of_store(&self) -> bool {
        matches!(
            self,
            Self::Store(_)
                | Self::Snapshot(_)
                | Self::Pull(PullError::Store(_))
                | Self::Panicked(_)
        )
    }
}
