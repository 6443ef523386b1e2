//! Opens a store, and repairs the traces of a crash or of damage.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::{Catalog, CatalogPack};
use super::examine::{PackFile, PackName, examine_pack, report_lost_records, walk_pack};
use super::gc::Guard;
use super::losses::LossReports;
use super::pack_list::{PackList, Records, description, expected};
use super::packs::{Pack, PackState, Packs, parse_name, same_number};
use super::quarantine::Quarantine;
use super::read::encode_place;
use super::recompress::RecompressTotals;
use super::recompress_skiplist::RecompressSkiplist;
use super::removed_roots::RemovedRoots;
use super::reserve_file::ReserveFile;
use super::write::Writer;
use super::{Commits, Inner, StoreOptions, Upkeep};
use crate::error::{IoContext, StoreError, is_full};
use crate::hash_index::HashIndex;
use crate::pack::PackHeader;
use crate::pins::Pins;
use crate::record::Entry;
use crate::root_log::{self, Health, RootLog};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock, Sender};
use disk::{AtomicWrite, Disk, DiskFile, FileError, read_file, write_atomic};

/// Minimum number of full packs that fit on a disk: garbage collection frees whole
/// packs.
const PACKS_ON_DISK: u64 = 32;
/// Minimum length of a full pack in bytes, on a tiny disk.
const PACK_LEN_SMALL: u64 = 1 << 20;
/// Number of bytes that are written again at a time.
const WRITE_AGAIN_LEN: usize = 1 << 20;

const FORMAT: &str = "archivist store 1\n";

/// Result of opening a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Number of packs that had no footer, or a damaged one, and were walked.
    pub walked_packs: u64,
    /// Descriptions of the damage that was found in packs.
    pub damage: Vec<String>,
    /// Packs that the store must have and that no longer exist, or were cut to nothing.
    /// They are reported at each start until a collection has succeeded.
    pub lost_packs: Vec<PathBuf>,
    /// True if the index was rebuilt.
    pub index_rebuilt: bool,
    /// True if one of the two logs of roots was repaired from the other.
    pub roots_repaired: bool,
    /// Description of a log of roots that cannot be read. The other one is complete.
    /// The next change of the roots moves the unreadable log aside.
    pub roots_unreadable: Option<String>,
    /// True if records of roots are lost: nothing is collected until
    /// [`crate::GcOptions::accept_roots`].
    pub roots_incomplete: bool,
}

impl OpenReport {
    pub(super) fn set_roots(&mut self, health: Health, unreadable: Option<String>) {
        self.roots_repaired = health == Health::Repaired;
        self.roots_incomplete = health == Health::Incomplete;
        self.roots_unreadable = unreadable;
    }
}

/// Paths of the directories and files of a store.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
}

