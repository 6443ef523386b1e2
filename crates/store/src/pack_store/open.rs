//! Opening a store, and mending what a crash or damage left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use super::ballast::Ballast;
use super::catalog::{Catalog, CatalogPack};
use super::packs::{Pack, PackState, Packs, parse_name};
use super::quarantine::Quarantine;
use super::read::encode_place;
use super::recompress::Recompressed;
use super::settled::Settled;
use super::write::Writer;
use super::{Commits, Inner, StoreOptions, Upkeep};
use crate::error::{IoContext, StoreError};
use crate::hash_index::HashIndex;
use crate::pack::{
    Entry, HEADER_BYTES, HEADER_LEN, HeaderError, PackHeader, PackKind, read_footer, read_trailer,
    walk,
};
use crate::pins::Pins;
use crate::root_log::{self, Health, RootLog};
use disk::{AtomicWrite, Disk, DiskFile, FileError, read_file, write_atomic};

/// A disk holds at least so many full packs: the collector works by the pack.
const PACKS_ON_DISK: u64 = 32;
/// … but on a tiny one packs are not made shorter than this.
const PACK_LEN_SMALL: u64 = 1 << 20;

const FORMAT: &str = "archivist store 1\n";

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Packs that had no footer, or a damaged one, and were walked.
    pub walked_packs: u64,
    /// Stretches of packs in which nothing is readable, in words.
    pub damage: Vec<String>,
    /// Packs that were there before and are not now.
    pub lost_packs: Vec<PathBuf>,
    /// The index was made anew.
    pub index_rebuilt: bool,
    /// One of the two logs of roots was damaged and healed from the other.
    pub roots_healed: bool,
    /// Records of roots are lost: nothing is collected until
    /// [`crate::GcOptions::accept_roots`].
    pub roots_incomplete: bool,
}

/// The directories and files of a store.
struct Layout {
    dir: PathBuf,
}

impl Layout {
    fn packs(&self) -> PathBuf {
        self.dir.join("packs")
    }
    fn index(&self) -> PathBuf {
        self.dir.join("index")
    }
    fn roots(&self) -> PathBuf {
        self.dir.join("roots")
    }
    fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }
    fn format(&self) -> PathBuf {
        self.dir.join("format")
    }
    fn quarantine(&self) -> PathBuf {
        self.dir.join("quarantine")
    }
    fn settled(&self) -> PathBuf {
        self.dir.join("settled")
    }
}

