//! Writes a file to a store: chunks, nodes over them, one name for the file.

use std::sync::Arc;

use bytes::Bytes;
use types::{BlockScheme, Chunker, Cid, Codec, EncodedBlock, FileNodeBuilder, NodeChild};

use crate::batch::Batch;
use crate::block_store::BlockWrite;
use crate::error::StoreError;

/// Blocks are put when their total length reaches this number of bytes.
const PUT_LEN: usize = 1 << 20;

/// Writes one file from front to back, in memory that does not grow with the
/// file. The blocks that it has put are pinned until the writer, or the batch in
/// [`WrittenFile`], is dropped.
#[derive(Debug)]
pub struct FileWriter {
    batch: Batch,
    chunker: Chunker,
    tree: TreeWriter,
}

/// A file that was written.
#[derive(Debug)]
pub struct WrittenFile {
    /// Name of the file: the root of its tree, or its only chunk.
    pub cid: Cid,
    /// Length of the file in bytes.
    pub size: u64,
    /// Keeps the file alive until a root leads to it. The caller commits it.
    pub batch: Batch,
}

#[derive(Debug)]
struct TreeWriter {
    scheme: BlockScheme,
    nodes: FileNodeBuilder,
    waiting: Vec<EncodedBlock>,
    waiting_len: usize,
}

impl FileWriter {
    /// Starts an empty file.
    pub fn new(store: Arc<dyn BlockWrite>, scheme: BlockScheme) -> Self {
        Self {
            batch: Batch::new(store),
            chunker: Chunker::new(scheme.clone()),
            tree: TreeWriter {
                nodes: FileNodeBuilder::new(scheme.clone()),
                scheme,
                waiting: Vec::new(),
                waiting_len: 0,
            },
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// Same as [`BlockWrite::put`]. The writer must not be used after an error.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Self { batch, chunker, tree } = self;
        chunker.push(bytes, |chunk| tree.add(batch, chunk))
    }

    /// Ends the file. It is in the store then, but not durable yet.
    ///
    /// # Errors
    ///
    /// Same as [`BlockWrite::put`].
    pub fn finish(self) -> Result<WrittenFile, StoreError> {
        let Self { batch, chunker, mut tree } = self;
        chunker.finish(|chunk| tree.add(&batch, chunk))?;
        let size = tree.nodes.size();
        let cid = tree.finish(&batch)?;
        batch.pin().replace([cid]);
        Ok(WrittenFile { cid, size, batch })
    }
}

impl TreeWriter {
    fn add(&mut self, batch: &Batch, chunk: Bytes) -> Result<(), StoreError> {
        let len = chunk.len();
        let block = self.scheme.block(Codec::Raw, chunk)?;
        let child = NodeChild { cid: block.cid(), len: len as u64 };
        self.waiting.push(self.scheme.encode(block));
        self.waiting_len += len;
        let mut emitted = Vec::new();
        self.nodes.push(child, |node| {
            emitted.push(self.scheme.encode(node));
            Ok::<_, StoreError>(())
        })?;
        let has_node = !emitted.is_empty();
        self.waiting.append(&mut emitted);
        if has_node || self.waiting_len >= PUT_LEN {
            self.put(batch)?;
        }
        if has_node {
            // The new nodes keep the blocks below them alive.
            batch.pin().replace(self.nodes.pending());
        }
        Ok(())
    }

    /// Puts the last nodes and returns the name of the file.
    fn finish(self, batch: &Batch) -> Result<Cid, StoreError> {
        let Self { scheme, nodes, mut waiting, .. } = self;
        let root = nodes.finish(|node| {
            waiting.push(scheme.encode(node));
            Ok::<_, StoreError>(())
        })?;
        let cid = match root {
            Some(cid) => cid,
            None => {
                // An empty file is the empty chunk.
                let empty = scheme.block(Codec::Raw, Bytes::new())?;
                let cid = empty.cid();
                waiting.push(scheme.encode(empty));
                cid
            }
        };
        batch.put(&waiting)?;
        Ok(cid)
    }

    fn put(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let blocks = std::mem::take(&mut self.waiting);
        self.waiting_len = 0;
        batch.put(&blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::missing_blocks;
    use crate::file_reader::FileReader;
    use crate::mem_store::MemStore;
    use crate::{GcOptions, Root, Roots as _, StoreAdmin as _};

    fn bytes(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn write(store: &Arc<MemStore>, bytes: &[u8]) -> WrittenFile {
        let mut writer = FileWriter::new(store.clone(), BlockScheme::plain());
        for piece in bytes.chunks(100_000) {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn files_of_every_size_read_back() {
        let store = Arc::new(MemStore::new());
        for len in [0, 1, 65_536, 65_537, 1 << 20, 5_000_000, 30_000_000] {
            let content = bytes(len);
            let file = write(&store, &content);
            assert_eq!(file.size, len as u64);
            let mut reader = FileReader::open(store.clone(), file.cid).unwrap().unwrap();
            assert_eq!(reader.size(), len as u64);
            let mut read = Vec::new();
            while let Some(piece) = reader.read().unwrap() {
                read.extend_from_slice(&piece);
            }
            assert!(read == content, "{len} bytes");
        }
    }

    #[test]
    fn a_file_of_one_chunk_is_its_chunk() {
        let store = Arc::new(MemStore::new());
        assert_eq!(write(&store, b"small").cid, Cid::of(Codec::Raw, b"small"));
        assert_eq!(write(&store, b"").cid, Cid::of(Codec::Raw, b""));
    }

    #[test]
    fn a_collection_in_the_middle_takes_nothing_from_a_file_under_way() {
        let store = Arc::new(MemStore::new());
        let content = bytes(20_000_000);
        // Written once without a name: every block is garbage, and is present
        // when the file is written again.
        drop(write(&store, &content));
        let mut writer = FileWriter::new(store.clone(), BlockScheme::plain());
        for piece in content.chunks(1_000_000) {
            writer.write(piece).unwrap();
            store.gc(GcOptions::EVERYTHING).unwrap();
        }
        let file = writer.finish().unwrap();
        store.gc(GcOptions::EVERYTHING).unwrap();
        let cid = file.cid;
        file.batch.commit_root(&*store, "file", Root { cid, partial: false }).unwrap();
        assert_eq!(missing_blocks(&*store).unwrap(), []);
        store.remove_root("file").unwrap();
        store.gc(GcOptions::EVERYTHING).unwrap();
        assert_eq!(store.usage().unwrap().blocks, 0);
    }
}
