//! Blocks in place: ranges of the user's own files.
//!
//! A source need not store its data twice. This index records in which file, and
//! at which offset, a block was when the file was hashed. A block is served if the
//! bytes at that place still match the name, even if the file has changed
//! elsewhere since: a log that grows, or a disk image, still has nearly all blocks of
//! its former version. Otherwise the answer is [`InPlaceAnswer::Changed`]: the owner
//! scans the file again, and the peer knows that the block is not damaged but outdated.
//!
//! A [`FileId`] stands for one version of one file: a file that is hashed again
//! gets a new id. The table decides how long it knows the file of a former version. A
//! renamed file keeps its id, and the index does not change.
//!
//! Absent: the list of files and their paths, which [`FileTable`] has. This
//! module never writes to a user's file and never follows a link.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::{BlockScheme, Cid, Codec, EncodedBlock, Hash};

use crate::error::{IoContext, StoreError};
use crate::hash_index::HashIndex;
use crate::in_place_catalog;
use crate::run::{VALUE_LEN, Value};
use crate::sync::Mutex;
use disk::{AtomicWrite, Disk, FileError, read_file, write_atomic};

/// Id of one version of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// Opens a regular file for reading. Does not follow a link in the last part of
/// the path, does not wait for the writer of a pipe and does not wake a device.
///
/// # Errors
///
/// Returns [`io::ErrorKind::InvalidInput`] if it is not a regular file, or
/// another error of the file system.
pub fn open_regular(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Tells the system that a part of a file will be read soon, so that the disk
/// reads it while the program is busy with another file.
pub fn will_need(file: &File, offset: u64, len: u64) {
    let Some(len) = NonZeroU64::new(len) else { return };
    // This only saves time, and not every file system supports it.
    let _ = rustix::fs::fadvise(file, offset, Some(len), rustix::fs::Advice::WillNeed);
}

/// The files that the ids stand for.
pub trait FileTable: Send + Sync + fmt::Debug {
    /// Opens a file with [`open_regular`]. `None` if the table does not know this version of
    /// the file.
    ///
    /// # Errors
    ///
    /// Returns the file system's error if the file cannot be opened.
    fn open(&self, id: FileId) -> io::Result<Option<File>>;
}

/// A chunk of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPlaceChunk {
    /// Hash of the block.
    pub hash: Hash,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes; at most [`types::MAX_BLOCK_LEN`].
    pub len: u32,
}

/// Result of looking for a block in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InPlaceAnswer {
    /// The block, checked against its name.
    Block(EncodedBlock),
    /// The block was in these files, which have changed.
    Changed(Vec<FileId>),
    /// The block is in no known file.
    Missing,
}

/// The index of blocks in place.
#[derive(Debug)]
pub struct InPlaceStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index: HashIndex,
    table: Arc<dyn FileTable>,
    scheme: BlockScheme,
    /// Locked while the catalog is changed.
    catalog: Mutex<()>,
}

const CATALOG: &str = "in-place";
const CATALOG_LEN_MAX: u64 = 1 << 20;

fn encode(id: FileId, chunk: &InPlaceChunk) -> Value {
    let mut value = [0; VALUE_LEN];
    value[..8].copy_from_slice(&id.0.to_le_bytes());
    value[8..14].copy_from_slice(&chunk.offset.to_le_bytes()[..6]);
    value[14..].copy_from_slice(&chunk.len.to_le_bytes());
    value
}

fn decode(hash: Hash, value: &Value) -> (FileId, InPlaceChunk) {
    let mut id = [0; 8];
    id.copy_from_slice(&value[..8]);
    let mut offset = [0; 8];
    offset[..6].copy_from_slice(&value[8..14]);
    let len = [value[14], value[15], value[16], value[17]];
    let chunk =
        InPlaceChunk { hash, offset: u64::from_le_bytes(offset), len: u32::from_le_bytes(len) };
    (FileId(u64::from_le_bytes(id)), chunk)
}

