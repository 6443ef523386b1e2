//! [`Entry`]: one path in a manifest with its content and metadata.

use std::borrow::Cow;
use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::ManifestError;
use crate::{Cid, Codec, Hash, MAX_BLOCK_LEN, RelPath};

/// Extended attributes by name, including POSIX ACLs.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Maximum length of the target of a symbolic link in bytes, as on Linux.
const TARGET_LEN_MAX: usize = 4096;
/// Maximum total length of the extended attributes of an entry in bytes.
const XATTRS_LEN_MAX: usize = 512 * 1024;

const BAD_BASE64: &str = "a field is not valid base64";

/// Type of an entry, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// CID of the content: a chunk or a file node.
        cid: Cid,
        /// Length in bytes.
        size: u64,
        /// BLAKE3 of the content, as `b3sum` prints it.
        blake3: Hash,
        /// True if the file has holes: zeros that use no disk space.
        is_sparse: bool,
    },
    /// A directory.
    Dir,
    /// A symbolic link. It is never followed.
    Symlink {
        /// Bytes of the target, unchanged.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket. It is recorded but never restored.
    Socket,
    /// A character device.
    CharDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
}

/// Metadata of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permissions with setuid, setgid and sticky: the low twelve bits.
    pub mode: u32,
    /// Modification time in nanoseconds since 1970, from −2^63 to 2^64 − 1.
    pub mtime_ns: i128,
    /// User id of the owner.
    pub uid: u32,
    /// Group id of the owner.
    pub gid: u32,
    /// Name of the owner, if known on the source.
    pub user: Option<String>,
    /// Name of the group, if known on the source.
    pub group: Option<String>,
    /// Extended attributes; at most 512 KiB in total.
    pub xattrs: Xattrs,
    /// For an inode with several paths: a number that all of these paths share. The
    /// source derives it from the inode number; only equality within one manifest
    /// has a meaning.
    pub hard_link: Option<u64>,
}

/// One entry of a manifest: one line of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root of the folder.
    pub path: RelPath,
    /// Type and content.
    pub kind: EntryKind,
    /// Mode, times, owner and attributes.
    pub metadata: Metadata,
    /// Reason for which the source could not read the path completely, if so. The
    /// entry then has the last good state, only the beginning of a file that grew
    /// during each read, or all but an extended attribute that cannot be read.
    pub error: Option<String>,
}

/// JSON form. The fields are in the order of their names, which makes it
/// canonical.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cid: Option<Cid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_link: Option<u64>,
    mode: u32,
    mtime_ns: i128,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sparse: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_base64: Option<String>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<XattrWire<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct XattrWire<'a> {
    name: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    value: String,
}

/// Returns bytes as text. If they are not UTF-8, the text is lossy and the second
/// value has the bytes in base64.
pub(super) fn to_text(bytes: &[u8]) -> (Cow<'_, str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.into(), None),
        Err(_) => (String::from_utf8_lossy(bytes), Some(BASE64.encode(bytes))),
    }
}

/// Reverses [`to_text`]. The text beside base64 is for display; it must be the
/// lossy form of the bytes.
pub(super) fn from_text(
    text: Cow<'_, str>,
    base64: Option<&str>,
) -> Result<Vec<u8>, ManifestError> {
    let Some(base64) = base64 else { return Ok(text.into_owned().into_bytes()) };
    let bytes = BASE64.decode(base64.as_bytes()).map_err(|_| ManifestError::Rule(BAD_BASE64))?;
    if std::str::from_utf8(&bytes).is_ok() || String::from_utf8_lossy(&bytes) != text {
        return Err(ManifestError::Rule("a text does not match its base64 form"));
    }
    Ok(bytes)
}

fn decode_hash(hex: &str) -> Result<Hash, ManifestError> {
    Hash::from_hex(hex).ok_or(ManifestError::Rule("a BLAKE3 hash is not 64 hexadecimal digits"))
}

fn rule(holds: bool, otherwise: &'static str) -> Result<(), ManifestError> {
    if holds { Ok(()) } else { Err(ManifestError::Rule(otherwise)) }
}

impl EntryKind {
    /// Returns the value of the field `type` in a manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Dir => "dir",
            Self::Symlink { .. } => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice { .. } => "char_device",
            Self::BlockDevice { .. } => "block_device",
        }
    }
}

