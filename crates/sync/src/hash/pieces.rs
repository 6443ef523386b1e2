//! The content of a file: cut into chunks, and hashed as a whole.
//!
//! Of a long file one thread reads and hashes the whole, and another one cuts it and
//! hashes the chunks, which is two thirds of the work. While a file of gigabytes is
//! looked at, the other cores have nothing else to do.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use store::{CHUNK_LEN_MAX, cut_point};

use super::Outcome;
use crate::error::SyncError;

/// How much of a file is in memory at once, for each thread that reads.
pub(super) const BUFFER_LEN: usize = 4 * CHUNK_LEN_MAX;
/// The front of a buffer: what is not cut of the one before, less than a chunk.
const HEAD: usize = CHUNK_LEN_MAX;
/// What is read at once, in bytes: it is hashed while it is in the core's own
/// cache.
const READ_LEN: usize = 256 << 10;
/// Files from so many bytes on are worth a second thread.
const LONG: usize = 32 << 20;

/// The first bytes of a file.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    pub(super) file: &'a File,
    /// How many.
    pub(super) size: u64,
    /// Whether the hash of all of them is wanted.
    pub(super) is_hashed: bool,
    /// Counts the bytes that are read.
    pub(super) counter: &'a AtomicU64,
}

impl Pieces<'_> {
    /// Calls with each chunk, and tells the hash of all. Between them it is asked
    /// whether to go on; if not, or if there are fewer bytes, the file is
    /// changing. The inner error is what became of the file.
    ///
    /// `second` is who may start a second thread: one file at a time. Where several
    /// are long, others are read meanwhile anyway.
    ///
    /// # Errors
    ///
    /// Those of the calls, at once.
    pub(super) fn read(
        &self,
        buffer: &mut Vec<u8>,
        second: &Mutex<()>,
        mut each: impl FnMut(&[u8]) -> Result<(), SyncError>,
        goes_on: impl Fn() -> Result<bool, SyncError>,
    ) -> Result<Result<blake3::Hash, Outcome>, SyncError> {
        buffer.resize(BUFFER_LEN, 0);
        let mut cutting = Cutting { each: &mut each, goes_on: &goes_on };
        let second = (self.size >= LONG as u64).then(|| second.try_lock()).flatten();
        if second.is_some() {
            self.read_by_two(buffer, &mut cutting)
        } else {
            self.read_by_one(buffer, &mut cutting)
        }
    }

    fn read_by_one(
        &self,
        buffer: &mut Vec<u8>,
        cutting: &mut Cutting<'_>,
    ) -> Result<Result<blake3::Hash, Outcome>, SyncError> {
        let mut reader = Reader::new(self);
        let done = cutting.all(buffer, |buffer, rest| {
            let len = rest.len();
            buffer.copy_within(rest, HEAD - len);
            reader.fill(buffer)
        })?;
        Ok(done.map(|()| reader.whole.finalize()))
    }

    /// By a thread that reads, and this one.
    fn read_by_two(
        &self,
        buffer: &mut Vec<u8>,
        cutting: &mut Cutting<'_>,
    ) -> Result<Result<blake3::Hash, Outcome>, SyncError> {
        thread::scope(|scope| {
            let (empty, to_fill) = bounded(1);
            let (full, to_cut) = bounded(1);
            let run = move || Reader::new(self).run(&to_fill, &full);
            let named = thread::Builder::new().name("sync-read".to_owned());
            let Ok(reading) = named.spawn_scoped(scope, run) else {
                // The system has no thread to give.
                return self.read_by_one(buffer, cutting);
            };
            // It fails only where that thread panicked, which joining it tells; nor
            // does it wait, as there are two buffers, of which one is here.
            let _ = empty.send(vec![0; BUFFER_LEN]);
            let done = cutting.all(buffer, |buffer, rest| {
                let (mut next, filled) = to_cut.recv().map_err(|_| Outcome::Changing)?;
                next[HEAD - rest.len()..HEAD].copy_from_slice(&buffer[rest]);
                let _ = empty.send(std::mem::replace(buffer, next));
                filled
            });
            drop((empty, to_cut));
            let whole = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(done?.map(|()| whole))
        })
    }
}

/// What was read into a buffer, behind its head.
struct Filled {
    len: usize,
    is_last: bool,
}

/// Reads, and hashes what it has read.
struct Reader<'a> {
    pieces: &'a Pieces<'a>,
    offset: u64,
    whole: blake3::Hasher,
}

impl<'a> Reader<'a> {
    fn new(pieces: &'a Pieces<'a>) -> Self {
        Self { pieces, offset: 0, whole: blake3::Hasher::new() }
    }

