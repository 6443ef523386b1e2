//! Space for garbage collection on a full disk.
//!
//! To free a pack that is half dead, the collection must first write the live
//! half elsewhere. A file as long as a pack reserves the space for that: the
//! collection removes the file when it finds no space, and creates it again when
//! it is done. A removal of a root may use the space, too. An instance that starts on a
//! full disk needs a few small files: for them the file is shortened.

use std::path::PathBuf;

use disk::Disk;

use crate::sync::atomic::{AtomicBool, Ordering};

/// The file that reserves space; see the module.
#[derive(Debug)]
pub(super) struct ReserveFile {
    path: PathBuf,
    len: u64,
    exists: AtomicBool,
    /// True while a collection uses the space: free space is for the collection
    /// only.
    is_taken: AtomicBool,
    /// True if the file is shorter than intended.
    is_short: AtomicBool,
}

/// Returns the minimum length of the file if a pack has the length `len`.
fn shortest(len: u64) -> u64 {
    len / 8 * 7
}

impl ReserveFile {
    pub(super) fn new(disk: &dyn Disk, path: PathBuf, len: u64) -> Self {
        let found = disk.open(&path).and_then(|file| file.len()).ok();
        // A shorter file still has room for some of the live blocks.
        let exists = found.is_some_and(|found| found >= len / 2);
        Self {
            path,
            len,
            exists: AtomicBool::new(exists),
            is_taken: AtomicBool::new(false),
            is_short: AtomicBool::new(found.is_some_and(|found| found < shortest(len))),
        }
    }

    /// Creates the file if there is space. Without space this is not an error: the
    /// next call tries again.
    pub(super) fn create(&self, disk: &dyn Disk) {
        if self.is_taken.load(Ordering::SeqCst) {
            return;
        }
        if self.exists.swap(true, Ordering::SeqCst) {
            if self.is_short.load(Ordering::SeqCst)
                && disk.open(&self.path).and_then(|file| file.allocate(self.len)).is_ok()
            {
                self.is_short.store(false, Ordering::SeqCst);
            }
            return;
        }
        self.is_short.store(false, Ordering::SeqCst);
        // A part of the space may have been needed for the record of roots.
        let is_made = [self.len, shortest(self.len)].into_iter().any(|len| {
            let _ = disk.remove(&self.path);
            disk.create(&self.path).and_then(|file| file.allocate(len)).is_ok()
        });
        if !is_made {
            let _ = disk.remove(&self.path);
            self.exists.store(false, Ordering::SeqCst);
        }
    }

    /// Gives an eighth of the space to other files, unless less than half of it would
    /// remain for the collection. Reports whether it did.
    pub(super) fn shorten(&self, disk: &dyn Disk) -> bool {
        if !self.exists.load(Ordering::SeqCst) {
            return false;
        }
        let Ok(file) = disk.open(&self.path) else { return false };
        let shorter = file.len().unwrap_or(0).saturating_sub(self.len / 8);
        if shorter < self.len / 2 || file.truncate(shorter).is_err() {
            return false;
        }
        self.is_short.store(true, Ordering::SeqCst);
        true
    }

    /// Gives the space to the collection. Reports whether there was any.
    pub(super) fn take(&self, disk: &dyn Disk) -> bool {
        if !self.exists.swap(false, Ordering::SeqCst) {
            return false;
        }
        self.is_taken.store(true, Ordering::SeqCst);
        disk.remove(&self.path).is_ok()
    }

    /// Creates the file again after a collection.
    pub(super) fn give_back(&self, disk: &dyn Disk) {
        if self.is_taken.swap(false, Ordering::SeqCst) {
            self.create(disk);
        }
    }

    /// Returns the number of bytes that must stay free for the collection now.
    pub(super) fn space_for_gc(&self) -> u64 {
        if self.is_taken.load(Ordering::SeqCst) { self.len } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use disk::sim::SimDisk;

    const PATH: &str = "/s/ballast";

    fn len(disk: &SimDisk) -> u64 {
        disk.open(Path::new(PATH)).unwrap().len().unwrap()
    }

    #[test]
    fn a_part_of_the_space_is_given_and_comes_back() {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/s")).unwrap();
        disk.set_capacity(Some(800));
        let reserve = ReserveFile::new(&disk, PATH.into(), 800);
        assert!(!reserve.shorten(&disk), "there is none yet");
        reserve.create(&disk);
        assert_eq!(len(&disk), 800);
        for expected in [700, 600, 500, 400] {
            // Each start opens the file again.
            let reserve = ReserveFile::new(&disk, PATH.into(), 800);
            assert!(reserve.shorten(&disk));
            assert_eq!(len(&disk), expected);
        }
        let reserve = ReserveFile::new(&disk, PATH.into(), 800);
        assert!(!reserve.shorten(&disk), "half of it is for the collection");
        // Something else uses the space, then frees it.
        let other = disk.create(Path::new("/s/other")).unwrap();
        other.write_at(&[&[1; 300]], 0).unwrap();
        reserve.create(&disk);
        assert_eq!(len(&disk), 400);
        other.truncate(0).unwrap();
        reserve.create(&disk);
        assert_eq!(len(&disk), 800);
        assert!(reserve.take(&disk));
        assert!(disk.open(Path::new(PATH)).is_err());
    }
}
