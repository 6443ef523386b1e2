//! The error of a pull.

use std::fmt;

use net::{BlockError, PeerId};
use protocols::Panicked;
use store::StoreError;
use types::Cid;

/// Reason why a pull failed. The blocks that were fetched before are in the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no peer to fetch from.
    #[error("no connected peer could have the data")]
    NoPeers,
    /// All peers failed; holds the error of each.
    #[error("cannot fetch from any peer: {}", Reasons(.0))]
    Unreachable(Vec<(PeerId, BlockError)>),
    /// A block that should be a node is malformed.
    #[error("block {cid} is not a valid node")]
    Node {
        /// CID of the block.
        cid: Cid,
        /// Error of the decoder.
        #[source]
        source: types::NodeError,
    },
    /// The source may not use more disk space here.
    #[error(
        "the source has used up its quota on this backup server: raise `quota` of the source, or \
         remove snapshots with `archivist snapshots remove`"
    )]
    OverQuota,
    /// The caller stopped the pull.
    #[error("the transfer was stopped")]
    Stopped,
    /// A task of the pull panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

struct Reasons<'a>(&'a [(PeerId, BlockError)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (peer, error)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{peer}: {error}")?;
        }
        Ok(())
    }
}
