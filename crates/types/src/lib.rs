//! Data formats of Archivist, from block names to manifests.
//!
//! This crate defines what the other crates store, sign and send. It does no
//! I/O: no files, no sockets, no clock, no async runtime.
//!
//! How the types fit together, from the bottom up:
//!
//! * A [`Block`] is a byte string of at most [`MAX_BLOCK_LEN`] bytes together
//!   with its name, a [`Cid`]. A `Cid` is a [`Codec`] and a [`struct@Hash`]
//!   (BLAKE3-256 of the bytes). An [`EncodedBlock`] is a block in the form in
//!   which it is stored and sent, that is, possibly compressed.
//! * A file is cut into chunks, each a block. [`Chunker`] cuts,
//!   [`FileNodeBuilder`] joins the chunks of a long file to a tree of
//!   [`FileNode`]s; the CID of the root is the CID of the file.
//! * A [`ManifestHeader`] describes a folder at one [`SequenceNumber`]. Its
//!   entries ([`Entry`], one for each path) are in [`Segment`]s, which are
//!   blocks too. A [`Dataset`] wraps the header (or an uploaded file) with a
//!   name and a MIME type; the CID of that dataset is the CID of the manifest.
//!   [`PublishedManifest`] is what a source announces about it.
//! * [`BlockScheme`] cuts, names and encodes the content of a source. All code
//!   that makes blocks of content gets it as a value.
//! * [`links`] returns the CIDs that a block refers to. Garbage collection
//!   follows them.
//! * [`delta`] encodes a block as its difference to other blocks.
//!
//! Invariants: a `Block`, an `EncodedBlock`, a [`RelPath`] or a [`FolderId`]
//! that exists has been checked. Input may come from a hostile peer, so every
//! decoder returns an error instead of panicking, and allocates at most a small
//! multiple of its input. The bytes of each format are specified in
//! `docs/formats/`.
//!
//! Absent: reading and writing of files (crate `fstree`), storage (`store`),
//! signatures (`manifest`).
//!
//! ```
//! use types::{Block, Cid, Codec};
//!
//! let block = Block::new(Codec::Raw, &b"hello world"[..])?;
//! let name = block.cid().to_string();
//! assert_eq!(name, "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq");
//!
//! // Bytes from elsewhere become a block only if they match the name.
//! let cid: Cid = name.parse()?;
//! assert!(Block::verify(cid, &b"hello world"[..]).is_ok());
//! assert!(Block::verify(cid, &b"hello w0rld"[..]).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod causes;
mod chunker;
mod cid;
mod cut;
mod dataset;
pub mod delta;
mod encoded;
mod file_node;
mod ids;
mod links;
mod manifest;
mod published;
mod rel_path;
mod retry;
mod scheme;
mod text;

pub use block::{Block, BlockError};
pub use causes::with_causes;
pub use chunker::Chunker;
pub use cid::{Cid, CidError, Codec, Hash};
pub use cut::{CHUNK_LEN_AVG, CHUNK_LEN_MAX, CHUNK_LEN_MIN};
pub use dataset::{Dataset, MAX_FILENAME_LEN, MAX_MIMETYPE_LEN};
pub use encoded::{EncodedBlock, EncodedError, Encoding};
pub use file_node::{
    FileNode, FileNodeBuilder, MAX_FANOUT, MAX_TREE_DEPTH, MIN_FANOUT, NodeChild, NodeError,
};
pub use ids::{FolderId, FolderIdError, SequenceNumber};
pub use links::links;
pub use manifest::{
    Entry, EntryKind, HELD_PART, MANIFEST_MIME, ManifestError, ManifestHeader, ManifestStats,
    Metadata, Segment, SegmentRef, SegmentWriter, TreeCheck, Xattrs, decode_segment, is_part,
    segment_lines,
};
pub use published::PublishedManifest;
pub use rel_path::{MAX_NAME_LEN, MAX_PATH_LEN, PathError, RelPath};
pub use retry::Retry;
pub use scheme::BlockScheme;
pub use text::{is_unsafe_to_show, printable_line};

/// Maximum length of a block in bytes. The store, the wire protocol and every
/// decoder enforce it. Chunks of files are at most 1 MiB; blocks of metadata may
/// be longer.
pub const MAX_BLOCK_LEN: usize = 4 << 20;
