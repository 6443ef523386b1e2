//! The store on disk: packs, an index over them, and the roots.
//!
//! Role: the only code that writes blocks to a disk. A block goes to the open
//! pack of its kind ([`write`](self)), its place goes to the index, and a sync
//! that many callers share makes it durable.
//!
//! Invariants:
//!
//! * A record is never changed. A pack only grows, is sealed with a footer, and
//!   is removed as a whole: by garbage collection, or by [`recompress`] when all
//!   of its records are in another pack. Only one of the two runs at a time.
//! * Blocks that a `commit` has reported as durable are in a synced file with a
//!   synced name. After a failed sync, only records that were synced before are
//!   trusted.
//! * The index is a cache: every read checks the place that the index returns,
//!   and the index can be rebuilt from the packs.
//! * Every read is verified against the name. A block that fails is quarantined
//!   and counts as absent.
//! * The order on disk: data, then nodes, then roots.
//!
//! Absent: locks that are held during a sync (except that of the roots); lookups
//! by anything but a hash.

#[cfg(any(test, feature = "testing"))]
mod audit;
mod catalog;
mod examine;
mod gc;
mod losses;
mod mark;
mod open;
mod pack_list;
mod packs;
mod quarantine;
mod read;
mod read_only;
mod recompress;
mod recompress_skiplist;
mod relocate;
mod removed_roots;
mod reserve_file;
mod scan_nodes;
mod scrub;
mod write;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::{Cid, EncodedBlock};

use self::catalog::Catalog;
use self::gc::{Collection, Guard};
use self::losses::LossReports;
use self::pack_list::PackList;
use self::packs::{Pack, Packs};
use self::quarantine::Quarantine;
use self::recompress::RecompressTotals;
use self::recompress_skiplist::RecompressSkiplist;
use self::removed_roots::RemovedRoots;
use self::reserve_file::ReserveFile;
use self::write::Writer;
use crate::block_store::{
    BlockRead, BlockWrite, GcOptions, GcReport, Roots, RootsRead, StoreAdmin, Usage, WriteEpoch,
};
use crate::error::{Limit, StoreError};
use crate::hash_index::HashIndex;
use crate::pins::{Pin, Pins};
use crate::root_log::{Root, RootLog};
use crate::scrub_dates::{PackId, PackLen, ScrubDates};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, RwLock, Sender, unbounded};
use disk::{Disk, DiskFile, RealDisk};

pub use self::losses::Losses;
pub use self::open::OpenReport;
pub use self::read_only::ReadOnlyPackStore;
pub use self::recompress::{RecompressEnd, RecompressReport};
pub use self::scrub::{FaultyBlock, ScrubEnd, ScrubReport};

/// Options of a store. The two limits can be changed while the store is open.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Maximum length of all packs in bytes; `None` if only the disk limits the
    /// store.
    pub max_storage: Option<u64>,
    /// Number of bytes that stay free on the disk. Garbage collection may use
    /// them.
    pub disk_reserve: u64,
    /// Length in bytes at which a pack is full. On a small disk packs are shorter.
    pub pack_len: u64,
    /// True if a separate thread seals packs, merges the index and syncs growing
    /// packs early. Without it, everything happens in the caller, in a fixed
    /// order.
    pub background: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { max_storage: None, disk_reserve: 1 << 30, pack_len: 128 << 20, background: true }
    }
}

/// A store on disk; see the module.
#[derive(Debug)]
pub struct PackStore {
    inner: Arc<Inner>,
    upkeep: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    pack_len: u64,
    max_storage: AtomicU64,
    disk_reserve: AtomicU64,
    packs: Packs,
    pack_list: PackList,
    index: HashIndex,
    roots: Mutex<RootLog>,
    pins: Pins,
    quarantine: Quarantine,
    recompress_skiplist: RecompressSkiplist,
    removed_roots: RemovedRoots,
    reserve_file: ReserveFile,
    /// True if the last change failed because the file system is read-only.
    is_read_only: AtomicBool,
    writers: [Mutex<Writer>; 2],
    /// Number of appends; see `commit`.
    appended: AtomicU64,
    /// Number of failed syncs.
    failed_syncs: AtomicU64,
    /// Number of events that made blocks unavailable; locked while that happens.
    loss_counter: Mutex<u64>,
    losses: LossReports,
    commits: Mutex<Commits>,
    commit_done: Condvar,
    /// Packs with bytes that may not be durable.
    dirty: Mutex<Vec<Arc<Pack>>>,
    /// The collection in progress.
    collection: RwLock<Option<Arc<Collection>>>,
    collecting: Mutex<()>,
    guard: Guard,
    recompress_totals: RecompressTotals,
    /// Appends hold the read lock, a rebuild of the index the write lock.
    indexing: RwLock<()>,
    /// Number of rebuilds of the index.
    rebuilds: AtomicU64,
    /// Sends tasks to the upkeep thread; `None` if upkeep happens in the caller.
    upkeep: Option<Sender<Upkeep>>,
    /// The lock of the store, held until it is closed.
    _lock: Box<dyn DiskFile>,
}

