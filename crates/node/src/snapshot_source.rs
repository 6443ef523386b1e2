//! The sources of snapshots: the store of this instance, and the backup server of
//! its folders.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use net::{NetError, PeerId};
use protocols::{RemoteBlocks, RemoteSnapshot, SessionPool};
use restore::{Blocks, BlocksError};
use snapshots::SnapshotError;
use store::{BlockRead, StoreError};
use types::{Block, Cid, EncodedBlock};

use crate::local_blocks::LocalBlocks;
use crate::services::Services;

/// Time within which the backup server must accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Why snapshots cannot be listed or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotSourceError {
    /// The configuration names no backup server.
    #[error(
        "no backup server is configured; pair with one (`archivist pair`), or set [sync] \
         backup_peer_address"
    )]
    NoBackupServer,
    /// The backup server cannot be reached.
    #[error("cannot connect to the backup server")]
    Unreachable(#[source] NetError),
    /// The backup server did not list its snapshots.
    #[error("cannot list the snapshots on the backup server")]
    List(#[source] protocols::RemoteError),
    /// The snapshots of this instance cannot be listed.
    #[error(transparent)]
    Local(#[from] SnapshotError),
    /// The thread that lists the snapshots panicked.
    #[error("cannot list the snapshots")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Returns the peer id of the backup server of this instance's folders.
///
/// # Errors
///
/// Returns [`SnapshotSourceError::NoBackupServer`] if none is configured.
pub fn backup_server(services: &Services) -> Result<PeerId, SnapshotSourceError> {
    services.settings.get().sync.backup_peer_id().ok_or(SnapshotSourceError::NoBackupServer)
}

/// Lists all snapshots, by source, folder and order of arrival: the snapshots
/// in the store of this instance or, with `from_backup_server`, the snapshots
/// of its folders on the backup server.
///
/// # Errors
///
/// Returns [`SnapshotSourceError`] if the store or the backup server cannot be
/// read.
pub async fn list(
    services: &Services,
    from_backup_server: bool,
) -> Result<Vec<RemoteSnapshot>, SnapshotSourceError> {
    if from_backup_server {
        return list_remote(services).await;
    }
    let snapshots = services.snapshots.clone();
    let listed = tokio::task::spawn_blocking(move || snapshots.list()).await;
    let all = listed.map_err(SnapshotSourceError::Panicked)??.snapshots;
    Ok(all.into_iter().map(backup::remote_snapshot).collect())
}

async fn list_remote(services: &Services) -> Result<Vec<RemoteSnapshot>, SnapshotSourceError> {
    let peer = backup_server(services)?;
    let net = &services.net;
    // The configuration has its address, in case it is not connected.
    let config = services.settings.get();
    if let Some(address) = &config.sync.backup_peer_address
        && let Some((_, plain)) = net::split_peer(address.clone())
    {
        let connected = net.connect(peer, [plain], CONNECT_TIMEOUT).await;
        connected.map_err(SnapshotSourceError::Unreachable)?;
    }
    let listing =
        protocols::list_remote(net, peer, None).await.map_err(SnapshotSourceError::List)?;
    if listing.forged > 0 {
        tracing::warn!(%peer, forged = listing.forged,
            "the backup server lists snapshots that this instance did not sign");
    }
    Ok(listing.snapshots)
}

/// Returns the blocks that snapshots are read from.
///
/// # Errors
///
/// Returns [`SnapshotSourceError::NoBackupServer`] if the backup server is
/// wanted and none is configured.
pub fn blocks(
    services: &Services,
    from_backup_server: bool,
) -> Result<Arc<dyn BlockRead>, SnapshotSourceError> {
    if from_backup_server {
        return Ok(Arc::new(BackupServerBlocks::new(services)?));
    }
    Ok(Arc::new(services.blocks.clone()))
}

/// The blocks of this computer and, for all others, the blocks of the backup
/// server. Blocks from there are verified and not stored. For threads that may
/// block.
#[derive(Debug)]
pub(crate) struct BackupServerBlocks {
    local: LocalBlocks,
    remote: RemoteBlocks,
}

impl BackupServerBlocks {
    /// Reads from the configured backup server.
    pub(crate) fn new(services: &Services) -> Result<Self, SnapshotSourceError> {
        let remote = RemoteBlocks::new(
            SessionPool::new(services.net.clone()),
            backup_server(services)?,
            tokio::runtime::Handle::current(),
            services.stop_token(),
        );
        Ok(Self { local: services.blocks.clone(), remote })
    }
}

/// For a restore, which requests many blocks at a time.
impl Blocks for BackupServerBlocks {
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError> {
        let mut all: Vec<Option<Bytes>> =
            wanted.iter().map(|cid| BlockRead::get(&self.local, cid).ok().flatten()).collect();
        let missing: Vec<usize> = (0..all.len()).filter(|at| all[*at].is_none()).collect();
        let wants: Vec<Cid> = missing.iter().map(|at| wanted[*at]).collect();
        let got =
            self.remote.get(&wants).map_err(|error| BlocksError::Elsewhere(Box::new(error)))?;
        for (at, block) in missing.into_iter().zip(got) {
            all[at] = block;
        }
        Ok(all)
    }
}

impl BlockRead for BackupServerBlocks {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        if let Ok(Some(block)) = self.local.get_encoded(cid) {
            return Ok(Some(block));
        }
        let found = self.remote.get(&[*cid]).map_err(|error| StoreError::Io {
            action: "ask the backup server for a block",
            path: cid.to_string().into(),
            source: std::io::Error::other(error),
        })?;
        let Some(bytes) = found.into_iter().next().flatten() else { return Ok(None) };
        Ok(Block::verify(*cid, bytes).ok().map(EncodedBlock::plain))
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.local.has(cid)? || self.get_encoded(cid)?.is_some())
    }

    fn loss_counter(&self) -> u64 {
        self.local.loss_counter()
    }
}
