//! Markers that tie a data directory to its store.
//!
//! `marker.json` in the data directory and in the store have the same content: the
//! name of the store, which is random, and the peer id of the instance. So a store
//! that is missing because its disk is not mounted, a store on another disk, or a lost
//! identity is noticed before anything is created in its place. `docs/formats/state.md`
//! describes the file, `docs/decisions/0011-reading-without-writing.md` has the reasons.
//!
//! The marker of the store is written first: a data directory that has a marker has
//! had a store with one.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use disk::{AtomicWrite, Disk, FileError, Permissions, read_file, write_atomic};
use net::PeerId;
use serde::{Deserialize, Serialize};

/// File name of both markers.
const FILE: &str = "marker.json";
/// Maximum length of a marker in bytes.
const LEN_MAX: u64 = 4096;
/// Version of the content.
const VERSION: u32 = 1;
/// Names of which the directory of a store, also of one that is being created, has at least one.
const STORE_NAMES: [&str; 4] = ["format", "packs", "roots", FILE];
/// Directories with the content of a store. The logs of the roots are created before the markers.
const CONTENT_DIRS: [&str; 2] = ["roots", "packs"];
/// Names in the data directory that only an instance with an open store creates. `init`,
/// and a first start that ended before its store existed, create none of them.
const INSTANCE_NAMES: [&str; 11] = [
    backup::STATE_FILE_NAME,
    "issued-receipts",
    "accepted.json",
    "set-back.json",
    "receipts",
    "sync",
    "journal.jsonl",
    "traffic.json",
    "healing.json",
    "last-verification.json",
    "ui-sessions.json",
];

/// The content of a marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    /// Random name of the store: 32 hex digits.
    store: String,
    /// Peer id of the instance.
    peer_id: String,
}

impl Marker {
    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|marker: &Self| marker.version == VERSION)
    }
}

/// Why a data directory and a store do not belong together. The message tells what
/// to do.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// A marker or a directory cannot be read. It is not taken for a missing one.
    #[error("cannot read {}, which tells whether this is the store of this instance", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A marker has another content or version than this program writes.
    #[error(
        "{} is damaged or was written by a newer version of this program: use that version, or, if \
         the store is the right one, run `archivist init --accept-store`",
        .0.display()
    )]
    Damaged(PathBuf),
    /// The data directory had a store, as its marker or its other files show, and there is
    /// none.
    #[error(
        "the store in {} is missing, and nothing was created in its place: check that its disk is \
         mounted, then try again; if the store is lost for good, run `archivist init \
         --accept-store`, which creates an empty one",
        .0.display()
    )]
    StoreMissing(PathBuf),
    /// The store has a marker, and neither packs nor logs of roots.
    #[error(
        "the store in {} has lost its content: only its marker is left, and nothing was created in \
         its place: check which disk is mounted there, or bring the files back, then try again; if \
         the store is lost for good, run `archivist init --accept-store`, which creates an empty \
         one",
        .0.display()
    )]
    StoreEmptied(PathBuf),
    /// There is another file in the place of the store.
    #[error(
        "{} is not a directory, so it is not the store of this instance: check what is mounted \
         there, or move the file away, then try again",
        .0.display()
    )]
    NotADirectory(PathBuf),
    /// There is a store, but not the one of this data directory.
    #[error(
        "{} contains another store than the one of this instance: check which disk is mounted \
         there, then try again; if it is the right one, run `archivist init --accept-store`",
        .0.display()
    )]
    OtherStore(PathBuf),
    /// The store or the data directory belongs to another instance.
    #[error(
        "{} belongs to the instance {owner}, and {} is the key of {own}: check which disk is \
         mounted, or copy the key back from a backup; if both belong together now, run `archivist \
         init --accept-store`",
        path.display(), key.display()
    )]
    OtherInstance {
        /// The store or the data directory.
        path: PathBuf,
        /// Peer id in its marker.
        owner: String,
        /// The file of the identity.
        key: PathBuf,
        /// Peer id of the identity.
        own: String,
    },
    /// There is a store, and no identity.
    #[error(
        "{} is missing beside an existing store, and no new identity was created: other computers \
         recognise this instance by that file; check that the disk of the data directory is \
         mounted, or copy the file back from a backup; to continue with a new identity, run \
         `archivist init --accept-store`",
        .0.display()
    )]
    NoIdentity(PathBuf),
    /// The data directory is empty although the configuration is not.
    #[error(
        "{} is empty, although the configuration names folders or sources: check that its disk is \
         mounted; if this instance was never started, run `archivist init` first",
        .0.display()
    )]
    EmptyDataDir(PathBuf),
}

/// A data directory with its store.
#[derive(Debug)]
pub(crate) struct StoreMarkers<'a> {
    disk: &'a dyn Disk,
    data_dir: &'a Path,
    store_dir: PathBuf,
    key: PathBuf,
}

/// Markers that are still to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MissingMarkers {
    /// The marker of the store, for the data directory, if there is one.
    of_store: Option<Marker>,
}

impl<'a> StoreMarkers<'a> {
    pub(crate) fn new(
        disk: &'a dyn Disk,
        data_dir: &'a Path,
        store_dir: PathBuf,
        key: PathBuf,
    ) -> Self {
        Self { disk, data_dir, store_dir, key }
    }

