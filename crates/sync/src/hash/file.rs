//! Reading one file: stat, read, stat.
//!
//! **Invariant.** A row describes a content that the file had at one moment: the stamps before
//! and after reading are the same.

use std::collections::VecDeque;

use bytes::Bytes;
use fstree::{FoundEntry, FoundKind, OpenFile, ReadError, TreeReader as _};
use store::{InPlaceChunk, Pin, StoreError, will_need};
use types::{
    BlockScheme, CHUNK_LEN_MIN, Cid, Codec, EncodedBlock, FileNodeBuilder, Hash, NodeChild,
    RelPath, with_causes,
};

use super::chunks::{BUFFER_LEN, Buffer, Chunks, NextData, Piece};
use super::clone::clone_of;
use super::{FileReader, ReadJob, ReadMode, ReadOutcome, ReadResult};
use crate::error::SyncError;
use crate::index::{Content, Row, RowKind};

/// Maximum number of files that each thread has open at the same time.
const OPEN_MAX: usize = 16;
/// Maximum number of attempts to open a file with the stamp that the scan found.
const TRIES_MAX: u32 = 2;
/// Maximum number of attempts to clone a file with the length that it had when it was opened.
const CLONES_MAX: u32 = 20;
/// Maximum age of a stamp that a further write may leave unchanged, in nanoseconds. Linux
/// stamps files with the time of its last tick, at most 10 ms ago.
const TICK_NS: i128 = 50_000_000;
/// The same for a stamp without a fraction: the file system may store whole seconds only (or
/// two seconds, like FAT).
const COARSE_TICK_NS: i128 = 2_500_000_000;
/// Compression level of a chunk of zeros.
const ZEROS_LEVEL: i32 = 1;
/// Error of a file of which only the beginning was read.
const BEGINNING: &str =
    "the file keeps growing while it is read; the backup contains only its beginning";

/// Reads files. While one is read, the next ones are already open, and the system knows which
/// parts will be needed: a disk that answers many requests at the same time stays busy.
pub(crate) fn read_files(
    reader: &FileReader,
    buffer: &mut Buffer,
    jobs: Vec<ReadJob>,
) -> Vec<ReadResult> {
    let mut done = Vec::with_capacity(jobs.len());
    let mut jobs = jobs.into_iter();
    let mut queue = VecDeque::with_capacity(OPEN_MAX);
    loop {
        while queue.len() < OPEN_MAX {
            let Some(job) = jobs.next() else { break };
            let opened = Opened::new(reader, &job.found.path);
            // If this fails, the file is opened again in its turn: by then, fewer files are
            // open.
            let opened = opened.file.is_ok().then_some(opened);
            if let Some(Opened { file: Ok(open), .. }) = &opened {
                will_need(&open.file, 0, open.stamp.size.min(BUFFER_LEN as u64));
            }
            queue.push_back((job, opened));
        }
        let Some((job, opened)) = queue.pop_front() else { return done };
        done.push(read_file(reader, buffer, job, opened));
    }
}

/// The result of opening a file, and the time before.
struct Opened {
    /// The time of [`Clock::file_time`](crate::Clock::file_time) before the file was opened,
    /// in nanoseconds since 1970.
    now_ns: i128,
    file: Result<OpenFile, ReadError>,
}

impl Opened {
    fn new(reader: &FileReader, path: &RelPath) -> Self {
        let now_ns = reader.clock.file_time().as_nanosecond();
        Self { now_ns, file: reader.root.open_file(path) }
    }
}

fn read_file(
    reader: &FileReader,
    buffer: &mut Buffer,
    job: ReadJob,
    opened: Option<Opened>,
) -> ReadResult {
    let path = job.found.path.clone();
    let (before, mode, inode) = (job.before, job.mode, job.found.stamp.inode);
    let outcome = match read(reader, buffer, job, opened) {
        Ok(outcome) => outcome,
        // If the copy of one file does not fit, the others are still backed up.
        Err(SyncError::Store(error @ StoreError::Full { .. })) if mode != ReadMode::InPlace => {
            let error = with_causes(&error);
            ReadOutcome::Failed(format!(
                "the file changes too often to be served, and cannot be copied: {error}"
            ))
        }
        Err(error) => ReadOutcome::Broken(error),
    };
    ReadResult { path, before, inode, outcome }
}