#[derive(Debug, Default)]
struct Commits {
    running: bool,
    /// Number of appends that are durable.
    done: u64,
}

/// A task of the upkeep thread.
#[derive(Debug)]
enum Upkeep {
    /// Write the footer of a full pack.
    Seal(Arc<Pack>),
    /// Sync a growing pack early, so that the next commit takes less time.
    WriteOut(Arc<Pack>),
    /// Write the head of the index to disk.
    FlushIndex,
    /// End the thread.
    Stop,
}

impl PackStore {
    /// Opens the store in `dir` on the file system of this computer. Creates a
    /// store if the directory is empty or absent.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Locked`] if another process has the store open,
    /// [`StoreError::Unusable`] if it was written by a newer version,
    /// [`StoreError::RootsUnreadable`], [`StoreError::CatalogUnreadable`] or
    /// [`StoreError::IndexUnreadable`] if a file cannot be read that may be intact, and
    /// [`StoreError::Io`] if another file cannot be read or written. Damage is not an error: the
    /// report describes it, and the damaged blocks are absent.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<(Self, OpenReport), StoreError> {
        Self::open_on(Arc::new(RealDisk), dir, options)
    }

    /// Opens a store on another disk; see [`PackStore::open`].
    ///
    /// # Errors
    ///
    /// Same as [`PackStore::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &StoreOptions,
    ) -> Result<(Self, OpenReport), StoreError> {
        let (sender, receiver) = if options.background {
            let (sender, receiver) = unbounded();
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let (inner, report) = Inner::open(disk, dir, options, sender)?;
        let inner = Arc::new(inner);
        let upkeep = receiver
            .map(|receiver| {
                let weak = Arc::downgrade(&inner);
                thread::Builder::new().name("store-upkeep".into()).spawn(move || {
                    while let Ok(task) = receiver.recv() {
                        let Some(inner) = weak.upgrade() else { break };
                        if matches!(task, Upkeep::Stop) {
                            break;
                        }
                        inner.upkeep_task(task);
                    }
                })
            })
            .transpose()
            .map_err(|source| StoreError::io("start a thread for", dir, source))?;
        Ok((Self { inner, upkeep }, report))
    }

    /// Changes the limits; see [`StoreOptions`].
    pub fn set_limits(&self, max_storage: Option<u64>, disk_reserve: u64) {
        self.inner.max_storage.store(max_storage.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.inner.disk_reserve.store(disk_reserve, Ordering::Relaxed);
    }

    /// Rebuilds the index from the packs.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if a pack cannot be read or the index cannot be
    /// written, and [`StoreError::Full`] if there is no space for it.
    pub fn rebuild_index(&self) -> Result<(), StoreError> {
        self.inner.rebuild_index()
    }

    /// Compresses blocks that were stored uncompressed: rewrites full packs that
    /// would shrink, one after the other, the oldest first, until `budget` bytes
    /// of packs were read (at least one pack) or `stop`, which is called every few
    /// blocks, returns true. It deletes no block, and no block is absent while it
    /// works. Blocks, and uses one core.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if a pack cannot be read or written, and
    /// [`StoreError::LostWrites`] if a sync fails. A full disk is not an error:
    /// see [`RecompressEnd::Full`].
    pub fn recompress(
        &self,
        budget: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<RecompressReport, StoreError> {
        self.inner.recompress(budget, stop)
    }

    /// Frees `needed` bytes on the disk of the store for small files of the instance, if
    /// the disk is full: shortens the file that reserves space for the collection, as far
    /// as the collection can do without. Reports whether the space is there.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the free space cannot be determined.
    pub fn make_room(&self, needed: u64) -> Result<bool, StoreError> {
        let inner = &self.inner;
        loop {
            let free = inner
                .disk
                .space(&inner.dir)
                .map_err(|error| StoreError::io("measure", &inner.dir, error))?;
            if free.free >= needed {
                return Ok(true);
            }
            if !inner.reserve_file.shorten(&*inner.disk) {
                return Ok(false);
            }
        }
    }

    /// Reports whether the store cannot be written because its file system is
    /// read-only: it is mounted so, or a change has failed for this reason. (After an
    /// error of the disk, a file system may refuse changes without being mounted
    /// read-only.)
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the file system cannot be examined.
    pub fn is_read_only(&self) -> Result<bool, StoreError> {
        let inner = &self.inner;
        let space = inner.disk.space(&inner.dir);
        let space = space.map_err(|error| StoreError::io("examine", &inner.dir, error))?;
        Ok(space.is_read_only || inner.is_read_only.load(Ordering::Relaxed))
    }

    /// Returns the length of all packs in bytes, without asking the disk; see
    /// [`StoreAdmin::usage`].
    pub fn used_bytes(&self) -> u64 {
        self.inner.packs.used_bytes()
    }

    /// Returns the length in bytes of all packs that were recompressed since the
    /// store was opened, before and after.
    pub fn recompressed(&self) -> (u64, u64) {
        self.inner.recompress_totals.get()
    }

    /// Returns all packs with their lengths.
    pub fn packs(&self) -> Vec<PackLen> {
        self.inner.pack_lens()
    }

    /// Reads every record of a pack from the disk and checks its hash. Damaged records
    /// are quarantined. `pace` is called about once a mebibyte with the number of bytes
    /// that were read since the last call; it may block, and ends the scrub by
    /// returning false. Blocks.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the pack cannot be opened, or the list of its
    /// records cannot be read. A record that cannot be read is part of the report.
    pub fn scrub(
        &self,
        pack: PackId,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ScrubReport, StoreError> {
        self.inner.scrub(pack, pace)
    }

    /// Reads the dates of the scrubs, which are stored beside the packs.
    pub fn scrub_dates(&self) -> ScrubDates {
        ScrubDates::open(self.inner.disk.clone(), self.inner.dir.join("scrub"))
    }

    /// Calls `hook` after each loss of blocks that is found; see
    /// [`PackStore::take_losses`]. `hook` must not block. Only the first call of this
    /// function has an effect.
    pub fn on_loss(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.inner.losses.set_hook(Box::new(hook));
    }

    /// Returns the losses since the last call.
    pub fn take_losses(&self) -> Losses {
        self.inner.losses.take()
    }

    /// Returns the blocks that were found damaged and of which no good copy exists.
    /// They are absent until they are put again.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the list of the records of a pack cannot be read.
    pub fn damaged_blocks(&self) -> Result<Vec<FaultyBlock>, StoreError> {
        self.inner.damaged_blocks()
    }

    /// Ends the attempts to read a block that the disk cannot deliver: quarantines its
    /// unreadable copies, so that the block can be put again. Reports whether a copy
    /// was quarantined.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if not even the header of the pack can be read. The
    /// copy stays in use then.
    pub fn set_aside_unreadable(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.inner.set_aside_unreadable(cid)
    }

    /// Reports whether records of roots are lost, so that nothing is collected; see
    /// [`OpenReport::roots_incomplete`].
    pub fn roots_incomplete(&self) -> bool {
        self.inner.roots.lock().is_incomplete()
    }

    /// Records that roots are lost, which the logs of the roots do not show. Nothing is collected
    /// until the remaining roots are accepted; see [`GcOptions::accept_roots`].
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if that cannot be written: it is true until the store is closed.
    pub fn report_lost_roots(&self) -> Result<(), StoreError> {
        self.inner.roots.lock().mark_incomplete()
    }
}

impl Drop for PackStore {
    fn drop(&mut self) {
        // Without this, the next start does it; nothing is lost.
        if self.inner.index.len() > 0
            && let Err(error) = self.inner.flush_index()
        {
            tracing::debug!(%error, "the index was not written when the store was closed");
        }
        if let Some(thread) = self.upkeep.take() {
            self.inner.request(Upkeep::Stop);
            if thread.join().is_err() {
                tracing::error!("the upkeep thread of the store has panicked");
            }
        }
    }
}

impl Inner {
    fn upkeep_task(&self, task: Upkeep) {
        if let Upkeep::Seal(pack) | Upkeep::WriteOut(pack) = &task
            && self.packs.get(pack.number()).is_none()
        {
            // The pack was given up, or has been emptied already.
            return;
        }
        let (action, result) = match task {
            Upkeep::Seal(pack) => ("seal a pack", self.seal(&pack)),
            Upkeep::WriteOut(pack) => ("sync a growing pack", self.write_out(&pack)),
            Upkeep::Stop => return,
            Upkeep::FlushIndex => {
                let due = self.index.is_flush_due();
                ("write the index", if due { self.flush_index() } else { Ok(()) })
            }
        };
        if let Err(error) = result {
            // Each task is repeated or not needed: a pack without a footer is
            // walked at the next start, a failed sync is reported by the commit.
            tracing::warn!(%error, "cannot {action}");
        }
    }

    /// Calls `lose`, which makes blocks unavailable, and counts the loss. Others see
    /// both or neither.
    fn count_loss<T>(&self, lose: impl FnOnce() -> T) -> T {
        let mut counter = self.loss_counter.lock();
        *counter += 1;
        lose()
    }

    /// Remembers whether a change has failed because the file system is read-only.
    fn note_read_only<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Io { source, .. }) = &result
            && source.kind() == ErrorKind::ReadOnlyFilesystem
        {
            self.is_read_only.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Calls `change` again with the space of the reserve file if the disk is full. The
    /// reserve file comes back as soon as there is space.
    fn with_reserve<T>(
        &self,
        mut change: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match change() {
            Err(StoreError::Full { limit: Limit::Disk, .. })
                if self.reserve_file.take(&*self.disk) =>
            {
                let result = change();
                self.reserve_file.give_back(&*self.disk);
                result
            }
            result => result,
        }
    }

    /// Sends a task to the upkeep thread, or does it now.
    fn request(&self, task: Upkeep) {
        match &self.upkeep {
            Some(sender) => {
                // The thread ends only with the store.
                let _ = sender.send(task);
            }
            None => match task {
                Upkeep::WriteOut(_) => {}
                task => self.upkeep_task(task),
            },
        }
    }

    fn flush_index(&self) -> Result<(), StoreError> {
        self.index.flush(
            |value| self.packs.get(read::pack_of(value)).is_some(),
            || self.catalog_of_packs(),
            |catalog, runs| self.write_catalog(catalog, runs),
        )
    }

    /// Returns the current catalog without the runs. Must be called while nothing
    /// is added to the index.
    fn catalog_of_packs(&self) -> Catalog {
        Catalog {
            next_pack: self.packs.next_number(),
            runs: Vec::new(),
            packs: self.packs.all().iter().map(|pack| pack.catalog_entry()).collect(),
        }
    }

    fn write_catalog(&self, mut catalog: Catalog, runs: &[u64]) -> Result<(), StoreError> {
        // The catalog names only durable records. If they are missing at a start, they
        // were lost, and not just not written yet.
        let failed_syncs = self.failed_syncs.load(Ordering::SeqCst);
        self.commit(WriteEpoch { failed_syncs, first_pack: 0 })?;
        catalog.runs = runs.to_vec();
        catalog.write(&*self.disk, self.index.dir())
    }
}

impl BlockRead for PackStore {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        self.inner.get_encoded(cid)
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.inner.locate(cid.hash())?.is_some())
    }

    fn len_of(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.inner.locate(cid.hash())?.map(|place| u64::from(place.entry.len)))
    }

    fn loss_counter(&self) -> u64 {
        *self.inner.loss_counter.lock()
    }
}