impl InPlaceStore {
    /// Opens the index in `dir`, or creates it. The flag is true if an existing
    /// index was lost, so that all files must be hashed again.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the directory cannot be created or read, or a file of
    /// the index cannot be read. An index whose bytes the disk cannot deliver is lost.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        table: Arc<dyn FileTable>,
        scheme: BlockScheme,
    ) -> Result<(Self, bool), StoreError> {
        disk.create_dir(dir).context("create", dir)?;
        let path = dir.join(CATALOG);
        let (is_new, runs) = match read_file(&*disk, &path, CATALOG_LEN_MAX) {
            Ok(bytes) => (false, in_place_catalog::decode(&bytes)),
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                (true, None)
            }
            Err(error) => (false, in_place_catalog::lost(error.into())?),
        };
        let opened = match runs {
            Some(runs) => HashIndex::open(disk.clone(), dir.to_owned(), &runs)
                .map(Some)
                .or_else(in_place_catalog::lost)?,
            None => None,
        };
        let is_lost = opened.is_none() && !is_new;
        let index = match opened {
            Some(index) => index,
            None => HashIndex::open(disk.clone(), dir.to_owned(), &[])?,
        };
        let catalog = Mutex::new(());
        Ok((Self { disk, dir: dir.to_owned(), index, table, scheme, catalog }, is_lost))
    }

    /// Adds the chunks of a file. They can be read immediately, and are durable
    /// after [`InPlaceStore::commit`].
    ///
    /// # Errors
    ///
    /// Same as [`InPlaceStore::commit`], which is called if the index has grown.
    pub fn add(&self, id: FileId, chunks: &[InPlaceChunk]) -> Result<(), StoreError> {
        // The empty block needs no entry: it is part of every file.
        let chunks = chunks.iter().filter(|chunk| chunk.len > 0);
        self.index.insert(chunks.map(|chunk| (chunk.hash, encode(id, chunk))), || ());
        if self.index.is_flush_due() { self.commit() } else { Ok(()) }
    }

    /// Makes all added chunks durable.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] or [`StoreError::Full`] if the index cannot be
    /// written. The call can be repeated.
    pub fn commit(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.catalog.lock();
        self.index.flush(|_| true, || (), |(), runs| self.write_catalog(runs))
    }

    /// Removes the chunks of all files for which `keep` is false.
    ///
    /// # Errors
    ///
    /// Same as [`InPlaceStore::commit`].
    pub fn retain(&self, keep: impl Fn(FileId) -> bool) -> Result<(), StoreError> {
        let _one_at_a_time = self.catalog.lock();
        let keep = |value: &Value| keep(decode(Hash::of(b""), value).0);
        self.index.retain(keep, || (), |(), runs| self.write_catalog(runs))
    }

    /// Returns the number of known places, including places in files that no
    /// longer exist.
    pub fn places(&self) -> u64 {
        self.index.len()
    }

    fn write_catalog(&self, runs: &[u64]) -> Result<(), StoreError> {
        let content = in_place_catalog::encode(runs);
        let path = self.dir.join(CATALOG);
        write_atomic(&*self.disk, &path, content.as_bytes(), &AtomicWrite::PRIVATE)?;
        Ok(())
    }

    /// Reports whether the index has a place for the block. Does not read the
    /// file.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] or [`StoreError::Unusable`] if the index cannot
    /// be read.
    pub fn is_known(&self, hash: &Hash) -> Result<bool, StoreError> {
        let mut values = Vec::new();
        self.index.get(hash, &mut values)?;
        Ok(!values.is_empty())
    }

    /// Returns the block from the first file that still has it.
    ///
    /// # Errors
    ///
    /// Same as [`InPlaceStore::is_known`]. Errors of files are part of the
    /// answer.
    pub fn get(&self, hash: &Hash) -> Result<InPlaceAnswer, StoreError> {
        Ok(self.open_block(hash)?.read())
    }

    /// Starts to read a block: opens its file and tells the system which part
    /// will be read. A caller that needs many blocks keeps the disk busy by
    /// starting the next ones before it reads the first.
    ///
    /// # Errors
    ///
    /// Same as [`InPlaceStore::get`].
    pub fn open_block(&self, hash: &Hash) -> Result<InPlaceRead<'_>, StoreError> {
        let mut values = Vec::new();
        self.index.get(hash, &mut values)?;
        // A file that cannot be opened now (too many open files) is opened when
        // the block is read.
        let opened = values.first().and_then(|value| {
            let (id, chunk) = decode(*hash, value);
            let opened = self.table.open(id).ok().flatten()?;
            will_need(&opened, chunk.offset, chunk.len.into());
            Some(opened)
        });
        Ok(InPlaceRead { table: &*self.table, scheme: &self.scheme, hash: *hash, values, opened })
    }
}

/// A block whose file is open; see [`InPlaceStore::open_block`].
#[derive(Debug)]
pub struct InPlaceRead<'a> {
    table: &'a dyn FileTable,
    scheme: &'a BlockScheme,
    hash: Hash,
    values: Vec<Value>,
    /// The file of the first value, if it could be opened.
    opened: Option<File>,
}