fn read(
    reader: &FileReader,
    buffer: &mut Buffer,
    job: ReadJob,
    mut opened: Option<Opened>,
) -> Result<ReadOutcome, SyncError> {
    let mut found = job.found;
    // The file is read as it was when it was opened.
    let may_change = matches!(job.mode, ReadMode::Clone | ReadMode::Prefix);
    let tries = if job.mode == ReadMode::Clone { CLONES_MAX } else { TRIES_MAX };
    for _ in 0..tries {
        reader.monitor.check()?;
        let Opened { now_ns, file } =
            opened.take().unwrap_or_else(|| Opened::new(reader, &found.path));
        let open = match file {
            Ok(open) => open,
            Err(ReadError::NotRegular(_)) => return Ok(ReadOutcome::Gone),
            Err(error) => return Ok(outcome_of(&error)),
        };
        if open.stamp != found.stamp {
            match reader.root.examine(&found.path) {
                // On another disk: a file system was mounted above the file meanwhile.
                Ok(Some(again)) if again.stamp.device != found.stamp.device => break,
                Ok(Some(again)) if matches!(again.kind, FoundKind::File { .. }) => found = again,
                Ok(_) => return Ok(ReadOutcome::Gone),
                Err(error) => return Ok(outcome_of(&error)),
            }
            if may_change && open.stamp.identity() == found.stamp.identity() {
                found.stamp = open.stamp;
            }
            if open.stamp != found.stamp {
                continue;
            }
        }
        let clone = match job.mode {
            ReadMode::InPlace => None,
            _ => clone_of(&open.file, &reader.clone_dir),
        };
        let clone = clone.map(|file| OpenFile { file, stamp: open.stamp });
        let len =
            clone.as_ref().and_then(|clone| clone.file.metadata().ok()).map(|data| data.len());
        if len.is_some_and(|len| len != open.stamp.size) {
            // The file was changed before it was cloned. The stamp is not that of the clone.
            continue;
        }
        reader.monitor.add_file();
        let (source, mode) = match (&clone, job.mode) {
            (Some(clone), _) => (clone, ReadMode::Clone),
            (None, ReadMode::Clone) => (&open, ReadMode::InPlace),
            (None, mode) => (&open, mode),
        };
        let read = Content::read(reader, buffer, &found, source, mode)?;
        let (content, is_complete) = match read {
            Ok(content) => content,
            Err(outcome) => return Ok(outcome),
        };
        let outcome = row(reader, &found, &open, content, now_ns)?;
        return Ok(match outcome {
            ReadOutcome::Row(mut row) if !is_complete => {
                (row.error, row.is_attribute_error) = (Some(BEGINNING.to_owned()), false);
                ReadOutcome::Row(row)
            }
            outcome => outcome,
        });
    }
    Ok(ReadOutcome::Changing)
}

fn outcome_of(error: &ReadError) -> ReadOutcome {
    match error {
        ReadError::Changed(_) => ReadOutcome::Changing,
        ReadError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            ReadOutcome::Gone
        }
        _ => ReadOutcome::Failed(with_causes(error)),
    }
}

fn row(
    reader: &FileReader,
    found: &FoundEntry,
    open: &OpenFile,
    content: Content,
    now_ns: i128,
) -> Result<ReadOutcome, SyncError> {
    let read = match reader.root.file_xattrs(open) {
        Ok(read) => read,
        Err(error) => return Ok(ReadOutcome::Failed(with_causes(&error))),
    };
    let unread = read.problem();
    let device = reader.root.identity().device;
    let mut row = Row::new(found, device, RowKind::File(content), read.xattrs);
    row.is_attribute_error = unread.is_some();
    row.error = unread;
    row.is_racy = is_racy(found.stamp.ctime, now_ns);
    row.is_unsettled = found.stamp.size > 0 && !reader.has_settled(found.stamp.ctime, now_ns);
    Ok(ReadOutcome::Row(Box::new(row)))
}

/// Reports whether a write after `now_ns` may leave the stamp unchanged: the file was
/// changed less than one tick of the file system's clock before. Every write sets the
/// ctime, and no program can set it back.
fn is_racy(ctime: (i64, i64), now_ns: i128) -> bool {
    let tick = if ctime.1 == 0 { COARSE_TICK_NS } else { TICK_NS };
    i128::from(ctime.0) * 1_000_000_000 + i128::from(ctime.1) + tick >= now_ns
}

