//! Reading snapshots wherever their blocks are: here, or on the backup server.

use std::sync::Arc;

use backup::{RemoteBlocks, SessionPool};
use bytes::Bytes;
use restore::{Blocks, BlocksError};
use store::{BlockStore, StoreError};
use types::{Block, Cid, EncodedBlock};

use super::{ApiState, Problem, restores};
use crate::local_blocks::{LocalBlocks, delegate_to_store};

/// The blocks that snapshots are read from.
pub(crate) fn blocks(
    state: &ApiState,
    from_backup_server: bool,
) -> Result<Arc<dyn BlockStore>, Problem> {
    if from_backup_server {
        return Ok(Arc::new(Far::new(state)?));
    }
    Ok(Arc::new(state.node.blocks.clone()))
}

/// The blocks that are here, and for the rest those of the backup server. What
/// comes from there is checked, and kept by nobody. For threads that may block.
#[derive(Debug)]
pub(crate) struct Far {
    own: LocalBlocks,
    remote: RemoteBlocks,
}

impl Far {
    /// Of the backup server that is configured.
    pub(crate) fn new(state: &ApiState) -> Result<Self, Problem> {
        let remote = RemoteBlocks::new(
            SessionPool::new(state.node.net.clone()),
            restores::server(state)?,
            tokio::runtime::Handle::current(),
            state.stop.clone(),
        );
        Ok(Self { own: state.node.blocks.clone(), remote })
    }
}

/// For a restore, which asks for many at once.
impl Blocks for Far {
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError> {
        let mut all: Vec<Option<Bytes>> =
            wanted.iter().map(|cid| BlockStore::get(&self.own, cid).ok().flatten()).collect();
        let lacking: Vec<usize> = (0..all.len()).filter(|at| all[*at].is_none()).collect();
        let wants: Vec<Cid> = lacking.iter().map(|at| wanted[*at]).collect();
        let got =
            self.remote.get(&wants).map_err(|error| BlocksError::Elsewhere(Box::new(error)))?;
        for (at, block) in lacking.into_iter().zip(got) {
            all[at] = block;
        }
        Ok(all)
    }
}

impl BlockStore for Far {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        if let Ok(Some(block)) = self.own.get_encoded(cid) {
            return Ok(Some(block));
        }
        let found = self.remote.get(&[*cid]).map_err(|error| StoreError::Io {
            action: "ask the backup server for a block",
            path: cid.to_string().into(),
            source: std::io::Error::other(error),
        })?;
        let Some(bytes) = found.into_iter().next().flatten() else { return Ok(None) };
        // It was checked against its name when it came.
        let block = Block::new(cid.codec(), bytes).ok();
        Ok(block.filter(|block| block.cid() == *cid).map(EncodedBlock::plain))
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.own.has(cid)? || self.get_encoded(cid)?.is_some())
    }

    delegate_to_store!(own);
}
