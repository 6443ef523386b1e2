//! Starts restores: from the store of this instance, or from the backup server of
//! its folders.

use std::path::PathBuf;
use std::sync::Arc;

use api::RestoreReport;
use restore::{Blocks, RestoreError, RestoreOptions, restore};
use store::{BlockRead, BlockWrite as _};
use types::{Cid, with_causes};

use crate::restores::RestoreEnd;
use crate::services::Services;
use crate::snapshot_source::{BackupServerBlocks, SnapshotSourceError};

/// The snapshot to restore, its entries, and the target directory.
#[derive(Clone, Debug)]
pub struct RestoreJob {
    /// The id of the snapshot.
    pub snapshot: String,
    /// A newer snapshot that was passed over, and why.
    pub passed_over: Option<String>,
    /// The manifest of the snapshot.
    pub manifest: Cid,
    /// The target directory.
    pub target: PathBuf,
    /// The entries to restore, and whether existing files are replaced.
    pub options: RestoreOptions,
    /// True if the backup server has the snapshot, not this instance.
    pub from_backup_server: bool,
}

/// Starts a restore on a thread of its own, and returns its first report.
///
/// # Errors
///
/// Returns [`SnapshotSourceError`] if the snapshot's blocks cannot be read. Later
/// errors are in the report.
pub fn start_restore(
    services: &Services,
    job: RestoreJob,
) -> Result<RestoreReport, SnapshotSourceError> {
    let blocks: Arc<dyn Blocks> = if job.from_backup_server {
        Arc::new(BackupServerBlocks::new(services)?)
    } else {
        let store: Arc<dyn BlockRead> = services.store.clone();
        Arc::new(store)
    };
    let id = services.restores.next_id();
    // The pin keeps the blocks of the snapshot, even if it is pruned meanwhile. It is
    // in memory: a restore also works if the store cannot be written any more.
    let pin = (!job.from_backup_server).then(|| services.store.pin());
    if let Some(pin) = &pin {
        pin.add([job.manifest]);
    }
    let running = services.restores.add(id, &job.snapshot, job.passed_over);
    let report = running.to_api();
    let healing = (!job.from_backup_server).then(|| services.healing.clone());
    tokio::task::spawn_blocking(move || {
        let _pin = pin;
        let restored =
            restore(&blocks, job.manifest, &job.target, &job.options, running.progress());
        let has_failed = match &restored {
            Ok(report) => !report.failed.is_empty(),
            Err(error) => !matches!(error, RestoreError::Stopped),
        };
        if let Some(healing) = healing.filter(|_| has_failed) {
            // The cause may be a missing block.
            healing.check_presence();
        }
        running.finish(match restored {
            Ok(report) => RestoreEnd::Done(report),
            Err(RestoreError::Stopped) => RestoreEnd::Cancelled,
            Err(error) => RestoreEnd::Failed(with_causes(&error)),
        });
    });
    Ok(report)
}
