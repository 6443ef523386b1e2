//! The header of a manifest: what the folder is, and where its segments are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::entry::{from_text, to_text};
use super::{Entry, EntryKind, ManifestError};
use crate::{Block, BlockError, Cid, Codec, FolderId, MAX_BLOCK_LEN, RelPath, SequenceNumber};

const VERSION: &str = "2";
const HASH_MODE: &str = "blake3";
/// The longest name of a folder, in bytes.
const NAME_LEN_MAX: usize = 1024;

/// How much a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestStats {
    /// Paths that the manifest before this one had, and this one has not.
    pub deleted_files: u64,
    /// Directories, without the root.
    pub total_dirs: u64,
    /// Everything else.
    pub total_files: u64,
    /// The lengths of all files together, in bytes.
    pub total_size_bytes: u64,
}

/// Where a segment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// The path of its first entry.
    pub first_path: RelPath,
    /// Its block.
    pub cid: Cid,
    /// How many entries it has.
    pub entries: u64,
    /// The length of its block, in bytes.
    pub bytes: u64,
}

/// The header; see SPEC section 6 for the names of its fields in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHeader {
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// Where it is on its machine, for people.
    pub folder_path: String,
    /// The peer id of that machine.
    pub source_peer_id: String,
    /// The number of this manifest.
    pub sequence_number: SequenceNumber,
    /// The manifest before this one.
    pub previous: Option<Cid>,
    /// When it was made, by the clock of that machine.
    pub created_at: Timestamp,
    /// The root of the folder: a directory with an empty path.
    pub root: Entry,
    /// How much the folder holds.
    pub stats: ManifestStats,
    /// Why this state may not be what the user wants, where that is so: much
    /// was deleted or rewritten at once.
    pub held: Option<String>,
    /// The segments, in the order of paths.
    pub segments: Vec<SegmentRef>,
}

/// The JSON form; the fields in the order of their names, which makes it
/// canonical.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    created_at: Timestamp,
    folder_id: FolderId,
    folder_name: String,
    folder_path: String,
    hash_mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<String>,
    previous: Option<Cid>,
    root: Box<serde_json::value::RawValue>,
    segments: Vec<SegmentWire>,
    sequence_number: SequenceNumber,
    source_peer_id: String,
    stats: ManifestStats,
    version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentWire {
    bytes: u64,
    cid: Cid,
    entries: u64,
    first_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_path_base64: Option<String>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: String,
}

impl ManifestHeader {
    /// The header as a block.
    ///
    /// # Errors
    ///
    /// [`BlockError::TooLong`] for a folder of more than some 20 million files.
    pub fn encode(&self) -> Result<Block, BlockError> {
        let segment = |segment: &SegmentRef| {
            let (first_path, first_path_base64) = to_text(segment.first_path.as_bytes());
            SegmentWire {
                bytes: segment.bytes,
                cid: segment.cid,
                entries: segment.entries,
                first_path: first_path.into_owned(),
                first_path_base64,
            }
        };
        let root = serde_json::value::RawValue::from_string(self.root.to_json())
            .expect("an entry is JSON");
        let wire = Wire {
            created_at: self.created_at,
            folder_id: self.folder_id.clone(),
            folder_name: self.folder_name.clone(),
            folder_path: self.folder_path.clone(),
            hash_mode: HASH_MODE.into(),
            held: self.held.clone(),
            previous: self.previous,
            root,
            segments: self.segments.iter().map(segment).collect(),
            sequence_number: self.sequence_number,
            source_peer_id: self.source_peer_id.clone(),
            stats: self.stats,
            version: VERSION.into(),
        };
        let json = serde_json::to_vec(&wire).expect("texts and numbers have a JSON form");
        Block::new(Codec::Json, json)
    }

