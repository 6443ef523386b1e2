//! Files with one noted offer for each folder:
//!
//! * `accepted.json`: the manifests that the user has accepted (`archivist source accept`) although
//!   they do not follow from the newest snapshot. If the file is lost, the user must accept again.
//! * `set-back.json`: the offers by which a source was recognized as set back. Whatever it offers
//!   is refused until the user accepts it. If the file is lost, the next such offer is recognized
//!   again, unless the numbers of the source have passed that of the newest snapshot.
//!
//! A note is valid only while the newest snapshot is the same as when it was made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{AtomicWrite, Disk, Parsed, StateError, read_state, write_atomic};
use net::PeerId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, SequenceNumber};

/// Name of the file of accepted offers.
const ACCEPTED: &str = "accepted.json";
/// Name of the file of the offers that showed that a source was set back.
const SET_BACK: &str = "set-back.json";
const VERSION: u32 = 1;
/// Maximum length of the file, in bytes.
const FILE_LEN_MAX: u64 = 4 << 20;

/// An offer that was noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotedOffer {
    /// Its sequence number.
    pub(crate) sequence: SequenceNumber,
    /// CID of its manifest.
    pub(crate) manifest: Cid,
    /// Manifest of the newest snapshot at that time.
    pub(crate) over: Cid,
}

type Folders = BTreeMap<FolderId, NotedOffer>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u32,
    sources: BTreeMap<String, Folders>,
}

/// The noted offers of all sources in one file.
#[derive(Debug)]
pub(crate) struct OfferFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Locked while the file is written; the tasks of the sources can read meanwhile.
    writing: Mutex<()>,
    sources: Mutex<BTreeMap<String, Folders>>,
}