impl BlockWrite for PackStore {
    fn write_epoch(&self) -> WriteEpoch {
        self.inner.write_epoch()
    }

    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        self.inner.note_read_only(self.inner.put(blocks))
    }

    fn commit(&self, epoch: WriteEpoch) -> Result<(), StoreError> {
        self.inner.commit(epoch)
    }

    fn pin(&self) -> Pin {
        self.inner.pins.add()
    }
}

impl RootsRead for PackStore {
    fn root(&self, name: &str) -> Option<Root> {
        self.inner.roots.lock().get(name)
    }

    fn roots(&self, prefix: &str) -> Vec<(String, Root)> {
        self.inner.roots.lock().with_prefix(prefix)
    }
}

impl Roots for PackStore {
    fn set_root(&self, name: &str, root: Root, epoch: WriteEpoch) -> Result<(), StoreError> {
        crate::root_log::check_name(name)?;
        self.inner.commit(epoch)?;
        let set = self.inner.roots.lock().set(name, root);
        self.inner.note_read_only(set)?;
        // The file system has been made writable again.
        self.inner.is_read_only.store(false, Ordering::Relaxed);
        if self.inner.removed_roots.contains(root.cid.hash()) {
            self.inner.removed_roots.retain(|hash| hash != root.cid.hash());
        }
        Ok(())
    }

    fn remove_root(&self, name: &str) -> Result<bool, StoreError> {
        let mut roots = self.inner.roots.lock();
        let root = roots.get(name);
        let was_removed =
            self.inner.note_read_only(self.inner.with_reserve(|| roots.remove(name)))?;
        drop(roots);
        if let Some(root) = root.filter(|root| was_removed && !root.partial) {
            self.inner.removed_roots.add(*root.cid.hash());
        }
        Ok(was_removed)
    }
}

impl StoreAdmin for PackStore {
    fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        self.inner.gc(options)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage()
    }

    fn reached_bytes(&self, prefixes: &[String]) -> Result<u64, StoreError> {
        self.inner.reached_bytes(prefixes)
    }
}
