//! Follows a tree in the store and gathers the next batch of missing blocks.
//!
//! Order: front to back, as a file is read, so that a reader can follow the pull.

use std::collections::HashSet;

use net::Want;
use store::{BlockRead, get_sound};
use types::{Cid, Codec, Dataset, FileNode};

use crate::error::PullError;
use crate::progress::PullProgress;
use crate::similar::SimilarBlocks;

/// Maximum number of blocks in one batch.
pub(crate) const BATCH_WANTS: usize = 4096;
/// Maximum number of nodes in one batch. Its children follow each node, and the order is front to
/// back.
const BATCH_NODES: usize = 256;
/// Maximum number of followed nodes that are remembered, so that a tree that contains a node many
/// times costs no more than one that contains it once. Beyond it, some are followed again.
const FOLLOWED_MAX: usize = 256 * 1024;

/// The state of following a tree.
#[derive(Default)]
pub(crate) struct Gathered {
    /// Blocks to follow later, in reverse order: the next one is the last.
    pub(crate) tasks: Vec<Want>,
    /// Nodes that were followed.
    pub(crate) followed: HashSet<Cid>,
    pub(crate) similar: SimilarBlocks,
    /// The batch: blocks that are not stored.
    pub(crate) wants: Vec<Want>,
}

impl Gathered {
    /// Follows stored blocks until the batch of missing ones is full or the tree is complete.
    /// Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns [`PullError::Store`] if the store cannot be read, and [`PullError::Node`] if a block
    /// is not a node.
    pub(crate) fn gather(
        &mut self,
        store: &dyn BlockRead,
        progress: &PullProgress,
        len_max: u64,
    ) -> Result<(), PullError> {
        let mut wanted = HashSet::new();
        let mut nodes = 0;
        let mut len = 0;
        while let Some(task) = self.tasks.pop() {
            let cid = task.cid;
            let is_stored = match cid.codec() {
                Codec::Raw => {
                    let is_stored = store.has(&cid)?;
                    if is_stored {
                        progress.found(u64::from(task.len.unwrap_or(0)));
                    }
                    is_stored
                }
                Codec::DagCbor | Codec::Json if self.followed.contains(&cid) => true,
                Codec::DagCbor | Codec::Json => match get_sound(store, &cid)? {
                    Some(bytes) => {
                        self.tasks.extend(below(cid, &bytes)?.into_iter().rev());
                        self.similar.follow(store, &cid, &bytes)?;
                        if self.followed.len() >= FOLLOWED_MAX {
                            self.followed.clear();
                        }
                        self.followed.insert(cid);
                        true
                    }
                    None => {
                        nodes += 1;
                        false
                    }
                },
            };
            if is_stored || !wanted.insert(cid) {
                continue;
            }
            self.wants.push(task);
            len += u64::from(task.len.unwrap_or(0));
            if self.wants.len() == BATCH_WANTS || nodes == BATCH_NODES || len >= len_max {
                break;
            }
        }
        Ok(())
    }
}

/// Returns the blocks to which a node refers, with the lengths of chunks if the node contains them.
fn below(cid: Cid, bytes: &[u8]) -> Result<Vec<Want>, PullError> {
    if cid.codec() == Codec::DagCbor {
        if let Ok(node) = FileNode::decode(bytes) {
            let task = |child: &types::NodeChild| Want {
                cid: child.cid,
                len: match child.cid.codec() {
                    Codec::Raw => u32::try_from(child.len).ok(),
                    _ => None,
                },
            };
            return Ok(node.children().iter().map(task).collect());
        }
        if let Ok(dataset) = Dataset::decode(bytes) {
            let len = match dataset.tree.codec() {
                Codec::Raw => u32::try_from(dataset.size).ok(),
                _ => None,
            };
            return Ok(vec![Want { cid: dataset.tree, len }]);
        }
    }
    let links =
        types::links(cid.codec(), bytes).map_err(|source| PullError::Node { cid, source })?;
    Ok(links.into_iter().map(Want::from).collect())
}