    /// Fills buffers until the file ends, or nobody wants any more of it.
    fn run(
        mut self,
        empty: &Receiver<Vec<u8>>,
        full: &Sender<(Vec<u8>, Result<Filled, Outcome>)>,
    ) -> blake3::Hash {
        for mut buffer in empty {
            let filled = self.fill(&mut buffer);
            let is_end = filled.as_ref().is_ok_and(|filled| filled.is_last);
            if full.send((buffer, filled)).is_err() || is_end {
                break;
            }
        }
        self.whole.finalize()
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<Filled, Outcome> {
        let Pieces { file, size, is_hashed, counter } = *self.pieces;
        let mut end = HEAD;
        while self.offset < size && end < buffer.len() {
            let room = READ_LEN.min(buffer.len() - end);
            let wanted = usize::try_from(size - self.offset).map_or(room, |left| left.min(room));
            let into = &mut buffer[end..end + wanted];
            match file.read_at(into, self.offset) {
                // It is shorter than it was.
                Ok(0) => return Err(Outcome::Changing),
                Ok(len) => {
                    if is_hashed {
                        self.whole.update(&into[..len]);
                    }
                    end += len;
                    self.offset += len as u64;
                    counter.fetch_add(len as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Outcome::Failed(format!("cannot be read: {error}"))),
            }
        }
        Ok(Filled { len: end - HEAD, is_last: self.offset >= size })
    }
}

/// Cuts what was read. What it calls: see [`Pieces::read`].
struct Cutting<'a> {
    each: &'a mut dyn FnMut(&[u8]) -> Result<(), SyncError>,
    goes_on: &'a dyn Fn() -> Result<bool, SyncError>,
}

impl Cutting<'_> {
    /// Cuts everything. `next` brings the buffer that follows, with what is named of
    /// the one before at the end of its head.
    fn all(
        &mut self,
        buffer: &mut Vec<u8>,
        mut next: impl FnMut(&mut Vec<u8>, Range<usize>) -> Result<Filled, Outcome>,
    ) -> Result<Result<(), Outcome>, SyncError> {
        let mut rest = HEAD..HEAD;
        loop {
            let mut start = HEAD - rest.len();
            let filled = match next(buffer, rest) {
                Ok(filled) => filled,
                Err(outcome) => return Ok(Err(outcome)),
            };
            let end = HEAD + filled.len;
            // A cut is certain once as much is known as a chunk can be long.
            while start < end && (filled.is_last || end - start >= CHUNK_LEN_MAX) {
                let len = cut_point(&buffer[start..end]);
                (self.each)(&buffer[start..start + len])?;
                start += len;
            }
            if filled.is_last {
                return Ok(Ok(()));
            }
            rest = start..end;
            if !(self.goes_on)()? {
                return Ok(Err(Outcome::Changing));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use store::Chunker;

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

    fn pieces<'a>(file: &'a File, size: u64, counter: &'a AtomicU64) -> Pieces<'a> {
        Pieces { file, size, is_hashed: true, counter }
    }

    #[test]
    fn one_thread_and_two_cut_alike_wherever_the_buffers_end() {
        let most = LONG + 3 * BUFFER_LEN + 12_345;
        let mixed = [noise(most / 2), vec![7; most - most / 2]].concat();
        for len in [0, 1, 70_000, CHUNK_LEN_MAX, BUFFER_LEN - HEAD, BUFFER_LEN, LONG, most] {
            let bytes = &mixed[..len];
            let (file, mut chunks, mut chunker) = (file(bytes), Vec::new(), Chunker::default());
            let mut emit = |chunk: bytes::Bytes| {
                chunks.push(chunk.len());
                Ok::<_, SyncError>(())
            };
            chunker.push(bytes, &mut emit).unwrap();
            chunker.finish(&mut emit).unwrap();
            for done in both(|second| {
                let (counter, mut cut, mut all) = (AtomicU64::new(0), Vec::new(), Vec::new());
                let each = |chunk: &[u8]| {
                    cut.push(chunk.len());
                    all.extend_from_slice(chunk);
                    Ok(())
                };
                let pieces = pieces(&file, len as u64, &counter);
                let hash = pieces.read(&mut Vec::new(), second, each, || Ok(true)).unwrap();
                assert!(all == bytes);
                (hash.unwrap(), cut, counter.into_inner())
            }) {
                assert_eq!(done, (blake3::hash(bytes), chunks.clone(), len as u64));
            }
        }
    }

    #[test]
    fn what_is_longer_is_cut_where_it_was_to_end_and_what_is_shorter_is_changing() {
        let len = LONG + 1_000_000;
        let bytes = noise(LONG + 2_000_000);
        let counter = AtomicU64::new(0);
        let (longer, shorter) = (file(&bytes), file(&bytes[..LONG - 5]));
        for done in both(|second| {
            let read = |file| {
                let pieces = pieces(file, len as u64, &counter);
                pieces.read(&mut Vec::new(), second, |_| Ok(()), || Ok(true)).unwrap()
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
        let (file, counter) = (file(&bytes), AtomicU64::new(0));
        for nth in [0, 1, 7, 40] {
            for done in both(|second| {
                let pieces = pieces(&file, LONG as u64, &counter);
                let calls = Cell::new(0);
                let fails = || {
                    calls.set(calls.get() + 1);
                    if calls.get() > nth { Err(SyncError::Stopped) } else { Ok(()) }
                };
                let each = pieces.read(&mut Vec::new(), second, |_| fails(), || Ok(true));
                calls.set(0);
                let stops = || fails().map(|()| true);
                let stopped = pieces.read(&mut Vec::new(), second, |_| Ok(()), stops);
                calls.set(0);
                let changes = || Ok(fails().is_ok());
                let changed = pieces.read(&mut Vec::new(), second, |_| Ok(()), changes);
                (each, stopped, changed)
            }) {
                let (each, stopped, changed) = done;
                assert!(matches!(each, Err(SyncError::Stopped)), "{nth}");
                // It is asked once a buffer.
                let is_asked = nth * 3 < 32;
                assert_eq!(matches!(stopped, Err(SyncError::Stopped)), is_asked, "{nth}");
                assert_eq!(matches!(changed, Ok(Err(Outcome::Changing))), is_asked, "{nth}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_fails() {
        let dir = File::open(std::env::temp_dir()).unwrap();
        let counter = AtomicU64::new(0);
        for done in both(|second| {
            let pieces = pieces(&dir, LONG as u64, &counter);
            pieces.read(&mut Vec::new(), second, |_| Ok(()), || Ok(true)).unwrap()
        }) {
            assert!(matches!(done, Err(Outcome::Failed(_))));
        }
    }
}
