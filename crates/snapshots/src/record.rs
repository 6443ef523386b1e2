//! The record of a snapshot: a DAG-CBOR node (`docs/formats/snapshot.md`).

use jiff::Timestamp;
use manifest::Signature;
use net::PeerId;
use serde::{Deserialize, Serialize};
use types::{Block, Cid, Codec, FolderId, SequenceNumber};

use crate::signs::{Day, Signs};

/// Version of a record without signs.
const VERSION: u64 = 1;
/// Version of a record with signs.
const VERSION_SIGNS: u64 = 2;
/// Maximum length of a text in a record, in bytes.
const TEXT_LEN_MAX: usize = 8192;
/// Maximum serial number: fits into the sixteen digits in the name of a root, with room for later
/// ones. A record is found by a search of the packs, so it may come from elsewhere.
const ORDER_MAX: u64 = 1_000_000_000_000;
/// Maximum serial number that a backup server gives. A higher one was invented by a source, and
/// does not change the numbers of new snapshots.
pub(crate) const ORDER_GIVEN_MAX: u64 = ORDER_MAX / 2;

/// The metadata that a backup server stores for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Peer id of the source.
    pub source: PeerId,
    /// The folder.
    pub folder: FolderId,
    /// Display name of the folder.
    pub folder_name: String,
    /// Sequence number of the manifest, given by the source.
    pub sequence: SequenceNumber,
    /// CID of the manifest.
    pub manifest: Cid,
    /// The source's signature over the manifest.
    pub signature: Signature,
    /// Serial number of the snapshot on the backup server: the order of arrival, independent of
    /// any clock.
    pub order: u64,
    /// Time at which the snapshot was complete, by the backup server's clock.
    pub received_at: Timestamp,
    /// Time at which the manifest was made, by the clock of the source.
    pub created_at: Timestamp,
    /// Number of entries that are not directories.
    pub files: u64,
    /// Number of directories.
    pub dirs: u64,
    /// Total length of the files, in bytes.
    pub bytes: u64,
    /// Reason why the source waits for the user to confirm this snapshot, if it does.
    pub held: Option<String>,
    /// The signs of ransomware that the backup server found.
    pub signs: Signs,
}

/// Reason why bytes are not a valid record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not DAG-CBOR, or have other fields.
    #[error("not a snapshot record: {0}")]
    Malformed(String),
    /// The record has a version that this program does not support.
    #[error(
        "written by a newer version of this program (snapshot record of version {0}); use that \
         version"
    )]
    Version(u64),
    /// A field has an invalid value; holds the name of the field.
    #[error("snapshot record with an invalid {0}")]
    Field(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    bytes: u64,
    created_ns: i64,
    dirs: u64,
    files: u64,
    folder: String,
    held: Option<String>,
    manifest: cid::Cid,
    name: String,
    order: u64,
    received_ns: i64,
    sequence: u64,
    signature: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signs: Option<Vec<Day>>,
    snapshot: u64,
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspicion: Option<String>,
}

#[derive(Deserialize)]
struct VersionOnly {
    snapshot: u64,
}