impl Layout {
    pub(super) fn packs(&self) -> PathBuf {
        self.dir.join("packs")
    }
    pub(super) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }
    pub(super) fn roots(&self) -> PathBuf {
        self.dir.join("roots")
    }
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }
    pub(super) fn format(&self) -> PathBuf {
        self.dir.join("format")
    }
    pub(super) fn quarantine(&self) -> PathBuf {
        self.dir.join("quarantine")
    }
    // The names of this file and of the reserve file are older than the terms in the
    // code.
    fn recompress_skiplist(&self) -> PathBuf {
        self.dir.join("settled")
    }
    pub(super) fn pack_list(&self) -> PathBuf {
        self.dir.join("pack-list")
    }
    pub(super) fn removed_roots(&self) -> PathBuf {
        self.dir.join("removed")
    }
    fn reserve_file(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

impl Inner {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &StoreOptions,
        upkeep: Option<Sender<Upkeep>>,
    ) -> Result<(Self, OpenReport), StoreError> {
        let layout = Layout { dir: dir.to_owned() };
        for dir in [layout.packs(), layout.index(), layout.roots()] {
            disk.create_dir(&dir).context("create", &dir)?;
        }
        let lock = lock(&*disk, &layout)?;
        let mut report = OpenReport::default();
        check_format(&*disk, &layout)?;

        let packs = Packs::new(disk.clone(), layout.packs());
        let catalog = Catalog::read(&*disk, &layout.index())?;
        let known: BTreeMap<_, _> = catalog
            .iter()
            .flat_map(|catalog| &catalog.packs)
            .map(|pack| (pack.number, *pack))
            .collect();
        let listed = PackList::read(&*disk, &layout.pack_list())?;
        report.damage.extend(listed.as_ref().err().cloned());
        let pack_list = PackList::new(disk.clone(), layout.pack_list(), listed);
        let expected = expected(&known, &pack_list.records());
        let mut opened = BTreeSet::new();
        let mut lost = Records::new();
        for name in disk.list(&layout.packs()).context("list", &layout.packs())? {
            let Some((kind, number)) = name.to_str().and_then(parse_name) else { continue };
            let path = layout.packs().join(&name);
            let known = known.get(&number);
            let expected = expected.get(&number).copied().unwrap_or(0);
            let name = PackName { path: &path, kind, number, known, expected };
            match open_pack(&*disk, name, &mut report)? {
                Opened::Pack(pack) => {
                    if let Some(other) = packs.get(number) {
                        return Err(same_number(&path, &other.path));
                    }
                    report_lost_records(pack.records(), name, &mut report);
                    if pack.records() < expected {
                        lost.insert(number, expected);
                    }
                    packs.insert(Arc::new(*pack));
                }
                Opened::Cut => continue,
                Opened::Emptied => remove_emptied(&*disk, &path, number, &pack_list)?,
            }
            opened.insert(number);
        }
        make_names_durable(&*disk, &packs)?;
        let missing = expected.iter().filter(|(number, _)| !opened.contains(*number));
        for (number, records) in missing {
            report.lost_packs.push(description(*number));
            lost.insert(*number, *records);
        }
        // A number is not used twice, so that a lost pack can come back.
        packs.reserve_numbers(expected.last_key_value().map_or(0, |(last, _)| last + 1));
        pack_list.add_lost(&lost);
        pack_list.add(packs.all().iter().map(|pack| (pack.number(), pack.records())), |_| true);
        if let Some(catalog) = &catalog {
            packs.reserve_numbers(catalog.next_pack);
        }

        // A new store has no logs of roots. A store with packs must have them.
        let is_new = opened.is_empty()
            && known.is_empty()
            && expected.is_empty()
            && !root_log::exists(&*disk, &layout.roots())?;
        let (roots, found) = RootLog::open(disk.clone(), layout.roots(), is_new)?;
        report.set_roots(found.health, found.unreadable);

        let (index, covers) = match open_index(&disk, &layout, catalog.as_ref(), &packs)? {
            Some(index) => (index, true),
            None => (HashIndex::open(disk.clone(), layout.index(), &[])?, false),
        };
        let space = disk.space(dir).context("measure", dir)?;
        let most = space.total.min(options.max_storage.unwrap_or(u64::MAX));
        let pack_len = options.pack_len.min((most / PACKS_ON_DISK).max(PACK_LEN_SMALL));
        let inner = Self {
            reserve_file: ReserveFile::new(&*disk, layout.reserve_file(), pack_len),
            quarantine: Quarantine::open(disk.clone(), layout.quarantine(), &mut report.damage)?,
            recompress_skiplist: RecompressSkiplist::open(
                disk.clone(),
                layout.recompress_skiplist(),
            ),
            removed_roots: RemovedRoots::open(disk.clone(), layout.removed_roots()),
            disk,
            dir: layout.dir,
            pack_len,
            max_storage: AtomicU64::new(options.max_storage.unwrap_or(u64::MAX)),
            disk_reserve: AtomicU64::new(options.disk_reserve),
            packs,
            pack_list,
            index,
            roots: Mutex::new(roots),
            pins: Pins::default(),
            is_read_only: AtomicBool::new(false),
            writers: [Mutex::default(), Mutex::default()],
            appended: AtomicU64::new(0),
            failed_syncs: AtomicU64::new(0),
            loss_counter: Mutex::new(0),
            losses: LossReports::default(),
            commits: Mutex::new(Commits::default()),
            commit_done: Condvar::new(),
            dirty: Mutex::default(),
            collection: RwLock::new(None),
            collecting: Mutex::new(()),
            guard: Guard::default(),
            recompress_totals: RecompressTotals::default(),
            indexing: RwLock::new(()),
            rebuilds: AtomicU64::new(0),
            upkeep,
            _lock: lock,
        };
        report.index_rebuilt = !covers && !inner.packs.all().is_empty();
        inner.index_new_records(if covers { &known } else { const { &BTreeMap::new() } })?;
        // A walk leaves out damaged records, so the records after them have other numbers
        // than in the list.
        let renumbered: BTreeSet<u32> = inner
            .packs
            .all()
            .iter()
            .filter(|pack| pack.has_gaps())
            .map(|pack| pack.number())
            .collect();
        inner.adopt_open_packs(&mut report);
        inner
            .quarantine
            .retain(|(pack, _)| inner.packs.get(pack).is_some() && !renumbered.contains(&pack));
        Ok((inner, report))
    }

    /// Adds the records that the runs do not cover to the index.
    fn index_new_records(&self, known: &BTreeMap<u32, CatalogPack>) -> Result<(), StoreError> {
        for pack in self.packs.all() {
            let indexed = known.get(&pack.number()).map_or(0, |known| known.indexed);
            pack.indexed.store(indexed, Ordering::SeqCst);
            self.index_pack(&pack)?;
        }
        Ok(())
    }

    /// Adds the missing records of a pack to the index.
    fn index_pack(&self, pack: &Pack) -> Result<(), StoreError> {
        let indexed = pack.indexed.load(Ordering::SeqCst);
        let records = pack.records();
        if indexed >= records {
            return Ok(());
        }
        let entries = self.packs.entries(pack)?;
        let new = entries.iter().zip(0..records).skip(indexed as usize);
        let places = new.map(|(e, record)| (e.hash, encode_place(pack.number(), record, e)));
        self.index.insert(places, || pack.indexed.store(records, Ordering::SeqCst));
        if self.index.is_flush_due() {
            match self.flush_index() {
                // The entries stay in memory.
                Err(StoreError::Full { .. }) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Continues the packs that were open, or seals them.
    fn adopt_open_packs(&self, report: &mut OpenReport) {
        for pack in self.packs.all() {
            if pack.is_sealed() {
                continue;
            }
            // Records that follow would hide that some are lost.
            let is_complete = !self.pack_list.has_lost(pack.number(), pack.records());
            let (is_clean, is_short) = {
                let state = pack.state.lock();
                (state.end == state.file_len, state.end < self.pack_len)
            };
            let writer: &Mutex<Writer> = &self.writers[pack.header.kind as usize];
            let mut writer = writer.lock();
            if is_complete && is_clean && is_short && writer.pack.is_none() {
                writer.pack = Some(pack.clone());
            } else if let Err(error) = self.seal(&pack) {
                // The pack stays unsealed, and is walked again at the next start.
                report.damage.push(format!("{}: cannot be sealed: {error}", pack.path.display()));
            }
        }
    }

    pub(super) fn rebuild_index(&self) -> Result<(), StoreError> {
        self.rebuild_index_since(self.rebuilds.load(Ordering::SeqCst))
    }

    /// Rebuilds the index, unless that has happened since the rebuild `seen`.
    pub(super) fn rebuild_index_since(&self, seen: u64) -> Result<(), StoreError> {
        let _nobody_appends = self.indexing.write();
        if self.rebuilds.load(Ordering::SeqCst) != seen {
            return Ok(());
        }
        // The old index serves lookups until the new one is complete: no block is
        // missing meanwhile, and none if the rebuild fails.
        let mut indexed = Vec::new();
        let rebuilt = self.index.rebuild(|add| {
            for pack in self.packs.all() {
                let records = pack.records().min(pack.usable_records());
                let entries = match self.packs.entries(&pack) {
                    Ok(entries) => entries,
                    // A collection has removed the pack, or its file has vanished.
                    Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                        self.lose_pack(&pack);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for (entry, record) in entries.iter().zip(0..records) {
                    add(entry.hash, encode_place(pack.number(), record, entry))?;
                }
                indexed.push((pack, records));
            }
            Ok(())
        })?;
        let mut catalog = self.catalog_of_packs();
        let by_number: HashMap<_, _> =
            indexed.iter().map(|(pack, records)| (pack.number(), *records)).collect();
        for known in &mut catalog.packs {
            known.indexed = by_number.get(&known.number).copied().unwrap_or(0);
        }
        self.write_catalog(catalog, &rebuilt.run_ids())?;
        // Unreadable records of a pack do not come back.
        self.count_loss(|| rebuilt.swap_in());
        for (pack, records) in indexed {
            pack.indexed.store(records, Ordering::SeqCst);
        }
        self.rebuilds.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn lock(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn DiskFile>, StoreError> {
    let path = layout.lock();
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(_) => match disk.create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => disk.open(&path),
            result => result,
        }
        .context("create", &path)?,
    };
    file.lock().map_err(|_| StoreError::Locked(layout.dir.clone()))?;
    Ok(file)
}

/// Refuses a store of another version. Writes the version of a new store.
fn check_format(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    if refuse_other_format(disk, layout)? {
        return Ok(());
    }
    // Missing or torn: each pack has its version, too.
    let written = write_atomic(disk, &layout.format(), FORMAT.as_bytes(), &AtomicWrite::PRIVATE);
    match written.map_err(StoreError::from) {
        Ok(_) | Err(StoreError::Full { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses a store of another version. Returns `Ok(false)` if the file with the
/// version is missing or torn.
pub(super) fn refuse_other_format(disk: &dyn Disk, layout: &Layout) -> Result<bool, StoreError> {
    let path = layout.format();
    match read_file(disk, &path, 1024) {
        Ok(found) if found == FORMAT.as_bytes() => Ok(true),
        Ok(found) if found.starts_with(b"archivist store ") && found != b"archivist store " => {
            let found = String::from_utf8_lossy(&found);
            Err(StoreError::Unusable {
                path,
                reason: format!(
                    "it has the format {:?}, this program reads {:?}; use a newer version",
                    found.trim(),
                    FORMAT.trim()
                ),
            })
        }
        Err(FileError::Io { source, .. }) if source.kind() != ErrorKind::NotFound => {
            Err(StoreError::io("read", &path, source))
        }
        _ => Ok(false),
    }
}

/// Makes the names of the packs durable: a process that died may not have synced them,
/// and from now on the store relies on them. [`open_pack`] has done so for the records.
fn make_names_durable(disk: &dyn Disk, packs: &Packs) -> Result<(), StoreError> {
    for pack in packs.all() {
        let mut state = pack.state.lock();
        state.synced_records = state.records;
        pack.is_named.store(true, Ordering::SeqCst);
    }
    disk.sync_dir(packs.dir()).context("sync", packs.dir())
}

/// Result of opening the file of a pack.
enum Opened {
    Pack(Box<Pack>),
    /// A file without records that is not needed any more.
    Emptied,
    /// The file was cut and had durable records. It has been set aside.
    Cut,
}

/// Removes the file of a pack without records. The list comes first, so that the pack
/// does not seem to be lost. On a full disk, the file stays until the next start.
fn remove_emptied(
    disk: &dyn Disk,
    path: &Path,
    number: u32,
    pack_list: &PackList,
) -> Result<(), StoreError> {
    match pack_list.remove([number]) {
        Ok(()) => disk.remove(path).context("remove", path),
        Err(StoreError::Full { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a pack, and mends it.
fn open_pack(
    disk: &dyn Disk,
    pack: PackName<'_>,
    report: &mut OpenReport,
) -> Result<Opened, StoreError> {
    let PackName { path, kind, number, known, expected: _ } = pack;
    let file = disk.open(path).context("open", path)?;
    let len = file.len().context("read", path)?;
    let header = match examine_pack(&*file, len, pack)? {
        PackFile::Sealed { header, records, .. } => {
            let pack = existing_pack(path, header, records, len, len, None);
            return Ok(Opened::Pack(Box::new(pack)));
        }
        PackFile::Retired => {
            // A garbage collection emptied the pack and did not remove it. It writes the
            // catalog first, unless the disk is full.
            if known.is_some_and(|known| known.indexed > 0) {
                report.damage.push(format!(
                    "{}: the pack was emptied by a garbage collection that was interrupted; \
                     `archivist verify` shows whether all blocks are present",
                    path.display()
                ));
            }
            return Ok(Opened::Emptied);
        }
        PackFile::Cut(damage) => {
            let aside = path.with_extension("pack.damaged");
            report.damage.push(format!("{damage}; it is now {}", aside.display()));
            disk.rename(path, &aside).context("rename", path)?;
            return Ok(Opened::Cut);
        }
        // The process that wrote the pack died before its first record was durable.
        PackFile::Empty => return Ok(Opened::Emptied),
        PackFile::Unsealed(header) => header,
    };
    write_again(&*file, len).context("write", path)?;
    let found = walk_pack(&*file, header, pack, report)?;
    let header = match header {
        Some(header) => header,
        None => {
            let header = PackHeader { kind, number, uuid: rand::random() };
            file.write_at(&[&header.encode()], 0).context("write", path)?;
            file.sync().context("sync", path)?;
            header
        }
    };
    let (records, end) = (found.records(), found.end);
    let pack = existing_pack(path, header, records, end, len, Some(found.entries));
    Ok(Opened::Pack(Box::new(pack)))
}

/// Writes the bytes of a pack without a footer again, and syncs them. They may come from
/// the page cache and not be on the disk: the process that wrote them may have died
/// before it synced them, and after a failed sync Linux regards them as written.
fn write_again(file: &dyn DiskFile, len: u64) -> io::Result<()> {
    let mut at = 0;
    let written = loop {
        let bytes = file.read_vec_at(WRITE_AGAIN_LEN, at)?;
        if let Err(error) = file.write_at(&[&bytes], at) {
            break Err(error);
        }
        at += bytes.len() as u64;
        if at >= len || bytes.is_empty() {
            break file.sync();
        }
    };
    match written {
        // On a file system that copies on write, this needs space. The bytes that are
        // not written yet are, and the others are read from the disk.
        Err(error) if is_full(&error) => match file.sync() {
            Err(error) if !is_full(&error) => Err(error),
            _ => {
                file.drop_cache(u64::MAX);
                Ok(())
            }
        },
        result => result,
    }
}

fn existing_pack(
    path: &Path,
    header: PackHeader,
    records: u32,
    end: u64,
    file_len: u64,
    entries: Option<Vec<Entry>>,
) -> Pack {
    Pack {
        header,
        path: path.to_owned(),
        state: Mutex::new(PackState {
            end,
            records,
            synced_records: 0,
            written_out: end,
            has_failed: false,
            entries,
            file_len,
            unsynced_file: None,
        }),
        usable_records: AtomicU32::new(u32::MAX),
        indexed: AtomicU32::new(0),
        is_named: AtomicBool::new(false),
        cached_bytes: AtomicU64::new(0),
        syncing: Mutex::new(()),
    }
}

/// Opens the runs of the catalog if they match the packs. Returns `None` if the index must be
/// rebuilt: a file of it is missing or damaged, or the packs are others. A file that cannot be read
/// is neither: it may be intact, and a rebuild reads all packs and replaces the file.
fn open_index(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    catalog: Option<&Catalog>,
    packs: &Packs,
) -> Result<Option<HashIndex>, StoreError> {
    let Some(catalog) = catalog else { return Ok(None) };
    for known in &catalog.packs {
        let Some(pack) = packs.get(known.number) else { continue };
        // The places in the index are wrong: a power cut removed records, or it is
        // another pack.
        if pack.header.uuid != known.uuid || pack.records() < known.indexed {
            return Ok(None);
        }
    }
    match HashIndex::open(disk.clone(), layout.index(), &catalog.runs) {
        Ok(index) => Ok(Some(index)),
        Err(StoreError::Io { action, path, source })
            if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) =>
        {
            Err(StoreError::IndexUnreadable { action, path, source })
        }
        Err(error) => {
            tracing::info!(error = types::with_causes(&error), "the index is rebuilt");
            Ok(None)
        }
    }
}