impl Inner {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &StoreOptions,
        upkeep: Option<crossbeam_channel::Sender<Upkeep>>,
    ) -> Result<(Self, OpenReport), StoreError> {
        let layout = Layout { dir: dir.to_owned() };
        for dir in [layout.packs(), layout.index(), layout.roots()] {
            disk.create_dir(&dir).context("create", &dir)?;
        }
        let lock = lock(&*disk, &layout)?;
        let mut report = OpenReport::default();
        check_format(&*disk, &layout)?;

        let packs = Packs::new(disk.clone(), layout.packs());
        let catalog = Catalog::read(&*disk, &layout.index());
        let known: BTreeMap<_, _> = catalog
            .iter()
            .flat_map(|catalog| &catalog.packs)
            .map(|pack| (pack.number, *pack))
            .collect();
        let mut opened = BTreeSet::new();
        for name in disk.list(&layout.packs()).context("list", &layout.packs())? {
            let Some((kind, number)) = name.to_str().and_then(parse_name) else { continue };
            let path = layout.packs().join(&name);
            let found = open_pack(&*disk, &path, kind, number, known.get(&number), &mut report)?;
            opened.insert(number);
            if let Some(pack) = found {
                packs.insert(Arc::new(pack));
            }
        }
        make_durable(&*disk, &packs)?;
        for pack in known.values().filter(|pack| !opened.contains(&pack.number)) {
            report.lost_packs.push(PathBuf::from(format!("pack {:08x}", pack.number)));
        }
        if let Some(catalog) = &catalog {
            packs.reserve_numbers(catalog.next_pack);
        }

        // A new store has no logs of roots; one that has packs must have them.
        let is_new = packs.all().is_empty()
            && known.is_empty()
            && !root_log::exists(&*disk, &layout.roots());
        let (roots, health) = RootLog::open(disk.clone(), layout.roots(), is_new)?;
        report.roots_healed = health == Health::Healed;
        report.roots_incomplete = health == Health::Incomplete;

        let index = open_index(&disk, &layout, catalog.as_ref(), &packs);
        let (index, covers) = match index {
            Ok(index) => (index, true),
            Err(_) => (HashIndex::open(disk.clone(), layout.index(), &[])?, false),
        };
        let space = disk.space(dir).context("measure", dir)?;
        let most = space.total.min(options.max_storage.unwrap_or(u64::MAX));
        let pack_len = options.pack_len.min((most / PACKS_ON_DISK).max(PACK_LEN_SMALL));
        let inner = Self {
            ballast: Ballast::new(&*disk, layout.dir.join("ballast"), pack_len),
            quarantine: Quarantine::open(disk.clone(), layout.quarantine()),
            settled: Settled::open(disk.clone(), layout.settled()),
            disk,
            dir: layout.dir,
            pack_len,
            max_storage: AtomicU64::new(options.max_storage.unwrap_or(u64::MAX)),
            disk_reserve: AtomicU64::new(options.disk_reserve),
            packs,
            index,
            roots: Mutex::new(roots),
            pins: Pins::default(),
            writers: [Mutex::default(), Mutex::default()],
            appended: AtomicU64::new(0),
            failed_syncs: AtomicU64::new(0),
            losses: Mutex::new(0),
            commits: Mutex::new(Commits::default()),
            commit_done: Condvar::new(),
            dirty: Mutex::default(),
            collection: RwLock::new(None),
            collecting: Mutex::new(()),
            recompressed: Recompressed::default(),
            indexing: RwLock::new(()),
            rebuilds: AtomicU64::new(0),
            upkeep,
            _lock: lock,
        };
        report.index_rebuilt = !covers && !inner.packs.all().is_empty();
        inner.index_what_is_new(if covers { &known } else { const { &BTreeMap::new() } })?;
        inner.adopt_open_packs(&mut report);
        inner.quarantine.retain(|(pack, _)| inner.packs.get(pack).is_some());
        Ok((inner, report))
    }

    /// Puts into the index what its runs do not cover.
    fn index_what_is_new(&self, known: &BTreeMap<u32, CatalogPack>) -> Result<(), StoreError> {
        for pack in self.packs.all() {
            let indexed = known.get(&pack.number()).map_or(0, |known| known.indexed);
            pack.indexed.store(indexed, Ordering::SeqCst);
            self.index_pack(&pack)?;
        }
        Ok(())
    }

    /// Puts the records of a pack into the index that are not there.
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
            self.flush_index()?;
        }
        Ok(())
    }

    /// Goes on with the packs that were open, or seals them.
    fn adopt_open_packs(&self, report: &mut OpenReport) {
        for pack in self.packs.all() {
            if pack.is_sealed() {
                continue;
            }
            let (is_clean, is_short) = {
                let state = pack.state.lock();
                (state.end == state.file_len, state.end < self.pack_len)
            };
            let writer: &Mutex<Writer> = &self.writers[pack.header.kind as usize];
            let mut writer = writer.lock();
            if is_clean && is_short && writer.pack.is_none() {
                writer.pack = Some(pack.clone());
            } else if let Err(error) = self.seal(&pack) {
                // It stays as it is, and is walked again next time.
                report.damage.push(format!("{} could not be sealed: {error}", pack.path.display()));
            }
        }
    }

    pub(super) fn rebuild_index(&self) -> Result<(), StoreError> {
        self.rebuild_index_since(self.rebuilds.load(Ordering::SeqCst))
    }

    /// Makes the index anew, unless that was done since `seen`.
    pub(super) fn rebuild_index_since(&self, seen: u64) -> Result<(), StoreError> {
        let _nobody_appends = self.indexing.write();
        if self.rebuilds.load(Ordering::SeqCst) != seen {
            return Ok(());
        }
        for pack in self.packs.all() {
            pack.indexed.store(0, Ordering::SeqCst);
        }
        // What cannot be read of a pack does not come back.
        self.losing(|| self.index.clear());
        for pack in self.packs.all() {
            self.index_pack(&pack)?;
        }
        self.flush_index()?;
        self.rebuilds.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn lock(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn DiskFile>, StoreError> {
    let path = layout.lock();
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(_) => match disk.create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => disk.open(&path),
            result => result,
        }
        .context("create", &path)?,
    };
    file.lock().map_err(|_| StoreError::Locked(layout.dir.clone()))?;
    Ok(file)
}