    /// Reads a header and checks it by itself.
    ///
    /// # Errors
    ///
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let malformed = ManifestError::malformed;
        let version: VersionOnly = serde_json::from_slice(bytes).map_err(malformed)?;
        if version.version != VERSION {
            return Err(ManifestError::Version(version.version.chars().take(20).collect()));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(malformed)?;
        let rule = |holds: bool, otherwise| {
            if holds { Ok(()) } else { Err(ManifestError::Rule(otherwise)) }
        };
        rule(wire.hash_mode == HASH_MODE, "a hash that this program does not know")?;
        rule(wire.folder_name.len() <= NAME_LEN_MAX, "a folder's name over 1,024 bytes")?;
        rule(
            (SequenceNumber::FIRST..=SequenceNumber::MAX).contains(&wire.sequence_number),
            "a sequence number out of range",
        )?;
        let root = Entry::from_json(wire.root.get().as_bytes())?;
        rule(root.path.is_root() && root.kind == EntryKind::Dir, "a root that is no root")?;
        let mut segments: Vec<SegmentRef> = Vec::with_capacity(wire.segments.len());
        let mut entries = 0_u64;
        for segment in wire.segments {
            let path = from_text(segment.first_path.into(), segment.first_path_base64.as_deref())?;
            let first_path = RelPath::new(path)?;
            if segments.last().is_some_and(|last| last.first_path >= first_path) {
                return Err(ManifestError::Order(first_path));
            }
            rule(segment.cid.codec() == Codec::Json, "a segment of another codec")?;
            rule(segment.entries > 0, "an empty segment")?;
            rule(segment.bytes <= MAX_BLOCK_LEN as u64, "a segment longer than a block may be")?;
            let sum = entries.checked_add(segment.entries);
            entries = sum.ok_or(ManifestError::Rule("counts that do not add up"))?;
            segments.push(SegmentRef {
                first_path,
                cid: segment.cid,
                entries: segment.entries,
                bytes: segment.bytes,
            });
        }
        let counted = wire.stats.total_files.checked_add(wire.stats.total_dirs);
        rule(counted == Some(entries), "counts that do not add up")?;
        Ok(Self {
            folder_id: wire.folder_id,
            folder_name: wire.folder_name,
            folder_path: wire.folder_path,
            source_peer_id: wire.source_peer_id,
            sequence_number: wire.sequence_number,
            previous: wire.previous,
            created_at: wire.created_at,
            root,
            stats: wire.stats,
            held: wire.held,
            segments,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{dir, file};
    use super::*;

    fn sample() -> ManifestHeader {
        let root = Entry { path: RelPath::root(), ..dir("x") };
        let segment = |path: &str, entries| SegmentRef {
            first_path: RelPath::new(path).unwrap(),
            cid: Cid::of(Codec::Json, path.as_bytes()),
            entries,
            bytes: 100,
        };
        ManifestHeader {
            folder_id: "docs".parse().unwrap(),
            folder_name: "Documents".into(),
            folder_path: "/home/me/Documents".into(),
            source_peer_id: "16Uiu2HAm".into(),
            sequence_number: SequenceNumber(42),
            previous: Some(Cid::of(Codec::DagCbor, b"before")),
            created_at: "2026-11-22T10:30:00Z".parse().unwrap(),
            root,
            stats: ManifestStats {
                total_files: 4,
                total_dirs: 1,
                total_size_bytes: 9,
                deleted_files: 2,
            },
            held: None,
            segments: vec![segment("a", 3), segment("b/c", 2)],
        }
    }

    #[test]
    fn a_header_reads_back_and_is_golden() {
        let block = sample().encode().unwrap();
        assert_eq!(ManifestHeader::decode(block.data()).unwrap(), sample());
        let json = std::str::from_utf8(block.data()).unwrap();
        assert!(json.starts_with(
            r#"{"created_at":"2026-11-22T10:30:00Z","folder_id":"docs","folder_name":"Documents","folder_path":"/home/me/Documents","hash_mode":"blake3","previous":"bafyr4i"#
        ), "{json}");
        assert!(json.ends_with(
            r#""sequence_number":42,"source_peer_id":"16Uiu2HAm","stats":{"deleted_files":2,"total_dirs":1,"total_files":4,"total_size_bytes":9},"version":"2"}"#
        ), "{json}");
        let odd = RelPath::new(vec![0xff, b'x']).unwrap();
        let mut header = sample();
        header.segments[1].first_path = odd;
        header.held = Some("90 % of the files were deleted".into());
        assert_eq!(ManifestHeader::decode(header.encode().unwrap().data()).unwrap(), header);
    }

    #[test]
    fn hostile_headers_are_refused() {
        let json = String::from_utf8(sample().encode().unwrap().data().to_vec()).unwrap();
        let cases = [
            (r#""version":"2""#, r#""version":"3""#, "version"),
            (r#""folder_id":"docs""#, r#""folder_id":"../x""#, "folder id"),
            (r#""sequence_number":42"#, r#""sequence_number":0"#, "sequence"),
            (r#""sequence_number":42"#, r#""sequence_number":9007199254740992"#, "sequence"),
            (r#""total_files":4"#, r#""total_files":5"#, "add up"),
            (r#""total_files":4"#, r#""total_files":18446744073709551615"#, "add up"),
            (r#""first_path":"b/c""#, r#""first_path":"a""#, "sorted"),
            (r#""first_path":"b/c""#, r#""first_path":"b/../c""#, "path"),
            (r#""hash_mode":"blake3""#, r#""hash_mode":"md5""#, "hash"),
            (r#""path":"""#, r#""path":"r""#, "root"),
            (r#""bytes":100"#, r#""bytes":4194305"#, "longer"),
        ];
        for (from, to, why) in cases {
            let bad = json.replace(from, to);
            assert_ne!(bad, json, "{from}");
            let error = ManifestHeader::decode(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{to}: {error}");
        }
        // A sum beyond what can be counted, which the counts seem to name.
        let most = json
            .replace(r#""entries":3"#, r#""entries":18446744073709551615"#)
            .replace(r#""total_files":4"#, r#""total_files":18446744073709551614"#);
        let error = ManifestHeader::decode(most.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("add up"), "{error}");
        for junk in [&b""[..], b"{}", b"[]", b"<html>", &[0xff; 10]] {
            assert!(ManifestHeader::decode(junk).is_err());
        }
        let line = file("a", b"").to_json();
        assert!(ManifestHeader::decode(line.as_bytes()).is_err());
    }
}
