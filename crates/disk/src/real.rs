//! The file system of this computer.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt, PermissionsExt as _};
use std::path::Path;

use crate::disk::{Disk, DiskFile, Space};

/// The file system of this computer.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn create_with_mode(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems (NFS among them) do not support the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::hard_link(from, to)?;
                // The new name exists, so the call has succeeded. A second name that
                // stays behind does no harm; an error would say that nothing happened.
                let _ = std::fs::remove_file(from);
                Ok(())
            }
            result => Ok(result?),
        }
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
            is_read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
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

    // Does not fill the buffer with zeros first: that took an eighth of the CPU
    // time of a source that sends blocks.
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
        // The kernel accepts at most IOV_MAX parts per call.
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

    fn drop_cache(&self, len: u64) {
        let Some(len) = NonZeroU64::new(len) else { return };
        // Some file systems do not support the hint.
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

    fn lock_shared(&self) -> io::Result<()> {
        self.0.try_lock_shared().map_err(Into::into)
    }

    fn copy_permissions(&self, path: &Path) -> io::Result<()> {
        let from = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let own = self.0.metadata()?;
        if (own.uid(), own.gid()) != (from.uid(), from.gid()) {
            // Only root may give a file away.
            let _ = std::os::unix::fs::fchown(&self.0, Some(from.uid()), Some(from.gid()));
        }
        let mode = std::fs::Permissions::from_mode(from.permissions().mode() & 0o7777);
        self.0.set_permissions(mode)?;
        // `sync` leaves out metadata that is not needed to read the file.
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_new_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        RealDisk.create(&from).unwrap();
        RealDisk.rename_new(&from, &to).unwrap();
        assert!(!from.exists());
        RealDisk.create(&from).unwrap();
        let error = RealDisk.rename_new(&from, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(from.exists());
    }

    #[test]
    fn permissions_are_copied_if_there_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        let file = RealDisk.create(&to).unwrap();
        let mode = || std::fs::metadata(&to).unwrap().permissions().mode() & 0o7777;
        file.copy_permissions(&from).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::write(&from, "").unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o644)).unwrap();
        file.copy_permissions(&from).unwrap();
        assert_eq!(mode(), 0o644);
    }

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
            file.drop_cache(len);
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

    #[test]
    fn a_file_that_is_open_for_reading_can_be_locked_and_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let writer = RealDisk.create(&path).unwrap();
        writer.write_at(&[b"content"], 0).unwrap();
        let readers = [(); 2].map(|()| RealDisk.open_read(&path).unwrap());
        for reader in &readers {
            reader.lock_shared().unwrap();
            assert_eq!(reader.read_vec_at(10, 0).unwrap(), b"content");
            assert!(reader.write_at(&[b"other"], 0).is_err());
        }
        assert_eq!(writer.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(readers);
        writer.lock().unwrap();
        let reader = RealDisk.open_read(&path).unwrap();
        assert_eq!(reader.lock_shared().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let missing = RealDisk.open_read(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
