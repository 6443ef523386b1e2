//! The list of packs, their state in memory, and their open files.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;

use super::catalog::CatalogPack;
use crate::error::{IoContext, StoreError};
use crate::pack::{HEADER_LEN, PackHeader, PackKind, footer_len, read_footer, walk};
use crate::record::Entry;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use disk::{Disk, DiskFile};

/// Maximum number of files of packs that are kept open.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// One pack.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) header: PackHeader,
    pub(super) path: PathBuf,
    pub(super) state: Mutex<PackState>,
    /// Records from this number on must not be used: a sync has failed, and their
    /// bytes may be wrong.
    pub(super) usable_records: AtomicU32,
    /// Number of records that are in the index.
    pub(super) indexed: AtomicU32,
    /// True if the name of the file is durable.
    pub(super) is_named: AtomicBool,
    /// Bytes read since the page cache was last dropped for this pack.
    pub(super) cached_bytes: AtomicU64,
    /// Serialises syncs: the system reports a failure to only one of them.
    pub(super) syncing: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct PackState {
    /// Offset of the end of the last record.
    pub(super) end: u64,
    pub(super) records: u32,
    /// Number of records that are durable.
    pub(super) synced_records: u32,
    /// Offset up to which an early sync was requested.
    pub(super) written_out: u64,
    /// True if a sync has failed.
    pub(super) has_failed: bool,
    /// Entries of the future footer; `None` if the pack is sealed.
    pub(super) entries: Option<Vec<Entry>>,
    /// Length of the file in bytes.
    pub(super) file_len: u64,
    /// The file, open while it has unsynced records. If it were closed, an error of
    /// background writing could be forgotten, and the sync could fail because the
    /// process has no descriptor left.
    pub(super) unsynced_file: Option<Arc<dyn DiskFile>>,
}

impl PackState {
    /// Records that the first `records` records are durable.
    pub(super) fn set_synced(&mut self, records: u32) {
        self.synced_records = records;
        if records == self.records {
            self.unsynced_file = None;
        }
    }
}

/// Returns the name of the file of a pack.
pub(super) fn file_name(kind: PackKind, number: u32) -> String {
    let kind = match kind {
        PackKind::Data => 'd',
        PackKind::Meta => 'm',
    };
    format!("{kind}-{number:08x}.pack")
}

/// Returns the kind and the number in the name of a file, if it is that of a pack.
pub(super) fn parse_name(name: &str) -> Option<(PackKind, u32)> {
    let (kind, number) = name.strip_suffix(".pack")?.split_once('-')?;
    let kind = match kind {
        "d" => PackKind::Data,
        "m" => PackKind::Meta,
        _ => return None,
    };
    let number = u32::from_str_radix(number, 16).ok()?;
    // Refuses other spellings: signs, capitals.
    (file_name(kind, number) == name).then_some((kind, number))
}

/// Returns the kinds and the files of all packs in a directory, by number.
///
/// # Errors
///
/// Returns [`StoreError::Io`] if the directory, or the one above it if there is none, cannot be
/// listed, and [`StoreError::Unusable`] if two packs with records have the same number.
pub(super) fn pack_files(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<BTreeMap<u32, (PackKind, PathBuf)>, StoreError> {
    let names = match disk.list(dir) {
        // A store whose writer died before it had made the directory.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let store = dir.parent().unwrap_or(dir);
            disk.list(store).context("list", store)?;
            return Ok(BTreeMap::new());
        }
        names => names.context("list", dir)?,
    };
    let mut files: BTreeMap<u32, (PackKind, PathBuf)> = BTreeMap::new();
    for name in &names {
        let Some((kind, number)) = name.to_str().and_then(parse_name) else { continue };
        let path = dir.join(name);
        if let Some((_, other)) = files.get(&number) {
            // A crash may have left an emptied pack beside the next one.
            let may_have_records = |path: &Path| {
                let len = disk.open_read(path).and_then(|file| file.len());
                len.map_or(true, |len| len > HEADER_LEN)
            };
            match [&path, other].map(|path| may_have_records(path)) {
                [true, true] => return Err(same_number(&path, other)),
                [true, false] => {}
                [false, _] => continue,
            }
        }
        files.insert(number, (kind, path));
    }
    Ok(files)
}

