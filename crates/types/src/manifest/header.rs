//! [`ManifestHeader`]: describes a folder and lists its segments.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::entry::{from_text, to_text};
use super::{Entry, EntryKind, ManifestError};
use crate::{
    Block, BlockError, BlockScheme, Cid, Codec, FolderId, MAX_BLOCK_LEN, RelPath, SequenceNumber,
};

const VERSION: &str = "2";
const HASH_MODE: &str = "blake3";
const BAD_COUNTS: &str = "the numbers of entries do not add up";
/// Maximum length of the folder name in bytes.
const NAME_LEN_MAX: usize = 1024;

/// Size of a folder in entries and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestStats {
    /// Number of paths that the previous manifest had and this one does not have.
    pub deleted_files: u64,
    /// Number of directories, not counting the root.
    pub total_dirs: u64,
    /// Number of entries that are not directories.
    pub total_files: u64,
    /// Total length of all files in bytes.
    pub total_size_bytes: u64,
}

/// Reference from the header to a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// Path of the first entry.
    pub first_path: RelPath,
    /// CID of the segment's block; its codec is [`Codec::Json`].
    pub cid: Cid,
    /// Number of entries, at least 1.
    pub entries: u64,
    /// Length of the block in bytes.
    pub bytes: u64,
}

/// Header of a manifest. The JSON form has the same field names, together with
/// `version` and `hash_mode`.
///
/// ```
/// use types::{
///     BlockScheme, Entry, EntryKind, ManifestHeader, ManifestStats, Metadata, RelPath,
///     SegmentRef, SegmentWriter, SequenceNumber,
/// };
///
/// let directory = |path: &str| -> Result<Entry, types::PathError> {
///     let path = RelPath::new(path)?;
///     Ok(Entry { path, kind: EntryKind::Dir, metadata: Metadata::default(), error: None })
/// };
/// let scheme = BlockScheme::plain();
/// let mut writer = SegmentWriter::new(scheme.clone());
/// assert!(writer.push(&directory("photos")?).is_none(), "the segment goes on");
/// let segment = writer.finish().expect("there was an entry");
///
/// let header = ManifestHeader {
///     folder_id: "docs".parse()?,
///     folder_name: "Documents".into(),
///     folder_path: "/home/me/Documents".into(),
///     source_peer_id: "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY".into(),
///     sequence_number: SequenceNumber::FIRST,
///     previous: None,
///     created_at: "2026-11-22T10:30:00Z".parse()?,
///     root: directory("")?,
///     stats: ManifestStats { total_dirs: 1, ..ManifestStats::default() },
///     held: None,
///     segments: vec![SegmentRef {
///         first_path: segment.first_path,
///         cid: segment.block.cid(),
///         entries: segment.entries,
///         bytes: segment.block.data().len() as u64,
///     }],
/// };
/// let block = header.encode(&scheme)?;
/// assert_eq!(ManifestHeader::decode(block.data())?, header);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHeader {
    /// Id of the folder.
    pub folder_id: FolderId,
    /// Name of the folder, for display; at most 1,024 bytes.
    pub folder_name: String,
    /// Path of the folder on the source, for display.
    pub folder_path: String,
    /// Peer id of the source.
    pub source_peer_id: String,
    /// Sequence number of this manifest.
    pub sequence_number: SequenceNumber,
    /// CID of the manifest before this one. It is not a link: it does not keep
    /// that manifest alive.
    pub previous: Option<Cid>,
    /// Creation time by the clock of the source.
    pub created_at: Timestamp,
    /// Root of the folder: a directory with an empty path.
    pub root: Entry,
    /// Size of the folder.
    pub stats: ManifestStats,
    /// Reason to doubt that the user wants this state, if any: many files were
    /// deleted or rewritten within a short time, or the first scan of the folder is
    /// unfinished. The backup server stores the snapshot, but its retention
    /// removes no snapshot of the folder while the newest one has such a reason.
    pub held: Option<String>,
    /// Segments, in the order of their paths.
    pub segments: Vec<SegmentRef>,
}

/// The reason [`ManifestHeader::held`] of a manifest that was made during the first scan of a
/// folder: it contains the files found so far.
pub const HELD_PART: &str = "partial: the first scan of the folder had not ended";

/// Reports whether this is the reason of a manifest that contains only a part of its folder.
#[must_use]
pub fn is_part(held: Option<&str>) -> bool {
    held == Some(HELD_PART)
}

/// JSON form. The fields are in the order of their names, which makes it
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
    /// Encodes the header as a block.
    ///
    /// # Errors
    ///
    /// Returns [`BlockError::TooLong`] if the list of segments does not fit into a
    /// block, that is, for folders of more than about 20 million files.
    pub fn encode(&self, scheme: &BlockScheme) -> Result<Block, BlockError> {
        scheme.block(Codec::Json, self.to_json())
    }

    /// Returns the header as JSON text, as it is in its block.
    pub fn to_json(&self) -> Vec<u8> {
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
        serde_json::to_vec(&wire).expect("texts and numbers have a JSON form")
    }

    /// Decodes a header and checks it. Does not check it against its segments.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError::Malformed`] or [`ManifestError::Version`] if the
    /// bytes are not a header of this version, [`ManifestError::Path`] if a path
    /// is unusable, [`ManifestError::Order`] if the segments are not sorted, and
    /// [`ManifestError::Rule`] if another rule is broken.
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
        rule(wire.hash_mode == HASH_MODE, "the hash mode is unknown")?;
        rule(wire.folder_name.len() <= NAME_LEN_MAX, "the folder name is longer than 1,024 bytes")?;
        rule(
            (SequenceNumber::FIRST..=SequenceNumber::MAX).contains(&wire.sequence_number),
            "the sequence number is out of range",
        )?;
        let root = Entry::from_json(wire.root.get().as_bytes())?;
        rule(
            root.path.is_root() && root.kind == EntryKind::Dir,
            "the root is not a directory with an empty path",
        )?;
        let mut segments: Vec<SegmentRef> = Vec::with_capacity(wire.segments.len());
        let mut entries = 0_u64;
        for segment in wire.segments {
            let path = from_text(segment.first_path.into(), segment.first_path_base64.as_deref())?;
            let first_path = RelPath::new(path)?;
            if segments.last().is_some_and(|last| last.first_path >= first_path) {
                return Err(ManifestError::Order(first_path));
            }
            rule(segment.cid.codec() == Codec::Json, "a segment is not a JSON block")?;
            rule(segment.entries > 0, "a segment is empty")?;
            rule(segment.bytes <= MAX_BLOCK_LEN as u64, "a segment is longer than a block may be")?;
            let sum = entries.checked_add(segment.entries);
            entries = sum.ok_or(ManifestError::Rule(BAD_COUNTS))?;
            segments.push(SegmentRef {
                first_path,
                cid: segment.cid,
                entries: segment.entries,
                bytes: segment.bytes,
            });
        }
        let counted = wire.stats.total_files.checked_add(wire.stats.total_dirs);
        rule(counted == Some(entries), BAD_COUNTS)?;
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
        let block = sample().encode(&BlockScheme::plain()).unwrap();
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
        assert_eq!(
            ManifestHeader::decode(header.encode(&BlockScheme::plain()).unwrap().data()).unwrap(),
            header
        );
    }

    #[test]
    fn hostile_headers_are_refused() {
        let json =
            String::from_utf8(sample().encode(&BlockScheme::plain()).unwrap().data().to_vec())
                .unwrap();
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
        // The true sum exceeds 64 bits; the wrapped sum equals the declared total.
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
