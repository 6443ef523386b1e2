//! The chunks of a file, as it is read.
//!
//! Of a long file one thread reads and cuts, and another one takes the chunks, which is
//! to hash them twice; each is about half of the work. While a file of gigabytes is
//! looked at, the other cores have nothing else to do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use types::{BlockScheme, CHUNK_LEN_MAX};

use super::Outcome;
use crate::error::SyncError;
use crate::work_monitor::WorkMonitor;

/// How much of a file is in memory at once, for each thread that reads.
pub(super) const BUFFER_LEN: usize = 4 * CHUNK_LEN_MAX;
/// Files from so many bytes on are worth a second thread.
const LONG: usize = 32 << 20;

/// The first bytes of a file.
#[derive(Debug)]
pub(super) struct Chunks<'a> {
    pub(super) file: &'a File,
    /// How many.
    pub(super) size: u64,
    pub(super) scheme: &'a BlockScheme,
    /// Counts the bytes that are read.
    pub(super) monitor: &'a WorkMonitor,
}

/// Some chunks of a file. Its memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where each chunk ends.
    cuts: Vec<usize>,
    /// Whether the file ends with it.
    is_last: bool,
}

impl Chunks<'_> {
    /// Calls `each` with the chunks, and asks from time to time whether it `goes_on`.
    /// If not, or if there are fewer bytes, the file is changing: the inner error is what
    /// became of it.
    ///
    /// `second_reader` is held while a second thread reads, of one file at a time: where
    /// several are long, the others are read meanwhile anyway.
    ///
    /// # Errors
    ///
    /// Those of the calls, at once.
    pub(super) fn take(
        &self,
        buffer: &mut Buffer,
        second_reader: &Mutex<()>,
        each: impl FnMut(&[u8]) -> Result<(), SyncError>,
        goes_on: impl Fn() -> Result<bool, SyncError>,
    ) -> Result<Result<(), Outcome>, SyncError> {
        let mut cutter = Cutter::new(self);
        let is_long = self.size >= LONG as u64;
        let Some(_held) = is_long.then(|| second_reader.try_lock()).flatten() else {
            return take_all(buffer, |buffer| cutter.next(buffer), each, goes_on);
        };
        thread::scope(|scope| {
            let (empty, to_fill) = bounded(1);
            let (full, to_take) = bounded(1);
            let named = thread::Builder::new().name("sync-read".to_owned());
            let ahead = named.spawn_scoped(scope, move || Cutter::new(self).run(&to_fill, &full));
            if ahead.is_err() {
                // The system has no thread to give.
                return take_all(buffer, |buffer| cutter.next(buffer), each, goes_on);
            }
            // Neither waits nor fails, unless that thread has panicked, which ends the
            // scope: there are two buffers, of which one is here.
            let _ = empty.send(Buffer::default());
            let next = move |buffer: &mut Buffer| {
                let (next, filled) = to_take.recv().map_err(|_| Outcome::Changing)?;
                let _ = empty.send(std::mem::replace(buffer, next));
                filled
            };
            take_all(buffer, next, each, goes_on)
        })
    }
}

/// Takes the chunks of the buffers that `next` fills.
fn take_all(
    buffer: &mut Buffer,
    mut next: impl FnMut(&mut Buffer) -> Result<(), Outcome>,
    mut each: impl FnMut(&[u8]) -> Result<(), SyncError>,
    goes_on: impl Fn() -> Result<bool, SyncError>,
) -> Result<Result<(), Outcome>, SyncError> {
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
        if !goes_on()? {
            return Ok(Err(Outcome::Changing));
        }
    }
}

/// Reads a file, and cuts what it has read.
struct Cutter<'a> {
    chunks: &'a Chunks<'a>,
    offset: u64,
    /// What is read and not cut, less than a chunk may be long.
    rest: Vec<u8>,
}

impl<'a> Cutter<'a> {
    fn new(chunks: &'a Chunks<'a>) -> Self {
        Self { chunks, offset: 0, rest: Vec::new() }
    }

    /// Fills buffers until the file ends, or nobody wants any more of it.
    fn run(mut self, empty: &Receiver<Buffer>, full: &Sender<(Buffer, Result<(), Outcome>)>) {
        for mut buffer in empty {
            let filled = self.next(&mut buffer);
            let is_end = buffer.is_last || filled.is_err();
            if full.send((buffer, filled)).is_err() || is_end {
                return;
            }
        }
    }

