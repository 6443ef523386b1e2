//! Writes the content of a file from its blocks.

use std::fs::File;
use std::io::{self, Read, Seek};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use fstree::{DestError, FileWriter, WriteOut};
use types::{Cid, Codec, FileNode, Hash, MAX_TREE_DEPTH, NodeChild, RelPath};

use crate::blocks::{Blocks, BlocksError, get_one};
use crate::report::Progress;

/// Maximum number of chunks in a group, the unit in which chunks are requested.
const GROUP_CHUNKS_MAX: usize = 32;
/// Number of bytes from which on a group is complete. Each worker has up to three
/// groups in memory: one being read, one waiting, one being written.
const GROUP_LEN: u64 = 4 << 20;
/// Maximum number of groups waiting to be written.
const GROUPS_WAITING: usize = 1;
/// Number of bytes of a long file after which they are written out to the disk, if at
/// least as many bytes are still missing. Those take time to arrive, so the end of
/// the file rarely waits for the disk.
const WRITE_OUT_LEN: u64 = 16 << 20;
/// Size of the buffer for hashing an existing file.
const HASH_BUFFER_LEN: usize = 1 << 20;

/// The reason why the content of a file could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    #[error(transparent)]
    Dest(#[from] DestError),
    #[error("its blocks do not form the file: {0}")]
    Tree(&'static str),
    #[error("its content does not match the hash in the snapshot")]
    Hash,
    #[error("the thread that reads its blocks panicked")]
    ReaderPanicked,
    #[error("the restore was stopped")]
    Stopped,
}

/// A reference to the content of a file, as in a manifest entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContentRef {
    pub(crate) cid: Cid,
    pub(crate) size: u64,
    pub(crate) blake3: Hash,
}

/// Reads the chunks of files ahead of a worker. Its thread lives as long as the
/// worker: memory that a thread has freed is reused by the same thread, so one thread
/// per file would leave much memory unused.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    files: Sender<(ContentRef, Sender<Chunks>)>,
    behind: WriteBehind,
}

/// A group of chunks of a file, or the error that ends the file.
type Chunks = Result<Vec<Bytes>, FileError>;

impl ReadAhead {
    /// Returns a reader and the function that its thread must run. `behind` writes
    /// out the long files.
    pub(crate) fn new(blocks: &dyn Blocks, behind: WriteBehind) -> (Self, impl FnOnce() + Send) {
        let (sender, files) = bounded::<(ContentRef, Sender<Chunks>)>(0);
        let run = move || {
            for (content, out) in files {
                if let Err(error) = read_chunks(blocks, &content, &out) {
                    // If the worker no longer waits for the file, the error is
                    // irrelevant.
                    let _ = out.send(Err(error));
                }
            }
        };
        (Self { files: sender, behind }, run)
    }

    /// Writes a file with many chunks. The reader's thread reads and checks them; the
    /// calling thread hashes the complete file and writes it.
    pub(crate) fn write_tree(
        &self,
        content: &ContentRef,
        sink: &mut impl FileWriter,
        progress: &Progress,
    ) -> Result<(), FileError> {
        let (sender, chunks) = bounded(GROUPS_WAITING);
        let sent = self.files.send((*content, sender));
        sent.map_err(|_| FileError::ReaderPanicked)?;
        write_chunks(&chunks, content, sink, &self.behind, progress)
    }
}

/// Writes out the written parts of long files, behind the workers.
#[derive(Clone, Debug)]
pub(crate) struct WriteBehind(Sender<WriteOut>);

impl WriteBehind {
    /// Returns one for all workers and the function that its thread must run, which
    /// returns when the last clone is dropped.
    pub(crate) fn new() -> (Self, impl FnOnce() + Send) {
        let (sender, tasks) = bounded::<WriteOut>(1);
        (Self(sender), move || tasks.into_iter().for_each(|task| task()))
    }

    /// Requests to write out a file. Returns false if the disk is still busy with
    /// earlier requests, so that workers do not wait for it while the page cache has
    /// room.
    fn write_out(&self, sink: &impl FileWriter) -> bool {
        self.0.try_send(sink.write_out()).is_ok()
    }
}

fn write_chunks(
    chunks: &Receiver<Chunks>,
    content: &ContentRef,
    sink: &mut impl FileWriter,
    behind: &WriteBehind,
    progress: &Progress,
) -> Result<(), FileError> {
    let mut hasher = blake3::Hasher::new();
    let mut left = content.size;
    let mut written_out = 0;
    for group in chunks {
        let is_due = sink.written() - written_out >= WRITE_OUT_LEN && left >= WRITE_OUT_LEN;
        if is_due && behind.write_out(sink) {
            written_out = sink.written();
        }
        for chunk in group? {
            if progress.is_stopped() {
                return Err(FileError::Stopped);
            }
            let len = chunk.len() as u64;
            left = left.checked_sub(len).ok_or(FileError::Tree("they are too long"))?;
            hasher.update(&chunk);
            sink.write(&chunk)?;
            progress.wrote(len);
        }
    }
    if left > 0 {
        return Err(FileError::Tree("they are too short"));
    }
    let found = Hash::from_bytes(*hasher.finalize().as_bytes());
    if found == content.blake3 { Ok(()) } else { Err(FileError::Hash) }
}