impl OfferFile {
    /// Reads the file of the accepted offers. A missing file has none. A damaged file is kept
    /// under another name, and has none either. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns [`StateError`] if the file cannot be read, or was written by a later version.
    pub(crate) fn accepted(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Self, StateError> {
        let consequence = "run `archivist source accept` again if a source is refused";
        Self::open(disk, data_dir.join(ACCEPTED), consequence)
    }

    /// Reads the file of the offers that showed that a source was set back. Same as
    /// [`OfferFile::accepted`] otherwise.
    pub(crate) fn set_back(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Self, StateError> {
        let consequence = "a source that was set back to an older state may be taken for a new one";
        Self::open(disk, data_dir.join(SET_BACK), consequence)
    }

    fn open(disk: Arc<dyn Disk>, path: PathBuf, consequence: &str) -> Result<Self, StateError> {
        let read = read_state(&*disk, &path, FILE_LEN_MAX, parse)?;
        if let Some(kept) = read.kept {
            tracing::error!("the noted offers of sources: {kept}; {consequence}");
        }
        let sources = Mutex::new(read.value.unwrap_or_default());
        Ok(Self { disk, path, writing: Mutex::new(()), sources })
    }

    /// Returns the offer that was noted for a folder while `newest` was its newest snapshot.
    pub(crate) fn get(
        &self,
        source: &PeerId,
        folder: &FolderId,
        newest: &Cid,
    ) -> Option<(SequenceNumber, Cid)> {
        let sources = self.sources.lock();
        let found = sources.get(&source.to_string())?.get(folder)?;
        (found.over == *newest).then_some((found.sequence, found.manifest))
    }

    /// Adds offers durably. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written; then nothing has changed.
    pub(crate) fn add(
        &self,
        source: &PeerId,
        folders: impl IntoIterator<Item = (FolderId, NotedOffer)>,
    ) -> std::io::Result<()> {
        let _one_at_a_time = self.writing.lock();
        let mut next = self.sources.lock().clone();
        next.entry(source.to_string()).or_default().extend(folders);
        let wire = Wire { version: VERSION, sources: next };
        let json = serde_json::to_vec_pretty(&wire)?;
        write_atomic(&*self.disk, &self.path, &json, &AtomicWrite::PRIVATE)?;
        *self.sources.lock() = wire.sources;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Parsed<BTreeMap<String, Folders>> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    match serde_json::from_slice::<Wire>(bytes) {
        Ok(wire) if wire.version == VERSION => Parsed::Valid(wire.sources),
        result => match serde_json::from_slice::<Version>(bytes) {
            Ok(found) if found.version > VERSION => Parsed::Newer,
            _ => Parsed::of(
                result
                    .map_err(|error| error.to_string())
                    .and_then(|wire| Err(format!("there is no version {}", wire.version))),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use disk::read_file;
    use disk::sim::{EACCES, EIO, EMFILE, FaultRule, SimDisk};
    use types::Codec;

    use super::*;

    fn path() -> PathBuf {
        Path::new("/data").join(ACCEPTED)
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/data")).unwrap();
        disk
    }

    fn open(disk: &SimDisk) -> Result<OfferFile, StateError> {
        OfferFile::accepted(Arc::new(disk.clone()), Path::new("/data"))
    }

    #[test]
    fn it_holds_over_one_manifest_and_survives_a_restart() {
        let disk = disk();
        let peer = PeerId::random();
        let folder: FolderId = "docs".parse().unwrap();
        let [old, new, other] = [b"old", b"new", b"oth"].map(|b| Cid::of(Codec::DagCbor, b));
        let acceptance = NotedOffer { sequence: SequenceNumber(3), manifest: new, over: old };
        open(&disk).unwrap().add(&peer, [(folder.clone(), acceptance)]).unwrap();
        let file = open(&disk).unwrap();
        assert_eq!(file.get(&peer, &folder, &old), Some((SequenceNumber(3), new)));
        assert_eq!(file.get(&peer, &folder, &other), None);
        assert_eq!(file.get(&PeerId::random(), &folder, &old), None);
    }

    #[test]
    fn a_damaged_file_is_kept_under_another_name() {
        for damaged in ["", "{", "[]", r#"{"version":0,"sources":{}}"#] {
            let disk = disk();
            open(&disk).unwrap().add(&PeerId::random(), []).unwrap();
            disk.damage(&path(), |bytes| *bytes = damaged.as_bytes().to_vec());
            let file = open(&disk).unwrap();
            assert!(file.sources.lock().is_empty());
            file.add(&PeerId::random(), []).unwrap();
            let kept = PathBuf::from(format!("{}.damaged-1", path().display()));
            assert_eq!(read_file(&disk, &kept, 100).unwrap(), damaged.as_bytes());
            assert_eq!(open(&disk).unwrap().sources.lock().len(), 1);
        }
    }

    #[test]
    fn fuzz_acceptances() {
        let [new, old] = [b"new", b"old"].map(|bytes| Cid::of(Codec::DagCbor, bytes));
        let acceptance = NotedOffer { sequence: SequenceNumber(3), manifest: new, over: old };
        let folders = Folders::from([("docs".parse().unwrap(), acceptance)]);
        let sources = BTreeMap::from([(PeerId::random().to_string(), folders)]);
        let encode = |sources: BTreeMap<String, Folders>| {
            serde_json::to_vec(&Wire { version: VERSION, sources }).unwrap()
        };
        fuzzing::target!(&[encode(sources)], |bytes: &[u8]| {
            if let Parsed::Valid(sources) = parse(bytes) {
                assert_eq!(parse(&encode(sources.clone())), Parsed::Valid(sources));
            }
        });
    }

    #[test]
    fn a_file_that_cannot_be_read_stops_the_start_and_stays() {
        let disk = disk();
        open(&disk).unwrap().add(&PeerId::random(), []).unwrap();
        let content = read_file(&disk, &path(), FILE_LEN_MAX).unwrap();
        for error in [EIO, EACCES, EMFILE] {
            disk.add_fault(FaultRule::reads(error).on(ACCEPTED));
            let error = open(&disk).unwrap_err();
            assert!(error.to_string().contains(ACCEPTED), "{error}");
            disk.clear_fault_rules();
        }
        assert_eq!(open(&disk).unwrap().sources.lock().len(), 1);
        let newer = br#"{"version":2,"sources":[]}"#;
        disk.damage(&path(), |bytes| *bytes = newer.to_vec());
        assert!(matches!(open(&disk), Err(StateError::Newer { .. })));
        assert_eq!(read_file(&disk, &path(), 100).unwrap(), newer);
        disk.damage(&path(), |bytes| *bytes = content);
        assert_eq!(disk.list(Path::new("/data")).unwrap(), [ACCEPTED]);
    }
}
