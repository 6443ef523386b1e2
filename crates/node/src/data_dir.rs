//! The files of an instance in its data directory.

use std::path::{Path, PathBuf};

use net::PeerId;

use crate::start_error::StartError;

/// The paths in a data directory.
pub(crate) struct DataDir<'a>(pub(crate) &'a Path);

impl DataDir<'_> {
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }
    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("identity.key")
    }
    pub(crate) fn token(&self) -> PathBuf {
        self.0.join("api-token")
    }
    pub(crate) fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }
    pub(crate) fn traffic(&self) -> PathBuf {
        self.0.join("traffic.json")
    }
    pub(crate) fn healing(&self) -> PathBuf {
        self.0.join("healing.json")
    }
    pub(crate) fn last_verification(&self) -> PathBuf {
        self.0.join("last-verification.json")
    }
    pub(crate) fn running(&self) -> PathBuf {
        self.0.join("running.json")
    }
}

/// Returns the peer id of the instance whose data is in `dir`. Creates its key
/// if there is none.
///
/// # Errors
///
/// Returns [`StartError::Identity`] if the key cannot be read or created.
pub fn load_identity(dir: &Path) -> Result<PeerId, StartError> {
    let keypair = net::identity::load_or_create(&DataDir(dir).key())?;
    Ok(keypair.public().to_peer_id())
}

/// Creates the data directory, accessible to its owner only.
///
/// # Errors
///
/// Returns [`StartError::Data`] if the directory cannot be created.
pub fn make_data_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StartError::Data { path: path.to_owned(), source })
}
