//! A store that is only read: no file is created, changed, locked for itself or
//! repaired, and no file is opened for writing.
//!
//! Role: listing, verifying and restoring without a running instance, also on a
//! read-only file system, with permission to read only, and beside an instance
//! that writes. A [`View`] is the state of the store at one moment: the roots,
//! the packs and an index over them. The index on disk is used as far as it
//! covers the packs; the places of all other records are kept in memory (50
//! bytes for each).
//!
//! A shared lock keeps writers out, if the lock file can be locked. If it cannot,
//! an instance may be writing: a collection may remove a pack between two reads.
//! The reader then makes a new view and looks the block up again. Blocks of
//! snapshots that are pruned meanwhile are gone.
//!
//! Damage is reported and changes nothing: a damaged record is remembered in
//! memory for the other reads of this store.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;
use types::{Cid, EncodedBlock, Hash, with_causes};

use super::OpenReport;
use super::catalog::{Catalog, CatalogPack};
use super::examine::{PackFile, PackName, examine_pack, report_lost_records, walk_pack};
use super::open::{Layout, refuse_other_format};
use super::pack_list::{
    PackList, Records, description, expected, list_for_reading, losses, readable,
};
use super::packs::pack_files;
use super::quarantine::Quarantine;
use super::read::{decode_place, encode_place, pack_of};
use super::removed_roots::RemovedRoots;
use crate::block_store::{BlockRead, RootsRead};
use crate::error::{IoContext, StoreError};
use crate::pack::{PackKind, is_retired};
use crate::record::{Entry, ReadError, Record, read_record};
use crate::root_log::{Root, read_roots};
use crate::run::{Run, Value};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use disk::{Disk, DiskFile, RealDisk};

/// Maximum number of files of packs that are kept open.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// Maximum number of views that are made until one is consistent. A view takes
/// milliseconds, unless the index must be made in memory.
const VIEWS_MAX: usize = 5;

/// Maximum number of lookups of a block whose pack vanishes.
const LOOKUPS_MAX: usize = 8;

/// Maximum number of views that are made because a block is not found, in the
/// life of a store: each may read the footers of all new packs.
const VIEWS_FOR_MISSING_MAX: u64 = 1000;

/// A store on disk that is only read; see the module.
#[derive(Debug)]
pub struct ReadOnlyPackStore {
    pub(super) disk: Arc<dyn Disk>,
    layout: Layout,
    view: RwLock<Arc<View>>,
    files: Mutex<LruCache<u32, Arc<dyn DiskFile>>>,
    quarantine: Quarantine,
    /// Number of events that made blocks unavailable.
    losses: AtomicU64,
    /// Number of reads that the disk has failed.
    pub(super) failed_reads: AtomicU64,
    pub(super) removed_roots: RemovedRoots,
    /// Number of views that were made because a block was not found.
    views_for_missing: AtomicU64,
    /// The shared lock; `None` if a writer may be at work.
    lock: Option<Box<dyn DiskFile>>,
}

/// The state of a store at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) packs: BTreeMap<u32, ReadPack>,
    /// Descriptions of packs of nodes that lack records, and of packs of any kind that do
    /// not exist.
    pub(super) losses: Vec<String>,
    runs: Vec<Run>,
    /// Places that the runs do not cover, sorted by hash.
    rest: Vec<(Hash, Value)>,
    roots: BTreeMap<String, Root>,
}

/// A pack in a view.
#[derive(Clone, Debug)]
pub(super) struct ReadPack {
    pub(super) path: PathBuf,
    pub(super) kind: PackKind,
    uuid: [u8; 16],
    /// Number of usable records.
    pub(super) records: u32,
    /// Reason why the pack cannot be read at all.
    pub(super) unreadable: Option<String>,
}

/// A pack that was examined, with the entries that the index does not cover.
struct Examined {
    pack: ReadPack,
    /// `None` if the index covers all records.
    entries: Option<Vec<Entry>>,
}

/// Place of a record.
#[derive(Clone, Copy, Debug)]
struct ReadPlace {
    number: u32,
    record: u32,
    entry: Entry,
}

/// Result of an attempt to read a record.
enum Attempt {
    Block(EncodedBlock),
    /// The pack was removed or emptied by a collection.
    Gone,
    /// The record is damaged, or was written by a newer version.
    Unusable(StoreError),
}

