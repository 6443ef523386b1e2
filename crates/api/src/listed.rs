//! [`ListedEntry`]: an entry of a manifest as the API lists it, and the text form
//! of paths.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use types::{Cid, Entry, EntryKind};
use utoipa::ToSchema;

/// One entry of a snapshot. Entries are listed in pages: if a page has as many
/// entries as its `limit`, the next page starts after the last path of this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedEntry {
    /// Path in the folder. Lossy if `path_base64` is present.
    pub path: String,
    /// Path in base64, if it is not UTF-8.
    pub path_base64: Option<String>,
    /// Type: `file`, `dir`, `symlink`, `fifo`, `socket`, `char_device` or
    /// `block_device`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Length of a file in bytes.
    pub size_bytes: Option<u64>,
    /// CID of the content of a file.
    #[schema(value_type = Option<String>)]
    pub cid: Option<Cid>,
    /// Target of a symbolic link. Bytes that are not UTF-8 are replaced.
    pub target: Option<String>,
    /// Permissions with setuid, setgid and sticky, as a number.
    pub mode: u32,
    /// Modification time in nanoseconds since 1970, as text because it may exceed
    /// the range of JSON numbers.
    pub mtime_ns: String,
    /// Reason for which the source could not read the current state, if it could
    /// not. The entry then has the last good state.
    pub error: Option<String>,
}

/// Returns bytes as text. If they are not UTF-8, the text is lossy and the second
/// value has the bytes in base64.
pub fn to_text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64.encode(bytes))),
    }
}

/// Reverses [`to_text`]. Returns `None` if `base64` is not valid base64.
pub fn from_text(text: &str, base64: Option<&str>) -> Option<Vec<u8>> {
    match base64 {
        Some(base64) => BASE64.decode(base64.as_bytes()).ok(),
        None => Some(text.as_bytes().to_vec()),
    }
}

impl ListedEntry {
    /// Returns the bytes of the path, or `None` if `path_base64` is not valid
    /// base64.
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

    #[test]
    fn fuzz_listed_text() {
        let examples: [&[u8]; 3] = [b"a/b", b"\xff\xfe", b"/w=="];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            let (text, base64) = to_text(bytes);
            assert_eq!(from_text(&text, base64.as_deref()).as_deref(), Some(bytes));
            let text = String::from_utf8_lossy(bytes);
            if let Some(found) = from_text("", Some(&text)) {
                assert_eq!(from_text("", Some(&BASE64.encode(&found))), Some(found));
            }
        });
    }
}
