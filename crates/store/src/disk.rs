//! The few things that the store asks of a file system, behind a trait, so
//! that the tests can count them, fail them and cut the power between them.
//!
//! What is assumed of a disk, and no more: written bytes are durable after
//! [`DiskFile::sync`]; a name (created, renamed or removed) is durable after
//! [`Disk::sync_dir`] of its directory; a rename replaces its target whole or
//! not at all. Between syncs anything may be lost, torn or reordered.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A file system, as far as the store uses one.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a directory and its parents; nothing where it is there already.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a file that must not exist, open for reading and writing.
    ///
    /// # Errors
    ///
    /// The file system's; `AlreadyExists` among them.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that must exist, for reading and writing.
    ///
    /// # Errors
    ///
    /// The file system's; `NotFound` among them.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what bore it.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// The file system's; `NotFound` among them.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no order.
    ///
    /// # Errors
    ///
    /// The file system's; `NotFound` among them.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// The file system's; what was not durable then may never be.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// The room below `dir`.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// The room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The bytes that may still be written.
    pub free: u64,
    /// All bytes that the file system holds, used or not.
    pub total: u64,
}

/// An open file. Reads and writes name their place, so that several threads
/// can use one.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Fills `buf` from `offset` on, and returns how much there was: less than
    /// `buf` holds only at the end of the file.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The `len` bytes from `offset` on; fewer only at the end of the file.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes all of `parts`, one behind the other, from `offset` on.
    ///
    /// # Errors
    ///
    /// The file system's; any part of it may have been written then.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, and the length with it.
    ///
    /// # Errors
    ///
    /// The file system's. What was written since the last sync that succeeded
    /// has to be taken as lost: Linux marks the pages clean after a failure,
    /// and a further sync would succeed without having written them (Rebello
    /// et al., "Can Applications Recover from fsync Failures?", ATC 2020).
    fn sync(&self) -> io::Result<()>;

    /// Says that what is durable of the first `len` bytes will not be read
    /// soon, so that the system need not keep it in memory. A hint: nothing
    /// changes by it.
    fn forget_cached(&self, len: u64) {
        let _ = len;
    }

    /// The length of the file, in bytes.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    ///
    /// The file system's.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Takes room on the disk for `len` bytes, which read as zeros.
    ///
    /// # Errors
    ///
    /// The file system's; `StorageFull` among them.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Takes the lock that keeps a second process out; it is held until the
    /// file is dropped, and dies with the process.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where another holds it.
    fn lock(&self) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        // What is backed up is nobody else's business.
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    // Without filling the place with zeros before: that was an eighth of the CPU
    // time of a machine that sends what it has.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&self.0, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn write_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        // The kernel takes at most IOV_MAX parts a call.
        for parts in parts.chunks(1024) {
            let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = slices.as_mut_slice();
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.0, rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget_cached(&self, len: u64) {
        let Some(len) = NonZeroU64::new(len) else { return };
        // A file system may not know of it.
        let _ = rustix::fs::fadvise(&self.0, 0, Some(len), rustix::fs::Advice::DontNeed);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                let mut at = 0;
                while at < len {
                    let part = usize::try_from(len - at).unwrap_or(usize::MAX).min(zeros.len());
                    self.write_at(&[&zeros[..part]], at)?;
                    at += part as u64;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn lock(&self) -> io::Result<()> {
        self.0.try_lock().map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_land_one_behind_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&dir.path().join("file")).unwrap();
        let parts: Vec<Vec<u8>> =
            (0..3000_u32).map(|n| n.to_le_bytes()[..(n % 4) as usize].to_vec()).collect();
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        file.write_at(&slices, 5).unwrap();
        let expected: Vec<u8> = parts.concat();
        let mut read = vec![1; expected.len() + 100];
        assert_eq!(file.read_at(&mut read, 5).unwrap(), expected.len());
        assert_eq!(&read[..expected.len()], expected);
        assert_eq!(file.len().unwrap(), 5 + expected.len() as u64);
        assert_eq!(file.read_vec_at(expected.len(), 5).unwrap(), expected);
        assert_eq!(file.read_vec_at(expected.len() + 100, 5).unwrap(), expected);
        assert_eq!(file.read_vec_at(7, 6).unwrap(), expected[1..8]);
        assert!(file.read_vec_at(7, 1 << 40).unwrap().is_empty());
    }

    #[test]
    fn what_is_forgotten_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&dir.path().join("file")).unwrap();
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        file.write_at(&[&bytes], 0).unwrap();
        // Not durable yet, half of it, and all.
        for len in [0, 1, 200_000, u64::MAX] {
            file.forget_cached(len);
            let mut read = vec![0; bytes.len()];
            assert_eq!(file.read_at(&mut read, 0).unwrap(), bytes.len());
            assert!(read == bytes, "{len}");
            file.sync().unwrap();
        }
    }

    #[test]
    fn a_second_lock_is_refused_and_dies_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = RealDisk.create(&path).unwrap();
        first.lock().unwrap();
        let second = RealDisk.open(&path).unwrap();
        assert_eq!(second.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        second.lock().unwrap();
    }
}