impl InPlaceRead<'_> {
    /// Returns the length of the block in bytes, or 0 if no file is known to have
    /// it.
    pub fn len_hint(&self) -> usize {
        self.values.first().map_or(0, |value| decode(self.hash, value).1.len as usize)
    }

    /// Returns the block from the first file that still has it.
    pub fn read(mut self) -> InPlaceAnswer {
        let cid = Cid::new(Codec::Raw, self.hash);
        // The empty block is part of every file.
        if let Ok(empty) = self.scheme.block(Codec::Raw, Vec::new())
            && empty.cid() == cid
        {
            return InPlaceAnswer::Block(self.scheme.encode(empty));
        }
        let mut changed = Vec::new();
        for value in &self.values {
            let (id, chunk) = decode(self.hash, value);
            let opened = match self.opened.take() {
                Some(opened) => Ok(Some(opened)),
                None => self.table.open(id),
            };
            match opened.and_then(|opened| read_chunk(opened, &chunk)) {
                Ok(Some(bytes)) => match self.scheme.block(Codec::Raw, bytes) {
                    Ok(block) if block.cid() == cid => {
                        return InPlaceAnswer::Block(self.scheme.encode(block));
                    }
                    // The file was written here, or the disk has an error.
                    Ok(_) | Err(_) => changed.push(id),
                },
                Ok(None) => {}
                Err(_) => changed.push(id),
            }
        }
        if changed.is_empty() {
            return InPlaceAnswer::Missing;
        }
        changed.sort_unstable();
        changed.dedup();
        InPlaceAnswer::Changed(changed)
    }
}

/// Returns the bytes at the place of a chunk. `None` if this version of the file is unknown.
fn read_chunk(opened: Option<File>, chunk: &InPlaceChunk) -> io::Result<Option<Vec<u8>>> {
    opened.map(|file| read_exact_at(&file, chunk.len as usize, chunk.offset)).transpose()
}