    /// Checks that the data directory, the store and the identity belong together,
    /// without writing. `own` is the peer id of the identity, or `None` if there is no
    /// identity. Returns the markers that are missing.
    ///
    /// # Errors
    ///
    /// Returns [`MarkerError`] if they do not belong together, or if that is not known.
    pub(crate) fn check(
        &self,
        own: Option<&PeerId>,
    ) -> Result<Option<MissingMarkers>, MarkerError> {
        let (of_data, of_store) = self.compare()?;
        let Some(own) = own.map(ToString::to_string) else {
            let is_new = of_data.is_none() && !self.has_store()?;
            return if is_new {
                Ok(Some(MissingMarkers { of_store: None }))
            } else {
                Err(MarkerError::NoIdentity(self.key.clone()))
            };
        };
        let markers = [(&of_store, &*self.store_dir), (&of_data, self.data_dir)];
        for (marker, path) in markers {
            if let Some(marker) = marker
                && marker.peer_id != own
            {
                let (path, owner) = (path.to_owned(), marker.peer_id.clone());
                return Err(MarkerError::OtherInstance { path, owner, key: self.key.clone(), own });
            }
        }
        Ok(of_data.is_none().then_some(MissingMarkers { of_store }))
    }

    /// Checks that the data directory and the store belong together, whoever owns
    /// them.
    ///
    /// # Errors
    ///
    /// Same as [`StoreMarkers::check`].
    pub(crate) fn check_store(&self) -> Result<(), MarkerError> {
        self.compare().map(drop)
    }

    /// Reads both markers and compares them.
    fn compare(&self) -> Result<(Option<Marker>, Option<Marker>), MarkerError> {
        let has_content = self.has_content()?;
        let [of_data, of_store] = [self.read(self.data_dir), self.read(&self.store_dir)];
        if !has_content && !matches!(of_store, Ok(None)) {
            return Err(MarkerError::StoreEmptied(self.store_dir.clone()));
        }
        // An instance that is older than the markers has none before its first start with this
        // version, which must not create an empty store either.
        if !has_content && (!matches!(of_data, Ok(None)) || self.was_used()?) {
            return Err(MarkerError::StoreMissing(self.store_dir.clone()));
        }
        let (of_data, of_store) = (of_data?, of_store?);
        match (&of_data, &of_store) {
            (Some(_), None) => return Err(MarkerError::OtherStore(self.store_dir.clone())),
            (Some(data), Some(store)) if data.store != store.store => {
                return Err(MarkerError::OtherStore(self.store_dir.clone()));
            }
            _ => {}
        }
        Ok((of_data, of_store))
    }

    fn read(&self, dir: &Path) -> Result<Option<Marker>, MarkerError> {
        let path = dir.join(FILE);
        let bytes = match read_file(self.disk, &path, LEN_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(FileError::TooLong { .. }) => return Err(MarkerError::Damaged(path)),
            Err(FileError::Io { source, .. }) => {
                return Err(MarkerError::Unreadable { path, source });
            }
        };
        Marker::parse(&bytes).map(Some).ok_or(MarkerError::Damaged(path))
    }

    /// Reports whether there is a store, or one that is being created. An empty directory, or
    /// one in which there is something else, is none.
    fn has_store(&self) -> Result<bool, MarkerError> {
        self.has_any(&self.store_dir, &STORE_NAMES)
    }

    /// Reports whether the store has packs or logs of roots. Each store has the logs, from its
    /// creation on.
    ///
    /// # Errors
    ///
    /// Returns [`MarkerError::NotADirectory`] if there is another file in the place of the store,
    /// and [`MarkerError::Unreadable`] if a directory cannot be listed.
    pub(crate) fn has_content(&self) -> Result<bool, MarkerError> {
        self.list(&self.store_dir)?;
        for dir in CONTENT_DIRS {
            if !self.list(&self.store_dir.join(dir))?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reports whether an instance with a store has run on the data directory.
    fn was_used(&self) -> Result<bool, MarkerError> {
        self.has_any(self.data_dir, &INSTANCE_NAMES)
    }

    /// Reports whether a directory exists and has one of these names.
    fn has_any(&self, dir: &Path, wanted: &[&str]) -> Result<bool, MarkerError> {
        let names = self.list(dir)?;
        Ok(names.iter().any(|name| wanted.iter().any(|one| name == one)))
    }

    /// Returns the names in a directory; none if it does not exist.
    fn list(&self, dir: &Path) -> Result<Vec<OsString>, MarkerError> {
        match self.disk.list(dir) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                Err(MarkerError::NotADirectory(dir.to_owned()))
            }
            Err(source) => Err(MarkerError::Unreadable { path: dir.to_owned(), source }),
        }
    }

    /// Writes the markers that [`StoreMarkers::check`] has found missing, the one of
    /// the store first. The store is open: no other process writes them.
    ///
    /// # Errors
    ///
    /// Returns [`FileError`] if a marker cannot be written. The next start tries again.
    pub(crate) fn write(&self, missing: MissingMarkers, own: &PeerId) -> Result<(), FileError> {
        let name = || rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
        let has_store_marker = missing.of_store.is_some();
        let marker = missing.of_store.unwrap_or_else(|| Marker {
            version: VERSION,
            store: name(),
            peer_id: own.to_string(),
        });
        let text = serde_json::to_vec(&marker).unwrap_or_default();
        if !has_store_marker {
            self.write_one(&self.store_dir, &text)?;
        }
        self.write_one(self.data_dir, &text)
    }

    fn write_one(&self, dir: &Path, text: &[u8]) -> Result<(), FileError> {
        // Nothing in it is secret, and other users may read the store.
        let options = AtomicWrite { permissions: Permissions::Mode(0o644), ..AtomicWrite::PRIVATE };
        write_atomic(self.disk, &dir.join(FILE), text, &options).map(drop)
    }

    /// Removes both markers: the next start accepts the store as it is.
    ///
    /// # Errors
    ///
    /// Returns [`FileError`] if a marker exists and cannot be removed.
    pub(crate) fn remove(&self) -> Result<(), FileError> {
        for dir in [self.data_dir, &*self.store_dir] {
            let path = dir.join(FILE);
            match self.disk.remove(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(FileError::Io { action: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}
