//! The store of an instance that is not running, opened by the command itself:
//! listing, checking and restoring snapshots needs no daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use config::Config;
use jiff::Timestamp;
use node::{Running, SnapshotSelector, snapshot_model};
use restore::Blocks;
use snapshots::{DamagedSnapshot, SnapshotStore};
use store::{BlockRead, BlockStore, PackStore, StoreError, StoreOptions};

use crate::context::Context;
use crate::output::safe;

/// Time to wait for the lock of the store: an instance that is stopping releases it.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// An open store, and the snapshots in it.
#[derive(Debug)]
pub(crate) struct Offline {
    store: Arc<dyn BlockStore>,
    snapshots: SnapshotStore,
    /// Provides the names of the sources.
    config: Config,
}

impl Offline {
    /// Opens the store of this instance. Returns `None` if it has none yet.
    ///
    /// Prints damage to standard error. The affected blocks are treated as missing.
    pub(crate) fn open(context: &Context) -> Result<Option<Self>> {
        let data = context.paths.data_dir();
        if !data.is_dir() {
            bail!(
                "{} does not exist: no instance was ever started there; \
                 choose another one with --home",
                data.display()
            );
        }
        let dir = context.paths.store_dir();
        if !dir.is_dir() {
            return Ok(None);
        }
        let config = context.config()?;
        let options = StoreOptions {
            max_storage: config.node.max_storage.limit(),
            disk_reserve: config.node.disk_reserve.bytes(),
            ..StoreOptions::default()
        };
        let deadline = Instant::now() + LOCK_WAIT;
        let opened = loop {
            match PackStore::open(&dir, &options) {
                Err(StoreError::Locked(_)) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL);
                }
                opened => break opened,
            }
        };
        let (store, report) = match opened {
            Err(error @ StoreError::Locked(_)) => {
                let hint = match Running::find(data) {
                    Some(running) => format!(
                        "the instance (process {}) does not answer: try again, or end the process",
                        running.pid
                    ),
                    None => "the instance is starting or stopping: try again".to_owned(),
                };
                return Err(error).context(hint);
            }
            opened => opened?,
        };
        for damage in &report.damage {
            eprintln!("archivist: the store is damaged: {}", safe(damage));
        }
        for pack in &report.lost_packs {
            eprintln!("archivist: a pack of the store is missing: {}", pack.display());
        }
        if let Some(unreadable) = &report.roots_unreadable {
            eprintln!(
                "archivist: {}; the second copy of this file is complete and is used",
                safe(unreadable)
            );
        }
        if report.roots_incomplete {
            eprintln!(
                "archivist: the list of snapshots is incomplete: some snapshots may be missing, \
                 and no space is freed; run `archivist recover`, which finds lost snapshots, then \
                 `archivist prune --accept-roots`"
            );
        }
        let store: Arc<dyn BlockStore> = Arc::new(store);
        Ok(Some(Self { snapshots: SnapshotStore::new(store.clone()), store, config }))
    }

    /// Returns the store.
    pub(crate) fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// Returns the store as a source of blocks for a restore.
    pub(crate) fn blocks(&self) -> Arc<dyn Blocks> {
        let store: Arc<dyn BlockRead> = self.store.clone();
        Arc::new(store)
    }

    /// Returns every readable snapshot, sorted by source, folder and the backup
    /// server's order, and the snapshots that cannot be read.
    pub(crate) fn list(&self) -> Result<(Vec<api::Snapshot>, Vec<DamagedSnapshot>)> {
        let listing = self.snapshots.list()?;
        let snapshots = listing.snapshots.into_iter();
        let models = snapshots
            .map(|snapshot| snapshot_model(&self.config, backup::remote_snapshot(snapshot)));
        Ok((models.collect(), listing.damaged))
    }

    /// Returns the snapshots.
    pub(crate) fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// Finds a snapshot by its id or the beginning of it, else the newest one of a
    /// folder (given by id or name) that had arrived by a time.
    pub(crate) fn find(
        &self,
        id: Option<&str>,
        folder: Option<&str>,
        at: Option<Timestamp>,
    ) -> Result<api::Snapshot> {
        let all =
            self.snapshots.list()?.snapshots.into_iter().map(backup::remote_snapshot).collect();
        let selector = SnapshotSelector { folder, id, at, ..SnapshotSelector::default() };
        Ok(snapshot_model(&self.config, selector.newest(&self.config, all)?))
    }
}