/// Returns the error for two files of packs with one number. The index names packs by their
/// number, so one of the packs would hide the blocks of the other.
pub(super) fn same_number(path: &Path, other: &Path) -> StoreError {
    let other = other.display();
    StoreError::Unusable {
        path: path.to_owned(),
        reason: format!(
            "{other} has the same number, so one of the two is of another store or of an older \
             copy: move the one that does not belong here out of the directory, and start again"
        ),
    }
}

impl Pack {
    pub(super) fn number(&self) -> u32 {
        self.header.number
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.state.lock().entries.is_none()
    }

    /// Reports whether there are damaged bytes between the records of a pack without a
    /// footer.
    pub(super) fn has_gaps(&self) -> bool {
        let mut end = HEADER_LEN;
        let state = self.state.lock();
        state.entries.iter().flatten().any(|entry| {
            let is_gap = u64::from(entry.offset) != end;
            end = entry.end();
            is_gap
        })
    }

    pub(super) fn records(&self) -> u32 {
        self.state.lock().records
    }

    /// Returns the number of records that may be used; without a limit unless a sync
    /// has failed.
    pub(super) fn usable_records(&self) -> u32 {
        self.usable_records.load(Ordering::SeqCst)
    }

    /// Returns the length of the file without header and footer.
    pub(super) fn content_len(&self) -> u64 {
        let state = self.state.lock();
        let footer = if state.entries.is_none() { footer_len(state.records) } else { 0 };
        state.file_len.saturating_sub(HEADER_LEN + footer)
    }

    pub(super) fn catalog_entry(&self) -> CatalogPack {
        CatalogPack {
            number: self.header.number,
            uuid: self.header.uuid,
            indexed: self.indexed.load(Ordering::SeqCst).min(self.usable_records()),
        }
    }
}

/// The list of packs.
#[derive(Debug)]
pub(super) struct Packs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    by_number: RwLock<BTreeMap<u32, Arc<Pack>>>,
    next: AtomicU32,
    files: Mutex<LruCache<u32, OpenFile>>,
    /// Length of all packs in bytes.
    used: AtomicU64,
}

/// An open file of a pack.
#[derive(Debug)]
struct OpenFile {
    file: Arc<dyn DiskFile>,
    is_writable: bool,
}

impl Packs {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self {
            disk,
            dir,
            by_number: RwLock::default(),
            next: AtomicU32::new(1),
            files: Mutex::new(LruCache::new(OPEN_FILES)),
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn next_number(&self) -> u32 {
        self.next.load(Ordering::SeqCst)
    }

    /// Ensures that numbers below `number` are not used again.
    pub(super) fn reserve_numbers(&self, number: u32) {
        self.next.fetch_max(number, Ordering::SeqCst);
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<Pack>> {
        self.by_number.read().get(&number).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Pack>> {
        self.by_number.read().values().cloned().collect()
    }

    pub(super) fn insert(&self, pack: Arc<Pack>) {
        self.reserve_numbers(pack.number() + 1);
        self.used.fetch_add(pack.state.lock().file_len, Ordering::SeqCst);
        self.by_number.write().insert(pack.number(), pack);
    }

    /// Removes a pack from the list. The caller removes its file.
    pub(super) fn forget(&self, number: u32) {
        if let Some(pack) = self.by_number.write().remove(&number) {
            self.used.fetch_sub(pack.state.lock().file_len, Ordering::SeqCst);
        }
        self.files.lock().pop(&number);
    }

    /// Returns the number of records in all packs.
    pub(super) fn records(&self) -> u64 {
        self.by_number.read().values().map(|pack| u64::from(pack.records())).sum()
    }

    /// Returns the length of all packs in bytes.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Records that the file of a pack in the list has grown.
    pub(super) fn set_file_len(&self, state: &mut PackState, len: u64) {
        self.used.fetch_add(len.saturating_sub(state.file_len), Ordering::SeqCst);
        state.file_len = state.file_len.max(len);
    }

    /// Creates an empty pack. It can be used immediately; its name is not durable
    /// yet.
    pub(super) fn create(&self, kind: PackKind) -> Result<Arc<Pack>, StoreError> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let path = self.dir.join(file_name(kind, number));
        let header = PackHeader { kind, number, uuid: rand::random() };
        let file = self.disk.create(&path).context("create", &path)?;
        let written = file.write_at(&[&header.encode()], 0).context("write", &path);
        if let Err(error) = written {
            // The file is empty, and nothing refers to it.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        let pack = Arc::new(Pack {
            header,
            path,
            state: Mutex::new(PackState {
                end: HEADER_LEN,
                records: 0,
                synced_records: 0,
                written_out: 0,
                has_failed: false,
                entries: Some(Vec::new()),
                file_len: HEADER_LEN,
                unsynced_file: None,
            }),
            usable_records: AtomicU32::new(u32::MAX),
            indexed: AtomicU32::new(0),
            is_named: AtomicBool::new(false),
            cached_bytes: AtomicU64::new(0),
            syncing: Mutex::new(()),
        });
        self.files.lock().put(number, OpenFile { file: file.into(), is_writable: true });
        self.insert(pack.clone());
        Ok(pack)
    }

