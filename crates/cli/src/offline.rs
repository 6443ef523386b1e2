//! The store of an instance that is not running, opened by the command itself for
//! reading only: listing, checking and restoring snapshots needs no daemon, no
//! permission to write, and changes nothing.

use std::sync::Arc;

use anyhow::Result;
use config::Config;
use jiff::Timestamp;
use node::{ListError, MarkerError, PeerId, SnapshotSelector, snapshot_model};
use restore::Blocks;
use snapshots::{DamagedSnapshot, SnapshotReader};
use store::{BlockRead, OpenReport, ReadOnlyPackStore, StoreRead};
use types::with_causes;

use crate::context::Context;
use crate::output::safe;

/// Message if records of roots are lost.
pub(crate) const LIST_INCOMPLETE: &str = "the list of snapshots is incomplete: some snapshots may be missing, and no space is freed; \
     run `archivist recover`, which finds lost snapshots, then `archivist prune --accept-roots`";

/// A store that is open for reading, and the snapshots in it.
#[derive(Debug)]
pub(crate) struct Offline {
    packs: Arc<ReadOnlyPackStore>,
    store: Arc<dyn StoreRead>,
    snapshots: SnapshotReader,
    roots_incomplete: bool,
    /// Provides the names of the sources.
    config: Config,
}

impl Offline {
    /// Opens the store of this instance for reading. Returns `None` if it has none
    /// yet. A store that is missing or belongs to another data directory is an error.
    ///
    /// Prints damage to standard error. The affected blocks are treated as missing.
    pub(crate) fn open(context: &Context) -> Result<Option<Self>> {
        match node::check_store(context.need_data_dir()?) {
            Err(error @ (MarkerError::Unreadable { .. } | MarkerError::Damaged(_))) => {
                // The snapshots may be intact.
                eprintln!("archivist: {}", safe(&with_causes(&error)));
            }
            checked => checked?,
        }
        Self::open_store(context)
    }

    /// Same as [`Offline::open`], for commands that read a snapshot: if the store belongs to
    /// another data directory, prints a warning. Its files can be restored all the same.
    pub(crate) fn open_to_restore(context: &Context) -> Result<Option<Self>> {
        match node::check_store(context.need_data_dir()?) {
            Err(error @ MarkerError::OtherStore(_)) => {
                eprintln!("archivist: {}", safe(&with_causes(&error)));
                Self::open_store(context)
            }
            _ => Self::open(context),
        }
    }

    fn open_store(context: &Context) -> Result<Option<Self>> {
        let data = context.paths.data_dir();
        let Some(dir) = context.store_dir()? else { return Ok(None) };
        let config = context.config()?;
        let (store, report) = ReadOnlyPackStore::open(&dir)?;
        print_damage(&report);
        if report.roots_incomplete {
            eprintln!("archivist: {LIST_INCOMPLETE}");
        }
        let packs = Arc::new(store);
        let store: Arc<dyn StoreRead> = packs.clone();
        let snapshots = SnapshotReader::new(store.clone());
        let mut roots_incomplete = report.roots_incomplete;
        // Another user may read the store, but not the identity: nothing is known then.
        if let Ok(Some(issued)) = node::issued_receipts(data) {
            let name_of = |peer: &PeerId| node::source_name(&config, &peer.to_string());
            match node::check_list(&snapshots, &issued, name_of) {
                Ok(()) => {}
                Err(error) => {
                    eprintln!("archivist: {}", safe(&with_causes(&error)));
                    roots_incomplete |= matches!(error, ListError::Lost { .. });
                }
            }
        }
        Ok(Some(Self { snapshots, packs, store, roots_incomplete, config }))
    }

    /// Reports whether records of roots are lost, so that snapshots may be missing in the
    /// list. [`Offline::open`] has printed that.
    pub(crate) fn roots_incomplete(&self) -> bool {
        self.roots_incomplete
    }

    /// Returns the packs.
    pub(crate) fn packs(&self) -> &ReadOnlyPackStore {
        &self.packs
    }

    /// Returns the configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the store.
    pub(crate) fn store(&self) -> &Arc<dyn StoreRead> {
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
    pub(crate) fn snapshots(&self) -> &SnapshotReader {
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
        Ok(self.find_and_compare(id, folder, at)?.0)
    }

    /// Same as [`Offline::find`]. Also describes a newer snapshot that was passed over.
    pub(crate) fn find_and_compare(
        &self,
        id: Option<&str>,
        folder: Option<&str>,
        at: Option<Timestamp>,
    ) -> Result<(api::Snapshot, Option<String>)> {
        let all: Vec<_> =
            self.snapshots.list()?.snapshots.into_iter().map(backup::remote_snapshot).collect();
        let selector = SnapshotSelector { folder, id, at, ..SnapshotSelector::default() };
        let found = selector.newest(&self.config, all.clone())?;
        let passed_over = selector.passed_over(&self.config, all, &found.id);
        Ok((snapshot_model(&self.config, found), passed_over))
    }
}

/// Prints the damage that was found when a store was opened to standard error.
pub(crate) fn print_damage(report: &OpenReport) {
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
}