    fn next(&mut self, buffer: &mut Buffer) -> Result<(), Outcome> {
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
                // It is shorter than it was.
                Ok(0) => return Err(Outcome::Changing),
                Ok(len) => {
                    end += len;
                    self.offset += len as u64;
                    monitor.add_bytes(len as u64);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Outcome::Failed(format!("cannot be read: {error}"))),
            }
        }
        *is_last = self.offset >= size;
        let mut start = 0;
        // A cut is certain once as much is known as a chunk can be long.
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

    /// By one thread, and by two.
    fn both<T>(read: impl Fn(&Mutex<()>) -> T) -> [T; 2] {
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
            for done in both(|second| {
                let (monitor, mut cut, mut all) = (WorkMonitor::new(), Vec::new(), Vec::new());
                let each = |chunk: &[u8]| {
                    cut.push(chunk.len());
                    all.extend_from_slice(chunk);
                    Ok(())
                };
                let chunks = of(&file, len as u64, &monitor);
                let done = chunks.take(&mut Buffer::default(), second, each, || Ok(true));
                done.unwrap().unwrap();
                assert!(all == bytes);
                (cut, monitor.progress().bytes)
            }) {
                assert_eq!(done, (wanted.clone(), len as u64));
            }
        }
    }

    #[test]
    fn what_is_longer_is_cut_where_it_was_to_end_and_what_is_shorter_is_changing() {
        let len = LONG + 1_000_000;
        let bytes = noise(LONG + 2_000_000);
        let monitor = WorkMonitor::new();
        let (longer, shorter) = (file(&bytes), file(&bytes[..LONG - 5]));
        for done in both(|second| {
            let read = |file| {
                let (chunks, mut whole) = (of(file, len as u64, &monitor), blake3::Hasher::new());
                let each = |chunk: &[u8]| {
                    whole.update(chunk);
                    Ok(())
                };
                let done = chunks.take(&mut Buffer::default(), second, each, || Ok(true));
                done.unwrap().map(|()| whole.finalize())
            };
            (read(&longer), read(&shorter))
        }) {
            assert_eq!(done.0.unwrap(), blake3::hash(&bytes[..len]));
            assert!(matches!(done.1, Err(Outcome::Changing)));
        }
    }

    #[test]
    fn whatever_ends_it_no_thread_is_left_waiting() {
        let bytes = noise(LONG);
        let (file, monitor) = (file(&bytes), WorkMonitor::new());
        for nth in [0, 1, 7, 40] {
            for done in both(|second| {
                let chunks = of(&file, LONG as u64, &monitor);
                let calls = Cell::new(0);
                let fails = || {
                    calls.set(calls.get() + 1);
                    if calls.get() > nth { Err(SyncError::Stopped) } else { Ok(()) }
                };
                let each = chunks.take(&mut Buffer::default(), second, |_| fails(), || Ok(true));
                calls.set(0);
                let stops = || fails().map(|()| true);
                let stopped = chunks.take(&mut Buffer::default(), second, |_| Ok(()), stops);
                calls.set(0);
                let changes = || Ok(fails().is_ok());
                let changed = chunks.take(&mut Buffer::default(), second, |_| Ok(()), changes);
                (each, stopped, changed)
            }) {
                let (each, stopped, changed) = done;
                assert!(matches!(each, Err(SyncError::Stopped)), "{nth}");
                // It is asked once a buffer.
                let is_asked = nth < 8;
                assert_eq!(matches!(stopped, Err(SyncError::Stopped)), is_asked, "{nth}");
                assert_eq!(matches!(changed, Ok(Err(Outcome::Changing))), is_asked, "{nth}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_fails() {
        let dir = File::open(std::env::temp_dir()).unwrap();
        let monitor = WorkMonitor::new();
        for done in both(|second| {
            let chunks = of(&dir, LONG as u64, &monitor);
            chunks.take(&mut Buffer::default(), second, |_| Ok(()), || Ok(true)).unwrap()
        }) {
            assert!(matches!(done, Err(Outcome::Failed(_))));
        }
    }
}