impl Entry {
    /// Returns the entry as one line of JSON, without the newline.
    pub fn to_json(&self) -> String {
        let metadata = &self.metadata;
        let (path, path_base64) = to_text(self.path.as_bytes());
        let xattrs = metadata.xattrs.iter().map(|(name, value)| {
            let (name, name_base64) = to_text(name);
            XattrWire { name, name_base64, value: BASE64.encode(value) }
        });
        let mut wire = Wire {
            error: self.error.as_deref().map(Cow::from),
            gid: metadata.gid,
            group: metadata.group.as_deref().map(Cow::from),
            hard_link: metadata.hard_link,
            kind: self.kind.name().into(),
            mode: metadata.mode,
            mtime_ns: metadata.mtime_ns,
            path,
            path_base64,
            uid: metadata.uid,
            user: metadata.user.as_deref().map(Cow::from),
            xattrs: xattrs.collect(),
            ..Wire::default()
        };
        match &self.kind {
            EntryKind::File { cid, size, blake3, is_sparse } => {
                wire.cid = Some(*cid);
                wire.size_bytes = Some(*size);
                wire.sparse = *is_sparse;
                // The CID of a file of one chunk has the hash already.
                wire.blake3 = (cid.codec() != Codec::Raw).then(|| blake3.to_string());
            }
            EntryKind::Symlink { target } => {
                let (target, target_base64) = to_text(target);
                wire.target = Some(target);
                wire.target_base64 = target_base64;
            }
            EntryKind::CharDevice { device } | EntryKind::BlockDevice { device } => {
                wire.device = Some(*device);
            }
            EntryKind::Dir | EntryKind::Fifo | EntryKind::Socket => {}
        }
        serde_json::to_string(&wire).expect("texts and numbers have a JSON form")
    }

