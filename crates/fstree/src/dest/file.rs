//! Files: written under a temporary name, with holes where they had holes,
//! and renamed when they are whole.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Advice, Mode, OFlags};
use types::{Metadata, RelPath};

use super::apply::open_inode;
use super::temp::Temp;
use super::{DestTree, How, Inner, Made};
use crate::error::{CREATE, DestError};
use crate::found::Kind;
use crate::root::open_regular;
use crate::stat::Stat;

/// Zeros are left out as holes in units of this, where they begin at a
/// multiple of it: what file systems allocate.
const HOLE_LEN: usize = 4096;
const ZEROS: [u8; HOLE_LEN] = [0; HOLE_LEN];

/// What is known of a file before its content comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileContent {
    /// Its length, in bytes.
    pub size: u64,
    /// The time of its last write, in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Whether zeros are left out as holes.
    pub is_sparse: bool,
}

/// What making a file comes to.
#[derive(Debug)]
pub enum MakeFile {
    /// It is to be written.
    Write(FileSink),
    /// It is there already, with its length, its time and its content.
    Same(SameFile),
}

/// A file that is being written. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct FileSink {
    target: Arc<Inner>,
    path: RelPath,
    name: Vec<u8>,
    temp: Temp,
    body: Arc<Body>,
    content: FileContent,
    /// How many bytes have come.
    at: u64,
}

/// A file, and what came of writing it out.
#[derive(Debug)]
struct Body {
    file: File,
    /// Why what was written did not get to the disk. The system says so once, to
    /// whoever asks first.
    failed: Mutex<Option<io::Error>>,
}

