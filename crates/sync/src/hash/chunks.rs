//! Reading a file and cutting it into chunks.
//!
//! A long file is read by two threads: one reads and cuts, the other consumes the chunks, that
//! is, hashes them twice. Each half is about half of the work. While a file of gigabytes is
//! read, the other cores have nothing else to do.

use std::fs::File;
use std::os::unix::fs::FileExt;
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

/// The first `size` bytes of a file.
#[derive(Debug)]
pub(super) struct Chunks<'a> {
    pub(super) file: &'a File,
    /// Number of bytes to read.
    pub(super) size: u64,
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
    /// True if the file ends with this run.
    is_last: bool,
}

impl Chunks<'_> {
    /// Calls `each` with every chunk, and `continues` once for each buffer. If that returns
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
        each: impl FnMut(&[u8]) -> Result<(), SyncError>,
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

/// Calls `each` with the chunks of the buffers that `next` fills.
fn consume(
    buffer: &mut Buffer,
    mut next: impl FnMut(&mut Buffer) -> Result<(), ReadOutcome>,
    mut each: impl FnMut(&[u8]) -> Result<(), SyncError>,
    continues: impl Fn() -> Result<bool, SyncError>,
) -> Result<Result<(), ReadOutcome>, SyncError> {
    loop {
        if let Err(outcome) = next(buffer) {
            return Ok(Err(outcome));
        }
        let mut start = 0;
        for end in &buffer.cuts {
            each(&buffer.bytes[start..*end])?;
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
}

impl<'a> ChunkCutter<'a> {
    fn new(chunks: &'a Chunks<'a>) -> Self {
        Self { chunks, offset: 0, rest: Vec::new() }
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
        let Chunks { file, size, scheme, monitor } = *self.chunks;
        let Buffer { bytes, cuts, is_last } = buffer;
        bytes.resize(BUFFER_LEN, 0);
        cuts.clear();
        let mut end = self.rest.len();
        bytes[..end].copy_from_slice(&self.rest);
        while self.offset < size && end < bytes.len() {
            let room = bytes.len() - end;
            let wanted = usize::try_from(size - self.offset).map_or(room, |left| left.min(room));
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
        Chunks { file, size, scheme: &PLAIN, monitor }
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
                let each = |chunk: &[u8]| {
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

    #[test]
    fn a_file_that_grew_is_read_to_its_former_end_and_one_that_shrank_is_changing() {
        let len = LONG + 1_000_000;
        let bytes = noise(LONG + 2_000_000);
        let monitor = WorkMonitor::new();
        let (longer, shorter) = (file(&bytes), file(&bytes[..LONG - 5]));
        for done in with_one_and_two(|second| {
            let read = |file| {
                let (chunks, mut whole) = (of(file, len as u64, &monitor), blake3::Hasher::new());
                let each = |chunk: &[u8]| {
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
