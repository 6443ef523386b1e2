//! [`FileNode`]: a node in the tree of chunks of one file.
//!
//! A file of one chunk has no node: its CID is that of the chunk. A longer file
//! is a tree. Each node is the DAG-CBOR map `{"size": u64, "chunks": [[link,
//! length], …]}`. A raw link refers to a chunk, a DAG-CBOR link to another node,
//! and `length` is the number of content bytes below the link. Specified in
//! `docs/formats/block.md`.
//!
//! The hash of a child decides whether its node ends after it, like the content
//! decides about the ends of chunks. If bytes are inserted at the front of a
//! terabyte, only the nodes with changed chunks and their ancestors change; with
//! a fixed number of children, all nodes would. [`MIN_FANOUT`] makes each level
//! at least 256 times smaller than the level below, even for content whose every
//! chunk would end a node (for example zeros).

use serde::{Deserialize, Serialize};

use crate::{Block, BlockError, BlockScheme, Cid, CidError, Codec, MAX_BLOCK_LEN};

/// Minimum number of children of a node, except for the last node of a level.
pub const MIN_FANOUT: usize = 256;

/// Maximum number of children of a node.
pub const MAX_FANOUT: usize = 4096;

/// A child ends its node if these bits of [`crate::Hash::prefix`] are zero, as
/// for one child in 1,024.
const CUT_MASK: u64 = 0x3ff;

/// Maximum depth of a tree. Eight levels of [`MIN_FANOUT`] children have more
/// chunks than a `u64` can count.
pub const MAX_TREE_DEPTH: usize = 8;

/// Child of a node: a chunk or another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeChild {
    /// Name of the child; [`Codec::Raw`] for a chunk, [`Codec::DagCbor`] for a
    /// node.
    pub cid: Cid,
    /// Number of bytes of file content below the child.
    pub len: u64,
}

/// Node in the tree of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNode {
    size: u64,
    children: Vec<NodeChild>,
}

