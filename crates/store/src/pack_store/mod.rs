//! The store on disk: packs, an index over them, and the roots.
//!
//! Role: the only code that writes blocks. A block goes to the open pack of
//! its kind ([`write`](self)), its place to the index, and a sync that many
//! callers share makes it durable.
//!
//! Invariants:
//!
//! * A record is never changed. A pack only grows, is sealed with a footer,
//!   and is removed whole: by the collector, or by [`recompress`] when all of
//!   it is in another. One of them works at a time.
//! * What a `commit` has reported is in a synced file under a synced name.
//!   After a failed sync nothing is believed that was not synced before.
//! * The index is a cache: what it says is checked by the read, and all of it
//!   can be had again from the packs.
//! * Every read is verified against the name; what fails is quarantined and
//!   counts as absent.
//! * The order on disk: data, then nodes, then roots.
//!
//! What is absent: no lock is held while a disk is synced, but for the roots';
//! no block is ever looked for by anything but its hash.

mod ballast;
mod catalog;
mod gc;
mod mark;
mod moving;
mod open;
mod packs;
mod quarantine;
mod read;
mod recompress;
mod settled;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, RwLock};
use types::{Cid, EncodedBlock};

use self::ballast::Ballast;
use self::catalog::Catalog;
use self::gc::Collection;
use self::packs::{Pack, Packs};
use self::quarantine::Quarantine;
use self::recompress::Recompressed;
use self::settled::Settled;
use self::write::Writer;
use crate::block_store::{
    BlockRead, BlockWrite, GcOptions, GcReport, Roots, StoreAdmin, Usage, WriteEpoch,
};
use crate::error::StoreError;
use crate::hash_index::HashIndex;
use crate::pins::{Pin, Pins};
use crate::root_log::{Root, RootLog};
use disk::{Disk, DiskFile, RealDisk};

pub use self::open::OpenReport;
pub use self::recompress::{RecompressEnd, RecompressReport};

/// How a store works. The two limits can be changed while it runs.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// What the packs may take, in bytes; `None`: only the disk is the limit.
    pub max_storage: Option<u64>,
    /// What stays free on the disk, in bytes. The collector may use it.
    pub disk_reserve: u64,
    /// A pack is full at this length, in bytes; on a small disk at less.
    pub pack_len: u64,
    /// Seal packs, merge the index and write early on a thread of its own.
    /// Without it, everything happens in the caller, in a fixed order.
    pub background: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { max_storage: None, disk_reserve: 1 << 30, pack_len: 128 << 20, background: true }
    }
}

/// The store on disk. See the module.
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
    index: HashIndex,
    roots: Mutex<RootLog>,
    pins: Pins,
    quarantine: Quarantine,
    settled: Settled,
    ballast: Ballast,
    writers: [Mutex<Writer>; 2],
    /// Numbers the appends; see `commit`.
    appended: AtomicU64,
    /// Counts the syncs that failed.
    failed_syncs: AtomicU64,
    /// Counts what took blocks; held while it takes them.
    losses: Mutex<u64>,
    commits: Mutex<Commits>,
    commit_done: Condvar,
    /// Packs with bytes that are not known to be durable.
    dirty: Mutex<Vec<Arc<Pack>>>,
    /// The collection that is under way.
    collection: RwLock<Option<Arc<Collection>>>,
    collecting: Mutex<()>,
    recompressed: Recompressed,
    /// Appends hold it to read, a rebuild of the index to write.
    indexing: RwLock<()>,
    /// Counts the rebuilds of the index.
    rebuilds: AtomicU64,
    /// To the upkeep thread; `None`: upkeep happens in the caller.
    upkeep: Option<crossbeam_channel::Sender<Upkeep>>,
    /// Held until the store is closed.
    _lock: Box<dyn DiskFile>,
}

#[derive(Debug, Default)]
struct Commits {
    running: bool,
    /// Appends up to this number are durable.
    done: u64,
}

/// What the upkeep thread does.
#[derive(Debug)]
enum Upkeep {
    /// Give a full pack its footer.
    Seal(Arc<Pack>),
    /// Begin to write a growing pack out, so that the commit has less to do.
    WriteOut(Arc<Pack>),
    /// Write the index's head out.
    FlushIndex,
    /// End the thread.
    Stop,
}

