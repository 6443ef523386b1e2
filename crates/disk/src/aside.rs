//! Names under which damaged and unreadable files are kept: `NAME.damaged-1`, `NAME.damaged-2`, …
//!
//! Invariant: a file that is kept is never replaced.

use std::path::{Path, PathBuf};

use crate::atomic::{AtomicWrite, Existing, FileError, directory, write_atomic};
use crate::disk::Disk;

/// Follows the name of a file in the name of a copy that is kept, before a number.
pub const ASIDE: &str = ".damaged-";

/// The next free name for the damaged content of a file.
#[derive(Debug)]
pub struct Aside<'a> {
    disk: &'a dyn Disk,
    original: &'a Path,
    path: PathBuf,
    number: u64,
}

impl<'a> Aside<'a> {
    /// Finds the next free name for the content of `original`.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::Io`] if the directory cannot be listed.
    pub fn next(disk: &'a dyn Disk, original: &'a Path) -> Result<Self, FileError> {
        let dir = directory(original);
        let names = disk.list(dir).map_err(FileError::io("list", dir))?;
        let mut name = original.file_name().unwrap_or_default().to_owned();
        name.push(ASIDE);
        let numbers = names.iter().filter_map(|used| {
            let number = used.as_encoded_bytes().strip_prefix(name.as_encoded_bytes())?;
            std::str::from_utf8(number).ok()?.parse::<u64>().ok()
        });
        let number = numbers.max().unwrap_or(0).saturating_add(1);
        name.push(number.to_string());
        Ok(Self { disk, original, path: dir.join(name), number })
    }

    /// Returns the path with the free name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number in the name; 1 for the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Writes `content`, which was read of the file, under the free name, durably. The file itself
    /// stays.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::Io`] if an operation fails.
    pub fn copy(&self, content: &[u8]) -> Result<(), FileError> {
        let options = AtomicWrite { existing: Existing::Keep, ..AtomicWrite::PRIVATE };
        write_atomic(self.disk, &self.path, content, &options).map(drop)
    }

    /// Renames the file to the free name, durably. Needs no readable content and hardly any space.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::Io`] if an operation fails.
    pub fn rename(&self) -> Result<(), FileError> {
        let (original, dir) = (self.original, directory(self.original));
        self.disk.rename_new(original, &self.path).map_err(FileError::io("rename", original))?;
        self.disk.sync_dir(dir).map_err(FileError::io("sync", dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_file;
    use crate::sim::{Power, SimDisk};

    #[test]
    fn every_content_that_is_kept_gets_a_name_of_its_own_and_stays_after_a_power_cut() {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/d")).unwrap();
        let path = Path::new("/d/list.json");
        // Names of other files, and a number that leaves a gap.
        for other in ["list.json.damaged-", "list.json.damaged-x", "list.jso", "other.damaged-70"] {
            write_atomic(&disk, &Path::new("/d").join(other), b"", &AtomicWrite::PRIVATE).unwrap();
        }
        let first = Aside::next(&disk, path).unwrap();
        assert_eq!((first.path(), first.number()), (Path::new("/d/list.json.damaged-1"), 1));
        first.copy(b"one").unwrap();
        // The name is taken now: nothing is replaced.
        assert_eq!(first.copy(b"two").unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        write_atomic(&disk, path, b"two", &AtomicWrite::PRIVATE).unwrap();
        assert_eq!(first.rename().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        let ninth = Path::new("/d/list.json.damaged-9");
        write_atomic(&disk, ninth, b"", &AtomicWrite::PRIVATE).unwrap();
        let tenth = Aside::next(&disk, path).unwrap();
        assert_eq!(tenth.path(), Path::new("/d/list.json.damaged-10"));
        tenth.rename().unwrap();
        let after = disk.crash(Power::Dropped);
        assert_eq!(read_file(&after, Path::new("/d/list.json.damaged-1"), 9).unwrap(), b"one");
        assert_eq!(read_file(&after, Path::new("/d/list.json.damaged-10"), 9).unwrap(), b"two");
        assert!(after.open_read(path).is_err());
    }
}