impl Body {
    /// Held while the system is asked, so that nobody misses what it says.
    fn failed(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a [`FileSink`] was given so far, to be written out: from another thread,
/// as it waits for the disk.
#[derive(Debug)]
pub struct WriteOut {
    body: Arc<Body>,
    len: u64,
}

impl WriteOut {
    /// Has it written to the disk, and forgotten by the system's cache. What does not
    /// get there is an error of [`FileSink::finish`].
    pub fn run(self) {
        let mut failed = self.body.failed();
        match self.body.file.sync_data() {
            Ok(()) => {
                // A file system may not know of it.
                let len = NonZeroU64::new(self.len);
                let _ = rustix::fs::fadvise(&self.body.file, 0, len, Advice::DontNeed);
            }
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
}

/// A file that was there already, whole.
#[derive(Debug)]
pub struct SameFile {
    target: Arc<Inner>,
    path: RelPath,
    fd: OwnedFd,
    stat: Stat,
}

impl DestTree {
    /// Begins a file. Where a file of the same length and time is there
    /// already, `verify` is asked whether it has the content, too; so a restore
    /// that was interrupted goes on where it was.
    ///
    /// # Errors
    ///
    /// [`DestError`].
    pub fn make_file(
        &self,
        path: &RelPath,
        content: FileContent,
        verify: impl FnOnce(&File) -> io::Result<bool>,
    ) -> Result<MakeFile, DestError> {
        let inner = &self.0;
        let (dir, name) = inner.parent(path)?;
        if let Some(existing) = inner.existing(dir.as_fd(), name, path)? {
            // What is to be overwritten and has another name may be in use under
            // that, so it is replaced and not changed.
            let is_free = existing.stat.links == 1 || !inner.options.overwrite;
            let looks_same = is_free
                && existing.kind() == Some(Kind::File)
                && existing.stat.stamp.size == content.size
                && existing.stat.stamp.mtime_ns() == content.mtime_ns;
            let opened = if looks_same { open_regular(dir.as_fd(), name) } else { Ok(None) };
            if let Ok(Some((fd, stat))) = opened {
                let file = File::from(fd);
                // A file that cannot be read is not known to be the same.
                if verify(&file).unwrap_or(false) {
                    let (target, path) = (inner.clone(), path.clone());
                    let fd = OwnedFd::from(file);
                    return Ok(MakeFile::Same(SameFile { target, path, fd, stat }));
                }
            }
            inner.may_replace(&existing, dir.as_fd(), name, path)?;
        }
        let made = inner.make_temp(dir, |dir, temp| {
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, temp, flags, Mode::RUSR | Mode::WUSR)
        });
        let (temp, fd) = made.map_err(|errno| DestError::new(CREATE, path, errno))?;
        Ok(MakeFile::Write(FileSink {
            target: inner.clone(),
            path: path.clone(),
            name: name.to_vec(),
            temp,
            body: Arc::new(Body { file: File::from(fd), failed: Mutex::default() }),
            content,
            at: 0,
        }))
    }
}

impl FileSink {
    /// The file that it becomes.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Writes the next bytes. Zeros are left out as holes where the file is
    /// sparse.
    ///
    /// # Errors
    ///
    /// [`DestError::Size`] beyond the length that was said;
    /// [`DestError::Full`]; [`DestError::Io`]. The file cannot be finished
    /// after any of them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DestError> {
        let end = self.at.saturating_add(bytes.len() as u64);
        if end > self.content.size {
            return Err(self.wrong_size(end));
        }
        let write = |offset, bytes: &[u8]| {
            self.body
                .file
                .write_all_at(bytes, offset)
                .map_err(|source| DestError::from_io("write", &self.path, source))
        };
        if self.content.is_sparse {
            for (start, part) in data_parts(self.at, bytes) {
                write(start, part)?;
            }
        } else {
            write(self.at, bytes)?;
        }
        self.at = end;
        Ok(())
    }

    /// How many bytes it was given.
    pub fn written(&self) -> u64 {
        self.at
    }

    /// What it was given so far, for another thread to write out. The end of a long file
    /// then has not the whole of it to wait for; and its pages are used again for what
    /// comes next: fresh ones cost several times the copying on machines whose memory
    /// comes from a host, and would drive out what other programs need.
    pub fn write_out(&self) -> WriteOut {
        WriteOut { body: self.body.clone(), len: self.at }
    }

    fn wrong_size(&self, found: u64) -> DestError {
        DestError::Size { path: self.path.clone(), expected: self.content.size, found }
    }

    /// Gives the file its metadata and then its name. Waits for a
    /// [`WriteOut`] that is under way.
    ///
    /// # Errors
    ///
    /// [`DestError::Size`] where not all of it has come;
    /// [`DestError::InTheWay`] where something has the name by now; those of
    /// [`Self::write_out`]; others. Nothing is left behind.
    pub fn finish(mut self, metadata: &Metadata) -> Result<Made, DestError> {
        if self.at != self.content.size {
            return Err(self.wrong_size(self.at));
        }
        let error = |source| DestError::from_io("finish", &self.path, source);
        let file = &self.body.file;
        if self.content.is_sparse {
            file.set_len(self.content.size).map_err(error)?;
        }
        let mut not_set = Vec::new();
        let identity = open_inode(file, Kind::File)
            .apply(&self.path, metadata, &self.target.options.owners, &mut not_set)
            .map_err(|errno| error(errno.into()))?;
        {
            let mut failed = self.body.failed();
            if self.target.options.durable
                && let Err(source) = file.sync_all()
            {
                failed.get_or_insert(source);
            }
            if let Some(source) = failed.take() {
                return Err(error(source));
            }
        }
        self.target.commit(&mut self.temp, &self.name, &self.path)?;
        Ok(Made { how: How::New, identity, not_set })
    }
}

impl SameFile {
    /// Gives the file its other metadata where overwriting is asked for, and
    /// leaves it as it is where not.
    ///
    /// # Errors
    ///
    /// [`DestError::Io`].
    pub fn finish(self, metadata: &Metadata) -> Result<Made, DestError> {
        let mut not_set = Vec::new();
        if self.target.options.overwrite {
            open_inode(&self.fd, Kind::File)
                .apply(&self.path, metadata, &self.target.options.owners, &mut not_set)
                .map_err(|errno| DestError::new("finish", &self.path, errno))?;
        }
        Ok(Made { how: How::Same, identity: self.stat.identity(), not_set })
    }
}

/// The parts of `bytes`, which begin at `offset` of a file, that are not holes.
fn data_parts(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut start = None;
        while at < bytes.len() {
            #[allow(clippy::cast_possible_truncation, reason = "less than HOLE_LEN")]
            let into_unit = ((offset + at as u64) % HOLE_LEN as u64) as usize;
            let len = (HOLE_LEN - into_unit).min(bytes.len() - at);
            let is_hole = bytes[at..at + len] == ZEROS[..len];
            match (start, is_hole) {
                (None, false) => start = Some(at),
                (Some(start), true) => return Some((offset + start as u64, &bytes[start..at])),
                _ => {}
            }
            at += len;
        }
        start.map(|start| (offset + start as u64, &bytes[start..]))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeros_are_left_out_where_a_hole_can_be() {
        let mut bytes = vec![0; 5 * HOLE_LEN];
        assert_eq!(data_parts(0, &bytes).count(), 0);
        bytes[2 * HOLE_LEN + 5] = 1;
        let parts: Vec<_> = data_parts(0, &bytes).map(|(at, part)| (at, part.len())).collect();
        assert_eq!(parts, [(2 * HOLE_LEN as u64, HOLE_LEN)]);
        let parts: Vec<_> = data_parts(100, &bytes).map(|(at, part)| (at, part.len())).collect();
        assert_eq!(parts, [(2 * HOLE_LEN as u64, HOLE_LEN)]);
    }

    proptest! {
        #[test]
        fn the_parts_and_zeros_are_the_bytes(
            runs in prop::collection::vec((any::<bool>(), 1_usize..9000), 0..8),
            offset in 0_u64..10_000,
        ) {
            let bytes: Vec<u8> = runs
                .iter()
                .flat_map(|(one, len)| std::iter::repeat_n(u8::from(*one), *len))
                .collect();
            let mut again = vec![0; bytes.len()];
            let mut last_end = 0;
            for (at, part) in data_parts(offset, &bytes) {
                let at = usize::try_from(at - offset).unwrap();
                prop_assert!(at >= last_end && !part.is_empty());
                again[at..at + part.len()].copy_from_slice(part);
                last_end = at + part.len();
            }
            prop_assert_eq!(again, bytes);
        }
    }
}
