//! The typed names of the domain, and the formats of the nodes that tie
//! blocks together.
//!
//! Everything here is pure: no file, no socket, no clock, no async runtime.
//! What is parsed here may come from a hostile peer, so every decoder is
//! total and bounded: it returns an error, never panics, and never allocates
//! more than a small multiple of its input.
//!
//! * [`struct@Hash`], [`Cid`], [`Codec`]: the name of a block.
//! * [`Block`]: bytes together with the name that they were checked against.
//! * [`EncodedBlock`]: a block as it is stored and sent.
//! * [`delta`]: a block as its difference to others.
//! * [`FileNode`], [`FileNodeBuilder`]: the tree of chunks of one file.
//! * [`Dataset`]: content with a file name and a MIME type.
//! * [`ManifestHeader`], [`Segment`], [`Entry`]: the state of a folder;
//!   [`PublishedManifest`]: that it can be had.
//! * [`FolderId`], [`SequenceNumber`], [`RelPath`]: names with rules.
//! * [`links`]: what a block refers to, which is what keeps it alive.

mod block;
mod causes;
mod cid;
mod dataset;
pub mod delta;
mod encoded;
mod file_node;
mod ids;
mod links;
mod manifest;
mod published;
mod rel_path;
mod text;

pub use block::{Block, BlockError};
pub use causes::with_causes;
pub use cid::{Cid, CidError, Codec, Hash};
pub use dataset::{Dataset, MAX_FILENAME_LEN, MAX_MIMETYPE_LEN};
pub use encoded::{EncodedBlock, EncodedError, Encoding};
pub use file_node::{
    FileNode, FileNodeBuilder, MAX_FANOUT, MAX_TREE_DEPTH, MIN_FANOUT, NodeChild, NodeError,
};
pub use ids::{FolderId, FolderIdError, SequenceNumber};
pub use links::links;
pub use manifest::{
    Entry, EntryKind, MANIFEST_MIME, ManifestError, ManifestHeader, ManifestStats, Metadata,
    Segment, SegmentRef, SegmentWriter, TreeCheck, Xattrs, decode_segment, segment_lines,
};
pub use published::PublishedManifest;
pub use rel_path::{MAX_NAME_LEN, MAX_PATH_LEN, PathError, RelPath, is_unsafe_to_show};
pub use text::printable_line;

/// The longest block, in bytes: a limit of the store, of the wire and of
/// every decoder. The chunker cuts at 1 MiB; metadata blocks may be longer.
pub const MAX_BLOCK_LEN: usize = 4 << 20;
