//! The manifest: the whole state of a folder at one sequence number.
//!
//! A [`ManifestHeader`] names segments; a segment is a block of JSON lines,
//! one [`Entry`] a line, sorted by path. Where a segment ends is decided by
//! the paths alone ([`SegmentWriter`]), so a changed file changes one segment
//! and the header. `docs/formats/manifest.md` has the forms.

mod entry;
mod header;
mod segment;

pub use entry::{Entry, EntryKind, Metadata, Xattrs};
pub use header::{ManifestHeader, ManifestStats, SegmentRef};
pub(crate) use segment::manifest_links;
pub use segment::{Segment, SegmentWriter, TreeCheck, decode_segment, segment_lines};

/// The MIME type of the dataset that a manifest is: its content is the header.
pub const MANIFEST_MIME: &str = "application/vnd.archivist.manifest+json";

/// Why bytes are not a manifest, or not one that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the form. The text is cut: it may hold what the
    /// bytes say.
    #[error("not a valid manifest: {0}")]
    Malformed(String),
    /// Of a version that this program does not know.
    #[error("the manifest is of version {0:?}, this program knows \"2\"")]
    Version(String),
    /// A path that leads out of the folder, or is otherwise no path.
    #[error("the manifest has an unusable path")]
    Path(#[from] crate::PathError),
    /// Of the right form, but against a rule.
    #[error("the manifest breaks the format: {0}")]
    Rule(&'static str),
    /// Two entries out of order, or the same path twice.
    #[error("the manifest is not sorted at {0}")]
    Order(crate::RelPath),
    /// An entry in something that is no directory of the manifest.
    #[error("{0} is in no directory of the manifest")]
    Orphan(crate::RelPath),
}

impl ManifestError {
    /// What the decoder says, which may quote whatever the bytes hold.
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
