//! One immutable, sorted run of the index: hash → value, on disk.
//!
//! Pages of 4 KiB contain sorted entries, each page with a checksum. After the
//! pages follows a directory with the first eight bytes of the first hash of
//! every page; it is kept in memory (8 bytes for 81 entries). A lookup is a
//! binary search in the directory and one read of a page. The bytes are
//! specified in `docs/formats/index.md`.

use std::path::{Path, PathBuf};

use types::Hash;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{IoContext, StoreError};
use disk::{Disk, DiskFile};

/// Length of a value in bytes: the length of an encoded place in a pack.
pub(crate) const VALUE_LEN: usize = 18;
/// Value of a hash in the index. The index does not interpret it.
pub(crate) type Value = [u8; VALUE_LEN];

const ENTRY_LEN: usize = Hash::LEN + VALUE_LEN;
const PAGE_LEN: usize = 4096;
const PAGE_HEADER_LEN: usize = 8;
const PAGE_ENTRIES: usize = (PAGE_LEN - PAGE_HEADER_LEN) / ENTRY_LEN;
const TRAILER_LEN: usize = 48;
const MAGIC: [u8; 8] = *b"ARCHRUN1";
/// Number of pages that are read or written together when a run is walked.
const PAGES_AT_ONCE: usize = 64;

/// An open run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    entries: u64,
    directory: Vec<u64>,
}

/// Returns the name of the file of run `id`.
pub(crate) fn file_name(id: u64) -> String {
    format!("{id:016x}.run")
}

/// Returns the id of the run in a file with this name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let id = u64::from_str_radix(name.strip_suffix(".run")?, 16).ok()?;
    (file_name(id) == name).then_some(id)
}

fn entry_at(page: &[u8], number: usize) -> (Hash, Value) {
    let at = PAGE_HEADER_LEN + number * ENTRY_LEN;
    let mut hash = [0; Hash::LEN];
    hash.copy_from_slice(&page[at..at + Hash::LEN]);
    let mut value = [0; VALUE_LEN];
    value.copy_from_slice(&page[at + Hash::LEN..at + ENTRY_LEN]);
    (Hash::from_bytes(hash), value)
}

/// Returns the number of entries in a page, or `None` if the page is damaged.
fn check_page(page: &[u8]) -> Option<usize> {
    let count = usize::from(u16::from_le_bytes([*page.get(4)?, *page.get(5)?]));
    let intact = page.len() == PAGE_LEN
        && count <= PAGE_ENTRIES
        && u32_at(page, 0) == crc32c::crc32c(&page[4..]);
    intact.then_some(count)
}

