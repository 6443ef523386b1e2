//! Room for the collector on a disk that is full.
//!
//! To free a pack that is half dead, the other half has to be written
//! elsewhere first. A file as long as a pack stands in the store for that: the
//! collector removes it when it finds no room, and makes it again when it is
//! done.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::Disk;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    len: u64,
    is_there: AtomicBool,
    /// The collector has taken it: what is free is for the collector.
    is_taken: AtomicBool,
}

impl Ballast {
    pub(super) fn new(disk: &dyn Disk, path: PathBuf, len: u64) -> Self {
        let found = disk.open(&path).and_then(|file| file.len()).ok();
        let is_there = AtomicBool::new(found == Some(len));
        Self { path, len, is_there, is_taken: AtomicBool::new(false) }
    }

    /// Makes the file, where there is room; it is not missed where there is
    /// not, for then there is nothing to collect either, or it comes later.
    pub(super) fn make(&self, disk: &dyn Disk) {
        if self.is_taken.load(Ordering::SeqCst) || self.is_there.swap(true, Ordering::SeqCst) {
            return;
        }
        let _ = disk.remove(&self.path);
        let made = disk.create(&self.path).and_then(|file| file.allocate(self.len));
        if made.is_err() {
            let _ = disk.remove(&self.path);
            self.is_there.store(false, Ordering::SeqCst);
        }
    }

    /// Gives its room to the collector; tells whether it had any.
    pub(super) fn take(&self, disk: &dyn Disk) -> bool {
        if !self.is_there.swap(false, Ordering::SeqCst) {
            return false;
        }
        self.is_taken.store(true, Ordering::SeqCst);
        disk.remove(&self.path).is_ok()
    }

    /// The collector is done.
    pub(super) fn give_back(&self, disk: &dyn Disk) {
        if self.is_taken.swap(false, Ordering::SeqCst) {
            self.make(disk);
        }
    }

    /// What has to stay free for the collector now, in bytes.
    pub(super) fn room_for_collector(&self) -> u64 {
        if self.is_taken.load(Ordering::SeqCst) { self.len } else { 0 }
    }
}
