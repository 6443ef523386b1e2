//! A disk that cannot be written, for tests: every attempt to change it fails
//! and is recorded.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, Space};
use crate::observed::{Call, ObservedDisk, Observer};
use crate::sim::Op;

/// A view of another disk that is read-only, as a file system that is mounted
/// read-only, or becomes so, as after an error of the disk. Clones share the state.
pub type ReadOnlyDisk = ObservedDisk<ReadOnly>;

/// Refuses and records changes; see [`ReadOnlyDisk`].
pub struct ReadOnly(Mutex<State>);

struct State {
    is_read_only: bool,
    attempts: Vec<(Op, PathBuf)>,
}

impl Observer for ReadOnly {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let mut state = self.0.lock();
        if !call.is_write || !state.is_read_only {
            return Ok(());
        }
        state.attempts.push((call.op, call.path.to_owned()));
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn space(&self, space: Space) -> Space {
        Space { is_read_only: self.0.lock().is_read_only, ..space }
    }
}

impl ReadOnlyDisk {
    /// Creates a read-only view of `inner`.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        let disk = Self::writable(inner);
        disk.make_read_only();
        disk
    }

    /// Creates a view of `inner` that can be written until
    /// [`ReadOnlyDisk::make_read_only`].
    pub fn writable(inner: Arc<dyn Disk>) -> Self {
        let state = State { is_read_only: false, attempts: Vec::new() };
        Self::over(inner, ReadOnly(Mutex::new(state)))
    }

    /// Refuses all changes from now on, also those of open files.
    pub fn make_read_only(&self) {
        self.observer().0.lock().is_read_only = true;
    }

    /// Returns the refused operations, and removes them from the record.
    pub fn take_attempts(&self) -> Vec<(Op, PathBuf)> {
        std::mem::take(&mut self.observer().0.lock().attempts)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sim::SimDisk;
    use crate::{AtomicWrite, read_file, write_atomic};

    #[test]
    fn every_change_is_refused_and_recorded() {
        let disk = SimDisk::new();
        let path = Path::new("/d/file");
        disk.create_dir(Path::new("/d")).unwrap();
        disk.create(path).unwrap().write_at(&[b"content"], 0).unwrap();
        let read_only = ReadOnlyDisk::new(Arc::new(disk.clone()));
        let operations = disk.operations();
        assert_eq!(read_file(&read_only, path, 100).unwrap(), b"content");
        assert_eq!(read_only.take_attempts(), []);
        let file = read_only.open_read(path).unwrap();
        assert!(file.write_at(&[b"other"], 0).is_err() && file.truncate(0).is_err());
        assert!(read_only.open(path).is_err());
        assert!(write_atomic(&read_only, path, b"other", &AtomicWrite::PRIVATE).is_err());
        assert!(!read_only.take_attempts().is_empty());
        assert_eq!(read_file(&disk, path, 100).unwrap(), b"content");
        assert_eq!(disk.operations(), operations);
    }

    #[test]
    fn a_disk_that_becomes_read_only_refuses_changes_of_open_files() {
        let disk = ReadOnlyDisk::writable(Arc::new(SimDisk::new()));
        let path = Path::new("/d/file");
        disk.create_dir(Path::new("/d")).unwrap();
        let file = disk.create(path).unwrap();
        file.write_at(&[b"content"], 0).unwrap();
        assert!(!disk.space(path).unwrap().is_read_only);
        disk.make_read_only();
        assert!(disk.space(path).unwrap().is_read_only);
        assert!(file.write_at(&[b"other"], 0).is_err() && file.sync().is_err());
        assert_eq!(file.read_vec_at(10, 0).unwrap(), b"content");
        assert_eq!(disk.take_attempts().len(), 2);
    }
}
