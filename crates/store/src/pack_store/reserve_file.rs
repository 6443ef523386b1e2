//! Space for garbage collection on a full disk.
//!
//! To free a pack that is half dead, the collection must first write the live
//! half elsewhere. A file as long as a pack reserves the space for that: the
//! collection removes the file when it finds no space, and creates it again when
//! it is done. A removal of a root may use the space, too.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::Disk;

/// The file that reserves space; see the module.
#[derive(Debug)]
pub(super) struct ReserveFile {
    path: PathBuf,
    len: u64,
    exists: AtomicBool,
    /// True while a collection uses the space: free space is for the collection
    /// only.
    is_taken: AtomicBool,
}

/// Returns the minimum length of the file if a pack has the length `len`.
fn shortest(len: u64) -> u64 {
    len / 8 * 7
}

impl ReserveFile {
    pub(super) fn new(disk: &dyn Disk, path: PathBuf, len: u64) -> Self {
        let found = disk.open(&path).and_then(|file| file.len()).ok();
        let exists = AtomicBool::new(found.is_some_and(|found| found >= shortest(len)));
        Self { path, len, exists, is_taken: AtomicBool::new(false) }
    }

    /// Creates the file if there is space. Without space this is not an error: the
    /// next call tries again.
    pub(super) fn create(&self, disk: &dyn Disk) {
        if self.is_taken.load(Ordering::SeqCst) || self.exists.swap(true, Ordering::SeqCst) {
            return;
        }
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
