//! Reading a file and cutting it into chunks.
//!
//! A long file is read by two threads: one reads and cuts, the other consumes the chunks, that
//! is, hashes them twice. Each half is about half of the work. While a file of gigabytes is
//! read, the other cores have nothing else to do.
//!
//! Holes are not read. The bytes of a hole are zeros, and all chunks of a long run of zeros are
//! equal, so a run is passed on as one piece. The chunks are the same as if it had been read.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use types::{BlockScheme, CHUNK_LEN_MAX};

use super::ReadOutcome;
use crate::error::SyncError;
use crate::work_monitor::WorkMonitor;

/// Number of bytes of a file that are in memory at the same time, for each reading thread.
pub(super) const BUFFER_LEN: usize = 4 * CHUNK_LEN_MAX;
/// Length in bytes from which a file is read by two threads.
const LONG: usize = 32 << 20;

/// Maximum number of bytes of a hole that are one piece, so that progress is counted and an
/// interruption is noticed.
const ZEROS_MAX: u64 = 256 << 20;
/// As many zeros as a chunk may have.
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; CHUNK_LEN_MAX]);

/// Returns the first range with data at or after an offset; `None` if there is only a hole.
pub(super) type NextData<'a> = &'a (dyn Fn(u64) -> Option<Range<u64>> + Sync);

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// One chunk.
    Chunk(&'a [u8]),
    /// As many chunks as `count`, each with these zeros.
    Zeros {
        /// The bytes of each chunk.
        chunk: &'a [u8],
        /// Number of chunks.
        count: u64,
    },
}

/// The first `size` bytes of a file.
pub(super) struct Chunks<'a> {
    pub(super) file: &'a File,
    /// Number of bytes to read.
    pub(super) size: u64,
    /// Finds the holes; `None` if everything is data.
    pub(super) next_data: Option<NextData<'a>>,
    /// Cuts the chunks.
    pub(super) scheme: &'a BlockScheme,
    /// Counts the bytes.
    pub(super) monitor: &'a WorkMonitor,
}

/// A run of chunks of a file. Its memory is reused.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// The end of each chunk.
    cuts: Vec<usize>,
    /// Length and number of the chunks of zeros before the other chunks.
    zeros: (usize, u64),
    /// True if the file ends with this run.
    is_last: bool,
}

impl Chunks<'_> {
    /// Calls `each` with every piece, and `continues` once for each buffer. If that returns
    /// false, or if the file is shorter than expected, the file is changing; the inner error
    /// is the outcome.
    ///
    /// `second_reader` is locked while a second thread reads, for one file at a time: if
    /// several files are long, other threads read them meanwhile.
    ///
    /// # Errors
    ///
    /// Returns the first error of `each` or `continues`.
    pub(super) fn for_each(
        &self,
        buffer: &mut Buffer,
        second_reader: &Mutex<()>,
        each: impl FnMut(Piece<'_>) -> Result<(), SyncError>,
        continues: impl Fn() -> Result<bool, SyncError>,
    ) -> Result<Result<(), ReadOutcome>, SyncError> {
        let mut cutter = ChunkCutter::new(self);
        let is_long = self.size >= LONG as u64;
        let Some(_lock) = is_long.then(|| second_reader.try_lock()).flatten() else {
            return consume(buffer, |buffer| cutter.next(buffer), each, continues);
        };
        thread::scope(|scope| {
            let (empty, to_fill) = bounded(1);
            let (full, to_take) = bounded(1);
            let named = thread::Builder::new().name("sync-read".to_owned());
            let ahead =
                named.spawn_scoped(scope, move || ChunkCutter::new(self).run(&to_fill, &full));
            if ahead.is_err() {
                // The system cannot start another thread.
                return consume(buffer, |buffer| cutter.next(buffer), each, continues);
            }
            // Sending neither blocks nor fails, since there are only two buffers, one of them
            // here. After a panic of the other thread it fails, and the scope ends.
            let _ = empty.send(Buffer::default());
            let next = move |buffer: &mut Buffer| {
                let (next, filled) = to_take.recv().map_err(|_| ReadOutcome::Changing)?;
                let _ = empty.send(std::mem::replace(buffer, next));
                filled
            };
            consume(buffer, next, each, continues)
        })
    }
}