impl Run {
    /// Opens a run and checks its directory. Pages are checked when they are
    /// read.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, id: u64) -> Result<Self, StoreError> {
        let path = dir.join(file_name(id));
        let unusable =
            |reason: &str| StoreError::Unusable { path: path.clone(), reason: reason.into() };
        let file = disk.open_read(&path).context("open", &path)?;
        let len = file.len().context("read", &path)?;
        let trailer_at =
            len.checked_sub(TRAILER_LEN as u64).ok_or_else(|| unusable("it is too short"))?;
        let mut trailer = [0; TRAILER_LEN];
        file.read_at(&mut trailer, trailer_at).context("read", &path)?;
        let pages = u64_at(&trailer, 24);
        let expected = pages
            .checked_mul(PAGE_LEN as u64 + 8)
            .filter(|expected| *expected == trailer_at)
            .and_then(|_| usize::try_from(pages).ok());
        let intact = trailer[..8] == MAGIC
            && u64_at(&trailer, 8) == id
            && u32_at(&trailer, 44) == crc32c::crc32c(&trailer[..44]);
        let (Some(pages), true) = (expected, intact) else {
            return Err(unusable("its end is damaged"));
        };
        let mut directory = vec![0; pages * 8];
        file.read_at(&mut directory, (pages * PAGE_LEN) as u64).context("read", &path)?;
        if crc32c::crc32c(&directory) != u32_at(&trailer, 32) {
            return Err(unusable("its directory is damaged"));
        }
        let directory = directory.chunks_exact(8).map(|eight| u64_at(eight, 0)).collect();
        Ok(Self { id, file, entries: u64_at(&trailer, 16), directory, path })
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> u64 {
        self.entries
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn damaged(&self, page: usize) -> StoreError {
        StoreError::Unusable { path: self.path.clone(), reason: format!("page {page} is damaged") }
    }

    /// Appends the values of `hash` to `found`, in the order of the run.
    pub(crate) fn get(&self, hash: &Hash, found: &mut Vec<Value>) -> Result<(), StoreError> {
        let prefix = hash.prefix();
        let after = self.directory.partition_point(|first| *first < prefix);
        let mut page = [0; PAGE_LEN];
        let mut number = after.saturating_sub(1);
        while number < self.directory.len() && (number < after || self.directory[number] <= prefix)
        {
            let at = (number * PAGE_LEN) as u64;
            self.file.read_at(&mut page, at).context("read", &self.path)?;
            let count = check_page(&page).ok_or_else(|| self.damaged(number))?;
            let start = partition_point(count, |i| entry_at(&page, i).0 < *hash);
            let values = (start..count).map(|i| entry_at(&page, i));
            found.extend(values.take_while(|(h, _)| h == hash).map(|(_, value)| value));
            number += 1;
        }
        Ok(())
    }

    /// Returns all entries, in order.
    pub(crate) fn iter(&self) -> RunIter<'_> {
        RunIter { run: self, next_page: 0, pages: Vec::new(), at: 0, entry: 0, count: 0 }
    }
}

/// Returns the first number below `count` for which `before` is false, or
/// `count`.
fn partition_point(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Iterates over a run in order; reads many pages at a time.
pub(crate) struct RunIter<'a> {
    run: &'a Run,
    next_page: usize,
    pages: Vec<u8>,
    at: usize,
    entry: usize,
    count: usize,
}

impl RunIter<'_> {
    fn next_entry(&mut self) -> Result<Option<(Hash, Value)>, StoreError> {
        while self.entry == self.count {
            if self.at == self.pages.len() {
                let pages = (self.run.directory.len() - self.next_page).min(PAGES_AT_ONCE);
                if pages == 0 {
                    return Ok(None);
                }
                self.pages.resize(pages * PAGE_LEN, 0);
                let offset = (self.next_page * PAGE_LEN) as u64;
                let file = &self.run.file;
                file.read_at(&mut self.pages, offset).context("read", &self.run.path)?;
                self.next_page += pages;
                self.at = 0;
            }
            let page = &self.pages[self.at..self.at + PAGE_LEN];
            self.count = check_page(page).ok_or_else(|| {
                self.run.damaged(self.next_page - (self.pages.len() - self.at) / PAGE_LEN)
            })?;
            self.entry = 0;
            self.at += PAGE_LEN;
        }
        let entry = entry_at(&self.pages[self.at - PAGE_LEN..self.at], self.entry);
        self.entry += 1;
        Ok(Some(entry))
    }
}

impl Iterator for RunIter<'_> {
    type Item = Result<(Hash, Value), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

/// Merges sorted runs: sorts by hash, and entries of the same hash by the order
/// of the runs.
pub(crate) struct Merge<I: Iterator> {
    sources: Vec<std::iter::Peekable<I>>,
}

impl<I> Merge<I>
where
    I: Iterator<Item = Result<(Hash, Value), StoreError>>,
{
    pub(crate) fn new(sources: impl IntoIterator<Item = I>) -> Self {
        Self { sources: sources.into_iter().map(Iterator::peekable).collect() }
    }
}

impl<I> Iterator for Merge<I>
where
    I: Iterator<Item = Result<(Hash, Value), StoreError>>,
{
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let mut least: Option<(Hash, usize)> = None;
        for (number, source) in self.sources.iter_mut().enumerate() {
            let Some(entry) = source.peek() else { continue };
            // An error is returned immediately, so that nobody merges past it.
            let Ok((hash, _)) = entry else { return source.next() };
            if least.is_none_or(|(found, _)| *hash < found) {
                least = Some((*hash, number));
            }
        }
        self.sources[least?.1].next()
    }
}

