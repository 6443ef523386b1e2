//! `running.json`: how a command finds the instance that runs on a data
//! directory.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use disk::{AtomicWrite, DiskFile, Permissions, RealDisk, write_atomic};
use serde::{Deserialize, Serialize};

use crate::data_dir::DataDir;
use crate::start_error::StartError;

/// Maximum length of `running.json` in bytes.
const FILE_LEN_MAX: u64 = 4096;

/// The content of `running.json`. The instance keeps a lock on the file; the
/// lock ends with the process, however the process ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The address of its API.
    pub api: SocketAddr,
    /// The process id.
    pub pid: u32,
}

impl Running {
    /// Finds the instance that runs on the data in `dir`. A file without a lock
    /// was left behind by a killed instance and is ignored: another program may
    /// listen on its port now, and must not receive the token.
    pub fn find(dir: &Path) -> Option<Self> {
        let file = File::open(DataDir(dir).running()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let mut text = Vec::new();
        file.take(FILE_LEN_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Publishes the file in `dir`, until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`StartError::Data`] if the file cannot be written or locked.
    pub(crate) fn publish(&self, dir: &Path) -> Result<RunningFile, StartError> {
        let path = DataDir(dir).running();
        let text = serde_json::to_vec(self).unwrap_or_default();
        // The file is locked before it gets its name: a file without a lock was
        // left behind by an instance that has ended.
        let options = AtomicWrite {
            permissions: Permissions::Mode(0o666),
            lock: true,
            ..AtomicWrite::PRIVATE
        };
        match write_atomic(&RealDisk, &path, &text, &options) {
            Ok(lock) => Ok(RunningFile { path, _lock: lock }),
            Err(error) => Err(StartError::Data { path, source: error.into() }),
        }
    }
}

/// The published, locked file. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct RunningFile {
    path: PathBuf,
    _lock: Box<dyn DiskFile>,
}

impl Drop for RunningFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_running() {
        let running = Running { api: "[::1]:8080".parse().unwrap(), pid: 7 };
        fuzzing::target!(&[serde_json::to_vec(&running).unwrap()], |bytes: &[u8]| {
            if let Ok(found) = serde_json::from_slice::<Running>(bytes) {
                let again = serde_json::to_vec(&found).unwrap();
                assert_eq!(serde_json::from_slice::<Running>(&again).unwrap(), found);
            }
        });
    }
}
