//! The content of one file, from blocks to the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use fstree::{DestError, FileSink, WriteOut};
use types::{Cid, Codec, FileNode, Hash, MAX_TREE_DEPTH, NodeChild, RelPath};

use crate::blocks::{Blocks, BlocksError, one};
use crate::report::Progress;

/// Chunks that are asked for at once …
const CHUNKS_AT_ONCE: usize = 32;
/// … up to so many bytes of them, and the last one's. Each worker has up to
/// three such groups: one that is read, one that waits, and one that is written.
const BYTES_AT_ONCE: u64 = 4 << 20;
/// Groups of chunks that wait for the disk.
const AHEAD: usize = 1;
/// So much of a file, in bytes, is written out at once, where as much is still to
/// come: what comes takes its time, so the end of the file rarely waits for the disk.
const WRITE_OUT_LEN: u64 = 16 << 20;
/// Read at once to hash a file that is there already.
const HASHED_AT_ONCE: usize = 1 << 20;

/// Why the content of a file did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    #[error(transparent)]
    Dest(#[from] DestError),
    #[error("its blocks do not make up the file: {0}")]
    Tree(&'static str),
    #[error("what its blocks make up is another file than was backed up")]
    Hash,
    #[error("it was stopped")]
    Stopped,
}

/// A file's content as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Content {
    pub(crate) cid: Cid,
    pub(crate) size: u64,
    pub(crate) blake3: Hash,
}

/// Reads the chunks of files ahead of those who write them, and has what they
/// have written of long ones written out behind them. Its thread lives
/// as long as the worker's: the memory that a thread has freed is used again
/// by that thread, and one for each file would leave much of it behind.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    files: Sender<(Content, Sender<Chunks>)>,
    behind: WriteBehind,
}

/// Some chunks of a file, or why there are no more.
type Chunks = Result<Vec<Bytes>, FileError>;

impl ReadAhead {
    /// A reader, and what its thread has to run. `behind` is for what is written.
    pub(crate) fn new(blocks: &dyn Blocks, behind: WriteBehind) -> (Self, impl FnOnce() + Send) {
        let (sender, files) = bounded::<(Content, Sender<Chunks>)>(0);
        let run = move || {
            for (content, out) in files {
                if let Err(error) = read_chunks(blocks, &content, &out) {
                    // Where nobody waits for it any more, nobody has to know.
                    let _ = out.send(Err(error));
                }
            }
        };
        (Self { files: sender, behind }, run)
    }

    /// Writes a file of many chunks: the reader's thread reads and checks them,
    /// the calling one hashes the whole and writes.
    pub(crate) fn write_tree(
        &self,
        content: &Content,
        sink: &mut FileSink,
        progress: &Progress,
    ) -> Result<(), FileError> {
        let (sender, chunks) = bounded(AHEAD);
        let asked = self.files.send((*content, sender));
        asked.map_err(|_| FileError::Tree("the work on it panicked"))?;
        write_chunks(&chunks, content, sink, &self.behind, progress)
    }
}

/// Has what was written of long files written out, behind those who write.
#[derive(Clone, Debug)]
pub(crate) struct WriteBehind(Sender<WriteOut>);

impl WriteBehind {
    /// One for all, and what its thread has to run until the last clone is gone.
    pub(crate) fn new() -> (Self, impl FnOnce() + Send) {
        let (sender, asked) = bounded(1);
        (Self(sender), move || asked.into_iter().for_each(WriteOut::run))
    }

    /// Whether it will; not where the disk does not follow, so that nobody waits for
    /// the disk while the system has room.
    fn write_out(&self, sink: &FileSink) -> bool {
        self.0.try_send(sink.write_out()).is_ok()
    }
}

fn write_chunks(
    chunks: &Receiver<Chunks>,
    content: &Content,
    sink: &mut FileSink,
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

/// Reads the chunks of a tree in order, a group at a time.
fn read_chunks(
    blocks: &dyn Blocks,
    content: &Content,
    out: &Sender<Chunks>,
) -> Result<(), FileError> {
    let mut stack = vec![(NodeChild { cid: content.cid, len: content.size }, 0)];
    let mut group: Vec<NodeChild> = Vec::new();
    let mut group_len = 0;
    loop {
        let next = stack.pop();
        let is_full = group.len() == CHUNKS_AT_ONCE || group_len >= BYTES_AT_ONCE;
        if !group.is_empty() && (is_full || next.is_none()) {
            let read = read_group(blocks, &std::mem::take(&mut group))?;
            group_len = 0;
            if out.send(Ok(read)).is_err() {
                // Nobody takes what is read.
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
        let bytes = one(blocks, child.cid)?;
        let node =
            FileNode::decode(&bytes).map_err(|_| FileError::Tree("a node of them is none"))?;
        if node.size() != child.len {
            return Err(FileError::Tree("a node of them has another length"));
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
                return Err(FileError::Tree("a chunk of them has another length"));
            }
            Ok(bytes)
        })
        .collect()
}

/// Whether a file that is there has this content. A stop is an error.
pub(crate) fn has_content(file: &File, content: &Content, progress: &Progress) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; HASHED_AT_ONCE];
    let mut at = 0;
    loop {
        if progress.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = match file.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        at += read as u64;
    }
    Ok(at == content.size && hasher.finalize().as_bytes() == content.blake3.as_bytes())
}

/// A file to be made.
#[derive(Clone, Debug)]
pub(crate) struct FileTask {
    pub(crate) path: RelPath,
    pub(crate) content: Content,
    pub(crate) is_sparse: bool,
    pub(crate) metadata: types::Metadata,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use crossbeam_channel::unbounded;
    use fstree::{DestOptions, DestTree, FileContent, MakeFile};

    use super::*;

    /// Writes a file of `len` bytes, with nobody who writes out; how often it was asked for.
    fn asked_to_write_out(len: u64) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let target = DestTree::open(dir.path(), DestOptions::default()).unwrap();
        let said = FileContent { size: len, mtime_ns: 0, is_sparse: false };
        let path = RelPath::new("file").unwrap();
        let made = target.make_file(&path, said, |_| Ok(false)).unwrap();
        let MakeFile::Write(mut sink) = made else { unreachable!() };
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
        let content = Content { cid: Cid::new(Codec::Raw, blake3), size: len, blake3 };
        let behind = WriteBehind(sender);
        write_chunks(&chunks, &content, &mut sink, &behind, &Progress::default()).unwrap();
        sink.finish(&types::Metadata::default()).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().len(), len);
        asked.len()
    }

    #[test]
    fn a_long_file_is_written_out_and_no_other_and_nobody_waits_for_it() {
        assert_eq!(asked_to_write_out(2 * WRITE_OUT_LEN - 1), 0);
        // What is asked for while the first waits for its turn is not added to it.
        assert_eq!(asked_to_write_out(2 * WRITE_OUT_LEN), 1);
        assert_eq!(asked_to_write_out(5 * WRITE_OUT_LEN), 1);
    }

    #[test]
    fn the_look_at_a_file_that_is_there_can_be_stopped() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), "content").unwrap();
        let hash = Hash::of(b"content");
        let content = Content { cid: Cid::new(Codec::Raw, hash), size: 7, blake3: hash };
        let progress = Progress::default();
        assert!(has_content(path.as_file(), &content, &progress).unwrap());
        let other = Content { blake3: Hash::of(b"other"), ..content };
        assert!(!has_content(path.as_file(), &other, &progress).unwrap());
        progress.stop();
        has_content(path.as_file(), &content, &progress).unwrap_err();
    }
}