impl Content {
    /// Reads the content of a file. Returns true with it if the file was complete; the inner
    /// error is the outcome if the file could not be read.
    fn read(
        reader: &FileReader,
        buffer: &mut Buffer,
        found: &FoundEntry,
        open: &OpenFile,
        mode: ReadMode,
    ) -> Result<Result<(Self, bool), ReadOutcome>, SyncError> {
        let spool = (mode != ReadMode::InPlace).then(|| reader.store.pin());
        let mut tree = FileTree::new(&reader.scheme, spool);
        let (size, is_frozen) = (open.stamp.size, mode == ReadMode::Clone);
        let is_sparse = matches!(found.kind, FoundKind::File { is_sparse: true });
        // (Of other file systems in the folder it is not known.)
        let is_here = open.stamp.device == reader.root.identity().device;
        let has_holes = is_sparse && reader.has_true_holes && is_here;
        let outcome = each_piece(reader, buffer, open, mode, has_holes, |piece| match piece {
            Piece::Chunk(chunk) => tree.add(reader, chunk),
            Piece::Zeros { chunk, count } => tree.add_zeros(reader, chunk, count),
        })?;
        if let Err(outcome) = outcome {
            return Ok(Err(outcome));
        }
        if tree.nodes.size() != size {
            return Ok(Err(ReadOutcome::Changing));
        }
        let mut is_complete = true;
        match if is_frozen { Ok(true) } else { reader.root.is_unchanged(open) } {
            Ok(true) => {}
            Ok(false) if mode == ReadMode::Prefix => {
                // The second read below gives the same bytes, so the file began with them in
                // between. If the file is longer by now, it may have been changed before
                // that, after it had this length.
                match open.file.metadata() {
                    Ok(now) => is_complete = now.len() == size,
                    Err(error) => {
                        return Ok(Err(ReadOutcome::Failed(format!(
                            "cannot stat the file: {error}"
                        ))));
                    }
                }
                let mut again = blake3::Hasher::new();
                let add = |piece: Piece<'_>| {
                    let (chunk, count) = match piece {
                        Piece::Chunk(chunk) => (chunk, 1),
                        Piece::Zeros { chunk, count } => (chunk, count),
                    };
                    for _ in 0..count {
                        again.update(chunk);
                    }
                    Ok(())
                };
                let outcome = each_piece(reader, buffer, open, mode, has_holes, add)?;
                if outcome.is_err() || again.finalize() != tree.whole.finalize() {
                    return Ok(Err(ReadOutcome::Changing));
                }
            }
            Ok(false) => return Ok(Err(ReadOutcome::Changing)),
            Err(error) => return Ok(Err(ReadOutcome::Failed(with_causes(&error)))),
        }
        Ok(Ok((tree.finish(reader, found)?, is_complete)))
    }
}

/// Calls `each` with the pieces of a file, up to the length that it had when it was opened.
/// Holes are not read if `has_holes` is true.
fn each_piece(
    reader: &FileReader,
    buffer: &mut Buffer,
    open: &OpenFile,
    mode: ReadMode,
    has_holes: bool,
    each: impl FnMut(Piece<'_>) -> Result<(), SyncError>,
) -> Result<Result<(), ReadOutcome>, SyncError> {
    let monitor = &reader.monitor;
    let next_data = |at| reader.root.next_data(open, at);
    let next_data: Option<NextData<'_>> = if has_holes { Some(&next_data) } else { None };
    let (file, size, scheme) = (&open.file, open.stamp.size, &reader.scheme);
    let chunks = Chunks { file, size, next_data, scheme, monitor };
    chunks.for_each(buffer, &reader.second_reader, each, || {
        reader.monitor.check()?;
        // Reading a long file ends early if the file has changed.
        let may_change = matches!(mode, ReadMode::Clone | ReadMode::Prefix);
        Ok(may_change || reader.root.is_unchanged(open).unwrap_or(false))
    })
}

/// The nodes and chunks of one file, while it is read.
struct FileTree<'a> {
    scheme: &'a BlockScheme,
    nodes: FileNodeBuilder,
    chunks: Vec<InPlaceChunk>,
    /// Hashes all bytes of the file.
    whole: blake3::Hasher,
    /// The name of a chunk of zeros, and its length.
    zeros: Option<(Cid, usize)>,
    /// Set if chunks are copied to the store: keeps them alive until the whole file was read.
    /// If that fails, the pin is dropped, and the chunks can be collected.
    spool: Option<Pin>,
}

impl<'a> FileTree<'a> {
    fn new(scheme: &'a BlockScheme, spool: Option<Pin>) -> Self {
        let nodes = FileNodeBuilder::new(scheme.clone());
        let whole = blake3::Hasher::new();
        Self { scheme, nodes, chunks: Vec::new(), whole, zeros: None, spool }
    }

