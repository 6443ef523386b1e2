//! Folders that were removed, and whose state is still to be dropped.
//!
//! A removal is noted here before the configuration changes, so that neither an
//! end in between nor a removal without a running instance leaves the state
//! behind for ever. A folder that is merely not in the configuration (the file
//! was edited by hand, or is an older one) is not noted, and loses nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{AtomicWrite, Disk as _, Permissions, RealDisk, write_atomic};
use parking_lot::Mutex;
use types::FolderId;

/// The longest list, in bytes.
const LEN_MAX: u64 = 1 << 20;

/// The list of them, the file `removed-folders` in the data directory: one id a
/// line. Clones share it; only one process changes it, the instance or, where
/// none runs, the command line.
#[derive(Clone, Debug)]
pub struct RemovedFolders {
    dir: PathBuf,
    changing: Arc<Mutex<()>>,
}

impl RemovedFolders {
    /// The list of the instance whose data are in `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.to_owned(), changing: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("removed-folders")
    }

    /// Notes that a folder is removed; it is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn note(&self, folder: &FolderId) -> io::Result<()> {
        // Where there are no data, there is no state to drop.
        if !self.dir.is_dir() {
            return Ok(());
        }
        self.change(|all| {
            if !all.contains(folder) {
                all.push(folder.clone());
            }
        })
    }

    /// Takes a folder from the list: its state is dropped, or it was not
    /// removed after all.
    pub(crate) fn settle(&self, folder: &FolderId) -> io::Result<()> {
        self.change(|all| all.retain(|one| one != folder))
    }

    /// The folders whose state is to be dropped. A line that is no id says
    /// nothing.
    pub(crate) fn list(&self) -> io::Result<Vec<FolderId>> {
        let mut text = String::new();
        match File::open(self.path()) {
            Ok(file) => file.take(LEN_MAX).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn change(&self, change: impl FnOnce(&mut Vec<FolderId>)) -> io::Result<()> {
        let _changing = self.changing.lock();
        let before = self.list()?;
        let mut all = before.clone();
        change(&mut all);
        if all == before {
            return Ok(());
        }
        if all.is_empty() {
            std::fs::remove_file(self.path())?;
            RealDisk.sync_dir(&self.dir)?;
        } else {
            let text: String = all.iter().map(|folder| format!("{folder}\n")).collect();
            let options =
                AtomicWrite { permissions: Permissions::Mode(0o666), ..AtomicWrite::PRIVATE };
            write_atomic(&RealDisk, &self.path(), text.as_bytes(), &options)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_stays_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let id = |byte: u8| FolderId::from_random([byte; 16]);
        let removed = RemovedFolders::new(dir.path());
        assert_eq!(removed.list().unwrap(), []);
        removed.settle(&id(1)).unwrap();
        for byte in [1, 2, 1] {
            removed.note(&id(byte)).unwrap();
        }
        let again = RemovedFolders::new(dir.path());
        assert_eq!(again.list().unwrap(), [id(1), id(2)]);
        again.settle(&id(1)).unwrap();
        again.settle(&id(2)).unwrap();
        assert_eq!(removed.list().unwrap(), []);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // There is nothing to drop where nothing was ever kept.
        RemovedFolders::new(&dir.path().join("none")).note(&id(1)).unwrap();
        // What is no id harms nobody.
        std::fs::write(dir.path().join("removed-folders"), format!("../x\n\n{}\n", id(3))).unwrap();
        assert_eq!(removed.list().unwrap(), [id(3)]);
    }
}
