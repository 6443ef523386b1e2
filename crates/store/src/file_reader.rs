//! Reading a file from a store, whole or in part.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use types::{Cid, Codec, Dataset, FileNode, MAX_TREE_DEPTH, NodeChild, NodeError};

use crate::block_store::BlockRead;
use crate::error::StoreError;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The content as a file.
    pub tree: Cid,
    /// Its length, in bytes.
    pub size: u64,
    /// The dataset, where the name is that of one.
    pub dataset: Option<Dataset>,
}

/// Finds out what `cid` stands for: a dataset, a file, or a chunk. `None`
/// where its block is not here.
///
/// # Errors
///
/// [`StoreError::Node`] where the block is a node of neither kind; those of
/// reading.
pub fn resolve(store: &dyn BlockRead, cid: Cid) -> Result<Option<Content>, StoreError> {
    let Some(bytes) = store.get(&cid)? else { return Ok(None) };
    content_of(cid, &bytes).map(Some)
}

/// What the block `bytes` of name `cid` stands for; see [`resolve`].
///
/// # Errors
///
/// [`StoreError::Node`].
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

/// Reads a file front to back, chunk by chunk, in memory that does not grow
/// with it.
#[derive(Debug)]
pub struct FileReader {
    store: Arc<dyn BlockRead>,
    size: u64,
    /// What is still to be read, the next last.
    stack: Vec<NodeChild>,
    /// How much of what comes next is to be skipped.
    skip: u64,
    /// How much is to be read after that.
    left: u64,
    /// How many nodes were walked since a chunk: a bound for trees that only
    /// go down.
    depth: usize,
}

impl FileReader {
    /// Opens the file of this name; `None` where its root is not here.
    ///
    /// # Errors
    ///
    /// As [`resolve`].
    pub fn open(store: Arc<dyn BlockRead>, cid: Cid) -> Result<Option<Self>, StoreError> {
        let Some(content) = resolve(&*store, cid)? else { return Ok(None) };
        Ok(Some(Self::new(store, &content)))
    }

    /// Reads what has been resolved.
    pub fn new(store: Arc<dyn BlockRead>, content: &Content) -> Self {
        let root = NodeChild { cid: content.tree, len: content.size };
        Self { store, size: content.size, stack: vec![root], skip: 0, left: content.size, depth: 0 }
    }

    /// The length of the file, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Restricts reading to a range of bytes; before the first [`Self::read`].
    #[must_use]
    pub fn range(mut self, range: Range<u64>) -> Self {
        self.skip = range.start.min(self.size);
        self.left = range.end.min(self.size).saturating_sub(self.skip);
        self
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] where a block is not here: the same call can be
    /// made again when it is. [`StoreError::Damaged`], [`StoreError::Node`].
    pub fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.left > 0 {
            let Some(&child) = self.stack.last() else {
                return Err(StoreError::Node {
                    cid: Cid::of(Codec::Raw, b""),
                    source: NodeError::Rule("the tree is shorter than it says"),
                });
            };
            if self.skip >= child.len {
                self.skip -= child.len;
                self.stack.pop();
                continue;
            }
            let wrong =
                |reason| StoreError::Node { cid: child.cid, source: NodeError::Rule(reason) };
            // Where it is not here yet, the reader keeps its place.
            let bytes = self.store.get(&child.cid)?.ok_or(StoreError::Missing(child.cid))?;
            self.stack.pop();
            if child.cid.codec() != Codec::DagCbor {
                if bytes.len() as u64 != child.len {
                    return Err(wrong("a chunk is not as long as its node says"));
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
                return Err(wrong("a node is not as long as its parent says"));
            }
            self.stack.extend(node.children().iter().rev());
        }
        Ok(None)
    }
}

/// Whether everything that `cid` leads to is here. It is checked by the index
/// alone; nodes are read, chunks are not.
///
/// # Errors
///
/// Those of reading.
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
            // Missing twice, then there: it is read once.
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
        // A dataset that says its five bytes are fifty.
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