/// Refuses a store of another version; marks a new one.
fn check_format(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    let path = layout.format();
    match read_file(disk, &path, 1024) {
        Ok(found) if found == FORMAT.as_bytes() => Ok(()),
        Ok(found) if found.starts_with(b"archivist store ") && found != b"archivist store " => {
            let found = String::from_utf8_lossy(&found);
            Err(StoreError::Unusable {
                path,
                reason: format!(
                    "it is of the format {:?}, this program knows {:?}; use a newer one",
                    found.trim(),
                    FORMAT.trim()
                ),
            })
        }
        Err(FileError::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("read", &path, source))
        }
        // Missing or torn: the packs say themselves of which version they are.
        _ => match write_atomic(disk, &path, FORMAT.as_bytes(), &AtomicWrite::PRIVATE)
            .map_err(StoreError::from)
        {
            Ok(_) | Err(StoreError::Full { .. }) => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Makes what is there durable: a process that died may have left it in
/// memory alone, and from now on it is taken for granted.
fn make_durable(disk: &dyn Disk, packs: &Packs) -> Result<(), StoreError> {
    for pack in packs.all() {
        // A footer is written only behind records that are durable.
        if !pack.is_sealed() {
            packs.file(&pack)?.sync().context("sync", &pack.path)?;
        }
        let mut state = pack.state.lock();
        state.synced_records = state.records;
        pack.is_named.store(true, Ordering::SeqCst);
    }
    disk.sync_dir(packs.dir()).context("sync", packs.dir())
}

/// Opens one pack. `None`: it was empty, and has been removed.
fn open_pack(
    disk: &dyn Disk,
    path: &Path,
    kind: PackKind,
    number: u32,
    known: Option<&CatalogPack>,
    report: &mut OpenReport,
) -> Result<Option<Pack>, StoreError> {
    let file = disk.open(path).context("open", path)?;
    let len = file.len().context("read", path)?;
    let mut head = [0; HEADER_BYTES];
    file.read_at(&mut head, 0).context("read", path)?;
    let header = match PackHeader::decode(&head) {
        Ok(header) if header.kind == kind && header.number == number => Some(header),
        Ok(_) => None,
        Err(HeaderError::Version) => {
            return Err(StoreError::Unusable {
                path: path.to_owned(),
                reason: HeaderError::Version.to_string(),
            });
        }
        Err(HeaderError::Damaged) => None,
        Err(HeaderError::Retired) => {
            // The collector emptied it, and was stopped.
            disk.remove(path).context("remove", path)?;
            return Ok(None);
        }
    };
    if let Some(header) = header
        && let Some(trailer) = read_trailer(&*file, &header).context("read", path)?
    {
        // What the index covers wholly need not be read now.
        let is_indexed = known
            .is_some_and(|known| known.uuid == header.uuid && known.indexed == trailer.records);
        if is_indexed || read_footer(&*file, &header).context("read", path)?.is_some() {
            return Ok(Some(existing_pack(path, header, trailer.records, len, len, None)));
        }
    }
    if len <= HEADER_LEN {
        // Its writer died before its first record was written.
        disk.remove(path).context("remove", path)?;
        return Ok(None);
    }
    let found = walk(&*file).context("read", path)?;
    report.walked_packs += 1;
    for gap in &found.gaps {
        report.damage.push(format!(
            "{}: nothing is readable from {} to {}",
            path.display(),
            gap.start,
            gap.end
        ));
    }
    let header = match header {
        Some(header) => header,
        None => {
            report.damage.push(format!("{}: its header was damaged", path.display()));
            let header = PackHeader { kind, number, uuid: rand::random() };
            file.write_at(&[&header.encode()], 0).context("write", path)?;
            header
        }
    };
    let records = u32::try_from(found.entries.len()).unwrap_or(u32::MAX);
    if known.is_some_and(|known| known.indexed > records) {
        report.damage.push(format!("{}: some of its records are gone", path.display()));
    }
    Ok(Some(existing_pack(path, header, records, found.end, len, Some(found.entries))))
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
            failed: false,
            entries,
            file_len,
        }),
        usable_records: AtomicU32::new(u32::MAX),
        indexed: AtomicU32::new(0),
        is_named: AtomicBool::new(false),
        read: AtomicU64::new(0),
        syncing: Mutex::new(()),
    }
}

/// Opens the runs of the catalog, where they fit the packs.
fn open_index(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    catalog: Option<&Catalog>,
    packs: &Packs,
) -> Result<HashIndex, StoreError> {
    let unfit = |reason: String| StoreError::Unusable { path: layout.index(), reason };
    let catalog = catalog.ok_or_else(|| unfit("there is no catalog".into()))?;
    for known in &catalog.packs {
        let Some(pack) = packs.get(known.number) else { continue };
        // A power cut took records that the index knows, or it is not the
        // same pack: its places are wrong.
        if pack.header.uuid != known.uuid || pack.records() < known.indexed {
            return Err(unfit(format!("pack {:08x} is not as it was", known.number)));
        }
    }
    HashIndex::open(disk.clone(), layout.index(), &catalog.runs)
}