/// Reads into memory without filling it with zeros first, which took a tenth of
/// the time for serving a file.
fn read_exact_at(file: &File, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The capacity may be larger than the requested length.
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "small numbers")]

    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use disk::RealDisk;

    #[derive(Debug, Default)]
    struct Table(Mutex<BTreeMap<FileId, PathBuf>>, AtomicBool);

    impl FileTable for Table {
        fn open(&self, id: FileId) -> io::Result<Option<File>> {
            if self.1.load(Ordering::Relaxed) {
                return Err(rustix::io::Errno::MFILE.into());
            }
            let found = self.0.lock().get(&id).cloned();
            found.map(|path| open_regular(&path)).transpose()
        }
    }

    struct Setup {
        dir: tempfile::TempDir,
        table: Arc<Table>,
        store: InPlaceStore,
    }

    const HALF: usize = 5000;

    impl Setup {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let table = Arc::new(Table::default());
            let store = Self::open(dir.path(), &table).0;
            Self { dir, table, store }
        }

        fn open(dir: &Path, table: &Arc<Table>) -> (InPlaceStore, bool) {
            InPlaceStore::open(
                Arc::new(RealDisk),
                &dir.join("index"),
                table.clone(),
                BlockScheme::plain(),
            )
            .unwrap()
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Writes a file and adds its two chunks to the index.
        fn add(&self, id: u64, name: &str, content: &[u8]) {
            fs::write(self.path(name), content).unwrap();
            self.table.0.lock().insert(FileId(id), self.path(name));
            let chunks: Vec<_> = content
                .chunks(HALF)
                .scan(0, |offset, bytes| {
                    let len = u32::try_from(bytes.len()).unwrap();
                    let chunk = InPlaceChunk { hash: Hash::of(bytes), offset: *offset, len };
                    *offset += u64::from(len);
                    Some(chunk)
                })
                .collect();
            self.store.add(FileId(id), &chunks).unwrap();
        }

        fn get(&self, bytes: &[u8]) -> InPlaceAnswer {
            self.store.get(&Hash::of(bytes)).unwrap()
        }
    }

    fn content(seed: u8) -> Vec<u8> {
        (0..2 * HALF).map(|n| (n % 251) as u8 ^ seed).collect()
    }

    fn is_block(answer: &InPlaceAnswer, bytes: &[u8]) -> bool {
        matches!(answer, InPlaceAnswer::Block(block) if block.payload() == bytes)
    }

    #[test]
    fn blocks_are_ranges_of_files() {
        let setup = Setup::new();
        setup.add(1, "a", &content(1));
        assert!(is_block(&setup.get(&content(1)[..HALF]), &content(1)[..HALF]));
        assert!(is_block(&setup.get(&content(1)[HALF..]), &content(1)[HALF..]));
        assert_eq!(setup.get(b"never seen"), InPlaceAnswer::Missing);
        assert!(is_block(&setup.get(b""), b""));
    }

    #[test]
    fn every_way_to_change_a_file_is_answered_by_changed() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("rewritten", |path| fs::write(path, content(9)).unwrap()),
            ("truncated", |path| {
                File::options().write(true).open(path).unwrap().set_len(10).unwrap();
            }),
            ("replaced", |path| {
                let other = path.with_extension("new");
                fs::write(&other, content(9)).unwrap();
                fs::rename(other, path).unwrap();
            }),
            ("removed", |path| fs::remove_file(path).unwrap()),
            ("made a link to an equal file", |path| {
                let other = path.with_extension("old");
                fs::rename(path, &other).unwrap();
                std::os::unix::fs::symlink(other, path).unwrap();
            }),
            ("made a pipe", |path| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    path,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR,
                    0,
                )
                .unwrap();
            }),
        ];
        for (how, change) in changes {
            let setup = Setup::new();
            setup.add(1, "a", &content(1));
            change(&setup.path("a"));
            let answer = setup.get(&content(1)[..HALF]);
            assert_eq!(answer, InPlaceAnswer::Changed(vec![FileId(1)]), "{how}");
        }
    }

    /// A log, and a disk image: B may be fetching the former version.
    #[test]
    fn a_file_that_changed_elsewhere_still_has_its_other_blocks() {
        let setup = Setup::new();
        setup.add(1, "a", &content(1));
        let [first, second] = [&content(1)[..HALF], &content(1)[HALF..]];
        let mut file = File::options().append(true).open(setup.path("a")).unwrap();
        file.write_all(b"one more line").unwrap();
        assert!(is_block(&setup.get(first), first) && is_block(&setup.get(second), second));
        let file = File::options().write(true).open(setup.path("a")).unwrap();
        file.write_all_at(b"in the middle", HALF as u64 - 5).unwrap();
        for half in [first, second] {
            assert_eq!(setup.get(half), InPlaceAnswer::Changed(vec![FileId(1)]));
        }
        file.write_all_at(&second[..20], HALF as u64).unwrap();
        assert!(is_block(&setup.get(second), second));
        assert_eq!(setup.get(first), InPlaceAnswer::Changed(vec![FileId(1)]));
    }

    #[test]
    fn another_file_with_the_same_block_stands_in() {
        let setup = Setup::new();
        for id in 0..20 {
            setup.add(id, &format!("copy-{id}"), &content(1));
        }
        for id in 0..19 {
            fs::write(setup.path(&format!("copy-{id}")), b"gone").unwrap();
        }
        assert!(is_block(&setup.get(&content(1)[..HALF]), &content(1)[..HALF]));
        fs::write(setup.path("copy-19"), b"gone").unwrap();
        assert!(matches!(setup.get(&content(1)[..HALF]), InPlaceAnswer::Changed(_)));
    }

    /// The number of files that a process may have open is limited.
    #[test]
    fn what_cannot_be_opened_ahead_is_opened_when_it_is_its_turn() {
        let setup = Setup::new();
        setup.add(1, "a", &content(1));
        let half = &content(1)[..HALF];
        setup.table.1.store(true, Ordering::Relaxed);
        let block = setup.store.open_block(&Hash::of(half)).unwrap();
        assert_eq!(block.len_hint(), HALF);
        setup.table.1.store(false, Ordering::Relaxed);
        assert!(is_block(&block.read(), half));
    }

    #[test]
    fn a_rename_changes_nothing_and_a_version_that_is_no_more_is_missing() {
        let setup = Setup::new();
        setup.add(1, "a", &content(1));
        fs::rename(setup.path("a"), setup.path("b")).unwrap();
        setup.table.0.lock().insert(FileId(1), setup.path("b"));
        assert!(is_block(&setup.get(&content(1)[..HALF]), &content(1)[..HALF]));
        setup.table.0.lock().remove(&FileId(1));
        assert_eq!(setup.get(&content(1)[..HALF]), InPlaceAnswer::Missing);
    }

    #[test]
    fn what_was_committed_survives_a_restart_and_damage_is_told() {
        let setup = Setup::new();
        setup.add(1, "a", &content(1));
        setup.store.commit().unwrap();
        setup.add(2, "b", &content(2));
        let (store, is_lost) = Setup::open(setup.dir.path(), &setup.table);
        assert!(!is_lost);
        assert!(is_block(&store.get(&Hash::of(&content(1)[..HALF])).unwrap(), &content(1)[..HALF]));
        assert_eq!(store.get(&Hash::of(&content(2)[..HALF])).unwrap(), InPlaceAnswer::Missing);
        store.retain(|id| id != FileId(1)).unwrap();
        assert_eq!(store.places(), 0);
        fs::write(setup.path("index/in-place"), b"damaged").unwrap();
        assert!(Setup::open(setup.dir.path(), &setup.table).1);
    }
}
