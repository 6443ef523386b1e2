//! Entries of a manifest as the API lists them, and the paths of both forms.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use types::{Cid, Entry, EntryKind};
use utoipa::ToSchema;

/// One entry of a snapshot. Entries are asked for page by page: a page with as
/// many as its `limit` is followed by the one after its last path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedEntry {
    /// Where it is in the folder; exact, unless `path_base64` is given too.
    pub path: String,
    /// The same in full, in base64, where it is not UTF-8.
    pub path_base64: Option<String>,
    /// `file`, `dir`, `symlink`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The length of a file.
    pub size_bytes: Option<u64>,
    /// The content of a file.
    #[schema(value_type = Option<String>)]
    pub cid: Option<Cid>,
    /// The target of a link; what is not UTF-8 is replaced.
    pub target: Option<String>,
    /// Permissions.
    pub mode: u32,
    /// The time of the last write, in nanoseconds since 1970, as a text: it
    /// may be beyond what JSON numbers carry.
    pub mtime_ns: String,
    /// Why this is not as it was on disk.
    pub error: Option<String>,
}

/// Bytes as the API carries them: as text, and in full in base64 where they
/// are not UTF-8.
pub fn to_text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64.encode(bytes))),
    }
}

/// The bytes that [`to_text`] was given; `None` where the base64 is none.
pub fn from_text(text: &str, base64: Option<&str>) -> Option<Vec<u8>> {
    match base64 {
        Some(base64) => BASE64.decode(base64.as_bytes()).ok(),
        None => Some(text.as_bytes().to_vec()),
    }
}

impl ListedEntry {
    /// The bytes of its path; `None` where the base64 is none.
    pub fn path_bytes(&self) -> Option<Vec<u8>> {
        from_text(&self.path, self.path_base64.as_deref())
    }
}

impl From<&Entry> for ListedEntry {
    fn from(entry: &Entry) -> Self {
        let (path, path_base64) = to_text(entry.path.as_bytes());
        let (size_bytes, cid) = match &entry.kind {
            EntryKind::File { size, cid, .. } => (Some(*size), Some(*cid)),
            _ => (None, None),
        };
        let target = match &entry.kind {
            EntryKind::Symlink { target } => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        };
        Self {
            path,
            path_base64,
            kind: entry.kind.name().to_owned(),
            size_bytes,
            cid,
            target,
            mode: entry.metadata.mode,
            mtime_ns: entry.metadata.mtime_ns.to_string(),
            error: entry.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{Metadata, RelPath};

    use super::*;

    #[test]
    fn paths_of_any_bytes_go_both_ways() {
        for bytes in [&b"plain"[..], "é\u{202e}".as_bytes(), b"a\nb", b"\xff\xfe/x"] {
            let entry = Entry {
                path: RelPath::new(bytes).unwrap(),
                kind: EntryKind::Symlink { target: bytes.to_vec() },
                metadata: Metadata { mode: 0o777, mtime_ns: -1, ..Metadata::default() },
                error: None,
            };
            let listed = ListedEntry::from(&entry);
            assert_eq!(listed.path_base64.is_some(), std::str::from_utf8(bytes).is_err());
            let json = serde_json::to_vec(&listed).unwrap();
            let read: ListedEntry = serde_json::from_slice(&json).unwrap();
            assert_eq!(read.path_bytes().unwrap(), bytes);
            assert_eq!((read.kind.as_str(), read.mtime_ns.as_str()), ("symlink", "-1"));
        }
        let broken = ListedEntry {
            path_base64: Some("not base64".into()),
            ..ListedEntry::from(&Entry {
                path: RelPath::root(),
                kind: EntryKind::Dir,
                metadata: Metadata::default(),
                error: None,
            })
        };
        assert_eq!(broken.path_bytes(), None);
    }
}