    /// Returns the open file of a pack, to read the pack. This also works on a
    /// file system that has become read-only.
    pub(super) fn file(&self, pack: &Pack) -> Result<Arc<dyn DiskFile>, StoreError> {
        if let Some(open) = self.files.lock().get(&pack.number()) {
            return Ok(open.file.clone());
        }
        let file: Arc<dyn DiskFile> =
            self.disk.open_read(&pack.path).context("open", &pack.path)?.into();
        let open = OpenFile { file: file.clone(), is_writable: false };
        self.files.lock().put(pack.number(), open);
        Ok(file)
    }

    /// Returns the open file of a pack, to write or sync the pack.
    pub(super) fn file_to_write(&self, pack: &Pack) -> Result<Arc<dyn DiskFile>, StoreError> {
        if let Some(open) = self.files.lock().get(&pack.number())
            && open.is_writable
        {
            return Ok(open.file.clone());
        }
        let file: Arc<dyn DiskFile> =
            self.disk.open(&pack.path).context("open", &pack.path)?.into();
        let open = OpenFile { file: file.clone(), is_writable: true };
        self.files.lock().put(pack.number(), open);
        Ok(file)
    }

    /// Closes all files, as reads of many other packs do.
    #[cfg(test)]
    pub(super) fn close_files(&self) {
        self.files.lock().clear();
    }

    /// Returns the entries of a pack in the order of its records. Walks the pack if
    /// its footer is damaged.
    pub(super) fn entries(&self, pack: &Pack) -> Result<Vec<Entry>, StoreError> {
        {
            let state = pack.state.lock();
            if let Some(entries) = &state.entries {
                return Ok(entries.clone());
            }
        }
        let file = self.file(pack)?;
        match read_footer(&*file, &pack.header).context("read", &pack.path)? {
            Some(entries) => Ok(entries),
            None => Ok(walk(&*file).context("read", &pack.path)?.entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    #[test]
    fn names_read_back_and_others_are_ignored() {
        for (kind, number) in [(PackKind::Data, 1), (PackKind::Meta, u32::MAX)] {
            assert_eq!(parse_name(&file_name(kind, number)), Some((kind, number)));
        }
        for name in ["d-1.pack", "x-00000001.pack", "d-00000001.pack.new", "d-+0000001.pack", ""] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn fuzz_file_names() {
        let examples =
            [file_name(PackKind::Data, 1), file_name(PackKind::Meta, 2), run::file_name(3)];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            let name = String::from_utf8_lossy(bytes);
            if let Some((kind, number)) = parse_name(&name) {
                assert_eq!(file_name(kind, number), name);
            }
            if let Some(id) = run::parse_name(&name) {
                assert_eq!(run::file_name(id), name);
            }
        });
    }
}
