//! A disk that cannot be written, for tests: every attempt to change it fails
//! and is recorded.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, Space};

/// A view of another disk that is read-only, as a file system that is mounted
/// read-only, or becomes so, as after an error of the disk. Clones share the state.
#[derive(Clone, Debug)]
pub struct ReadOnlyDisk {
    inner: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    is_read_only: bool,
    attempts: Vec<(&'static str, PathBuf)>,
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
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// Refuses all changes from now on, also those of open files.
    pub fn make_read_only(&self) {
        self.state.lock().is_read_only = true;
    }

    /// Returns the refused operations, and removes them from the record.
    pub fn take_attempts(&self) -> Vec<(&'static str, PathBuf)> {
        std::mem::take(&mut self.state.lock().attempts)
    }

    /// Returns the disk if it can be written; else records the operation.
    fn to_write(&self, operation: &'static str, path: &Path) -> io::Result<&dyn Disk> {
        let mut state = self.state.lock();
        if !state.is_read_only {
            return Ok(&*self.inner);
        }
        state.attempts.push((operation, path.to_owned()));
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(GuardedFile { disk: self.clone(), path: path.to_owned(), file })
    }
}

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.to_write("create_dir", path)?.create_dir(path)
    }

    fn create_with_mode(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = self.to_write("create", path)?.create_with_mode(path, mode)?;
        Ok(self.wrap(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.to_write("open for writing", path)?.open(path)?;
        Ok(self.wrap(path, file))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.to_write("rename", from)?.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.to_write("rename", from)?.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.to_write("remove", path)?.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.to_write("sync", dir)?.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let is_read_only = self.state.lock().is_read_only;
        Ok(Space { is_read_only, ..self.inner.space(dir)? })
    }
}

/// A file that was opened for writing.
#[derive(Debug)]
struct GuardedFile {
    disk: ReadOnlyDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl GuardedFile {
    fn to_write(&self, operation: &'static str) -> io::Result<&dyn DiskFile> {
        self.disk.to_write(operation, &self.path)?;
        Ok(&*self.file)
    }
}

impl DiskFile for GuardedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.to_write("write")?.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.to_write("sync")?.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.to_write("truncate")?.truncate(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.to_write("allocate")?.allocate(len)
    }

    fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.file.lock_shared()
    }

    fn copy_permissions(&self, path: &Path) -> io::Result<()> {
        self.to_write("set permissions")?.copy_permissions(path)
    }
}

/// A file that is open for reading only.
#[derive(Debug)]
pub(crate) struct ReadOnlyFile(pub(crate) Box<dyn DiskFile>);

fn not_writable() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only")
}

impl DiskFile for ReadOnlyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        Err(not_writable())
    }

    // Linux syncs files that are open for reading, too.
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(not_writable())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(not_writable())
    }

    fn lock(&self) -> io::Result<()> {
        self.0.lock()
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.0.lock_shared()
    }

    fn copy_permissions(&self, _: &Path) -> io::Result<()> {
        Err(not_writable())
    }
}

#[cfg(test)]
mod tests {
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
