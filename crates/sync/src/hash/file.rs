//! One file: stat, read, stat.

use std::collections::VecDeque;

use bytes::Bytes;
use fstree::{FoundEntry, FoundKind, OpenFile, ReadError, TreeReader as _};
use store::{InPlaceChunk, Pin, StoreError, will_need};
use types::{
    BlockScheme, CHUNK_LEN_MIN, Codec, EncodedBlock, FileNodeBuilder, Hash, NodeChild, RelPath,
    with_causes,
};

use super::chunks::{BUFFER_LEN, Buffer, Chunks};
use super::{Job, Mode, Outcome, Read, Reading};
use crate::error::SyncError;
use crate::index::{Content, Row, Thing};

/// Files that are open at once, for each thread.
const OPEN_MAX: usize = 16;
/// How often a file is looked at anew that was changed since it was found.
const TRIES_MAX: u32 = 2;
/// Linux stamps files with the time of its last tick, at most 10 ms ago; a
/// file system with whole seconds (or two of them, as FAT) shows no fraction.
const TICK_NS: i128 = 50_000_000;
const COARSE_TICK_NS: i128 = 2_500_000_000;
/// What is said of a file of which only a part was taken.
const BEGINNING: &str = "grows while it is read; this is its beginning";

/// Reads files. Those that come next are open while one is read, and the system
/// knows what of them is wanted: a disk that answers many at once is kept busy.
pub(crate) fn read_files(reading: &Reading, buffer: &mut Buffer, jobs: Vec<Job>) -> Vec<Read> {
    let mut done = Vec::with_capacity(jobs.len());
    let mut jobs = jobs.into_iter();
    let mut begun = VecDeque::with_capacity(OPEN_MAX);
    loop {
        while begun.len() < OPEN_MAX {
            let Some(job) = jobs.next() else { break };
            let opened = Opened::new(reading, &job.found.path);
            // What cannot be opened ahead is opened when it is its turn: by
            // then, fewer files are.
            let opened = opened.file.is_ok().then_some(opened);
            if let Some(Opened { file: Ok(open), .. }) = &opened {
                will_need(&open.file, 0, open.stamp.size.min(BUFFER_LEN as u64));
            }
            begun.push_back((job, opened));
        }
        let Some((job, opened)) = begun.pop_front() else { return done };
        done.push(read_file(reading, buffer, job, opened));
    }
}

/// What opening a file came to, and when that was.
struct Opened {
    /// The time of [`Clock::file_time`](crate::Clock::file_time) before the file was opened,
    /// in nanoseconds since 1970.
    now_ns: i128,
    file: Result<OpenFile, ReadError>,
}

impl Opened {
    fn new(reading: &Reading, path: &RelPath) -> Self {
        let now_ns = reading.clock.file_time().as_nanosecond();
        Self { now_ns, file: reading.root.open_file(path) }
    }
}

fn read_file(reading: &Reading, buffer: &mut Buffer, job: Job, opened: Option<Opened>) -> Read {
    let path = job.found.path.clone();
    let (before, mode) = (job.before, job.mode);
    let outcome = match read(reading, buffer, job, opened) {
        Ok(outcome) => outcome,
        // One file that does not fit is no reason to leave out all others.
        Err(SyncError::Store(error @ StoreError::Full { .. })) if mode != Mode::InPlace => {
            let error = with_causes(&error);
            Outcome::Failed(format!("changes all the time, and cannot be copied: {error}"))
        }
        Err(error) => Outcome::Broken(error),
    };
    Read { path, before, outcome }
}