impl PackStore {
    /// Opens the store in `dir` on this machine's file system, or makes one
    /// where the directory is empty or absent.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] where another process has it open,
    /// [`StoreError::Unusable`] where it is of a newer version,
    /// [`StoreError::Io`]. Damage is not an error: it is in the report, and
    /// what it took is missing.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<(Self, OpenReport), StoreError> {
        Self::open_on(Arc::new(RealDisk), dir, options)
    }

    /// Opens the store on another disk; see [`PackStore::open`].
    ///
    /// # Errors
    ///
    /// As [`PackStore::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &StoreOptions,
    ) -> Result<(Self, OpenReport), StoreError> {
        let (sender, receiver) = if options.background {
            let (sender, receiver) = crossbeam_channel::unbounded();
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let (inner, report) = Inner::open(disk, dir, options, sender)?;
        let inner = Arc::new(inner);
        let upkeep = receiver
            .map(|receiver| {
                let weak = Arc::downgrade(&inner);
                std::thread::Builder::new().name("store-upkeep".into()).spawn(move || {
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

    /// Changes the limits from now on; see [`StoreOptions`].
    pub fn set_limits(&self, max_storage: Option<u64>, disk_reserve: u64) {
        self.inner.max_storage.store(max_storage.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.inner.disk_reserve.store(disk_reserve, Ordering::Relaxed);
    }

    /// Throws the index away and makes it anew from the packs.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn rebuild_index(&self) -> Result<(), StoreError> {
        self.inner.rebuild_index()
    }

    /// Compresses what was stored as it came: rewrites full packs that would
    /// shrink, one after the other, the oldest first, until `budget` bytes of
    /// them were read (one pack at the least) or `stop` says so, which it is
    /// asked every few blocks. Nothing is deleted by it, and no block is
    /// absent while it works. It blocks, and takes one core.
    ///
    /// # Errors
    ///
    /// Those of the disk. A full one is none: see [`RecompressEnd::Full`].
    pub fn recompress(
        &self,
        budget: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<RecompressReport, StoreError> {
        self.inner.recompress(budget, stop)
    }

    /// The bytes of all packs. Asks no disk; see [`BlockStore::usage`].
    pub fn used_bytes(&self) -> u64 {
        self.inner.packs.used_bytes()
    }

    /// What was recompressed since the store was opened, in bytes of packs:
    /// before, and after.
    pub fn recompressed(&self) -> (u64, u64) {
        self.inner.recompressed.get()
    }

    /// Whether records of roots were lost, so that nothing is collected; see
    /// [`OpenReport::roots_incomplete`].
    pub fn roots_incomplete(&self) -> bool {
        self.inner.roots.lock().is_incomplete()
    }
}

impl Drop for PackStore {
    fn drop(&mut self) {
        // What the next start would do otherwise; nothing is lost without it.
        if self.inner.index.len() > 0
            && let Err(error) = self.inner.flush_index()
        {
            tracing::debug!(%error, "the index was not written out at the end");
        }
        if let Some(thread) = self.upkeep.take() {
            self.inner.request(Upkeep::Stop);
            if thread.join().is_err() {
                tracing::error!("the store's upkeep thread had panicked");
            }
        }
    }
}

impl Inner {
    fn upkeep_task(&self, task: Upkeep) {
        if let Upkeep::Seal(pack) | Upkeep::WriteOut(pack) = &task
            && self.packs.get(pack.number()).is_none()
        {
            // It was given up, or has been emptied already.
            return;
        }
        let (what, result) = match task {
            Upkeep::Seal(pack) => ("seal a pack", self.seal(&pack)),
            Upkeep::WriteOut(pack) => ("write a pack out", self.write_out(&pack)),
            Upkeep::Stop => return,
            Upkeep::FlushIndex => {
                let due = self.index.is_flush_due();
                ("write the index out", if due { self.flush_index() } else { Ok(()) })
            }
        };
        if let Err(error) = result {
            // Each is tried again, or not needed: a pack without a footer is
            // walked at the next start, a failed sync is the commit's to tell.
            tracing::warn!(%error, "could not {what}");
        }
    }

    /// Does what takes blocks, and counts it: for everybody else, both happen
    /// at once.
    fn losing<T>(&self, take: impl FnOnce() -> T) -> T {
        let mut losses = self.losses.lock();
        *losses += 1;
        take()
    }

    /// Hands a task to the upkeep thread, or does it.
    fn request(&self, task: Upkeep) {
        match &self.upkeep {
            Some(sender) => {
                // It ends only with the store.
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

    /// The catalog as it is, but for the runs. To be taken while nothing is
    /// added to the index.
    fn catalog_of_packs(&self) -> Catalog {
        Catalog {
            next_pack: self.packs.next_number(),
            runs: Vec::new(),
            packs: self.packs.all().iter().map(|pack| pack.catalog_entry()).collect(),
        }
    }

    fn write_catalog(&self, mut catalog: Catalog, runs: &[u64]) -> Result<(), StoreError> {
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
        *self.inner.losses.lock()
    }
}

impl BlockWrite for PackStore {
    fn write_epoch(&self) -> WriteEpoch {
        self.inner.write_epoch()
    }

    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        self.inner.put(blocks)
    }

    fn commit(&self, epoch: WriteEpoch) -> Result<(), StoreError> {
        self.inner.commit(epoch)
    }

    fn pin(&self) -> Pin {
        self.inner.pins.add()
    }
}

impl Roots for PackStore {
    fn root(&self, name: &str) -> Option<Root> {
        self.inner.roots.lock().get(name)
    }

    fn roots(&self, prefix: &str) -> Vec<(String, Root)> {
        self.inner.roots.lock().with_prefix(prefix)
    }

    fn set_root(&self, name: &str, root: Root, epoch: WriteEpoch) -> Result<(), StoreError> {
        crate::root_log::check_name(name)?;
        self.inner.commit(epoch)?;
        self.inner.roots.lock().set(name, root)
    }

    fn remove_root(&self, name: &str) -> Result<bool, StoreError> {
        self.inner.roots.lock().remove(name)
    }
}

impl StoreAdmin for PackStore {
    fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        self.inner.gc(options)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage()
    }
}