/// Reads the chunks of a tree in order, one group at a time.
fn read_chunks(
    blocks: &dyn Blocks,
    content: &ContentRef,
    out: &Sender<Chunks>,
) -> Result<(), FileError> {
    let mut stack = vec![(NodeChild { cid: content.cid, len: content.size }, 0)];
    let mut group: Vec<NodeChild> = Vec::new();
    let mut group_len = 0;
    loop {
        let next = stack.pop();
        let is_full = group.len() == GROUP_CHUNKS_MAX || group_len >= GROUP_LEN;
        if !group.is_empty() && (is_full || next.is_none()) {
            let read = read_group(blocks, &std::mem::take(&mut group))?;
            group_len = 0;
            if out.send(Ok(read)).is_err() {
                // The worker has stopped writing the file.
                return Ok(());
            }
        }
        let Some((child, depth)) = next else { return Ok(()) };
        if child.cid.codec() == Codec::Raw {
            group_len += child.len;
            group.push(child);
            continue;
        }
        if depth == MAX_TREE_DEPTH {
            return Err(FileError::Tree("their tree is too deep"));
        }
        let bytes = get_one(blocks, child.cid)?;
        let node = FileNode::decode(&bytes).map_err(|_| FileError::Tree("a node is not valid"))?;
        if node.size() != child.len {
            return Err(FileError::Tree("a node has the wrong length"));
        }
        stack.extend(node.children().iter().rev().map(|child| (*child, depth + 1)));
    }
}

fn read_group(blocks: &dyn Blocks, group: &[NodeChild]) -> Result<Vec<Bytes>, FileError> {
    let wanted: Vec<Cid> = group.iter().map(|child| child.cid).collect();
    let found = blocks.get(&wanted)?;
    group
        .iter()
        .zip(found)
        .map(|(child, bytes)| {
            let bytes = bytes.ok_or(BlocksError::Missing(child.cid))?;
            if bytes.len() as u64 != child.len {
                return Err(FileError::Tree("a chunk has the wrong length"));
            }
            Ok(bytes)
        })
        .collect()
}

/// Reports whether an existing file has this content. A stop of the restore is an
/// error.
pub(crate) fn has_content(
    mut file: &File,
    content: &ContentRef,
    progress: &Progress,
) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; HASH_BUFFER_LEN];
    let mut len = 0;
    file.rewind()?;
    loop {
        if progress.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        len += read as u64;
    }
    Ok(len == content.size && hasher.finalize().as_bytes() == content.blake3.as_bytes())
}

/// A file to create.
#[derive(Clone, Debug)]
pub(crate) struct FileTask {
    pub(crate) path: RelPath,
    pub(crate) content: ContentRef,
    pub(crate) is_sparse: bool,
    pub(crate) metadata: types::Metadata,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use crossbeam_channel::unbounded;
    use fstree::{CreateFile, DestOptions, DestTree, FileContent, TreeWriter as _};

    use super::*;

    /// Writes a file of `len` bytes without a thread that writes out, and returns the
    /// number of accepted requests to write out.
    fn asked_to_write_out(len: u64) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let dest = DestTree::open(dir.path(), DestOptions::default()).unwrap();
        let shape = FileContent { size: len, is_sparse: false };
        let path = RelPath::new("file").unwrap();
        let metadata = types::Metadata::default();
        let created = dest.create_file(&path, shape, &metadata, |_| Ok(false)).unwrap();
        let CreateFile::Write(mut sink) = created else { unreachable!() };
        let (sender, asked) = bounded(1);
        let (groups, chunks) = unbounded();
        let group = Bytes::from(vec![1; 4 << 20]);
        let mut hasher = blake3::Hasher::new();
        let mut left = usize::try_from(len).unwrap();
        while left > 0 {
            let part = group.slice(..left.min(group.len()));
            left -= part.len();
            hasher.update(&part);
            groups.send(Ok(vec![part])).unwrap();
        }
        drop(groups);
        let blake3 = Hash::from_bytes(*hasher.finalize().as_bytes());
        let content = ContentRef { cid: Cid::new(Codec::Raw, blake3), size: len, blake3 };
        let behind = WriteBehind(sender);
        write_chunks(&chunks, &content, &mut sink, &behind, &Progress::default()).unwrap();
        sink.finish(&types::Metadata::default()).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().len(), len);
        asked.len()
    }

    #[test]
    fn a_long_file_is_written_out_and_no_other_and_nobody_waits_for_it() {
        assert_eq!(asked_to_write_out(2 * WRITE_OUT_LEN - 1), 0);
        // A request while the first one is waiting is not accepted.
        assert_eq!(asked_to_write_out(2 * WRITE_OUT_LEN), 1);
        assert_eq!(asked_to_write_out(5 * WRITE_OUT_LEN), 1);
    }

    #[test]
    fn the_look_at_a_file_that_is_there_can_be_stopped() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), "content").unwrap();
        let hash = Hash::of(b"content");
        let content = ContentRef { cid: Cid::new(Codec::Raw, hash), size: 7, blake3: hash };
        let progress = Progress::default();
        assert!(has_content(path.as_file(), &content, &progress).unwrap());
        let other = ContentRef { blake3: Hash::of(b"other"), ..content };
        assert!(!has_content(path.as_file(), &other, &progress).unwrap());
        progress.stop();
        has_content(path.as_file(), &content, &progress).unwrap_err();
    }
}