fn read(
    reading: &Reading,
    buffer: &mut Buffer,
    job: Job,
    mut opened: Option<Opened>,
) -> Result<Outcome, SyncError> {
    let mut found = job.found;
    for _ in 0..TRIES_MAX {
        reading.monitor.check()?;
        let Opened { now_ns, file } =
            opened.take().unwrap_or_else(|| Opened::new(reading, &found.path));
        let open = match file {
            Ok(open) => open,
            Err(ReadError::NotRegular(_)) => return Ok(Outcome::Gone),
            Err(error) => return Ok(of_error(&error)),
        };
        if open.stamp != found.stamp {
            match reading.root.examine(&found.path) {
                // On another disk: something is mounted above it since.
                Ok(Some(again)) if again.stamp.device != found.stamp.device => break,
                Ok(Some(again)) if matches!(again.kind, FoundKind::File { .. }) => found = again,
                Ok(_) => return Ok(Outcome::Gone),
                Err(error) => return Ok(of_error(&error)),
            }
            if job.mode == Mode::Prefix && open.stamp.identity() == found.stamp.identity() {
                // It is what it was when it was opened that is taken.
                found.stamp = open.stamp;
            }
            if open.stamp != found.stamp {
                continue;
            }
        }
        reading.monitor.add_file();
        let (content, is_whole) = match Content::read(reading, buffer, &found, &open, job.mode)? {
            Ok(content) => content,
            Err(outcome) => return Ok(outcome),
        };
        let outcome = row(reading, &found, &open, content, now_ns)?;
        return Ok(match outcome {
            Outcome::Row(mut row) if !is_whole => {
                row.error.get_or_insert_with(|| BEGINNING.to_owned());
                Outcome::Row(row)
            }
            outcome => outcome,
        });
    }
    Ok(Outcome::Changing)
}

fn of_error(error: &ReadError) -> Outcome {
    match error {
        ReadError::Changed(_) => Outcome::Changing,
        ReadError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Outcome::Gone
        }
        _ => Outcome::Failed(with_causes(error)),
    }
}

fn row(
    reading: &Reading,
    found: &FoundEntry,
    open: &OpenFile,
    content: Content,
    now_ns: i128,
) -> Result<Outcome, SyncError> {
    let read = match reading.root.file_xattrs(open) {
        Ok(read) => read,
        Err(error) => return Ok(Outcome::Failed(with_causes(&error))),
    };
    let unread = read.unread.first().map(|(name, error)| {
        format!("cannot read the attribute {}: {error}", String::from_utf8_lossy(name))
    });
    let device = reading.root.identity().device;
    let mut row = Row::new(found, device, Thing::File(content), read.xattrs);
    row.error = unread;
    row.is_racy = is_racy(found.stamp.ctime, now_ns);
    Ok(Outcome::Row(Box::new(row)))
}

/// Reports whether a write after `now_ns` may leave the stamp unchanged: the file was
/// changed less than one tick of the file system's clock before. Every write sets the
/// ctime, and no program can set it back.
fn is_racy(ctime: (i64, i64), now_ns: i128) -> bool {
    let tick = if ctime.1 == 0 { COARSE_TICK_NS } else { TICK_NS };
    i128::from(ctime.0) * 1_000_000_000 + i128::from(ctime.1) + tick >= now_ns
}

impl Content {
    /// Reads the content of a file, and tells whether the file ever was that
    /// and nothing more; the inner error is what became of it otherwise.
    fn read(
        reading: &Reading,
        buffer: &mut Buffer,
        found: &FoundEntry,
        open: &OpenFile,
        mode: Mode,
    ) -> Result<Result<(Self, bool), Outcome>, SyncError> {
        let spool = (mode != Mode::InPlace).then(|| reading.store.pin());
        let mut tree = Tree::new(&reading.scheme, spool);
        let size = open.stamp.size;
        let outcome = each_chunk(reading, buffer, open, mode, |chunk| tree.add(reading, chunk))?;
        if let Err(outcome) = outcome {
            return Ok(Err(outcome));
        }
        if tree.nodes.size() != size {
            return Ok(Err(Outcome::Changing));
        }
        let mut is_whole = true;
        match reading.root.is_unchanged(open) {
            Ok(true) => {}
            Ok(false) if mode == Mode::Prefix => {
                // Between two reads that gave the same, it began with that. Where
                // it was longer by then, it may have been written to in front
                // since it had this length.
                match open.file.metadata() {
                    Ok(now) => is_whole = now.len() == size,
                    Err(error) => {
                        return Ok(Err(Outcome::Failed(format!("cannot be looked at: {error}"))));
                    }
                }
                let mut again = blake3::Hasher::new();
                let add = |chunk: &[u8]| {
                    again.update(chunk);
                    Ok(())
                };
                let outcome = each_chunk(reading, buffer, open, mode, add)?;
                if outcome.is_err() || again.finalize() != tree.whole.finalize() {
                    return Ok(Err(Outcome::Changing));
                }
            }
            Ok(false) => return Ok(Err(Outcome::Changing)),
            Err(error) => return Ok(Err(Outcome::Failed(with_causes(&error)))),
        }
        Ok(Ok((tree.finish(reading, found)?, is_whole)))
    }
}

