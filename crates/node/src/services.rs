//! The services of one instance: everything that its jobs and its HTTP
//! interfaces work with.
//!
//! This module stands below the jobs (retention, collection, recompression,
//! verification, restores) and below the crate `server`. It contains handles
//! only; the tasks behind them belong to [`crate::Instance`].

use std::path::Path;
use std::sync::Arc;

use backup::BackupHandle;
use manifest::{ManifestRegistry, SeenClients};
use protocols::BackupService;
use snapshots::SnapshotStore;
use store::PackStore;
use sync::SyncHandle;
use tokio_util::sync::CancellationToken;

use crate::downloads::Downloads;
use crate::gc_task::GcTask;
use crate::healing::Healing;
use crate::jobs::Jobs;
use crate::journal::Journal;
use crate::last_verification::LastVerificationFile;
use crate::local_blocks::LocalBlocks;
use crate::log_level::LogLevel;
use crate::pairing::Pairing;
use crate::problems::Problems;
use crate::receipts::Receipts;
use crate::removed::RemovedFolders;
use crate::restores::Restores;
use crate::rules::RulesFile;
use crate::scrub_state::ScrubState;
use crate::settings::Settings;
use crate::tasks::Tasks;
use crate::traffic::Traffic;

/// Maximum number of unreadable snapshots in the status.
const UNREADABLE_MAX: usize = 100;

/// The services of one instance. Clones share them.
#[derive(Clone)]
pub struct Services {
    /// The configuration, which may change while the instance runs.
    pub settings: Settings,
    /// The tasks of the instance, for work that outlives its request.
    pub tasks: Tasks,
    /// The data directory.
    pub data_dir: Arc<Path>,
    /// The API token (`api-token` in the data directory).
    pub token: Arc<str>,
    /// Changes the log level.
    pub log_level: LogLevel,
    /// The packs.
    pub store: Arc<PackStore>,
    /// All blocks of this computer: the blocks of the store and the blocks in
    /// watched files.
    pub blocks: LocalBlocks,
    /// The network.
    pub net: net::Handle,
    /// The peers that may connect, each with its purposes.
    pub access: net::Access,
    /// The source side: the watched folders.
    pub sync: SyncHandle,
    /// The manifests that the source side offers.
    pub registry: ManifestRegistry,
    /// The addresses that recently requested manifests.
    pub manifest_clients: SeenClients,
    /// The receipts of the backup servers.
    pub receipts: Receipts,
    /// Notifies the backup server of new manifests.
    pub backup_service: BackupService,
    /// The backup server side: pulls from sources.
    pub backup_daemon: BackupHandle,
    /// The snapshots in the store.
    pub snapshots: SnapshotStore,
    /// Fetches of data items from the network.
    pub downloads: Downloads,
    /// Requests collections of deleted blocks.
    pub gc: GcTask,
    /// Fetches damaged and missing blocks again.
    pub healing: Healing,
    /// State of the scrubs.
    pub scrub: ScrubState,
    /// The result of the last verification.
    pub last_verification: LastVerificationFile,
    /// The rules of retention and the lock that are in force.
    pub rules: RulesFile,
    /// Pairs this instance with another one.
    pub pairing: Pairing,
    /// Long jobs since the start.
    pub jobs: Jobs,
    /// Restores since the start.
    pub restores: Restores,
    /// The journal of events.
    pub journal: Journal,
    /// Bytes sent and received per day.
    pub traffic: Traffic,
    /// Removed folders whose state still has to be dropped.
    pub removed_folders: RemovedFolders,
    /// Current faults of the instance.
    pub problems: Problems,
}

impl Services {
    /// Returns the integrity of the stored data for the API.
    pub fn integrity(&self) -> api::Integrity {
        api::Integrity {
            scrub: self.scrub.to_api(),
            healing: self.healing.to_api(),
            last_verification: self.last_verification.get(),
            roots_incomplete: self.store.roots_incomplete(),
            unreadable_snapshots: self.unreadable_snapshots(),
        }
    }

    /// Returns the first snapshots whose record cannot be read. If the list cannot be
    /// read, a notice reports that.
    fn unreadable_snapshots(&self) -> Vec<api::UnreadableSnapshot> {
        let damaged = self.snapshots.list().map(|listing| listing.damaged).unwrap_or_default();
        let damaged = damaged.into_iter().take(UNREADABLE_MAX);
        damaged.map(|one| api::UnreadableSnapshot { root: one.root, reason: one.reason }).collect()
    }

    /// Returns the token that is cancelled when the instance stops.
    pub fn stop_token(&self) -> CancellationToken {
        self.tasks.stop_token()
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}
