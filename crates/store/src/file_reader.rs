//! Reads a file from a store, completely or in part.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use types::{Cid, Codec, Dataset, FileNode, MAX_TREE_DEPTH, NodeChild, NodeError};

use crate::block_store::BlockRead;
use crate::error::StoreError;

/// The content that a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Name of the content as a file.
    pub tree: Cid,
    /// Length of the content in bytes.
    pub size: u64,
    /// The dataset, if the name is that of a dataset.
    pub dataset: Option<Dataset>,
}

/// Returns the content that `cid` leads to: a dataset, a file or a chunk. `None`
/// if the store does not have the block.
///
/// # Errors
///
/// Returns [`StoreError::Node`] if the block is neither a dataset nor a file
/// node; otherwise the same as [`BlockRead::get`].
pub fn resolve(store: &dyn BlockRead, cid: Cid) -> Result<Option<Content>, StoreError> {
    let Some(bytes) = store.get(&cid)? else { return Ok(None) };
    content_of(cid, &bytes).map(Some)
}

/// Returns the content that the block `cid` with these bytes leads to; see
/// [`resolve`].
///
/// # Errors
///
/// Returns [`StoreError::Node`] if the block is neither a dataset nor a file
/// node.
pub fn content_of(cid: Cid, bytes: &Bytes) -> Result<Content, StoreError> {
    match cid.codec() {
        // A chunk, or a part of a manifest: the block is the content.
        Codec::Raw | Codec::Json => {
            Ok(Content { tree: cid, size: bytes.len() as u64, dataset: None })
        }
        Codec::DagCbor => match Dataset::decode(bytes) {
            Ok(dataset) => {
                Ok(Content { tree: dataset.tree, size: dataset.size, dataset: Some(dataset) })
            }
            Err(_) => FileNode::decode(bytes)
                .map(|node| Content { tree: cid, size: node.size(), dataset: None })
                .map_err(|source| StoreError::Node { cid, source }),
        },
    }
}

/// Reads a file from front to back, chunk by chunk, in memory that does not grow
/// with the file.
#[derive(Debug)]
pub struct FileReader {
    store: Arc<dyn BlockRead>,
    tree: Cid,
    size: u64,
    /// Nodes and chunks that are still to be read, the next one last.
    stack: Vec<NodeChild>,
    /// Number of bytes to skip at the start of the rest.
    skip: u64,
    /// Number of bytes to return after that.
    left: u64,
    /// Number of nodes read since the last chunk: bounds the depth of the tree.
    depth: usize,
}

impl FileReader {
    /// Opens the file with this name. `None` if the store does not have its root.
    ///
    /// # Errors
    ///
    /// Same as [`resolve`].
    pub fn open(store: Arc<dyn BlockRead>, cid: Cid) -> Result<Option<Self>, StoreError> {
        let Some(content) = resolve(&*store, cid)? else { return Ok(None) };
        Ok(Some(Self::new(store, &content)))
    }

    /// Reads content that [`resolve`] has returned.
    pub fn new(store: Arc<dyn BlockRead>, content: &Content) -> Self {
        let root = NodeChild { cid: content.tree, len: content.size };
        let Content { tree, size, .. } = *content;
        Self { store, tree, size, stack: vec![root], skip: 0, left: size, depth: 0 }
    }

    /// Returns the length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Restricts reading to a range of bytes. Must be called before the first
    /// [`Self::read`].
    #[must_use]
    pub fn range(mut self, range: Range<u64>) -> Self {
        self.skip = range.start.min(self.size);
        self.left = range.end.min(self.size).saturating_sub(self.skip);
        self
    }

    /// Returns the next bytes, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Missing`] if a block is absent: the call can be
    /// repeated when the block has been put. Returns [`StoreError::Node`] if the
    /// tree contradicts itself; otherwise the same as [`BlockRead::get`].
    pub fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.left > 0 {
            let Some(&child) = self.stack.last() else {
                return Err(StoreError::Node {
                    cid: self.tree,
                    source: NodeError::Rule("the tree is shorter than its size"),
                });
            };
            if self.skip >= child.len {
                self.skip -= child.len;
                self.stack.pop();
                continue;
            }
            let wrong =
                |reason| StoreError::Node { cid: child.cid, source: NodeError::Rule(reason) };
            // If the block is absent, the reader keeps its position.
            let bytes = self.store.get(&child.cid)?.ok_or(StoreError::Missing(child.cid))?;
            self.stack.pop();
            if child.cid.codec() != Codec::DagCbor {
                if bytes.len() as u64 != child.len {
                    return Err(wrong("a chunk does not have the length in its node"));
                }
                self.depth = 0;
                let start = usize::try_from(self.skip).unwrap_or(usize::MAX);
                let len = usize::try_from(self.left).unwrap_or(usize::MAX);
                let end = start.saturating_add(len).min(bytes.len());
                self.skip = 0;
                self.left -= (end - start) as u64;
                return Ok(Some(bytes.slice(start..end)));
            }
            self.depth += 1;
            if self.depth > MAX_TREE_DEPTH {
                return Err(wrong("the tree is too deep"));
            }
            let node = FileNode::decode(&bytes)
                .map_err(|source| StoreError::Node { cid: child.cid, source })?;
            if node.size() != child.len {
                return Err(wrong("a node does not have the length in its parent"));
            }
            self.stack.extend(node.children().iter().rev());
        }
        Ok(None)
    }
}