impl ReadOnlyPackStore {
    /// Opens the store in `dir` on the file system of this computer for reading.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Unusable`] if the store was written by a newer version,
    /// and [`StoreError::Io`] if there is no store or it cannot be read. Damage is
    /// not an error: the report describes it, and the damaged blocks are absent.
    pub fn open(dir: &Path) -> Result<(Self, OpenReport), StoreError> {
        Self::open_on(Arc::new(RealDisk), dir)
    }

    /// Opens a store on another disk; see [`ReadOnlyPackStore::open`].
    ///
    /// # Errors
    ///
    /// Same as [`ReadOnlyPackStore::open`].
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, OpenReport), StoreError> {
        let layout = Layout { dir: dir.to_owned() };
        refuse_other_format(&*disk, &layout)?;
        let lock = shared_lock(&*disk, &layout.lock());
        let (view, mut report) = View::read(&disk, &layout, true)?;
        let store = Self {
            quarantine: Quarantine::open_read_only(
                disk.clone(),
                layout.quarantine(),
                &mut report.damage,
            ),
            removed_roots: RemovedRoots::open_read_only(disk.clone(), layout.removed_roots()),
            disk,
            layout,
            view: RwLock::new(Arc::new(view)),
            files: Mutex::new(LruCache::new(OPEN_FILES)),
            losses: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
            views_for_missing: AtomicU64::new(0),
            lock,
        };
        Ok((store, report))
    }

    /// Reports whether a process may be writing to the store: then packs may be
    /// replaced while they are read, and snapshots may be removed.
    pub fn may_be_written(&self) -> bool {
        self.lock.is_none()
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Replaces the view `seen`, unless another thread has done so.
    fn renew(&self, seen: &Arc<View>, use_runs: bool) -> Result<(), StoreError> {
        let mut current = self.view.write();
        if Arc::ptr_eq(&current, seen) {
            let (view, _) = View::read(&self.disk, &self.layout, use_runs)?;
            *current = Arc::new(view);
            self.files.lock().clear();
        }
        Ok(())
    }

    /// Returns a view and the places of a block in it. Does without the index on
    /// disk if it is damaged.
    fn places(&self, hash: &Hash) -> Result<(Arc<View>, Vec<ReadPlace>), StoreError> {
        let view = self.view();
        match view.places(hash) {
            Ok(places) => Ok((view, places)),
            Err(error) => {
                tracing::warn!(%error, "the index is damaged; an index is made in memory");
                self.renew(&view, false)?;
                let view = self.view();
                let places = view.places(hash)?;
                Ok((view, places))
            }
        }
    }

    /// Returns the places of a block. If there is none and a writer is at work, the
    /// block may have been moved: looks again in a new view.
    fn places_now(&self, hash: &Hash) -> Result<(Arc<View>, Vec<ReadPlace>), StoreError> {
        let (view, places) = self.places(hash)?;
        if places.is_empty()
            && self.lock.is_none()
            && self.views_for_missing.fetch_add(1, Ordering::Relaxed) < VIEWS_FOR_MISSING_MAX
        {
            self.renew(&view, true)?;
            return self.places(hash);
        }
        Ok((view, places))
    }

    fn read(&self, view: &View, place: &ReadPlace) -> Result<Attempt, StoreError> {
        let Some(pack) = view.packs.get(&place.number) else { return Ok(Attempt::Gone) };
        let damaged = |reason: String| {
            Attempt::Unusable(StoreError::Damaged {
                hash: place.entry.hash,
                pack: pack.path.clone(),
                offset: place.entry.offset.into(),
                reason,
            })
        };
        if let Some(reason) = &pack.unreadable {
            return Ok(damaged(reason.clone()));
        }
        if self.quarantine.contains((place.number, place.record)) {
            return Ok(damaged("it was found damaged earlier".into()));
        }
        let file = match self.file(place.number, &pack.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Gone),
            Err(error) => return Err(StoreError::io("open", &pack.path, error)),
        };
        let (reason, is_lasting) = match read_record(&*file, &place.entry) {
            Ok(Record::Block(block)) => return Ok(Attempt::Block(block)),
            Ok(Record::Newer(_)) => {
                let (hash, pack) = (place.entry.hash, pack.path.clone());
                return Ok(Attempt::Unusable(StoreError::Newer { hash, pack }));
            }
            Err(ReadError::Damaged(reason)) => (reason, true),
            // A bad sector concerns the blocks in it only: the others can be restored.
            // The next attempt may succeed.
            Err(ReadError::Io(error)) => {
                self.failed_reads.fetch_add(1, Ordering::SeqCst);
                (format!("it cannot be read: {error}"), false)
            }
        };
        if is_retired(&*file) {
            return Ok(Attempt::Gone);
        }
        let error = damaged(reason);
        if let Attempt::Unusable(error) = &error {
            tracing::error!(%error, "a stored block is damaged and counts as absent");
        }
        if is_lasting && self.quarantine.add((place.number, place.record)) {
            self.losses.fetch_add(1, Ordering::SeqCst);
        }
        Ok(error)
    }

    fn file(&self, number: u32, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.files.lock().get(&number) {
            return Ok(file.clone());
        }
        let file: Arc<dyn DiskFile> = self.disk.open_read(path)?.into();
        self.files.lock().put(number, file.clone());
        Ok(file)
    }
}

