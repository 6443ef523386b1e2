//! A disk that shows each operation to an observer, which may refuse it; for tests.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, Space};
use crate::sim::Op;

/// Observes the operations of an [`ObservedDisk`].
pub trait Observer: Send + Sync + 'static {
    /// Called before an operation.
    ///
    /// # Errors
    ///
    /// The error becomes the result of the operation, which does not happen then.
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let _ = call;
        Ok(())
    }

    /// Called after an operation that [`Observer::before`] has allowed, failed or not.
    fn after(&self, call: &Call<'_>) {
        let _ = call;
    }

    /// Returns the space that the disk reports, given the space of the other disk.
    fn space(&self, space: Space) -> Space {
        space
    }
}

/// An operation on a disk.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The operation.
    pub op: Op,
    /// The path that the operation names, or with which its file was opened. Of a
    /// rename, the old name.
    pub path: &'a Path,
    /// True if the operation changes the disk, or opens a file for writing.
    pub is_write: bool,
    /// Offset of a read or a write, or new length of a truncated file, in bytes.
    pub offset: u64,
    /// Length of a read or a write in bytes.
    pub len: u64,
}

/// A view of another disk. An observer sees each operation. Clones share the observer.
pub struct ObservedDisk<O> {
    inner: Arc<dyn Disk>,
    observer: Arc<O>,
}

impl<O> Clone for ObservedDisk<O> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), observer: self.observer.clone() }
    }
}

impl<O> fmt::Debug for ObservedDisk<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObservedDisk").field(&self.inner).finish()
    }
}

impl<O: Observer> ObservedDisk<O> {
    /// Creates a view of `inner`.
    pub fn over(inner: Arc<dyn Disk>, observer: O) -> Self {
        Self { inner, observer: Arc::new(observer) }
    }

    /// Returns the observer.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    fn call<T>(&self, call: Call<'_>, operate: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.observer.before(&call)?;
        let result = operate();
        self.observer.after(&call);
        result
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(ObservedFile { disk: self.clone(), path: path.to_owned(), file })
    }
}

fn read(op: Op, path: &Path) -> Call<'_> {
    Call { op, path, is_write: false, offset: 0, len: 0 }
}

fn write(op: Op, path: &Path) -> Call<'_> {
    Call { is_write: true, ..read(op, path) }
}

impl<O: Observer> Disk for ObservedDisk<O> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(write(Op::CreateDir, path), || self.inner.create_dir(path))
    }

    fn create_with_mode(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let create = || self.inner.create_with_mode(path, mode);
        Ok(self.wrap(path, self.call(write(Op::Create, path), create)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.call(write(Op::Open, path), || self.inner.open(path))?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.call(read(Op::Open, path), || self.inner.open_read(path))?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(write(Op::Rename, from), || self.inner.rename(from, to))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(write(Op::Rename, from), || self.inner.rename_new(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(write(Op::Remove, path), || self.inner.remove(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.call(read(Op::List, dir), || self.inner.list(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(write(Op::SyncDir, dir), || self.inner.sync_dir(dir))
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let space = self.call(read(Op::Space, dir), || self.inner.space(dir))?;
        Ok(self.observer.space(space))
    }
}

/// An open file of an [`ObservedDisk`].
struct ObservedFile<O> {
    disk: ObservedDisk<O>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl<O> fmt::Debug for ObservedFile<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObservedFile").field(&self.file).finish()
    }
}

impl<O: Observer> DiskFile for ObservedFile<O> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let call = Call { offset, len: buf.len() as u64, ..read(Op::Read, &self.path) };
        self.disk.call(call, || self.file.read_at(buf, offset))
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let call = Call { offset, len, ..write(Op::Write, &self.path) };
        self.disk.call(call, || self.file.write_at(parts, offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(write(Op::Sync, &self.path), || self.file.sync())
    }

    fn drop_cache(&self, len: u64) {
        self.file.drop_cache(len);
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.call(read(Op::Len, &self.path), || self.file.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let call = Call { offset: len, ..write(Op::Truncate, &self.path) };
        self.disk.call(call, || self.file.truncate(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let call = Call { len, ..write(Op::Write, &self.path) };
        self.disk.call(call, || self.file.allocate(len))
    }

    fn lock(&self) -> io::Result<()> {
        self.disk.call(read(Op::Lock, &self.path), || self.file.lock())
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.disk.call(read(Op::Lock, &self.path), || self.file.lock_shared())
    }

    fn copy_permissions(&self, path: &Path) -> io::Result<()> {
        self.disk.call(write(Op::SetPermissions, &self.path), || self.file.copy_permissions(path))
    }
}