/// Returns a time in nanoseconds, limited to the years 1677 to 2262.
fn to_ns(time: Timestamp) -> i64 {
    let ns = time.as_nanosecond();
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

impl SnapshotRecord {
    /// Returns the reason to doubt that a user wants this state, if there is one: the backup
    /// server's own, otherwise the source's.
    pub fn doubt(&self) -> Option<&str> {
        let held = self.held.as_deref();
        let suspicion = self.signs.suspicion().filter(|_| !types::is_part(held));
        suspicion.or(held)
    }

    /// Removes the reasons to doubt the snapshot, after a user has decided that it is intended.
    pub(crate) fn remove_doubt(&mut self) {
        self.signs = Signs::default();
        self.held = self.held.take().filter(|held| types::is_part(Some(held)));
    }

    /// Reports whether the source or the backup server doubts that a user wants this state. A part
    /// of a folder is not suspicious.
    pub fn is_suspicious(&self) -> bool {
        self.doubt().is_some_and(|doubt| !types::is_part(Some(doubt)))
    }

    /// Returns the record as a block.
    ///
    /// # Errors
    ///
    /// Returns [`RecordError::Field`] if a text is too long.
    pub fn encode(&self) -> Result<Block, RecordError> {
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts = [self.folder_name.len(), of(&self.held), of(&self.signs.suspicion)];
        if texts.iter().any(|len| *len > TEXT_LEN_MAX) {
            return Err(RecordError::Field("text"));
        }
        let wire = Wire {
            bytes: self.bytes,
            created_ns: to_ns(self.created_at),
            dirs: self.dirs,
            files: self.files,
            folder: self.folder.to_string(),
            held: self.held.clone(),
            manifest: cid::Cid::try_from(self.manifest.to_bytes())
                .map_err(|_| RecordError::Field("manifest"))?,
            name: self.folder_name.clone(),
            order: self.order,
            received_ns: to_ns(self.received_at),
            sequence: self.sequence.0,
            signature: self.signature.to_base64(),
            signs: (!self.signs.days.is_empty()).then(|| self.signs.days.clone()),
            snapshot: if self.signs == Signs::default() { VERSION } else { VERSION_SIGNS },
            source: self.source.to_string(),
            suspicion: self.signs.suspicion.clone(),
        };
        let bytes = serde_ipld_dagcbor::to_vec(&wire)
            .map_err(|error| RecordError::Malformed(error.to_string()))?;
        Block::new(Codec::DagCbor, bytes).map_err(|error| RecordError::Malformed(error.to_string()))
    }

    /// Decodes a node if it is a record: a node with the field `snapshot`. Returns `None` for other
    /// nodes, and an error for a record that cannot be used.
    pub(crate) fn of_node(bytes: &[u8]) -> Option<Result<Self, RecordError>> {
        // Spares the decoding of most nodes: the name of the field, preceded by its CBOR head.
        const FIELD: &[u8] = b"\x68snapshot";
        if !bytes.windows(FIELD.len()).any(|window| window == FIELD) {
            return None;
        }
        let version = serde_ipld_dagcbor::from_slice::<VersionOnly>(bytes);
        version.is_ok().then(|| Self::decode(bytes))
    }

    /// Decodes a record and checks it.
    ///
    /// # Errors
    ///
    /// Returns [`RecordError`] if the bytes are malformed, of another version, or a field has an
    /// invalid value.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let malformed = |error: String| RecordError::Malformed(error);
        let version: VersionOnly =
            serde_ipld_dagcbor::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if ![VERSION, VERSION_SIGNS].contains(&version.snapshot) {
            return Err(RecordError::Version(version.snapshot));
        }
        let wire: Wire =
            serde_ipld_dagcbor::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let signs = Signs { days: wire.signs.unwrap_or_default(), suspicion: wire.suspicion };
        if (signs == Signs::default()) != (wire.snapshot == VERSION) {
            return Err(RecordError::Field("version"));
        }
        if wire.order > ORDER_MAX {
            return Err(RecordError::Field("order"));
        }
        let time = |ns: i64, field| {
            Timestamp::from_nanosecond(ns.into()).map_err(|_| RecordError::Field(field))
        };
        Ok(Self {
            source: wire.source.parse().map_err(|_| RecordError::Field("source"))?,
            folder: wire.folder.parse().map_err(|_| RecordError::Field("folder"))?,
            folder_name: wire.name,
            sequence: SequenceNumber(wire.sequence),
            manifest: Cid::from_bytes(&wire.manifest.to_bytes())
                .map_err(|_| RecordError::Field("manifest"))?,
            signature: Signature::from_base64(&wire.signature)
                .map_err(|_| RecordError::Field("signature"))?,
            order: wire.order,
            received_at: time(wire.received_ns, "received_ns")?,
            created_at: time(wire.created_ns, "created_ns")?,
            files: wire.files,
            dirs: wire.dirs,
            bytes: wire.bytes,
            held: wire.held,
            signs,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn record() -> SnapshotRecord {
        SnapshotRecord {
            source: "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY".parse().unwrap(),
            folder: "docs".parse().unwrap(),
            folder_name: "Documents".into(),
            sequence: SequenceNumber(42),
            manifest: Cid::of(Codec::DagCbor, b"manifest"),
            signature: Signature::from_bytes(vec![1, 2, 3]).unwrap(),
            order: 7,
            received_at: "2026-11-22T10:30:05.123456789Z".parse().unwrap(),
            created_at: "2026-11-22T10:30:00Z".parse().unwrap(),
            files: 1234,
            dirs: 56,
            bytes: 5678,
            held: None,
            signs: Signs::default(),
        }
    }

    #[test]
    fn a_record_is_golden_and_reads_back() {
        let block = record().encode().unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(block.data()), GOLDEN);
        assert_eq!(SnapshotRecord::decode(block.data()).unwrap(), record());
        // The collector follows this link.
        let links = types::links(Codec::DagCbor, block.data()).unwrap();
        assert_eq!(links, [record().manifest]);
        let held = SnapshotRecord { held: Some("all gone".into()), ..record() };
        assert_eq!(SnapshotRecord::decode(held.encode().unwrap().data()).unwrap(), held);
        let day = Day { day: 20_000, files: 100, lost: 17, new: 3, removed: 4 };
        let signs = Signs { days: vec![day], suspicion: Some("17 files look encrypted".into()) };
        let suspicious = SnapshotRecord { signs, ..held.clone() };
        assert_eq!(
            SnapshotRecord::decode(suspicious.encode().unwrap().data()).unwrap(),
            suspicious
        );
        assert_eq!(
            (held.doubt(), suspicious.doubt()),
            (Some("all gone"), Some("17 files look encrypted"))
        );
        let far = SnapshotRecord { created_at: Timestamp::MAX, ..record() };
        assert!(SnapshotRecord::decode(far.encode().unwrap().data()).is_ok());
        let long = SnapshotRecord { folder_name: "x".repeat(9000), ..record() };
        assert_eq!(long.encode().unwrap_err(), RecordError::Field("text"));
    }

    const GOLDEN: &str = concat!(
        "ae646469727318386468656c64f6646e616d6569446f63756d656e747365627974657319162e6566696c6573",
        "1904d2656f726465720766666f6c64657264646f637366736f75726365783531365569753248416d35685078",
        "5437733354413266346234596a41507a5337794c525367646a38377973445a364e41584d69527559686d616e",
        "6966657374d82a58250001711e200d197521d9a48760576da1c87dfd828a60d397ea1e16f92a5b7c44b4f406",
        "0ce16873657175656e6365182a68736e617073686f7401697369676e617475726564415149446a6372656174",
        "65645f6e731b18ea574f66d790006b72656365697665645f6e731b18ea575098394f15",
    );

    #[test]
    fn fuzz_record() {
        let day = Day { day: 20_000, files: 100, lost: 17, new: 3, removed: 4 };
        let signs = Signs { days: vec![day], suspicion: Some("17 files".into()) };
        let suspicious = SnapshotRecord { signs, ..record() };
        let seeds = [record(), suspicious].map(|one| one.encode().unwrap().data().to_vec());
        fuzzing::target!(&seeds, |bytes: &[u8]| {
            if let Ok(found) = SnapshotRecord::decode(bytes) {
                // A record from elsewhere may have longer texts than one that is made here.
                if let Ok(block) = found.encode() {
                    assert_eq!(SnapshotRecord::decode(block.data()).unwrap(), found);
                }
            }
        });
    }

    #[test]
    fn another_version_is_named() {
        let block = record().encode().unwrap();
        let at = block.data().windows(9).position(|w| w == b"hsnapshot").unwrap();
        let mut bytes = block.data().to_vec();
        bytes[at + 9] = 3;
        assert_eq!(SnapshotRecord::decode(&bytes), Err(RecordError::Version(3)));
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0..400_usize, bit in 0..8_u32) {
            let mut bytes = record().encode().unwrap().data().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = SnapshotRecord::decode(&bytes);
        }
    }
}