impl BlockRead for ReadOnlyPackStore {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        let mut unusable = None;
        for _ in 0..LOOKUPS_MAX {
            let (view, places) = self.places_now(cid.hash())?;
            let mut is_gone = false;
            for place in &places {
                match self.read(&view, place)? {
                    Attempt::Block(block) => return Ok(Some(block.read_as(cid.codec()))),
                    Attempt::Gone => is_gone = true,
                    Attempt::Unusable(error) => unusable = Some(error),
                }
            }
            if !is_gone {
                break;
            }
            self.renew(&view, true)?;
        }
        unusable.map_or(Ok(None), Err)
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.len_of(cid)?.is_some())
    }

    fn len_of(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        let (view, places) = self.places_now(cid.hash())?;
        let is_usable = |place: &&ReadPlace| {
            view.packs.get(&place.number).is_some_and(|pack| pack.unreadable.is_none())
                && !self.quarantine.contains((place.number, place.record))
        };
        Ok(places.iter().find(is_usable).map(|place| u64::from(place.entry.len)))
    }

    fn loss_counter(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }
}

impl RootsRead for ReadOnlyPackStore {
    fn root(&self, name: &str) -> Option<Root> {
        self.view().roots.get(name).copied()
    }

    fn roots(&self, prefix: &str) -> Vec<(String, Root)> {
        let view = self.view();
        let from = view.roots.range(prefix.to_owned()..);
        from.take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, root)| (name.clone(), *root))
            .collect()
    }
}

/// Takes the shared lock on the lock file. `None` if another process has the
/// store open for writing, if there is no lock file, or if it cannot be locked.
fn shared_lock(disk: &dyn Disk, path: &Path) -> Option<Box<dyn DiskFile>> {
    let file = disk.open_read(path).ok()?;
    file.lock_shared().ok()?;
    Some(file)
}

impl View {
    /// Reads the state of a store. Repeats that if a writer has removed packs or
    /// changed the roots meanwhile: roots that are read before the packs lead only
    /// to blocks in these packs, unless they are removed meanwhile.
    fn read(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        use_runs: bool,
    ) -> Result<(Self, OpenReport), StoreError> {
        let mut attempt = 1;
        loop {
            let (view, report, has_changed) = Self::read_once(disk, layout, use_runs)?;
            if !has_changed || attempt == VIEWS_MAX {
                return Ok((view, report));
            }
            attempt += 1;
        }
    }