    /// Parses one line and checks it. [`super::TreeCheck`] checks it against the
    /// lines before it.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError::Malformed`] if the line is not an entry,
    /// [`ManifestError::Path`] if its path is unusable, and
    /// [`ManifestError::Rule`] if another rule is broken.
    pub fn from_json(line: &[u8]) -> Result<Self, ManifestError> {
        let wire: Wire<'_> = serde_json::from_slice(line).map_err(ManifestError::malformed)?;
        let path = RelPath::new(from_text(wire.path, wire.path_base64.as_deref())?)?;
        rule(wire.mode <= 0o7777, "a mode has more than twelve bits")?;
        rule(
            (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&wire.mtime_ns),
            "a modification time is out of range",
        )?;
        let mut xattrs = Xattrs::new();
        let mut xattrs_len = 0;
        for xattr in wire.xattrs {
            let name = from_text(xattr.name, xattr.name_base64.as_deref())?;
            let value = BASE64
                .decode(xattr.value.as_bytes())
                .map_err(|_| ManifestError::Rule(BAD_BASE64))?;
            xattrs_len += name.len() + value.len();
            rule(
                !name.is_empty() && !name.contains(&0),
                "the name of an extended attribute is empty or contains NUL",
            )?;
            rule(xattrs.insert(name, value).is_none(), "an extended attribute occurs twice")?;
        }
        rule(xattrs_len <= XATTRS_LEN_MAX, "the extended attributes of an entry exceed 512 KiB")?;
        let kind = match (&*wire.kind, wire.cid, wire.size_bytes, wire.target, wire.device) {
            ("file", Some(cid), Some(size), None, None) => {
                let blake3 = match (cid.codec(), wire.blake3) {
                    (Codec::Raw, None) => *cid.hash(),
                    (Codec::DagCbor, Some(hex)) => decode_hash(&hex)?,
                    _ => {
                        return Err(ManifestError::Rule(
                            "the BLAKE3 field of a file does not fit its CID",
                        ));
                    }
                };
                rule(
                    cid.codec() != Codec::Raw || size <= MAX_BLOCK_LEN as u64,
                    "a file of one chunk is longer than a block may be",
                )?;
                rule(i64::try_from(size).is_ok(), "the length of a file exceeds 2^63 - 1")?;
                EntryKind::File { cid, size, blake3, is_sparse: wire.sparse }
            }
            ("dir", None, None, None, None) => EntryKind::Dir,
            ("symlink", None, None, Some(target), None) => {
                let target = from_text(target, wire.target_base64.as_deref())?;
                let is_usable =
                    !target.is_empty() && target.len() <= TARGET_LEN_MAX && !target.contains(&0);
                rule(
                    is_usable,
                    "the target of a symbolic link is empty, too long or contains NUL",
                )?;
                EntryKind::Symlink { target }
            }
            ("fifo", None, None, None, None) => EntryKind::Fifo,
            ("socket", None, None, None, None) => EntryKind::Socket,
            ("char_device", None, None, None, Some(device)) => EntryKind::CharDevice { device },
            ("block_device", None, None, None, Some(device)) => EntryKind::BlockDevice { device },
            _ => return Err(ManifestError::Rule("the fields of an entry do not match its type")),
        };
        let metadata = Metadata {
            mode: wire.mode,
            mtime_ns: wire.mtime_ns,
            uid: wire.uid,
            gid: wire.gid,
            user: wire.user.map(Cow::into_owned),
            group: wire.group.map(Cow::into_owned),
            xattrs,
            hard_link: wire.hard_link,
        };
        Ok(Self { path, kind, metadata, error: wire.error.map(Cow::into_owned) })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn file(path: &str, content: &[u8]) -> Entry {
        Entry {
            path: RelPath::new(path).unwrap(),
            kind: EntryKind::File {
                cid: Cid::of(Codec::Raw, content),
                size: content.len() as u64,
                blake3: Hash::of(content),
                is_sparse: false,
            },
            metadata: Metadata {
                mode: 0o644,
                mtime_ns: 1_700_000_000_123_456_789,
                ..Default::default()
            },
            error: None,
        }
    }

    pub(crate) fn dir(path: &str) -> Entry {
        Entry { kind: EntryKind::Dir, ..file(path, b"") }
    }

    #[test]
    fn the_form_of_a_line_is_golden() {
        assert_eq!(
            file("notes/a.txt", b"hello world").to_json(),
            r#"{"cid":"bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq","gid":0,"mode":420,"mtime_ns":1700000000123456789,"path":"notes/a.txt","size_bytes":11,"type":"file","uid":0}"#
        );
    }

    fn kinds() -> Vec<EntryKind> {
        vec![
            file("x", b"chunk").kind,
            EntryKind::File {
                cid: Cid::of(Codec::DagCbor, b"node"),
                size: 5_000_000_000,
                blake3: Hash::of(b"whole"),
                is_sparse: true,
            },
            EntryKind::Dir,
            EntryKind::Symlink { target: b"../away/\xff\xfe".to_vec() },
            EntryKind::Symlink { target: vec![0xff, b'/', b'.'] },
            EntryKind::Fifo,
            EntryKind::Socket,
            EntryKind::CharDevice { device: (1, 3) },
            EntryKind::BlockDevice { device: (8, u32::MAX) },
        ]
    }

    #[test]
    fn everything_reads_back() {
        for kind in kinds() {
            for path in [&b"plain"[..], b"new\nline/-rf \"q\"", b"\xff\xfe", "é".as_bytes()] {
                let entry = Entry {
                    path: RelPath::new(path).unwrap(),
                    kind: kind.clone(),
                    metadata: Metadata {
                        mode: 0o7777,
                        mtime_ns: i128::from(u64::MAX),
                        uid: u32::MAX,
                        gid: 5,
                        user: Some("me".into()),
                        group: Some("us".into()),
                        xattrs: [(b"user.x".to_vec(), vec![0, 255]), (vec![b'u', 0xff], vec![])]
                            .into(),
                        hard_link: Some(u64::MAX),
                    },
                    error: Some("Permission denied".into()),
                };
                let line = entry.to_json();
                assert!(!line.contains('\n'));
                assert_eq!(Entry::from_json(line.as_bytes()).unwrap(), entry);
                let old = Entry {
                    metadata: Metadata { mtime_ns: i128::from(i64::MIN), ..Metadata::default() },
                    ..entry
                };
                assert_eq!(Entry::from_json(old.to_json().as_bytes()).unwrap(), old);
            }
        }
    }

    #[test]
    fn hostile_lines_are_refused() {
        let good = file("a", b"x").to_json();
        let cases = [
            (r#""path":"a""#, r#""path":"../a""#),
            (r#""path":"a""#, r#""path":"/a""#),
            (r#""path":"a""#, r#""path":"a","path_base64":"Yg==""#),
            (r#""path":"a""#, r#""path":"a","path_base64":"Li4vYQ==""#),
            (r#""mode":420"#, r#""mode":8192"#),
            (r#""type":"file""#, r#""type":"dir""#),
            (r#""type":"file""#, r#""type":"nonsense""#),
            (r#""size_bytes":1"#, r#""size_bytes":99999999"#),
            (r#""size_bytes":1"#, r#""size_bytes":-1"#),
            (r#""mtime_ns":1700000000123456789"#, r#""mtime_ns":18446744073709551616"#),
            (r#""uid":0"#, r#""uid":0,"evil":1"#),
            (r#""uid":0"#, r#""uid":0,"blake3":"00""#),
            (r#""uid":0"#, r#""uid":0,"target":"/etc""#),
        ];
        for (from, to) in cases {
            let bad = good.replace(from, to);
            assert_ne!(bad, good, "{from}");
            assert!(Entry::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Entry::from_json("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::from_json(&line);
        }
    }
}
