//! An entry with a temporary name.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::AtFlags;
use rustix::io::Errno;

/// An entry with a temporary name. It is removed on drop unless it was renamed.
#[derive(Debug)]
pub(crate) struct Temp {
    dir: OwnedFd,
    name: String,
    is_kept: bool,
}

impl Temp {
    pub(crate) fn new(dir: OwnedFd, name: String) -> Self {
        Self { dir, name, is_kept: false }
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the entry: it was renamed to its final name.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }

    pub(crate) fn remove(&mut self) -> Result<(), Errno> {
        self.is_kept = true;
        rustix::fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = self.remove();
        }
    }
}