/// Writes `entries`, which must be sorted by hash, as run `id`. The content is
/// durable on return, the name is not.
pub(crate) fn write(
    disk: &dyn Disk,
    dir: &Path,
    id: u64,
    entries: impl Iterator<Item = Result<(Hash, Value), StoreError>>,
) -> Result<Run, StoreError> {
    let path = dir.join(file_name(id));
    let file = disk.create(&path).context("create", &path)?;
    let result = fill(&*file, &path, id, entries);
    match result {
        Ok(()) => Run::open(disk, dir, id),
        Err(error) => {
            // Nothing refers to the file. If it stays, the next start removes it.
            let _ = disk.remove(&path);
            Err(error)
        }
    }
}

fn fill(
    file: &dyn DiskFile,
    path: &Path,
    id: u64,
    entries: impl Iterator<Item = Result<(Hash, Value), StoreError>>,
) -> Result<(), StoreError> {
    let mut buffer = Vec::with_capacity(PAGES_AT_ONCE * PAGE_LEN);
    let mut directory = Vec::new();
    let mut offset = 0_u64;
    let mut total = 0_u64;
    let mut page = Page::default();
    for entry in entries {
        let (hash, value) = entry?;
        if page.count == PAGE_ENTRIES {
            page.finish(&mut buffer);
        }
        if page.count == 0 {
            directory.extend_from_slice(&hash.prefix().to_le_bytes());
        }
        page.push(&hash, &value);
        total += 1;
        if buffer.len() >= PAGES_AT_ONCE * PAGE_LEN {
            file.write_at(&[&buffer], offset).context("write", path)?;
            offset += buffer.len() as u64;
            buffer.clear();
        }
    }
    if page.count > 0 {
        page.finish(&mut buffer);
    }
    let mut trailer = Vec::with_capacity(TRAILER_LEN);
    trailer.extend_from_slice(&MAGIC);
    trailer.extend_from_slice(&id.to_le_bytes());
    trailer.extend_from_slice(&total.to_le_bytes());
    trailer.extend_from_slice(&(directory.len() as u64 / 8).to_le_bytes());
    trailer.extend_from_slice(&crc32c::crc32c(&directory).to_le_bytes());
    trailer.extend_from_slice(&[0; 8]);
    trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
    file.write_at(&[&buffer, &directory, &trailer], offset).context("write", path)?;
    file.sync().context("sync", path)
}

/// A page under construction.
#[derive(Default)]
struct Page {
    entries: Vec<u8>,
    count: usize,
}

impl Page {
    fn push(&mut self, hash: &Hash, value: &Value) {
        self.entries.extend_from_slice(hash.as_bytes());
        self.entries.extend_from_slice(value);
        self.count += 1;
    }

    #[expect(clippy::cast_possible_truncation, reason = "a page has 81 entries")]
    fn finish(&mut self, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&(self.count as u16).to_le_bytes());
        buffer.extend_from_slice(&[0; 2]);
        buffer.extend_from_slice(&self.entries);
        buffer.resize(start + PAGE_LEN, 0);
        let sum = crc32c::crc32c(&buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&sum.to_le_bytes());
        self.entries.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::sim::SimDisk;

    fn value(number: u32) -> Value {
        let mut value = [0; VALUE_LEN];
        value[..4].copy_from_slice(&number.to_le_bytes());
        value
    }

    fn sorted(numbers: impl Iterator<Item = u32>) -> Vec<(Hash, Value)> {
        let mut entries: Vec<_> = numbers.map(|n| (Hash::of(&n.to_le_bytes()), value(n))).collect();
        entries.sort();
        entries
    }

    fn run_of(entries: &[(Hash, Value)]) -> (SimDisk, Run) {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/i")).unwrap();
        let run = write(&disk, Path::new("/i"), 3, entries.iter().copied().map(Ok)).unwrap();
        (disk, run)
    }

