//! The store of an instance that does not run, opened here: looking at what
//! it keeps and getting it back needs nobody else.

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

/// An instance that is just ending lets go of its store within this.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// An open store, and the snapshots in it.
#[derive(Debug)]
pub(crate) struct Offline {
    store: Arc<dyn BlockStore>,
    snapshots: SnapshotStore,
    /// It has the names of the sources.
    config: Config,
}

impl Offline {
    /// Opens the store of this instance; `None` where it has none yet.
    ///
    /// Damage is told on standard error: what it took is missing.
    pub(crate) fn open(context: &Context) -> Result<Option<Self>> {
        let data = context.paths.data_dir();
        if !data.is_dir() {
            bail!(
                "there is no instance in {}: nothing was ever kept there; \
                 name another one with --home",
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
                    Some(running) => {
                        format!("its instance (process {}) does not answer", running.pid)
                    }
                    None => "its instance is starting or ending".to_owned(),
                };
                return Err(error).context(format!("{hint}: try again, or end it"));
            }
            opened => opened?,
        };
        for damage in &report.damage {
            eprintln!("archivist: the store is damaged: {}", safe(damage));
        }
        for pack in &report.lost_packs {
            eprintln!("archivist: a file of the store is gone: {}", pack.display());
        }
        if report.roots_incomplete {
            eprintln!(
                "archivist: records of what is kept are lost: some snapshots may be missing, and \
                 nothing is freed until `archivist prune --accept-roots`"
            );
        }
        let store: Arc<dyn BlockStore> = Arc::new(store);
        Ok(Some(Self { snapshots: SnapshotStore::new(store.clone()), store, config }))
    }

    /// The store.
    pub(crate) fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// The store, as what a restore takes blocks from.
    pub(crate) fn blocks(&self) -> Arc<dyn Blocks> {
        let store: Arc<dyn BlockRead> = self.store.clone();
        Arc::new(store)
    }

    /// Every snapshot that can be read, by source, folder and B's order; and
    /// those that cannot.
    pub(crate) fn list(&self) -> Result<(Vec<api::Snapshot>, Vec<DamagedSnapshot>)> {
        let listing = self.snapshots.list()?;
        let snapshots = listing.snapshots.into_iter();
        let models = snapshots
            .map(|snapshot| snapshot_model(&self.config, backup::remote_snapshot(snapshot)));
        Ok((models.collect(), listing.damaged))
    }

    /// The snapshots.
    pub(crate) fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// The snapshot that is meant: by id or the beginning of it, else the
    /// newest of the folder, by id or name, that was here at a time.
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