/// Calls with the chunks of the first `size` bytes of a file, where that is
/// its length when it was opened.
fn each_chunk(
    reading: &Reading,
    buffer: &mut Buffer,
    open: &OpenFile,
    mode: Mode,
    each: impl FnMut(&[u8]) -> Result<(), SyncError>,
) -> Result<Result<(), Outcome>, SyncError> {
    let monitor = &reading.monitor;
    let chunks =
        Chunks { file: &open.file, size: open.stamp.size, scheme: &reading.scheme, monitor };
    chunks.take(buffer, &reading.second_reader, each, || {
        reading.monitor.check()?;
        // A long file that changes is given up early.
        Ok(mode == Mode::Prefix || reading.root.is_unchanged(open).unwrap_or(false))
    })
}

/// The tree of one file as it grows.
struct Tree<'a> {
    scheme: &'a BlockScheme,
    nodes: FileNodeBuilder,
    chunks: Vec<InPlaceChunk>,
    /// Of all its bytes.
    whole: blake3::Hasher,
    /// Where chunks go to the store: what keeps them until it is certain that
    /// the file is taken in. What is left of one that is not can be collected.
    spool: Option<Pin>,
}

impl<'a> Tree<'a> {
    fn new(scheme: &'a BlockScheme, spool: Option<Pin>) -> Self {
        let nodes = FileNodeBuilder::new(scheme.clone());
        Self { scheme, nodes, chunks: Vec::new(), whole: blake3::Hasher::new(), spool }
    }

    fn put(&self, reading: &Reading, blocks: &[EncodedBlock]) -> Result<(), SyncError> {
        reading.put(blocks, self.spool.as_ref().unwrap_or(&reading.pin))
    }

    fn add(&mut self, reading: &Reading, bytes: &[u8]) -> Result<(), SyncError> {
        let offset = self.nodes.size();
        let cid = self.scheme.name(Codec::Raw, bytes);
        // A file of one chunk is named by it already.
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
        self.put(reading, &blocks)
    }

    fn finish(self, reading: &Reading, found: &FoundEntry) -> Result<Content, SyncError> {
        let Self { scheme, nodes, chunks, whole, spool } = self;
        let mut blocks = Vec::new();
        let root = nodes.finish(|node| {
            blocks.push(scheme.encode(node));
            Ok::<_, SyncError>(())
        })?;
        if root.is_none() && spool.is_some() {
            let empty = scheme.block(Codec::Raw, Bytes::new()).map_err(StoreError::from)?;
            blocks.push(scheme.encode(empty));
        }
        reading.put(&blocks, spool.as_ref().unwrap_or(&reading.pin))?;
        let cid = root.unwrap_or_else(|| scheme.name(Codec::Raw, b""));
        let blake3 = match cid.codec() {
            Codec::Raw => *cid.hash(),
            _ => Hash::from_bytes(*whole.finalize().as_bytes()),
        };
        let id = if spool.is_some() {
            // It leads to all that is kept until here.
            reading.pin.add([cid]);
            None
        } else {
            let id = reading.index.file_id();
            reading.note(id, &chunks)?;
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
        for now in [at(0), at(7), at(7 + TICK_NS)] {
            assert!(is_racy((second, 7), now), "{now}");
        }
        assert!(!is_racy((second, 7), at(8 + TICK_NS)));
        // Without a fraction, the file system may store whole seconds only.
        assert!(is_racy((second, 0), at(COARSE_TICK_NS)));
        assert!(!is_racy((second, 0), at(COARSE_TICK_NS + 1)));
    }
}
