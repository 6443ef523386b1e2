//! The files of an instance in its data directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup::IssuedReceipts;
use config::Config;
use disk::RealDisk;
use net::{Keypair, PeerId};
use store::{PackStore, StoreOptions};

use crate::start_error::StartError;
use crate::store_marker::{MarkerError, MissingMarkers, StoreMarkers};

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

    pub(crate) fn markers(&self) -> StoreMarkers<'_> {
        StoreMarkers::new(&RealDisk, self.0, self.store(), self.key())
    }

    /// Returns the identity, or `None` if there is none.
    pub(crate) fn identity(&self) -> Result<Option<Keypair>, StartError> {
        let key = self.key();
        // Only "not found" means that there is none.
        match std::fs::symlink_metadata(&key) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            _ => Ok(Some(net::identity::load_or_create(&key)?)),
        }
    }

    /// Checks that the data directory, the store and the identity belong together.
    /// Creates the identity of a new instance. Returns the markers that are missing.
    ///
    /// # Errors
    ///
    /// Returns [`StartError::Marker`] if they do not belong together, and
    /// [`StartError::Identity`] if the key cannot be read or created.
    pub(crate) fn check(&self) -> Result<(Keypair, Option<MissingMarkers>), StartError> {
        let identity = self.identity()?;
        let own = identity.as_ref().map(|identity| identity.public().to_peer_id());
        let missing = self.markers().check(own.as_ref())?;
        let identity = match identity {
            Some(identity) => identity,
            None => net::identity::load_or_create(&self.key())?,
        };
        Ok((identity, missing))
    }
}

/// Returns the peer id of the instance whose data is in `dir`. Creates its key if
/// there is none, unless there is a store already.
///
/// # Errors
///
/// Returns [`StartError::Marker`] if the data directory, the store and the key do not
/// belong together, and [`StartError::Identity`] if the key cannot be read or created.
pub fn load_identity(dir: &Path) -> Result<PeerId, StartError> {
    Ok(DataDir(dir).check()?.0.public().to_peer_id())
}

/// Returns the peer id of the key in `dir`, or `None` if there is no key. Changes nothing, and does
/// not check that the key and the store belong together.
///
/// # Errors
///
/// Returns [`StartError::Identity`] if the key cannot be read.
pub fn read_identity(dir: &Path) -> Result<Option<PeerId>, StartError> {
    Ok(DataDir(dir).identity()?.map(|identity| identity.public().to_peer_id()))
}

/// Accepts the store in `dir`, or creates an empty one if there is none, and a new
/// identity: the next start writes new markers. Call it only if the user has asked for it.
///
/// # Errors
///
/// Returns [`StartError::Data`] if a marker cannot be removed or the loss of the snapshots cannot
/// be recorded, [`StartError::Marker`] if the
/// directory of the store cannot be read, and [`StartError::Store`] if the store cannot be
/// created.
pub fn accept_store(dir: &Path) -> Result<PeerId, StartError> {
    let data = DataDir(dir);
    let markers = data.markers();
    let has_store = markers.has_content()?;
    markers
        .remove()
        .map_err(|error| StartError::Data { path: dir.to_owned(), source: error.into() })?;
    if !has_store {
        // A used data directory without a store and without markers is refused.
        PackStore::open(&data.store(), &StoreOptions::default())?;
        if let Some(key) = data.identity()? {
            // The new store misses nothing.
            let issued = IssuedReceipts::new(Arc::new(RealDisk), dir, key);
            issued.discard(|_| true).map_err(|error| StartError::Data {
                path: dir.to_owned(),
                source: std::io::Error::other(error),
            })?;
        }
    }
    Ok(net::identity::load_or_create(&data.key())?.public().to_peer_id())
}

/// Checks that the store of the data directory `dir` is there and is not another one,
/// for commands that use it without an instance. Changes nothing.
///
/// # Errors
///
/// Returns [`MarkerError`] if it is not.
pub fn check_store(dir: &Path) -> Result<(), MarkerError> {
    DataDir(dir).markers().check_store()
}

/// Same as [`check_store`], for commands that change the store: the identity in the data
/// directory must also be the one that the store belongs to.
///
/// # Errors
///
/// Returns [`StartError::Marker`] if the data directory, the store and the key do not
/// belong together, and [`StartError::Identity`] if the key cannot be read.
pub fn check_own_store(dir: &Path) -> Result<(), StartError> {
    let data = DataDir(dir);
    let own = data.identity()?.map(|identity| identity.public().to_peer_id());
    data.markers().check(own.as_ref())?;
    Ok(())
}

/// Refuses a data directory that exists and is empty if the configuration shows that
/// the instance was used before: its disk is not mounted.
///
/// # Errors
///
/// Returns [`StartError::Marker`].
pub(crate) fn refuse_empty(dir: &Path, config: &Config) -> Result<(), StartError> {
    let is_used = !config.sync.folders.is_empty() || !config.backup_server.source_peers.is_empty();
    let is_empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if is_used && is_empty {
        return Err(MarkerError::EmptyDataDir(dir.to_owned()).into());
    }
    Ok(())
}

/// Rights of the group and of other users.
const OTHERS: u32 = 0o077;

/// Creates the data directory, accessible to its owner only. Takes the rights of others from one
/// that exists: whoever can enter it can read backups.
///
/// # Errors
///
/// Returns [`StartError::Data`] if the directory cannot be created or read, and
/// [`StartError::OpenDataDir`] if the rights of others cannot be taken away.
pub fn make_data_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let fail = |source| StartError::Data { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
    let mode = || -> Result<u32, StartError> {
        Ok(std::fs::metadata(path).map_err(fail)?.permissions().mode() & 0o7777)
    };
    let before = mode()?;
    if before & OTHERS == 0 {
        return Ok(());
    }
    let private = std::fs::Permissions::from_mode(before & !OTHERS);
    let changed = std::fs::set_permissions(path, private);
    // Some file systems have no rights, and report success.
    let after = mode()?;
    if after & OTHERS != 0 {
        let source = changed.err();
        return Err(StartError::OpenDataDir { path: path.to_owned(), mode: after, source });
    }
    tracing::warn!(
        path = %path.display(),
        before = format!("{before:o}"),
        after = format!("{after:o}"),
        "took the rights of other users from the data directory"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_data_directory_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/data");
        let mode = || std::fs::metadata(&data).unwrap().permissions().mode() & 0o7777;
        make_data_dir(&data).unwrap();
        assert_eq!(mode(), 0o700);
        for (open, closed) in [(0o755, 0o700), (0o711, 0o700), (0o2770, 0o2700)] {
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(open)).unwrap();
            make_data_dir(&data).unwrap();
            assert_eq!(mode(), closed);
        }
        // A directory whose rights cannot be changed, whoever runs the test.
        let refused = make_data_dir(Path::new("/proc/self/task")).unwrap_err();
        assert!(matches!(refused, StartError::OpenDataDir { .. }), "{refused:?}");
        assert!(
            refused.to_string().contains("/proc/self/task is open to other users"),
            "{refused}"
        );
    }
}