    /// Reads the state of a store, and reports whether it has changed meanwhile.
    fn read_once(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        use_runs: bool,
    ) -> Result<(Self, OpenReport, bool), StoreError> {
        let mut report = OpenReport::default();
        // The catalog before the packs: packs only grow, so a pack has at least the
        // records that the catalog covers.
        let catalog = readable(Catalog::read(&**disk, &layout.index()), &mut report)?;
        let has_list = !matches!(
            PackList::read(&**disk, &layout.pack_list()),
            Ok(Ok(listed)) if listed.is_empty()
        );
        let is_new = !has_list
            && matches!(catalog, Some(None))
            && pack_files(&**disk, &layout.packs())?.is_empty();
        let catalog = catalog.flatten();
        // The roots before the packs, so that the blocks of each root are in these packs.
        let found = read_roots(&**disk, &layout.roots(), is_new)?;
        let names = pack_files(&**disk, &layout.packs())?;
        // After the names: a collection removes a pack from the list before its file.
        let listed = list_for_reading(&**disk, &layout.pack_list(), &mut report)?;
        let known: BTreeMap<_, _> = catalog
            .iter()
            .flat_map(|catalog| &catalog.packs)
            .map(|pack| (pack.number, *pack))
            .collect();
        let (listed, unknown) = match listed {
            Ok(listed) => (listed, None),
            Err(reason) => (Records::new(), Some(reason)),
        };
        let expected = expected(&known, &listed);
        let mut packs = BTreeMap::new();
        let mut entries = BTreeMap::new();
        let mut is_any_gone = false;
        let name = |number: u32| {
            let (kind, path) = &names[&number];
            let expected = expected.get(&number).copied().unwrap_or(0);
            PackName { path, kind: *kind, number, known: known.get(&number), expected }
        };
        for number in names.keys() {
            match examine(&**disk, name(*number), &mut report)? {
                Some(examined) => {
                    packs.insert(*number, examined.pack);
                    entries.insert(*number, examined.entries);
                }
                None => is_any_gone = true,
            }
        }
        let is_missing =
            |number: &u32| expected.contains_key(number) && !names.contains_key(number);
        let mut missing: Vec<u32> = expected.keys().copied().filter(is_missing).collect();
        if !missing.is_empty() {
            // A writer may have created a pack after its name was looked for, or removed
            // one after the catalog was read.
            let now = pack_files(&**disk, &layout.packs())?;
            let catalog = readable(Catalog::read(&**disk, &layout.index()), &mut report)?;
            let packs = catalog.flatten().map_or_else(Vec::new, |catalog| catalog.packs);
            let is_expected = |number: &u32| {
                listed.contains_key(number) || packs.iter().any(|pack| pack.number == *number)
            };
            missing.retain(|number| !now.contains_key(number) && is_expected(number));
        }
        report.lost_packs = missing.iter().copied().map(description).collect();
        let mut losses = losses(&expected, |number| match packs.get(&number) {
            Some(ReadPack { kind: PackKind::Meta, unreadable: None, records, .. }) => {
                Some(*records)
            }
            Some(_) => Some(u32::MAX),
            None if missing.contains(&number) => None,
            None => Some(u32::MAX),
        });
        losses.extend(unknown);

        let runs = catalog
            .as_ref()
            .filter(|_| use_runs && covers(&known, &packs))
            .and_then(|catalog| open_runs(&**disk, layout, catalog));
        let is_covered = runs.is_some();
        report.index_rebuilt = !is_covered && !packs.is_empty();
        let mut rest = Vec::new();
        for (number, entries) in entries {
            let indexed = match known.get(&number) {
                Some(known) if is_covered => known.indexed,
                _ => 0,
            };
            let entries = match entries {
                Some(entries) => entries,
                None if indexed > 0 => continue,
                None if packs[&number].unreadable.is_some() => Vec::new(),
                // The index was to cover the pack, and cannot be used.
                None => footer_entries(&**disk, name(number), &mut report)?,
            };
            let places = (0..).zip(&entries).skip(indexed as usize);
            rest.extend(places.map(|(record, e)| (e.hash, encode_place(number, record, e))));
        }
        rest.sort_unstable();
        report.set_roots(found.health, found.unreadable);
        let is_same = !is_any_gone || pack_files(&**disk, &layout.packs())? == names;
        let has_changed =
            !is_same || read_roots(&**disk, &layout.roots(), true)?.roots != found.roots;
        let view = Self { packs, losses, runs: runs.unwrap_or_default(), rest, roots: found.roots };
        Ok((view, report, has_changed))
    }