/// Reasons for which bytes are not a valid file node or dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The bytes are not DAG-CBOR or do not have the expected fields. Contains
    /// the decoder's message, cut because it may quote the bytes.
    #[error("malformed node: {0}")]
    Malformed(String),
    /// A link is not a supported CID.
    #[error("unusable link in a node: {0}")]
    Link(#[from] CidError),
    /// The node has the right fields but breaks the rule that the text names.
    #[error("invalid node: {0}")]
    Rule(&'static str),
    /// The node is of a kind or version that only later versions of this program
    /// know; names it.
    #[error("written by a newer version of this program ({0}); use that version")]
    Newer(String),
}

/// The fields that name the kind of a node and its version.
#[derive(Deserialize)]
struct Markers {
    #[serde(default)]
    dataset: Option<u64>,
    #[serde(default)]
    sealed: Option<u64>,
}

impl NodeError {
    /// Returns [`NodeError::Newer`] if `bytes`, which are no node of this version,
    /// are one of a later version: a sealed node, or a dataset with another version
    /// than `dataset`. Otherwise returns `otherwise`.
    pub(crate) fn newer_or(bytes: &[u8], dataset: u64, otherwise: Self) -> Self {
        let Ok(markers) = serde_ipld_dagcbor::from_slice::<Markers>(bytes) else {
            return otherwise;
        };
        match markers {
            Markers { sealed: Some(version), .. } => {
                Self::Newer(format!("sealed node of version {version}"))
            }
            Markers { dataset: Some(version), .. } if version != dataset => {
                Self::Newer(format!("dataset of version {version}"))
            }
            Markers { .. } => otherwise,
        }
    }

    /// Makes an error from a decoder's message, which may quote hostile bytes.
    pub(crate) fn malformed(error: &dyn std::error::Error) -> Self {
        Self::Malformed(crate::printable_line(&error.to_string()))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    size: u64,
    chunks: Vec<(cid::Cid, u64)>,
}

impl FileNode {
    /// Makes a node over `children`.
    fn new(children: Vec<NodeChild>) -> Self {
        Self { size: children.iter().map(|child| child.len).sum(), children }
    }

    /// Decodes a node and checks it: it has 1 to [`MAX_FANOUT`] children, none of
    /// them is empty, no chunk is longer than [`MAX_BLOCK_LEN`], and its size is
    /// the sum of theirs.
    ///
    /// # Errors
    ///
    /// Returns [`NodeError::Malformed`] if the bytes are not a node,
    /// [`NodeError::Newer`] if they are a sealed node, [`NodeError::Link`] if a link
    /// is not a supported CID, and [`NodeError::Rule`] if one of these checks fails.
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeError> {
        let wire: Wire = serde_ipld_dagcbor::from_slice(bytes).map_err(|error| {
            NodeError::newer_or(bytes, crate::dataset::VERSION, NodeError::malformed(&error))
        })?;
        if wire.chunks.is_empty() {
            return Err(NodeError::Rule("it has no children"));
        }
        if wire.chunks.len() > MAX_FANOUT {
            return Err(NodeError::Rule("it has too many children"));
        }
        let mut sum = 0_u64;
        let mut children = Vec::with_capacity(wire.chunks.len());
        for (cid, len) in wire.chunks {
            let cid = Cid::from_bytes(&cid.to_bytes())?;
            if len == 0 {
                return Err(NodeError::Rule("a child is empty"));
            }
            if cid.codec() == Codec::Json {
                return Err(NodeError::Rule("a child is a manifest"));
            }
            if cid.codec() == Codec::Raw && len > MAX_BLOCK_LEN as u64 {
                return Err(NodeError::Rule("a chunk is longer than a block may be"));
            }
            sum = sum.checked_add(len).ok_or(NodeError::Rule("its size exceeds 64 bits"))?;
            children.push(NodeChild { cid, len });
        }
        if sum != wire.size {
            return Err(NodeError::Rule("its size is not the sum of its children"));
        }
        Ok(Self { size: sum, children })
    }

    /// Encodes the node as a block.
    fn encode(&self, scheme: &BlockScheme) -> Result<Block, BlockError> {
        let wire = Wire {
            size: self.size,
            chunks: self.children.iter().map(|c| (c.cid.to_generic(), c.len)).collect(),
        };
        let bytes = serde_ipld_dagcbor::to_vec(&wire)
            .expect("a node of integers and links has a CBOR form");
        scheme.block(Codec::DagCbor, bytes)
    }

    /// Returns the number of bytes of file content below this node.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the children, in the order of the file.
    pub fn children(&self) -> &[NodeChild] {
        &self.children
    }
}

/// Builds the tree of one file from its chunks.
///
/// The caller passes the chunks in order and stores the blocks that the builder
/// emits. Memory use does not grow with the file: each level keeps at most
/// [`MAX_FANOUT`] children.
///
/// ```
/// use types::{Block, BlockScheme, Codec, FileNode, FileNodeBuilder, NodeChild};
///
/// let mut nodes: Vec<Block> = Vec::new();
/// let mut emit = |node: Block| {
///     nodes.push(node);
///     Ok::<(), std::convert::Infallible>(())
/// };
/// let mut builder = FileNodeBuilder::new(BlockScheme::plain());
/// for chunk in ["first ", "second"] {
///     let block = Block::new(Codec::Raw, chunk.as_bytes()).unwrap();
///     builder.push(NodeChild { cid: block.cid(), len: chunk.len() as u64 }, &mut emit).unwrap();
/// }
/// let root = builder.finish(&mut emit).unwrap();
/// assert_eq!(root, Some(nodes[0].cid()));
/// assert_eq!(FileNode::decode(nodes[0].data()).unwrap().size(), 12);
/// ```
#[derive(Debug)]
pub struct FileNodeBuilder {
    scheme: BlockScheme,
    /// Children that are not in a node yet: chunks in the first level, nodes over
    /// the level below in each further level.
    levels: Vec<Vec<NodeChild>>,
    size: u64,
}

impl FileNodeBuilder {
    /// Starts with an empty file.
    pub fn new(scheme: BlockScheme) -> Self {
        Self { scheme, levels: Vec::new(), size: 0 }
    }

    /// Returns the number of bytes of content that were added so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the names that no emitted node refers to yet. To protect the
    /// blocks of an unfinished file from garbage collection, the caller must pin
    /// exactly these.
    pub fn pending(&self) -> impl Iterator<Item = Cid> {
        self.levels.iter().flatten().map(|child| child.cid)
    }

    /// Adds the next chunk. Passes each node that becomes complete to `emit`.
    ///
    /// # Errors
    ///
    /// Returns the error of `emit`. The builder must not be used after that.
    pub fn push<E>(
        &mut self,
        chunk: NodeChild,
        mut emit: impl FnMut(Block) -> Result<(), E>,
    ) -> Result<(), E> {
        debug_assert!(chunk.len > 0 && chunk.cid.codec() != Codec::Json);
        self.size += chunk.len;
        let mut child = chunk;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let siblings = &mut self.levels[level];
            siblings.push(child);
            if !ends_node(siblings) {
                break;
            }
            child = emit_node(&self.scheme, std::mem::take(siblings), &mut emit)?;
        }
        Ok(())
    }

    /// Ends the file and returns the CID of its root. The root of a file of one
    /// chunk is that chunk. Returns `None` if there was no chunk: the caller then
    /// stores the empty [`Codec::Raw`] block, whose CID is that of an empty file.
    ///
    /// # Errors
    ///
    /// Returns the error of `emit`.
    pub fn finish<E>(
        mut self,
        mut emit: impl FnMut(Block) -> Result<(), E>,
    ) -> Result<Option<Cid>, E> {
        let mut level = 0;
        while level < self.levels.len() {
            let children = std::mem::take(&mut self.levels[level]);
            let is_top = self.levels[level + 1..].iter().all(Vec::is_empty);
            if is_top && children.len() == 1 {
                return Ok(Some(children[0].cid));
            }
            if !children.is_empty() {
                let parent = emit_node(&self.scheme, children, &mut emit)?;
                if level + 1 == self.levels.len() {
                    self.levels.push(Vec::new());
                }
                self.levels[level + 1].push(parent);
            }
            level += 1;
        }
        Ok(None)
    }
}

/// Reports whether a node ends after the last of `siblings`.
fn ends_node(siblings: &[NodeChild]) -> bool {
    let Some(last) = siblings.last() else { return false };
    siblings.len() >= MAX_FANOUT
        || (siblings.len() >= MIN_FANOUT && last.cid.hash().prefix() & CUT_MASK == 0)
}

fn emit_node<E>(
    scheme: &BlockScheme,
    children: Vec<NodeChild>,
    emit: &mut impl FnMut(Block) -> Result<(), E>,
) -> Result<NodeChild, E> {
    let node = FileNode::new(children);
    let block = node.encode(scheme).expect("4,096 children take less than 4 MiB");
    let child = NodeChild { cid: block.cid(), len: node.size };
    emit(block)?;
    Ok(child)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn chunk(seed: u64) -> NodeChild {
        NodeChild { cid: Cid::of(Codec::Raw, &seed.to_le_bytes()), len: seed % 1000 + 1 }
    }

    fn build(chunks: impl IntoIterator<Item = NodeChild>) -> (Option<Cid>, HashMap<Cid, Block>) {
        let mut nodes = HashMap::new();
        let mut emit = |block: Block| {
            nodes.insert(block.cid(), block);
            Ok::<_, Infallible>(())
        };
        let mut builder = FileNodeBuilder::new(BlockScheme::plain());
        for chunk in chunks {
            builder.push(chunk, &mut emit).unwrap();
        }
        let root = builder.finish(&mut emit).unwrap();
        (root, nodes)
    }

    fn flatten(root: Cid, nodes: &HashMap<Cid, Block>, depth: usize, out: &mut Vec<NodeChild>) {
        assert!(depth <= MAX_TREE_DEPTH);
        let node = FileNode::decode(nodes[&root].data()).unwrap();
        for child in node.children() {
            match child.cid.codec() {
                Codec::Raw => out.push(*child),
                _ => flatten(child.cid, nodes, depth + 1, out),
            }
        }
    }

    #[test]
    fn small_files_need_no_node() {
        assert_eq!(build([]).0, None);
        let (root, nodes) = build([chunk(7)]);
        assert_eq!(root, Some(chunk(7).cid));
        assert!(nodes.is_empty());
    }

    #[test]
    fn the_form_of_a_node_is_golden() {
        let (root, nodes) = build([chunk(1), chunk(2)]);
        assert_eq!(
            root.unwrap().to_string(),
            "bafyr4iaft3nt7bt2ws3azs4ibr4sg3z6nfhct5nuw5s3atwmfzmtu7pgp4"
        );
        let bytes = nodes[&root.unwrap()].data();
        // {"size": 5, "chunks": [[42(h'00 01 55 1e 20 …'), 2], …]}
        assert_eq!(&bytes[..7], b"\xa2\x64size\x05");
        assert_eq!(&bytes[7..14], b"\x66chunks");
        assert_eq!(&bytes[14..24], b"\x82\x82\xd8\x2a\x58\x25\x00\x01\x55\x1e");
    }

    #[test]
    fn a_huge_file_becomes_a_tree_that_reads_back() {
        let chunks: Vec<_> = (0..200_000).map(chunk).collect();
        let (root, nodes) = build(chunks.iter().copied());
        let mut read = Vec::new();
        flatten(root.unwrap(), &nodes, 1, &mut read);
        assert_eq!(read, chunks);
        assert!(nodes.len() > 100, "several levels: {}", nodes.len());
    }

    #[test]
    fn one_inserted_chunk_changes_few_nodes() {
        let before: Vec<_> = (0..200_000).map(chunk).collect();
        let mut after = before.clone();
        after.insert(1, chunk(999_999_999));
        let (_, before) = build(before);
        let (_, after) = build(after);
        let new = after.keys().filter(|cid| !before.contains_key(cid)).count();
        assert!(new <= 4, "{new} of {} nodes changed", after.len());
    }

    #[test]
    fn content_that_would_end_a_node_at_every_chunk_still_converges() {
        let cutting = (0..).map(chunk).find(|c| c.cid.hash().prefix() & CUT_MASK == 0).unwrap();
        let (root, nodes) = build(std::iter::repeat_n(cutting, 100_000));
        assert!(root.is_some());
        // Equal runs of chunks are equal nodes: a few blocks stand for all.
        assert!(nodes.len() < 10, "{}", nodes.len());
    }

    #[test]
    fn hostile_nodes_are_refused() {
        let encode = |size: u64, chunks: &[(cid::Cid, u64)]| {
            serde_ipld_dagcbor::to_vec(&Wire { size, chunks: chunks.to_vec() }).unwrap()
        };
        let raw = chunk(1).cid.to_generic();
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (encode(0, &[]), "no children"),
            (encode(0, &[(raw, 0)]), "a child is empty"),
            (encode(7, &[(raw, 5)]), "not the sum"),
            (encode(1, &[(raw, u64::MAX), (raw, 2)]), "longer than a block"),
            (encode(5_000_000, &[(raw, 5_000_000)]), "longer than a block"),
            (encode(4097, &vec![(raw, 1); 4097]), "too many children"),
        ];
        for (bytes, reason) in cases {
            let error = FileNode::decode(&bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} does not say {reason}");
        }
        let node = chunk(1).cid.to_generic();
        let wrap = cid::Cid::new_v1(0x71, *node.hash());
        let overflow = encode(1, &[(wrap, u64::MAX), (wrap, 2)]);
        assert!(FileNode::decode(&overflow).unwrap_err().to_string().contains("64 bits"));
        let sha256: cid::Cid =
            "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e".parse().unwrap();
        assert!(matches!(FileNode::decode(&encode(1, &[(sha256, 1)])), Err(NodeError::Link(_))));
        // An array that declares 2^60 elements must not be believed.
        let bomb = b"\xa2\x64size\x01\x66chunks\x9b\x10\x00\x00\x00\x00\x00\x00\x00";
        assert!(matches!(FileNode::decode(bomb), Err(NodeError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn decoding_garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = FileNode::decode(&bytes);
        }

        #[test]
        fn damage_is_found_or_harmless(at in 0..160_usize, bit in 0..8_u32) {
            let (root, nodes) = build([chunk(1), chunk(2), chunk(3)]);
            let mut bytes = nodes[&root.unwrap()].data().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(node) = FileNode::decode(&bytes) {
                prop_assert_eq!(node.size(), node.children().iter().map(|c| c.len).sum::<u64>());
            }
        }
    }
}
