//! The list of removed folders whose state must still be dropped.
//!
//! A removal is added to the list before the configuration changes. So neither a
//! crash in between nor a removal without a running instance leaves the state
//! behind permanently. A folder that is merely missing in the configuration (the
//! file was edited by hand, or replaced by an older one) is not in the list and
//! keeps its state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{
    AtomicWrite, Disk as _, Parsed, Permissions, RealDisk, read_file, read_state, write_atomic,
};
use parking_lot::Mutex;
use types::FolderId;

/// Maximum length of the list in bytes.
const LEN_MAX: u64 = 1 << 20;

/// The list of removed folders: the file `removed-folders` in the data
/// directory, with one id per line. Clones share it. Only one process changes
/// the file: the instance or, if none is running, the command.
#[derive(Clone, Debug)]
pub struct RemovedFolders {
    dir: PathBuf,
    changing: Arc<Mutex<()>>,
}

impl RemovedFolders {
    /// Opens the list of the instance whose data is in `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.to_owned(), changing: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("removed-folders")
    }

    /// Adds a folder to the list. The list is durable when this returns.
    ///
    /// # Errors
    ///
    /// Returns the error of the file system if the list cannot be read or
    /// written.
    pub fn note(&self, folder: &FolderId) -> io::Result<()> {
        // Without a data directory there is no state to drop.
        if !self.dir.is_dir() {
            return Ok(());
        }
        self.change(|all| {
            if !all.contains(folder) {
                all.push(folder.clone());
            }
        })
    }

    /// Takes a folder off the list: its state is dropped, or it was not removed
    /// after all.
    pub(crate) fn unlist(&self, folder: &FolderId) -> io::Result<()> {
        self.change(|all| all.retain(|listed| listed != folder))
    }

    /// Returns the folders whose state must be dropped. Lines that are not ids
    /// are ignored.
    pub(crate) fn list(&self) -> io::Result<Vec<FolderId>> {
        match read_file(&RealDisk, &self.path(), LEN_MAX) {
            Ok(bytes) => Ok(parse(&bytes).usable().unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<FolderId>)) -> io::Result<()> {
        let _changing = self.changing.lock();
        // The lines that are not ids are kept in a copy.
        let read = read_state(&RealDisk, &self.path(), LEN_MAX, parse).map_err(io::Error::other)?;
        if let Some(kept) = &read.kept {
            tracing::warn!("the list of removed folders: {kept}");
        }
        let before: Vec<FolderId> = read.value.unwrap_or_default();
        let mut all = before.clone();
        change(&mut all);
        if all == before && read.kept.is_none() {
            return Ok(());
        }
        if all.is_empty() {
            match std::fs::remove_file(self.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
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

fn parse(bytes: &[u8]) -> Parsed<Vec<FolderId>> {
    Parsed::of_lines(bytes, |line| line.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_folder_stays_until_it_is_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let id = |byte: u8| FolderId::from_random([byte; 16]);
        let removed = RemovedFolders::new(dir.path());
        assert_eq!(removed.list().unwrap(), []);
        removed.unlist(&id(1)).unwrap();
        for byte in [1, 2, 1] {
            removed.note(&id(byte)).unwrap();
        }
        let again = RemovedFolders::new(dir.path());
        assert_eq!(again.list().unwrap(), [id(1), id(2)]);
        again.unlist(&id(1)).unwrap();
        again.unlist(&id(2)).unwrap();
        assert_eq!(removed.list().unwrap(), []);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // Without a data directory nothing is listed.
        RemovedFolders::new(&dir.path().join("none")).note(&id(1)).unwrap();
        // Other lines are ignored, and kept in a copy when the list changes.
        let damaged = format!("../x\n\n{}\n", id(3));
        std::fs::write(dir.path().join("removed-folders"), &damaged).unwrap();
        assert_eq!(removed.list().unwrap(), [id(3)]);
        removed.note(&id(4)).unwrap();
        assert_eq!(again.list().unwrap(), [id(3), id(4)]);
        let copy = dir.path().join("removed-folders.damaged-1");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), damaged);
        // A list that is too long is not cut off.
        let long = "x".repeat(usize::try_from(LEN_MAX).unwrap() + 1);
        std::fs::write(dir.path().join("removed-folders"), &long).unwrap();
        assert!(removed.list().is_err());
    }

    #[test]
    fn fuzz_removed_folders() {
        let text = format!("{}\ndocs\n", FolderId::from_random([1; 16]));
        fuzzing::target!(&[text], |bytes: &[u8]| {
            for folder in parse(bytes).usable().unwrap_or_default() {
                assert_eq!(parse(folder.to_string().as_bytes()), Parsed::Valid(vec![folder]));
            }
        });
    }
}