/// Calls `each` with the pieces of the buffers that `next` fills.
fn consume(
    buffer: &mut Buffer,
    mut next: impl FnMut(&mut Buffer) -> Result<(), ReadOutcome>,
    mut each: impl FnMut(Piece<'_>) -> Result<(), SyncError>,
    continues: impl Fn() -> Result<bool, SyncError>,
) -> Result<Result<(), ReadOutcome>, SyncError> {
    loop {
        if let Err(outcome) = next(buffer) {
            return Ok(Err(outcome));
        }
        let (len, count) = buffer.zeros;
        if count > 0 {
            each(Piece::Zeros { chunk: &ZEROS[..len], count })?;
        }
        let mut start = 0;
        for end in &buffer.cuts {
            each(Piece::Chunk(&buffer.bytes[start..*end]))?;
            start = *end;
        }
        if buffer.is_last {
            return Ok(Ok(()));
        }
        if !continues()? {
            return Ok(Err(ReadOutcome::Changing));
        }
    }
}

/// Reads a file and cuts it into chunks.
struct ChunkCutter<'a> {
    chunks: &'a Chunks<'a>,
    offset: u64,
    /// Bytes that were read and not cut yet, fewer than a chunk may have.
    rest: Vec<u8>,
    /// The last range with data that was found. Everything between the offset and it is a hole.
    data: Range<u64>,
}

impl<'a> ChunkCutter<'a> {
    fn new(chunks: &'a Chunks<'a>) -> Self {
        let data = if chunks.next_data.is_some() { 0..0 } else { 0..chunks.size };
        Self { chunks, offset: 0, rest: Vec::new(), data }
    }

    /// Returns the end of the hole at the current offset; the offset itself if it has data.
    fn hole_end(&mut self) -> u64 {
        let size = self.chunks.size;
        if self.offset >= self.data.end
            && let Some(next_data) = self.chunks.next_data
        {
            // The range may begin before the offset. An empty one would be no progress.
            let found = next_data(self.offset).filter(|data| data.end > self.offset);
            self.data = found.map_or(size..size, |data| data.start.max(self.offset)..data.end);
        }
        self.data.start.clamp(self.offset, size)
    }

    /// Passes over a hole if the next chunks consist of zeros only. Returns the length and the
    /// number of these chunks.
    fn skip_zeros(&mut self) -> (usize, u64) {
        let hole = self.hole_end() - self.offset;
        let zeros = self.rest.len() as u64 + hole;
        if hole == 0 || zeros < CHUNK_LEN_MAX as u64 || self.rest.iter().any(|byte| *byte != 0) {
            return (0, 0);
        }
        // Cut points depend on no more bytes than a chunk may have.
        let len = self.chunks.scheme.cut_point(&ZEROS);
        let count = (zeros.min(ZEROS_MAX) - CHUNK_LEN_MAX as u64) / len as u64 + 1;
        let skipped = count * len as u64 - self.rest.len() as u64;
        self.rest.clear();
        self.offset += skipped;
        self.chunks.monitor.add_bytes(skipped);
        (len, count)
    }

    /// Fills buffers until the file ends or the consumer gives up.
    fn run(mut self, empty: &Receiver<Buffer>, full: &Sender<(Buffer, Result<(), ReadOutcome>)>) {
        for mut buffer in empty {
            let filled = self.next(&mut buffer);
            let is_end = buffer.is_last || filled.is_err();
            if full.send((buffer, filled)).is_err() || is_end {
                return;
            }
        }
    }

