//! Files: written under a temporary name, with their holes, and renamed when they
//! are complete.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fd::AsFd;
use rustix::fs::{Advice, Mode, OFlags};
use types::{Metadata, RelPath};

use super::super::error::CREATE;
use super::super::open::open_regular;
use super::super::stat::{FUSE_MAGIC, file_system_magic};
use super::Inner;
use super::apply::open_inode;
use super::temp::Temp;
use crate::dest::{CreateFile, CreatedEntry, FileContent, FileWriter, WriteOut};
use crate::entry::FileKind;
use crate::error::DestError;

/// Unit of holes in bytes: blocks of zeros with this alignment and length become
/// holes. It is the usual allocation unit of file systems.
const HOLE_LEN: usize = 4096;
const ZEROS: [u8; HOLE_LEN] = [0; HOLE_LEN];

/// A file that is being written. If it is dropped unfinished, nothing remains.
#[derive(Debug)]
pub struct FileSink {
    dest: Arc<Inner>,
    path: RelPath,
    name: Vec<u8>,
    temp: Temp,
    body: Arc<Body>,
    content: FileContent,
    /// Number of bytes written.
    at: u64,
}

/// A file, and the result of syncing it.
#[derive(Debug)]
struct Body {
    file: File,
    /// Error of a sync. The kernel reports a failed write to the first sync only.
    failed: Mutex<Option<io::Error>>,
}

impl Body {
    /// Locks the error. The lock is kept during a sync, so that no caller misses
    /// its error.
    fn failed(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs the content and the metadata.
    fn flush(&self) {
        let mut failed = self.failed();
        if let Err(error) = self.file.sync_all() {
            failed.get_or_insert(error);
        }
    }

    /// Syncs the content and drops the first `len` bytes from the page cache.
    fn write_out(&self, len: u64) {
        let mut failed = self.failed();
        match self.file.sync_data() {
            Ok(()) => {
                // Not every file system supports this.
                let _ = rustix::fs::fadvise(&self.file, 0, NonZeroU64::new(len), Advice::DontNeed);
            }
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
}

impl Inner {
    /// See [`TreeWriter::create_file`](crate::TreeWriter::create_file).
    pub(super) fn create_file(
        self: &Arc<Self>,
        path: &RelPath,
        content: FileContent,
        metadata: &Metadata,
        verify: impl FnOnce(&File) -> io::Result<bool>,
    ) -> Result<CreateFile<FileSink>, DestError> {
        let (dir, name) = self.parent(path)?;
        if let Some(existing) = self.existing(dir.as_fd(), name, path)? {
            // With overwriting, a file with a second name is replaced rather than
            // changed, because it may be in use under the other name.
            let is_free = existing.stat.links == 1 || !self.options.overwrite;
            let looks_same = is_free
                && existing.stat.kind == Some(FileKind::File)
                && existing.stat.stamp.size == content.size
                && existing.stat.stamp.mtime_ns() == metadata.mtime_ns;
            let opened = if looks_same { open_regular(dir.as_fd(), name) } else { Ok(None) };
            if let Ok(Some((fd, stat))) = opened {
                let file = File::from(fd);
                // A file that cannot be read is treated as different.
                if verify(&file).unwrap_or(false) {
                    let mut not_set = Vec::new();
                    if self.options.overwrite {
                        open_inode(&file, FileKind::File)
                            .apply(path, metadata, &self.options.owners, &mut not_set)
                            .map_err(|errno| DestError::new("finish", path, errno))?;
                    }
                    let identity = stat.identity();
                    return Ok(CreateFile::Existing(CreatedEntry {
                        is_new: false,
                        identity,
                        not_set,
                    }));
                }
            }
            self.may_replace(&existing, dir.as_fd(), name, path)?;
        }
        let created = self.create_temp(dir, |dir, temp| {
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, temp, flags, Mode::RUSR | Mode::WUSR)
        });
        let (temp, fd) = created.map_err(|errno| DestError::new(CREATE, path, errno))?;
        Ok(CreateFile::Write(FileSink {
            dest: self.clone(),
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
    fn wrong_size(&self, found: u64) -> DestError {
        DestError::Size { path: self.path.clone(), expected: self.content.size, found }
    }
}

impl FileWriter for FileSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), DestError> {
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

    fn written(&self) -> u64 {
        self.at
    }

    fn write_out(&self) -> WriteOut {
        let (body, len) = (self.body.clone(), self.at);
        Box::new(move || body.write_out(len))
    }

    fn finish(mut self, metadata: &Metadata) -> Result<CreatedEntry, DestError> {
        if self.at != self.content.size {
            return Err(self.wrong_size(self.at));
        }
        let error = |source| DestError::from_io("finish", &self.path, source);
        let file = &self.body.file;
        if self.content.is_sparse {
            file.set_len(self.content.size).map_err(error)?;
        }
        let mut not_set = Vec::new();
        let inode = open_inode(file, FileKind::File);
        // A program behind a FUSE file system may write the data later, and lose attributes
        // with it (fuse-overlayfs: file capabilities).
        let is_delayed = may_write_later(file, metadata);
        if is_delayed {
            self.body.flush();
        }
        let identity = inode
            .apply(&self.path, metadata, &self.dest.options.owners, &mut not_set)
            .map_err(|errno| error(errno.into()))?;
        if is_delayed {
            self.body.flush();
            inode.check_xattrs(&self.path, metadata, &mut not_set);
        }
        {
            let mut failed = self.body.failed();
            if self.dest.is_synced_alone(identity.device)
                && let Err(source) = file.sync_all()
            {
                failed.get_or_insert(source);
            }
            if let Some(source) = failed.take() {
                return Err(error(source));
            }
        }
        self.dest.commit(&mut self.temp, &self.name, &self.path)?;
        Ok(CreatedEntry { is_new: true, identity, not_set })
    }
}

/// Reports whether a file has attributes that a file system may lose when it writes the data.
fn may_write_later(file: &File, metadata: &Metadata) -> bool {
    !metadata.xattrs.is_empty() && file_system_magic(file.as_fd()) == Some(FUSE_MAGIC)
}

/// Returns the parts of `bytes`, which begin at `offset` of a file, that are not
/// holes.
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
