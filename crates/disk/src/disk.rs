//! The traits: the file operations that Archivist uses.
//!
//! Assumptions about a disk: written bytes are durable after
//! [`DiskFile::sync`]; a name (created, renamed or removed) is durable after
//! [`Disk::sync_dir`] of its directory; a rename replaces its target completely
//! or not at all. Between syncs anything may be lost, torn or reordered.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

/// A file system, reduced to the operations that Archivist uses.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory and its parents. Does nothing if the directory exists.
    ///
    /// # Errors
    ///
    /// Returns the file system's error if a directory cannot be created.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates a file that must not exist, open for reading and writing. Only
    /// the owner may read it: it may hold content that is backed up.
    ///
    /// # Errors
    ///
    /// Same as [`Disk::create_with_mode`].
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.create_with_mode(path, 0o600)
    }

    /// Creates a file that must not exist, open for reading and writing, with
    /// the permissions in `mode` that the umask of the process allows.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::AlreadyExists`] if the name is in use, or
    /// another error of the file system.
    fn create_with_mode(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::NotFound`] if there is no such file, or another
    /// error of the file system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading only. The process needs no permission
    /// to write the file, and the file system may be read-only.
    ///
    /// # Errors
    ///
    /// Same as [`Disk::open`].
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file. A file with the new name is replaced.
    ///
    /// # Errors
    ///
    /// Returns the file system's error; both names are unchanged then.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames a file unless the new name is in use.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::AlreadyExists`] if the name is in use, or
    /// another error of the file system; both names are unchanged then.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::NotFound`] if there is no such file, or another
    /// error of the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Lists the names in a directory, in no particular order.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::NotFound`] if there is no such directory, or
    /// another error of the file system.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// Returns the file system's error. Names that were not durable before may
    /// never become so.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Returns the free and the total space of the file system that holds `dir`.
    ///
    /// # Errors
    ///
    /// Returns the file system's error if the space cannot be determined.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Number of bytes that can still be written.
    pub free: u64,
    /// Size of the file system in bytes, used or free.
    pub total: u64,
    /// True if the file system is mounted read-only.
    pub is_read_only: bool,
}

/// An open file. Reads and writes name an offset, so that several threads can
/// use the same file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Fills `buf` from `offset` on and returns the number of bytes read, which
    /// is less than the length of `buf` only at the end of the file.
    ///
    /// # Errors
    ///
    /// Returns the file system's error if the file cannot be read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Returns the `len` bytes from `offset` on; fewer only at the end of the
    /// file.
    ///
    /// # Errors
    ///
    /// Same as [`DiskFile::read_at`].
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes all of `parts`, one after the other, from `offset` on.
    ///
    /// # Errors
    ///
    /// Returns the file system's error. Any part of the bytes may have been
    /// written then.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;

    /// Makes the written bytes and the length of the file durable.
    ///
    /// # Errors
    ///
    /// Returns the file system's error. All bytes written since the last
    /// successful sync must be regarded as lost: Linux marks the pages clean
    /// after a failure, and a further sync would succeed without having written
    /// them (Rebello et al., "Can Applications Recover from fsync Failures?",
    /// ATC 2020).
    fn sync(&self) -> io::Result<()>;

    /// Tells the system that the durable part of the first `len` bytes will not
    /// be read soon, so that it need not stay in the page cache. This is a hint
    /// and changes no content.
    fn drop_cache(&self, len: u64) {
        let _ = len;
    }

    /// Returns the length of the file in bytes.
    ///
    /// # Errors
    ///
    /// Returns the file system's error if the length cannot be read.
    fn len(&self) -> io::Result<u64>;

    /// Reports whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// Same as [`DiskFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    ///
    /// Returns the file system's error.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Reserves space on the disk for `len` bytes, which read as zeros.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::StorageFull`] if the disk has less free space,
    /// or another error of the file system.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Takes the exclusive lock on the file. The lock ends when the file is
    /// dropped or the process ends.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::WouldBlock`] if another open file holds the
    /// lock, or another error of the file system.
    fn lock(&self) -> io::Result<()>;

    /// Takes a shared lock on the file, which any number of open files may have
    /// at the same time, and which excludes the lock of [`DiskFile::lock`]. The
    /// file may be open for reading only.
    ///
    /// # Errors
    ///
    /// Same as [`DiskFile::lock`].
    fn lock_shared(&self) -> io::Result<()>;

    /// Copies the permissions and the owner of the file at `path`, durably. A
    /// process that may not give files away keeps its own as the owner. Does
    /// nothing if there is no such file.
    ///
    /// # Errors
    ///
    /// Returns the file system's error if the permissions cannot be read or set.
    fn copy_permissions(&self, path: &Path) -> io::Result<()>;
}
