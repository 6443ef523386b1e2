//! The file `accepted.json`: the manifests that the user has accepted (`archivist source accept`)
//! although their sequence numbers do not follow from the newest snapshot.
//!
//! An acceptance is valid only while the newest snapshot is the same as when it was given. If the
//! file is lost, the user must accept again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use disk::{AtomicWrite, RealDisk, write_atomic};
use net::PeerId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, SequenceNumber};

/// Name of the file.
const FILE_NAME: &str = "accepted.json";
const VERSION: u32 = 1;
/// Maximum length of the file, in bytes.
const FILE_LEN_MAX: u64 = 4 << 20;

/// An acceptance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acceptance {
    /// The accepted sequence number.
    pub(crate) sequence: SequenceNumber,
    /// CID of the accepted manifest.
    pub(crate) manifest: Cid,
    /// Manifest of the newest snapshot at that time.
    pub(crate) over: Cid,
}

type Folders = BTreeMap<FolderId, Acceptance>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u32,
    sources: BTreeMap<String, Folders>,
}

/// The acceptances of all sources.
#[derive(Debug)]
pub(crate) struct AcceptanceFile {
    path: PathBuf,
    /// Locked while the file is written; the tasks of the sources can read meanwhile.
    writing: Mutex<()>,
    sources: Mutex<BTreeMap<String, Folders>>,
}

impl AcceptanceFile {
    /// Reads the file. A missing or unreadable file has no acceptances. Blocks the thread.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE_NAME);
        let sources = match read(&path) {
            Ok(sources) => sources,
            Err(reason) => {
                tracing::warn!(
                    path = %path.display(),
                    reason,
                    "cannot read the acceptances; run `archivist source accept` again if a source is refused"
                );
                BTreeMap::new()
            }
        };
        Self { path, writing: Mutex::new(()), sources: Mutex::new(sources) }
    }

    /// Returns the manifest that was accepted for a folder while `newest` was its newest snapshot.
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

    /// Adds acceptances durably. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written; then nothing has changed.
    pub(crate) fn add(
        &self,
        source: &PeerId,
        folders: impl IntoIterator<Item = (FolderId, Acceptance)>,
    ) -> std::io::Result<()> {
        let _one_at_a_time = self.writing.lock();
        let mut next = self.sources.lock().clone();
        next.entry(source.to_string()).or_default().extend(folders);
        let wire = Wire { version: VERSION, sources: next };
        let json = serde_json::to_vec_pretty(&wire)?;
        write_atomic(&RealDisk, &self.path, &json, &AtomicWrite::PRIVATE)?;
        *self.sources.lock() = wire.sources;
        Ok(())
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Folders>, String> {
    let len = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.to_string()),
    };
    if len > FILE_LEN_MAX {
        return Err(format!("the file is too long: {len} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Folders>, String> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if wire.version != VERSION {
        return Err(format!("unsupported version {}", wire.version));
    }
    Ok(wire.sources)
}

#[cfg(test)]
mod tests {
    use types::Codec;

    use super::*;

    #[test]
    fn it_holds_over_one_manifest_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let peer = PeerId::random();
        let folder: FolderId = "docs".parse().unwrap();
        let [old, new, other] = [b"old", b"new", b"oth"].map(|b| Cid::of(Codec::DagCbor, b));
        let acceptance = Acceptance { sequence: SequenceNumber(3), manifest: new, over: old };
        AcceptanceFile::open(dir.path()).add(&peer, [(folder.clone(), acceptance)]).unwrap();
        let file = AcceptanceFile::open(dir.path());
        assert_eq!(file.get(&peer, &folder, &old), Some((SequenceNumber(3), new)));
        assert_eq!(file.get(&peer, &folder, &other), None);
        assert_eq!(file.get(&PeerId::random(), &folder, &old), None);
    }

    #[test]
    fn garbage_is_as_good_as_nothing() {
        for garbage in ["", "{", "[]", r#"{"version":2,"sources":{}}"#] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE_NAME), garbage).unwrap();
            let file = AcceptanceFile::open(dir.path());
            assert!(file.sources.lock().is_empty());
            file.add(&PeerId::random(), []).unwrap();
            assert_eq!(AcceptanceFile::open(dir.path()).sources.lock().len(), 1);
        }
    }

    #[test]
    fn fuzz_acceptances() {
        let [new, old] = [b"new", b"old"].map(|bytes| Cid::of(Codec::DagCbor, bytes));
        let acceptance = Acceptance { sequence: SequenceNumber(3), manifest: new, over: old };
        let folders = Folders::from([("docs".parse().unwrap(), acceptance)]);
        let sources = BTreeMap::from([(PeerId::random().to_string(), folders)]);
        let encode = |sources: BTreeMap<String, Folders>| {
            serde_json::to_vec(&Wire { version: VERSION, sources }).unwrap()
        };
        fuzzing::target!(&[encode(sources)], |bytes: &[u8]| {
            if let Ok(sources) = parse(bytes) {
                assert_eq!(parse(&encode(sources.clone())), Ok(sources));
            }
        });
    }
}