    /// Returns the places of a block, the newest first.
    fn places(&self, hash: &Hash) -> Result<Vec<ReadPlace>, StoreError> {
        let mut values = Vec::new();
        let start = self.rest.partition_point(|(other, _)| other < hash);
        let rest = self.rest[start..].iter().take_while(|(other, _)| other == hash);
        values.extend(rest.map(|(_, value)| *value));
        for run in self.runs.iter().rev() {
            run.get(hash, &mut values)?;
        }
        let place = |value: &Value| {
            let (record, entry) = decode_place(*hash, value);
            let number = pack_of(value);
            let records = self.packs.get(&number).map_or(u32::MAX, |pack| pack.records);
            (record < records).then_some(ReadPlace { number, record, entry })
        };
        Ok(values.iter().filter_map(place).collect())
    }
}

/// Examines a pack. `None` if it is empty, emptied by a collection, or removed.
fn examine(
    disk: &dyn Disk,
    name: PackName<'_>,
    report: &mut OpenReport,
) -> Result<Option<Examined>, StoreError> {
    match examine_file(disk, name, report) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        // Bad sectors: the other packs can be read. Any other cause, as a missing
        // permission or too many open files, concerns the reader, not the pack.
        Err(error @ StoreError::Io { .. }) if is_bad_sector(&error) => {
            let reason = with_causes(&error);
            report.damage.push(reason.clone());
            Ok(Some(unreadable(name, reason)))
        }
        result => result,
    }
}

/// Returns a pack that cannot be read at all.
fn unreadable(name: PackName<'_>, reason: String) -> Examined {
    let pack = ReadPack {
        path: name.path.to_owned(),
        kind: name.kind,
        uuid: name.known.map_or([0; 16], |known| known.uuid),
        records: name.known.map_or(0, |known| known.indexed),
        unreadable: Some(reason),
    };
    Examined { pack, entries: None }
}

fn is_bad_sector(error: &StoreError) -> bool {
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    matches!(error, StoreError::Io { source, .. } if source.raw_os_error() == eio)
}

fn examine_file(
    disk: &dyn Disk,
    name: PackName<'_>,
    report: &mut OpenReport,
) -> Result<Option<Examined>, StoreError> {
    let path = name.path;
    let file = disk.open_read(path).context("open", path)?;
    let len = file.len().context("read", path)?;
    let (header, records, entries) = match examine_pack(&*file, len, name)? {
        PackFile::Retired | PackFile::Empty => return Ok(None),
        PackFile::Cut(damage) => {
            report.damage.push(damage.clone());
            return Ok(Some(unreadable(name, damage)));
        }
        PackFile::Sealed { header, records, entries } => (Some(header), records, entries),
        PackFile::Unsealed(header) => {
            let found = walk_pack(&*file, header, name, report)?;
            (header, found.records(), Some(found.entries))
        }
    };
    report_lost_records(records, name, report);
    let uuid = header.map_or([0; 16], |header| header.uuid);
    let pack = ReadPack { path: path.to_owned(), kind: name.kind, uuid, records, unreadable: None };
    Ok(Some(Examined { pack, entries }))
}

/// Returns the entries of a sealed pack; walks it if its footer is damaged.
fn footer_entries(
    disk: &dyn Disk,
    name: PackName<'_>,
    report: &mut OpenReport,
) -> Result<Vec<Entry>, StoreError> {
    // Without an entry in the catalog the footer is read.
    let examined = examine(disk, PackName { known: None, ..name }, report)?;
    Ok(examined.and_then(|examined| examined.entries).unwrap_or_default())
}

/// Reports whether the places in the index are valid for these packs.
fn covers(known: &BTreeMap<u32, CatalogPack>, packs: &BTreeMap<u32, ReadPack>) -> bool {
    known.values().all(|known| {
        // Entries of a pack that has gone are ignored.
        packs
            .get(&known.number)
            .is_none_or(|pack| pack.uuid == known.uuid && pack.records >= known.indexed)
    })
}

/// Opens the runs of the catalog. `None` if one is missing or damaged, or cannot be read: a reader
/// replaces nothing, and the packs contain everything that is in the runs.
fn open_runs(disk: &dyn Disk, layout: &Layout, catalog: &Catalog) -> Option<Vec<Run>> {
    let open = |id: &u64| Run::open(disk, &layout.index(), *id);
    match catalog.runs.iter().map(open).collect() {
        Ok(runs) => Some(runs),
        Err(error) => {
            let error = with_causes(&error);
            tracing::info!(error, "the index cannot be used; an index is made in memory");
            None
        }
    }
}
