//! Why a manifest did not become a snapshot.

use protocols::Panicked;
use snapshots::{SnapshotError, TreeError};
use store::StoreError;
use types::{Cid, ManifestError};

use crate::puller::PullError;

/// Why a manifest did not become a snapshot. What was fetched is in the store.
#[derive(Debug, thiserror::Error)]
pub enum ManifestPullError {
    /// The store cannot take it, or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshots cannot be read, or the new one not be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Blocks could not be fetched.
    #[error(transparent)]
    Pull(PullError),
    /// It is no manifest.
    #[error("{cid} is not a manifest: {reason}")]
    NotManifest {
        /// What was offered.
        cid: Cid,
        /// What it is instead.
        reason: String,
    },
    /// The header or a segment could not be restored safely.
    #[error("the manifest cannot be restored safely: {source}")]
    Unsound {
        /// The block.
        cid: Cid,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The manifest is another one than was signed.
    #[error("the manifest is not the one that was signed: its {0} is another")]
    NotAsSigned(&'static str),
    /// A file of the manifest is not what the manifest says.
    #[error("the manifest names {cid} as a file, which it is not: {reason}")]
    NotFile {
        /// The file's node.
        cid: Cid,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Files have changed on the source since it made the manifest.
    #[error("{} of files that changed on the source; its next manifest follows", blocks(.count))]
    Changed {
        /// How many blocks cannot be had any more.
        count: usize,
    },
    /// The source does not have what it offers.
    #[error("the source does not have {}, the first {first}", blocks(.count))]
    Missing {
        /// How many blocks are missing; of more than a thousand some are
        /// counted.
        count: usize,
        /// One of them.
        first: Cid,
    },
    /// The store has lost blocks meanwhile: a sync failed, or damage was found.
    #[error("the store lost blocks while it was pulled; what is missing is pulled again")]
    Lost,
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
    /// The work panicked; the panic was logged.
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
    /// Whether the manifest itself is bad: it will be so at the next attempt
    /// too, and only another manifest helps.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NotManifest { .. }
                | Self::Unsound { .. }
                | Self::NotAsSigned(_)
                | Self::NotFile { .. }
                | Self::Pull(PullError::Node { .. })
        )
    }

    /// Whether it is the store that failed: nothing is known then of what was
    /// there before.
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