/// Reports whether the store has every block that `cid` leads to. Nodes are
/// read; chunks are only looked up in the index.
///
/// # Errors
///
/// Returns [`StoreError::Node`] if a node is not valid; otherwise the same as
/// [`BlockRead::get`].
pub fn is_complete(store: &dyn BlockRead, cid: Cid) -> Result<bool, StoreError> {
    let mut stack = vec![cid];
    while let Some(cid) = stack.pop() {
        if cid.codec() == Codec::Raw {
            if !store.has(&cid)? {
                return Ok(false);
            }
            continue;
        }
        let Some(bytes) = store.get(&cid)? else { return Ok(false) };
        let links =
            types::links(cid.codec(), &bytes).map_err(|source| StoreError::Node { cid, source })?;
        stack.extend(links);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use types::{Block, EncodedBlock};

    use super::*;
    use crate::block_store::BlockWrite as _;
    use crate::file_writer::FileWriter;
    use crate::mem_store::MemStore;

    fn file(len: usize) -> (Arc<MemStore>, Cid, Vec<u8>) {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let store = Arc::new(MemStore::new());
        let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
        writer.write(&bytes).unwrap();
        let cid = writer.finish().unwrap().cid;
        (store, cid, bytes)
    }

    #[test]
    fn ranges_are_slices() {
        let (store, cid, bytes) = file(3_000_000);
        for range in [0..0, 0..1, 5..5, 0..3_000_000, 1_234_567..2_345_678, 2_999_999..9_000_000] {
            let reader = FileReader::open(store.clone(), cid).unwrap().unwrap();
            let mut reader = reader.range(range.clone());
            let mut read = Vec::new();
            while let Some(piece) = reader.read().unwrap() {
                read.extend_from_slice(&piece);
            }
            let end = usize::try_from(range.end).unwrap().min(bytes.len());
            let start = usize::try_from(range.start).unwrap().min(end);
            assert!(read == bytes[start..end], "{range:?}");
        }
    }

    #[test]
    fn a_missing_chunk_is_named_and_makes_the_file_incomplete() {
        let (store, cid, _) = file(3_000_000);
        assert!(is_complete(&*store, cid).unwrap());
        let holes = Arc::new(MemStore::new());
        let node = store.get_encoded(&cid).unwrap().unwrap();
        holes.put(&[node]).unwrap();
        assert!(!is_complete(&*holes, cid).unwrap());
        let mut reader = FileReader::open(holes.clone(), cid).unwrap().unwrap();
        for cid in types::links(cid.codec(), &store.get(&cid).unwrap().unwrap()).unwrap() {
            // Missing twice, then present: the chunk is read once.
            for _ in 0..2 {
                assert!(matches!(reader.read(), Err(StoreError::Missing(_))));
            }
            let chunk = store.get_encoded(&cid).unwrap().unwrap();
            holes.put(std::slice::from_ref(&chunk)).unwrap();
            assert_eq!(reader.read().unwrap().as_ref(), Some(chunk.payload()));
        }
        assert_eq!(reader.read().unwrap(), None);
    }

    #[test]
    fn a_tree_that_lies_about_lengths_is_refused() {
        // A dataset that claims fifty bytes and has five.
        let store = Arc::new(MemStore::new());
        let chunk = Block::new(Codec::Raw, &b"five!"[..]).unwrap();
        let dataset = Dataset { tree: chunk.cid(), size: 50, filename: None, mimetype: None };
        let node = dataset.encode(&types::BlockScheme::plain()).unwrap();
        let cid = node.cid();
        store.put(&[EncodedBlock::plain(chunk), EncodedBlock::plain(node)]).unwrap();
        let mut reader = FileReader::open(store.clone(), cid).unwrap().unwrap();
        assert!(matches!(reader.read(), Err(StoreError::Node { .. })));
        // A dataset as the tree of a dataset.
        let outer = Dataset { tree: cid, size: 50, filename: None, mimetype: None };
        let node = outer.encode(&types::BlockScheme::plain()).unwrap();
        let cid = node.cid();
        store.put(&[EncodedBlock::plain(node)]).unwrap();
        let mut reader = FileReader::open(store, cid).unwrap().unwrap();
        assert!(matches!(reader.read(), Err(StoreError::Node { .. })));
    }
}
