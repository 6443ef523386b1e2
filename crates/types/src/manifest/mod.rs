//! Manifests: the complete state of a folder at one sequence number.
//!
//! A [`ManifestHeader`] lists segments. A segment is a block of JSON lines, one
//! [`Entry`] per line, sorted by path. The paths decide where a segment ends
//! ([`SegmentWriter`]), unless it would exceed 1 MiB, so one changed file changes
//! one segment and the header. Specified in `docs/formats/manifest.md`.

mod entry;
mod header;
mod segment;

pub use entry::{Entry, EntryKind, Metadata, Xattrs};
pub use header::{HELD_PART, ManifestHeader, ManifestStats, SegmentRef, is_part};
pub(crate) use segment::manifest_links;
pub use segment::{Segment, SegmentWriter, TreeCheck, decode_segment, segment_lines};

/// MIME type of the [`crate::Dataset`] that represents a manifest. The content of
/// the dataset is the header.
pub const MANIFEST_MIME: &str = "application/vnd.archivist.manifest+json";

/// Reasons for which bytes are not a valid manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not JSON or do not have the expected fields. Contains the
    /// decoder's message, cut because it may quote the bytes.
    #[error("malformed manifest: {0}")]
    Malformed(String),
    /// The version is unknown; contains it, cut to 20 characters.
    #[error("the manifest has version {0:?}, but only \"2\" is supported")]
    Version(String),
    /// A path leads out of the folder or is not a path.
    #[error("the manifest has an unusable path")]
    Path(#[from] crate::PathError),
    /// The manifest has the right fields but breaks the rule that the text
    /// names.
    #[error("invalid manifest: {0}")]
    Rule(&'static str),
    /// Two entries are out of order, or a path occurs twice; contains the second
    /// path.
    #[error("the manifest is not sorted at {0}")]
    Order(crate::RelPath),
    /// The parent of an entry is not a directory of the manifest.
    #[error("the manifest has no directory that contains {0}")]
    Orphan(crate::RelPath),
}

impl ManifestError {
    /// Makes an error from the decoder's message, which may quote hostile bytes.
    #[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
    fn malformed(error: serde_json::Error) -> Self {
        Self::Malformed(crate::printable_line(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bytes_from_elsewhere_say_is_cut_in_the_errors_over_them() {
        let name = format!("\u{1b}]0;{}\u{202e}", "x".repeat(1 << 20));
        let field = serde_json::to_string(&name).unwrap();
        let json = format!(r#"{{"version":"2",{field}:1}}"#);
        let dag = serde_ipld_dagcbor::to_vec(&std::collections::BTreeMap::from([(name, 1)]));
        let errors = [
            Entry::from_json(json.as_bytes()).unwrap_err().to_string(),
            ManifestHeader::decode(json.as_bytes()).unwrap_err().to_string(),
            crate::FileNode::decode(&dag.unwrap()).unwrap_err().to_string(),
        ];
        for error in errors {
            assert!(error.contains("unknown field"), "{error}");
            assert!(error.chars().count() < 300, "{} characters", error.chars().count());
            assert!(!error.chars().any(crate::is_unsafe_to_show), "{error:?}");
        }
    }
}
