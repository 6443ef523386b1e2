//! An open file of a simulated disk.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Change, Hit, Lock, NO_BYTES, Op, SimDisk};
use crate::disk::DiskFile;

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    inode: usize,
    is_writable: bool,
    has_lock: AtomicBool,
}

impl SimFile {
    pub(super) fn new(disk: &SimDisk, inode: usize, is_writable: bool) -> Self {
        Self { disk: disk.clone(), inode, is_writable, has_lock: AtomicBool::new(false) }
    }

    /// Refuses changes of a file that is open for reading only.
    fn writable(&self) -> io::Result<()> {
        let refused = "the file is open for reading only";
        let refuse = || io::Error::new(io::ErrorKind::PermissionDenied, refused);
        self.is_writable.then_some(()).ok_or_else(refuse)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.writable()?;
        let mut state = self.disk.state.lock();
        state.alive()?;
        let growth = match &change {
            Change::Write { offset, data } => {
                (offset + data.len()).saturating_sub(state.inodes[self.inode].current.len()) as u64
            }
            Change::Truncate(_) => 0,
        };
        let full = state.capacity.is_some_and(|capacity| state.used() + growth > capacity);
        let outcome = if full && growth > 0 {
            state.operations += 1;
            Err(Hit::Fail(io::ErrorKind::StorageFull.into()))
        } else {
            let (op, bytes) = match &change {
                Change::Write { offset, data } => {
                    (Op::Write, *offset as u64..(offset + data.len()) as u64)
                }
                Change::Truncate(_) => (Op::Truncate, NO_BYTES),
            };
            let path = state.path_of(self.inode);
            state.step(op, &path, bytes)
        };
        let applied = match (&outcome, change) {
            (Err(Hit::Fail(_)), Change::Truncate(_)) => None,
            // A write that fails may have happened in part.
            (Err(Hit::Fail(_)), Change::Write { offset, mut data }) => {
                data.truncate(if full { 0 } else { data.len() / 2 });
                Some(Change::Write { offset, data })
            }
            (Ok(()) | Err(Hit::Die), change) => Some(change),
        };
        if let Some(change) = applied {
            let inode = &mut state.inodes[self.inode];
            change.apply(&mut inode.current);
            inode.pending.push(change);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(Hit::Die) => state.die_unless(false),
            Err(Hit::Fail(error)) => Err(error.to_io()),
        }
    }

    /// Fails if the process is dead, or if a rule says so.
    fn read_step(&self, op: Op, bytes: Range<u64>) -> io::Result<()> {
        let state = self.disk.state.lock();
        state.read_step(op, &state.path_of(self.inode), bytes)
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_step(Op::Read, offset..offset.saturating_add(buf.len() as u64))?;
        let state = self.disk.state.lock();
        let content = &state.inodes[self.inode].current;
        let start = position(offset)?.min(content.len());
        let len = buf.len().min(content.len() - start);
        buf[..len].copy_from_slice(&content[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.change(Change::Write { offset: position(offset)?, data: parts.concat() })
    }

    // Linux syncs files that are open for reading, too.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let path = state.path_of(self.inode);
        match state.step_whole(Op::Sync, &path) {
            Ok(survives) => {
                if survives && !state.ignores_file_syncs {
                    let inode = &mut state.inodes[self.inode];
                    for change in std::mem::take(&mut inode.pending) {
                        change.apply(&mut inode.durable);
                    }
                }
                state.die_unless(survives)
            }
            Err(error) => {
                // The system regards the pages as clean now and will never
                // write them.
                state.inodes[self.inode].pending.clear();
                Err(error)
            }
        }
    }

    fn drop_cache(&self, len: u64) {
        let mut state = self.disk.state.lock();
        let inode = &mut state.inodes[self.inode];
        let mut on_disk = inode.durable.clone();
        for change in &inode.pending {
            change.apply(&mut on_disk);
        }
        // The length stays in memory; bytes that were never written read as zeros.
        on_disk.resize(inode.current.len(), 0);
        let end = on_disk.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        inode.current[..end].copy_from_slice(&on_disk[..end]);
    }

    fn len(&self) -> io::Result<u64> {
        self.read_step(Op::Len, NO_BYTES)?;
        let state = self.disk.state.lock();
        Ok(state.inodes[self.inode].current.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Change::Truncate(position(len)?))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.write_at(&[&vec![0; position(len)?]], 0)
    }

    fn lock(&self) -> io::Result<()> {
        self.read_step(Op::Lock, NO_BYTES)?;
        let mut state = self.disk.state.lock();
        let inode = &mut state.inodes[self.inode];
        if inode.lock != Lock::None {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        inode.lock = Lock::Exclusive;
        self.has_lock.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.read_step(Op::Lock, NO_BYTES)?;
        let mut state = self.disk.state.lock();
        let inode = &mut state.inodes[self.inode];
        inode.lock = match inode.lock {
            Lock::Exclusive => return Err(io::ErrorKind::WouldBlock.into()),
            Lock::None => Lock::Shared(1),
            Lock::Shared(count) => Lock::Shared(count + 1),
        };
        self.has_lock.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn copy_permissions(&self, _: &Path) -> io::Result<()> {
        self.writable()?;
        self.read_step(Op::SetPermissions, NO_BYTES)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if *self.has_lock.get_mut() {
            let lock = &mut self.disk.state.lock().inodes[self.inode].lock;
            *lock = match *lock {
                Lock::Shared(count) if count > 1 => Lock::Shared(count - 1),
                _ => Lock::None,
            };
        }
    }
}