    fn next(&mut self, buffer: &mut Buffer) -> Result<(), ReadOutcome> {
        buffer.zeros = self.skip_zeros();
        let Chunks { file, size, scheme, monitor, .. } = *self.chunks;
        let Buffer { bytes, cuts, is_last, .. } = buffer;
        bytes.resize(BUFFER_LEN, 0);
        cuts.clear();
        let mut end = self.rest.len();
        bytes[..end].copy_from_slice(&self.rest);
        while self.offset < size && end < bytes.len() {
            let room = bytes.len() - end;
            let fitting = |len: u64| usize::try_from(len).map_or(room, |len| len.min(room));
            let hole = fitting(self.hole_end() - self.offset);
            if hole > 0 {
                bytes[end..end + hole].fill(0);
                end += hole;
                self.offset += hole as u64;
                monitor.add_bytes(hole as u64);
                continue;
            }
            let wanted = fitting(self.data.end.min(size).saturating_sub(self.offset));
            match file.read_at(&mut bytes[end..end + wanted], self.offset) {
                // The file is shorter than before.
                Ok(0) => return Err(ReadOutcome::Changing),
                Ok(len) => {
                    end += len;
                    self.offset += len as u64;
                    monitor.add_bytes(len as u64);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(ReadOutcome::Failed(format!("cannot read the file: {error}")));
                }
            }
        }
        *is_last = self.offset >= size;
        let mut start = 0;
        // A cut is final once as many bytes are known as a chunk may have.
        while start < end && (*is_last || end - start >= CHUNK_LEN_MAX) {
            start += scheme.cut_point(&bytes[start..end]);
            cuts.push(start);
        }
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[start..end]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use types::Chunker;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Reads with one thread, and with two.
    fn with_one_and_two<T>(read: impl Fn(&Mutex<()>) -> T) -> [T; 2] {
        let (taken, free) = (Mutex::new(()), Mutex::new(()));
        let _taken = taken.lock();
        [read(&taken), read(&free)]
    }

    fn of<'a>(file: &'a File, size: u64, monitor: &'a WorkMonitor) -> Chunks<'a> {
        static PLAIN: BlockScheme = BlockScheme::plain();
        Chunks { file, size, next_data: None, scheme: &PLAIN, monitor }
    }

    #[test]
    fn one_thread_and_two_cut_alike_wherever_the_buffers_end() {
        let most = LONG + 3 * BUFFER_LEN + 12_345;
        let mixed = [noise(most / 2), vec![7; most - most / 2]].concat();
        for len in [0, 1, 70_000, CHUNK_LEN_MAX, BUFFER_LEN - 1, BUFFER_LEN, LONG, most] {
            let bytes = &mixed[..len];
            let (file, mut wanted, mut chunker) =
                (file(bytes), Vec::new(), Chunker::new(BlockScheme::plain()));
            let mut emit = |chunk: bytes::Bytes| {
                wanted.push(chunk.len());
                Ok::<_, SyncError>(())
            };
            chunker.push(bytes, &mut emit).unwrap();
            chunker.finish(&mut emit).unwrap();
            for done in with_one_and_two(|second| {
                let (monitor, mut cut, mut all) = (WorkMonitor::new(), Vec::new(), Vec::new());
                let each = |piece: Piece<'_>| {
                    let Piece::Chunk(chunk) = piece else { panic!("{piece:?}") };
                    cut.push(chunk.len());
                    all.extend_from_slice(chunk);
                    Ok(())
                };
                let chunks = of(&file, len as u64, &monitor);
                let done = chunks.for_each(&mut Buffer::default(), second, each, || Ok(true));
                done.unwrap().unwrap();
                assert!(all == bytes);
                (cut, monitor.progress().bytes)
            }) {
                assert_eq!(done, (wanted.clone(), len as u64));
            }
        }
    }