    #[test]
    fn fuzz_run() {
        let entries = sorted(0..200);
        let path = Path::new("/i").join(file_name(3));
        let (_, run) = run_of(&entries);
        let len = usize::try_from(run.file.len().unwrap()).unwrap();
        let example = run.file.read_vec_at(len, 0).unwrap();
        fuzzing::target!(&[example], |bytes: &[u8]| {
            let disk = SimDisk::new();
            disk.create_dir(Path::new("/i")).unwrap();
            disk.create(&path).unwrap().write_at(&[bytes], 0).unwrap();
            let Ok(run) = Run::open(&disk, Path::new("/i"), 3) else { return };
            let mut found = Vec::new();
            for (hash, value) in &entries {
                found.clear();
                if run.get(hash, &mut found).is_ok() {
                    assert!(found.iter().all(|one| one == value), "a value from nowhere");
                }
            }
        });
    }

    #[test]
    fn every_entry_is_found_and_no_other() {
        for count in [0, 1, 80, 81, 82, 163, 20_000] {
            let entries = sorted(0..count);
            let (_, run) = run_of(&entries);
            assert_eq!(run.len(), u64::from(count));
            let mut found = Vec::new();
            for (hash, value) in &entries {
                found.clear();
                run.get(hash, &mut found).unwrap();
                assert_eq!(found, [*value]);
            }
            found.clear();
            for absent in count..count + 1000 {
                run.get(&Hash::of(&absent.to_le_bytes()), &mut found).unwrap();
            }
            assert_eq!(found, Vec::<Value>::new());
            assert_eq!(run.iter().collect::<Result<Vec<_>, _>>().unwrap(), entries);
        }
    }

    #[test]
    fn a_hash_may_have_values_over_several_pages() {
        let hash = Hash::of(b"x");
        let mut entries = sorted(0..1000);
        entries.extend((0..300).map(|n| (hash, value(n))));
        entries.sort_by_key(|entry| entry.0);
        let (_, run) = run_of(&entries);
        let mut found = Vec::new();
        run.get(&hash, &mut found).unwrap();
        assert_eq!(found, (0..300).map(value).collect::<Vec<_>>());
    }

    #[test]
    fn damage_is_an_error_never_a_wrong_answer() {
        let entries = sorted(0..500);
        let (disk, run) = run_of(&entries);
        let path = run.path().to_owned();
        let len = run.file.len().unwrap();
        for at in (0..len).step_by(37) {
            let at = usize::try_from(at).unwrap();
            disk.damage(&path, |bytes| bytes[at] ^= 4);
            if let Ok(run) = Run::open(&disk, Path::new("/i"), 3) {
                for (hash, value) in &entries {
                    let mut found = Vec::new();
                    if run.get(hash, &mut found).is_ok() {
                        assert_eq!(found, [*value], "flip at {at}");
                    }
                }
                assert!(run.iter().any(|entry| entry.is_err()), "flip at {at} went unseen");
            }
            disk.damage(&path, |bytes| bytes[at] ^= 4);
        }
        disk.damage(&path, |bytes| bytes.truncate(4096));
        assert!(Run::open(&disk, Path::new("/i"), 3).is_err());
        assert!(Run::open(&disk, Path::new("/i"), 4).is_err());
    }

    #[test]
    fn merging_keeps_the_order_of_the_runs_for_one_hash() {
        let both = Hash::of(b"both");
        let mut newer = sorted(0..200);
        newer.push((both, value(1)));
        newer.sort_by_key(|entry| entry.0);
        let mut older = sorted(200..300);
        older.push((both, value(2)));
        older.sort_by_key(|entry| entry.0);
        let (_disk, newer) = run_of(&newer);
        let (_other, older) = run_of(&older);
        let merged: Vec<_> =
            Merge::new([newer.iter(), older.iter()]).collect::<Result<_, _>>().unwrap();
        assert_eq!(merged.len(), 302);
        assert!(merged.is_sorted_by_key(|entry| entry.0));
        let of_both: Vec<_> = merged.iter().filter(|e| e.0 == both).map(|e| e.1).collect();
        assert_eq!(of_both, [value(1), value(2)]);
    }
}
