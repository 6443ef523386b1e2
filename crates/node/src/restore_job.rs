//! Starts restores: from the store of this instance, or from the backup server of
//! its folders.

use std::path::PathBuf;
use std::sync::Arc;

use api::RestoreReport;
use restore::{Blocks, RestoreError, RestoreOptions, restore};
use store::{BlockRead, BlockWrite as _, PackStore, Root, Roots as _, StoreError};
use types::{Cid, with_causes};

use crate::restores::RestoreEnd;
use crate::roots;
use crate::services::Services;
use crate::snapshot_source::{BackupServerBlocks, SnapshotSourceError};

/// The snapshot to restore, its entries, and the target directory.
#[derive(Clone, Debug)]
pub struct RestoreJob {
    /// The id of the snapshot.
    pub snapshot: String,
    /// The manifest of the snapshot.
    pub manifest: Cid,
    /// The target directory.
    pub target: PathBuf,
    /// The entries to restore, and whether existing files are replaced.
    pub options: RestoreOptions,
    /// True if the backup server has the snapshot, not this instance.
    pub from_backup_server: bool,
}

/// Why a restore cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RestoreStartError {
    /// The snapshot cannot be read.
    #[error(transparent)]
    Source(#[from] SnapshotSourceError),
    /// The snapshot cannot be protected from the collector.
    #[error("cannot protect the snapshot while it is restored")]
    Root(#[source] StoreError),
    /// The thread that writes to the store panicked.
    #[error("cannot protect the snapshot while it is restored")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Starts a restore on a thread of its own, and returns its first report.
///
/// # Errors
///
/// Returns [`RestoreStartError`] if the snapshot's blocks cannot be read or
/// protected. Later errors are in the report.
pub async fn start_restore(
    services: &Services,
    job: RestoreJob,
) -> Result<RestoreReport, RestoreStartError> {
    let blocks: Arc<dyn Blocks> = if job.from_backup_server {
        Arc::new(BackupServerBlocks::new(services)?)
    } else {
        let store: Arc<dyn BlockRead> = services.store.clone();
        Arc::new(store)
    };
    let id = services.restores.next_id();
    let hold = if job.from_backup_server {
        None
    } else {
        Some(Hold::new(services.store.clone(), id, job.manifest).await?)
    };
    let running = services.restores.add(id, &job.snapshot);
    let report = running.to_api();
    tokio::task::spawn_blocking(move || {
        let _hold = hold;
        let restored =
            restore(&blocks, job.manifest, &job.target, &job.options, running.progress());
        running.finish(match restored {
            Ok(report) => RestoreEnd::Done(report),
            Err(RestoreError::Stopped) => RestoreEnd::Cancelled,
            Err(error) => RestoreEnd::Failed(with_causes(&error)),
        });
    });
    Ok(report)
}

/// A root that keeps a snapshot's blocks while the snapshot is restored, even
/// if the snapshot is pruned meanwhile.
struct Hold {
    store: Arc<PackStore>,
    root: String,
}

impl Hold {
    async fn new(store: Arc<PackStore>, id: u64, manifest: Cid) -> Result<Self, RestoreStartError> {
        let hold = Self { store: store.clone(), root: roots::restore(id) };
        let name = hold.root.clone();
        let set = tokio::task::spawn_blocking(move || {
            let root = Root { cid: manifest, partial: true };
            let epoch = store.write_epoch();
            store.set_root(&name, root, epoch)
        });
        set.await.map_err(RestoreStartError::Panicked)?.map_err(RestoreStartError::Root)?;
        Ok(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = self.store.remove_root(&self.root) {
            tracing::warn!(
                error = with_causes(&error),
                "cannot remove the root of a finished restore; the next start removes it"
            );
        }
    }
}