    fn put(&self, reader: &FileReader, blocks: &[EncodedBlock]) -> Result<(), SyncError> {
        reader.put(blocks, self.spool.as_ref().unwrap_or(&reader.pin))
    }

    fn add(&mut self, reader: &FileReader, bytes: &[u8]) -> Result<(), SyncError> {
        let offset = self.nodes.size();
        let cid = self.scheme.name(Codec::Raw, bytes);
        // A file of one chunk has the name of that chunk.
        if offset > 0 || bytes.len() >= CHUNK_LEN_MIN || self.spool.is_some() {
            self.whole.update(bytes);
        }
        let mut blocks = Vec::new();
        if self.spool.is_some() {
            let block = self.scheme.block(Codec::Raw, Bytes::copy_from_slice(bytes));
            blocks.push(self.scheme.encode(block.map_err(StoreError::from)?));
        }
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.chunks.push(InPlaceChunk { hash: *cid.hash(), offset, len });
        self.nodes.push(NodeChild { cid, len: len.into() }, |node| {
            blocks.push(self.scheme.encode(node));
            Ok::<_, SyncError>(())
        })?;
        self.put(reader, &blocks)
    }

    /// Adds chunks of zeros. All are one block, which the store gets, so that it can be served
    /// whatever is written into the hole. Only one location is recorded.
    fn add_zeros(
        &mut self,
        reader: &FileReader,
        chunk: &[u8],
        count: u64,
    ) -> Result<(), SyncError> {
        let offset = self.nodes.size();
        let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let mut blocks = Vec::new();
        let cid = match self.zeros {
            Some((cid, known_len)) if known_len == chunk.len() => cid,
            _ => {
                let block = self.scheme.block(Codec::Raw, Bytes::copy_from_slice(chunk));
                let block = EncodedBlock::compress(block.map_err(StoreError::from)?, ZEROS_LEVEL);
                let cid = block.cid();
                blocks.push(block);
                self.chunks.push(InPlaceChunk { hash: *cid.hash(), offset, len });
                self.zeros = Some((cid, chunk.len()));
                cid
            }
        };
        for _ in 0..count {
            self.whole.update(chunk);
            self.nodes.push(NodeChild { cid, len: len.into() }, |node| {
                blocks.push(self.scheme.encode(node));
                Ok::<_, SyncError>(())
            })?;
        }
        self.put(reader, &blocks)
    }

    fn finish(self, reader: &FileReader, found: &FoundEntry) -> Result<Content, SyncError> {
        let Self { scheme, nodes, chunks, whole, spool, .. } = self;
        let mut blocks = Vec::new();
        let root = nodes.finish(|node| {
            blocks.push(scheme.encode(node));
            Ok::<_, SyncError>(())
        })?;
        if root.is_none() && spool.is_some() {
            let empty = scheme.block(Codec::Raw, Bytes::new()).map_err(StoreError::from)?;
            blocks.push(scheme.encode(empty));
        }
        reader.put(&blocks, spool.as_ref().unwrap_or(&reader.pin))?;
        let cid = root.unwrap_or_else(|| scheme.name(Codec::Raw, b""));
        let blake3 = match cid.codec() {
            Codec::Raw => *cid.hash(),
            _ => Hash::from_bytes(*whole.finalize().as_bytes()),
        };
        let id = if spool.is_some() {
            // The root CID keeps everything below it alive.
            reader.pin.add([cid]);
            None
        } else {
            let id = reader.index.file_id();
            reader.add_locations(id, &chunks)?;
            Some(id)
        };
        let is_sparse = matches!(found.kind, FoundKind::File { is_sparse: true });
        Ok(Content { id, cid, blake3, is_sparse })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_racy_for_one_tick_after_its_last_change() {
        let second = 1_790_000_000;
        let at = |nanoseconds: i128| i128::from(second) * 1_000_000_000 + nanoseconds;
        // Read before the change (another clock), at the change, and a tick later.
        for time in [at(0), at(7), at(7 + TICK_NS)] {
            assert!(is_racy((second, 7), time), "{time}");
        }
        assert!(!is_racy((second, 7), at(8 + TICK_NS)));
        // Without a fraction, the file system may store whole seconds only.
        assert!(is_racy((second, 0), at(COARSE_TICK_NS)));
        assert!(!is_racy((second, 0), at(COARSE_TICK_NS + 1)));
    }
}
