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
/// Names of which a store has at least one.
const STORE_NAMES: [&str; 4] = ["format", "packs", "roots", FILE];
/// Names in the data directory that only an instance with an open store creates. `init`,
/// and a first start that ended before its store existed, create none of them.
const INSTANCE_NAMES: [&str; 9] = [
    backup::STATE_FILE_NAME,
    "issued-receipts",
    "accepted.json",
    "receipts",
    "sync",
    "journal.jsonl",
    "traffic.json",
    "healing.json",
    "last-verification.json",
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
        let of_data = self.read(self.data_dir)?;
        let of_store = self.read(&self.store_dir)?;
        match (&of_data, &of_store) {
            // An instance that is older than the markers has none before its first start
            // with this version, which must not create an empty store either.
            (None, None) if !self.has_store()? && self.was_used()? => {
                return Err(MarkerError::StoreMissing(self.store_dir.clone()));
            }
            (Some(_), None) if !self.has_store()? => {
                return Err(MarkerError::StoreMissing(self.store_dir.clone()));
            }
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

    /// Reports whether there is a store. An empty directory, or one in which there is
    /// something else, is none.
    ///
    /// # Errors
    ///
    /// Returns [`MarkerError::Unreadable`] if the directory cannot be listed.
    pub(crate) fn has_store(&self) -> Result<bool, MarkerError> {
        self.has_any(&self.store_dir, &STORE_NAMES)
    }

    /// Reports whether an instance with a store has run on the data directory.
    fn was_used(&self) -> Result<bool, MarkerError> {
        self.has_any(self.data_dir, &INSTANCE_NAMES)
    }

    /// Reports whether a directory exists and has one of these names.
    fn has_any(&self, dir: &Path, wanted: &[&str]) -> Result<bool, MarkerError> {
        match self.disk.list(dir) {
            Ok(names) => Ok(names.iter().any(|name| wanted.iter().any(|one| name == one))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
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

#[cfg(test)]
mod tests {
    use disk::sim::{Fault, Power, SimDisk};

    use super::*;

    const DATA: &str = "/data";
    const STORE: &str = "/data/store";

    fn markers(disk: &SimDisk) -> StoreMarkers<'_> {
        StoreMarkers::new(disk, Path::new(DATA), STORE.into(), "/data/identity.key".into())
    }

    fn create(disk: &SimDisk, path: &str) {
        disk.create(Path::new(path)).unwrap().sync().unwrap();
        disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
    }

    /// A disk with a data directory and a store without markers.
    fn unmarked() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir(Path::new(STORE)).unwrap();
        create(&disk, "/data/store/format");
        disk
    }

    fn marked(own: &PeerId) -> SimDisk {
        let disk = unmarked();
        let missing = markers(&disk).check(Some(own)).unwrap().unwrap();
        markers(&disk).write(missing, own).unwrap();
        assert_eq!(markers(&disk).check(Some(own)).unwrap(), None);
        disk
    }

    /// A new instance, and one that is older than the markers, get them.
    #[test]
    fn markers_are_written_once() {
        let own = PeerId::random();
        let disk = SimDisk::new();
        disk.create_dir(Path::new(STORE)).unwrap();
        // Nothing exists yet, not even the identity.
        assert!(markers(&disk).check(None).unwrap().is_some());
        let disk = marked(&own);
        let data = read_file(&disk, Path::new("/data/marker.json"), 1000).unwrap();
        let store = read_file(&disk, Path::new("/data/store/marker.json"), 1000).unwrap();
        assert_eq!(data, store);
        let marker: Marker = serde_json::from_slice(&data).unwrap();
        assert_eq!((marker.version, marker.peer_id), (1, own.to_string()));
        assert_eq!(marker.store.len(), 32);
    }

    #[test]
    fn a_store_that_is_missing_or_another_one_is_refused() {
        let own = PeerId::random();
        let disk = marked(&own);
        let check = |disk: &SimDisk| markers(disk).check(Some(&own));
        // Another disk, with an older store.
        disk.lose(Path::new("/data/store/marker.json"));
        assert!(matches!(check(&disk), Err(MarkerError::OtherStore(_))));
        // An empty mount point, or another disk that is empty.
        disk.lose(Path::new("/data/store/format"));
        assert!(matches!(check(&disk), Err(MarkerError::StoreMissing(_))));
        create(&disk, "/data/store/lost+found");
        assert!(matches!(check(&disk), Err(MarkerError::StoreMissing(_))));
        assert!(matches!(markers(&disk).check_store(), Err(MarkerError::StoreMissing(_))));
        // The store of another data directory of the same instance.
        let [disk, other] = [marked(&own), marked(&own)];
        let bytes = read_file(&other, Path::new("/data/store/marker.json"), 1000).unwrap();
        disk.damage(Path::new("/data/store/marker.json"), |marker| *marker = bytes);
        assert!(matches!(check(&disk), Err(MarkerError::OtherStore(_))));
        // The user has said that it is the right one.
        markers(&disk).remove().unwrap();
        assert!(check(&disk).unwrap().is_some());
    }

    /// The first start after an update: there are no markers, and the disk of the store is
    /// not mounted.
    #[test]
    fn a_used_data_directory_without_marker_and_store_is_refused() {
        let own = PeerId::random();
        for name in INSTANCE_NAMES {
            let disk = SimDisk::new();
            disk.create_dir(Path::new(STORE)).unwrap();
            create(&disk, "/data/identity.key");
            create(&disk, "/data/store/lost+found");
            // `init` makes the identity only.
            assert!(markers(&disk).check(Some(&own)).unwrap().is_some());
            create(&disk, &format!("/data/{name}"));
            for own in [Some(&own), None] {
                let refused = markers(&disk).check(own);
                assert!(matches!(refused, Err(MarkerError::StoreMissing(_))), "{name} {refused:?}");
            }
            let refused = markers(&disk).check_store();
            assert!(matches!(refused, Err(MarkerError::StoreMissing(_))), "{name} {refused:?}");
            // The disk is mounted.
            create(&disk, "/data/store/format");
            assert!(markers(&disk).check(Some(&own)).unwrap().is_some(), "{name}");
        }
    }

    #[test]
    fn a_lost_or_other_identity_is_refused() {
        let own = PeerId::random();
        for disk in [unmarked(), marked(&own)] {
            assert!(matches!(markers(&disk).check(None), Err(MarkerError::NoIdentity(_))));
        }
        let disk = marked(&own);
        let other = PeerId::random();
        let refused = markers(&disk).check(Some(&other));
        assert!(matches!(refused, Err(MarkerError::OtherInstance { .. })), "{refused:?}");
        // A data directory from a backup, or a new one, beside the store of another.
        disk.lose(Path::new("/data/marker.json"));
        let refused = markers(&disk).check(Some(&other));
        assert!(matches!(refused, Err(MarkerError::OtherInstance { .. })), "{refused:?}");
        // A data directory of this instance from a backup that is older than the markers.
        let missing = markers(&disk).check(Some(&own)).unwrap().unwrap();
        markers(&disk).write(missing, &own).unwrap();
        assert_eq!(markers(&disk).check(Some(&own)).unwrap(), None);
        // Readers do not know the identity.
        markers(&disk).check_store().unwrap();
    }

    #[test]
    fn a_marker_that_cannot_be_read_is_not_missing() {
        let own = PeerId::random();
        for path in ["/data/marker.json", "/data/store/marker.json"] {
            for damage in [&b""[..], b"{}", b"{\"version\":2,\"store\":\"\",\"peer_id\":\"\"}"] {
                let disk = marked(&own);
                disk.damage(Path::new(path), |bytes| *bytes = damage.to_vec());
                let refused = markers(&disk).check(Some(&own));
                assert!(matches!(refused, Err(MarkerError::Damaged(_))), "{refused:?}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        // A directory in the place of the marker cannot be read.
        std::fs::create_dir_all(dir.path().join("store/marker.json")).unwrap();
        let (store, key) = (dir.path().join("store"), dir.path().join("identity.key"));
        let markers = StoreMarkers::new(&disk::RealDisk, dir.path(), store, key);
        let refused = markers.check(Some(&own));
        assert!(matches!(refused, Err(MarkerError::Unreadable { .. })), "{refused:?}");
    }

    /// Death at every operation and loss of power in every way: the next start accepts
    /// what it finds and completes the markers.
    #[test]
    fn a_crash_between_the_markers_is_no_reason_to_refuse() {
        let own = PeerId::random();
        let powers = [Power::Kept, Power::Dropped, Power::Torn];
        for at in 0.. {
            let disk = unmarked();
            let first = disk.operations();
            disk.set_fault(first + at, Fault::Die);
            let missing = markers(&disk).check(Some(&own)).unwrap().unwrap();
            let written = markers(&disk).write(missing, &own);
            for power in powers.into_iter().chain((0..20).map(Power::Reordered)) {
                let next = disk.crash(power);
                if let Some(missing) = markers(&next).check(Some(&own)).unwrap() {
                    markers(&next).write(missing, &own).unwrap();
                }
                assert_eq!(markers(&next).check(Some(&own)).unwrap(), None, "{at} {power:?}");
            }
            if written.is_ok() {
                assert!(at > 6);
                break;
            }
        }
    }

    #[test]
    fn fuzz_marker() {
        let own = PeerId::random();
        let disk = marked(&own);
        let path = Path::new(STORE).join(FILE);
        let example = read_file(&disk, &path, LEN_MAX).unwrap();
        let good = Marker::parse(&example).unwrap();
        fuzzing::target!(&[example], |bytes: &[u8]| {
            let Some(found) = Marker::parse(bytes) else { return };
            assert_eq!(Marker::parse(&serde_json::to_vec(&found).unwrap()), Some(found.clone()));
            // Only the marker of this store is accepted.
            disk.damage(&path, |content| *content = bytes.to_vec());
            let is_accepted = markers(&disk).check(Some(&own)).is_ok();
            assert_eq!(is_accepted, found == good);
        });
    }
}