    /// Reads a file of `len` bytes with data in the ranges, and zeros elsewhere. Checks that the
    /// pieces are the chunks of the bytes, and returns the number of zeros that were not read.
    fn read_sparse(len: usize, ranges: &[Range<usize>]) -> u64 {
        let mut bytes = vec![0; len];
        for range in ranges {
            bytes[range.clone()].copy_from_slice(&noise(len)[range.clone()]);
        }
        // Holes as they were found, not as they are: reading one would be noticed.
        let file = file(&bytes.iter().map(|byte| byte | 1).collect::<Vec<_>>());
        for range in ranges {
            file.write_all_at(&bytes[range.clone()], range.start as u64).unwrap();
        }
        let mut wanted = Vec::new();
        let mut chunker = Chunker::new(BlockScheme::plain());
        let mut emit = |chunk: bytes::Bytes| {
            wanted.push(chunk);
            Ok::<_, SyncError>(())
        };
        chunker.push(&bytes[..], &mut emit).unwrap();
        chunker.finish(&mut emit).unwrap();
        let next_data = |at: u64| {
            let ranges = ranges.iter().map(|range| range.start as u64..range.end as u64);
            ranges.into_iter().find(|range| range.end > at)
        };
        let skipped = with_one_and_two(|second| {
            let (monitor, mut at, mut skipped) = (WorkMonitor::new(), 0, 0);
            let each = |piece: Piece<'_>| {
                let (chunk, count) = match piece {
                    Piece::Chunk(chunk) => (chunk, 1),
                    Piece::Zeros { chunk, count } => (chunk, count),
                };
                skipped += if count > 1 { chunk.len() as u64 * count } else { 0 };
                for _ in 0..count {
                    assert!(wanted[at] == chunk, "chunk {at} of {len}, {ranges:?}");
                    at += 1;
                }
                Ok(())
            };
            let chunks = Chunks { next_data: Some(&next_data), ..of(&file, len as u64, &monitor) };
            chunks.for_each(&mut Buffer::default(), second, each, || Ok(true)).unwrap().unwrap();
            assert_eq!((at, monitor.progress().bytes), (wanted.len(), len as u64));
            skipped
        });
        assert_eq!(skipped[0], skipped[1]);
        skipped[0]
    }

    #[test]
    fn holes_are_cut_as_if_they_were_read() {
        const MAX: usize = CHUNK_LEN_MAX;
        for len in [1, MAX - 1, MAX, MAX + 1, 3 * MAX, BUFFER_LEN + 7, 9 * MAX + 5] {
            read_sparse(len, &[]);
            read_sparse(len, std::slice::from_ref(&(0..len)));
            read_sparse(len, std::slice::from_ref(&(0..len / 2)));
            read_sparse(len, std::slice::from_ref(&(len / 2..len)));
        }
        let len = LONG + 12_345;
        let skipped = read_sparse(len, &[5000..9000, 20 * MAX..20 * MAX + 4096, len - 1..len]);
        assert!(skipped > 20 * MAX as u64, "{skipped}");
        assert!(read_sparse(len, &[]) > 30 * MAX as u64);
        // Many short holes.
        let ranges: Vec<_> = (0..40).map(|n| n * 300_000..n * 300_000 + 100_000).collect();
        read_sparse(13_000_000, &ranges);
    }

    #[test]
    fn a_file_that_grew_is_read_to_its_former_end_and_one_that_shrank_is_changing() {
        let len = LONG + 1_000_000;
        let bytes = noise(LONG + 2_000_000);
        let monitor = WorkMonitor::new();
        let (longer, shorter) = (file(&bytes), file(&bytes[..LONG - 5]));
        for done in with_one_and_two(|second| {
            let read = |file| {
                let (chunks, mut whole) = (of(file, len as u64, &monitor), blake3::Hasher::new());
                let each = |piece: Piece<'_>| {
                    let Piece::Chunk(chunk) = piece else { panic!("{piece:?}") };
                    whole.update(chunk);
                    Ok(())
                };
                let done = chunks.for_each(&mut Buffer::default(), second, each, || Ok(true));
                done.unwrap().map(|()| whole.finalize())
            };
            (read(&longer), read(&shorter))
        }) {
            assert_eq!(done.0.unwrap(), blake3::hash(&bytes[..len]));
            assert!(matches!(done.1, Err(ReadOutcome::Changing)));
        }
    }

    #[test]
    fn after_any_end_no_thread_is_left_waiting() {
        let bytes = noise(LONG);
        let (file, monitor) = (file(&bytes), WorkMonitor::new());
        for nth in [0, 1, 7, 40] {
            for done in with_one_and_two(|second| {
                let chunks = of(&file, LONG as u64, &monitor);
                let calls = Cell::new(0);
                let fails = || {
                    calls.set(calls.get() + 1);
                    if calls.get() > nth { Err(SyncError::Stopped) } else { Ok(()) }
                };
                let each =
                    chunks.for_each(&mut Buffer::default(), second, |_| fails(), || Ok(true));
                calls.set(0);
                let stops = || fails().map(|()| true);
                let stopped = chunks.for_each(&mut Buffer::default(), second, |_| Ok(()), stops);
                calls.set(0);
                let changes = || Ok(fails().is_ok());
                let changed = chunks.for_each(&mut Buffer::default(), second, |_| Ok(()), changes);
                (each, stopped, changed)
            }) {
                let (each, stopped, changed) = done;
                assert!(matches!(each, Err(SyncError::Stopped)), "{nth}");
                // `continues` is called once for each buffer.
                let is_called = nth < 8;
                assert_eq!(matches!(stopped, Err(SyncError::Stopped)), is_called, "{nth}");
                assert_eq!(matches!(changed, Ok(Err(ReadOutcome::Changing))), is_called, "{nth}");
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_fails() {
        let dir = File::open(std::env::temp_dir()).unwrap();
        let monitor = WorkMonitor::new();
        for done in with_one_and_two(|second| {
            let chunks = of(&dir, LONG as u64, &monitor);
            chunks.for_each(&mut Buffer::default(), second, |_| Ok(()), || Ok(true)).unwrap()
        }) {
            assert!(matches!(done, Err(ReadOutcome::Failed(_))));
        }
    }
}
