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
pub use segment::{Segment, SegmentWriter, TreeCheck, decode_segment};

/// The MIME type of the dataset that a manifest is: its content is the header.
pub const MANIFEST_MIME: &str = "application/vnd.archivist.manifest+json";

/// Why bytes are not a manifest, or not one that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the form.
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
