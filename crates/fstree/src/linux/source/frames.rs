//! The directories between the start of a walk and its current position.
//!
//! **Invariant**: a limited number of them is open, those nearest to the current
//! position. A closed one is opened again by its path from the nearest open
//! directory, and must be the same directory.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use types::RelPath;

use super::super::beneath::is_absent;
use super::super::names::Names;
use super::super::stat::{Stat, stat_fd};
use super::SourceTree;
use crate::error::ReadError;

/// The reason why a descriptor exists after [`Frames::open_last`].
pub(crate) const OPEN: &str = "the last directory is open, or was opened again";

/// A directory that the walk has entered.
pub(crate) struct Frame {
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) stat: Stat,
    pub(crate) names: Names,
    /// Number of the name to examine next.
    pub(crate) next: usize,
    /// Length of the directory's path.
    path_len: usize,
}

/// The stack of entered directories.
pub(crate) struct Frames {
    stack: Vec<Frame>,
    /// Path of the last directory.
    path: RelPath,
    /// No frame before this one has a descriptor.
    first_open: usize,
    open_max: usize,
}

impl Frames {
    pub(crate) fn new(path: RelPath, open_max: usize) -> Self {
        Self { stack: Vec::new(), path, first_open: 0, open_max: open_max.max(1) }
    }

    pub(crate) fn path(&self) -> &RelPath {
        &self.path
    }

    pub(crate) fn last(&self) -> Option<&Frame> {
        self.stack.last()
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut Frame> {
        self.stack.last_mut()
    }

    /// Enters a directory, unless it is empty.
    pub(crate) fn push(&mut self, path: RelPath, fd: OwnedFd, stat: Stat, names: Names) {
        if names.len() == 0 {
            return;
        }
        let path_len = path.as_bytes().len();
        self.stack.push(Frame { fd: Some(fd), stat, names, next: 0, path_len });
        self.path = path;
        // The directories furthest away are needed last.
        let keep_from = self.stack.len().saturating_sub(self.open_max);
        for frame in &mut self.stack[self.first_open.min(keep_from)..keep_from] {
            frame.fd = None;
        }
        self.first_open = self.first_open.max(keep_from);
    }

    pub(crate) fn pop(&mut self) {
        self.stack.pop();
        self.first_open = self.first_open.min(self.stack.len());
        if !self.stack.is_empty() {
            self.path = self.path.parent().unwrap_or_else(RelPath::root);
        }
    }

    /// Ensures that the last frame has a descriptor.
    pub(crate) fn open_last(&mut self, root: &SourceTree) -> Result<(), ReadError> {
        if self.stack.last().is_none_or(|frame| frame.fd.is_some()) {
            return Ok(());
        }
        self.reopen(root).inspect_err(|_| {
            // The rest of the directory is unreachable.
            if let Some(frame) = self.stack.last_mut() {
                frame.next = frame.names.len();
            }
        })
    }

    /// Opens the last directory again, and some of its parents, which are needed
    /// soon.
    fn reopen(&mut self, root: &SourceTree) -> Result<(), ReadError> {
        let open = self.stack.iter().rposition(|frame| frame.fd.is_some());
        let half = self.open_max.div_ceil(2);
        let from = open.map_or(self.stack.len().saturating_sub(half), |open| open + 1);
        let mut from_len = open.map_or(0, |open| self.stack[open].path_len);
        for number in from..self.stack.len() {
            let frame = &self.stack[number];
            let relative = &self.path.as_bytes()[from_len..frame.path_len];
            let relative = relative.strip_prefix(b"/").unwrap_or(relative);
            let above = number.checked_sub(1).and_then(|above| self.stack[above].fd.as_ref());
            let base = above.map_or(root.fd(), AsFd::as_fd);
            let open = || {
                let fd = root.resolution.open_dir(base, relative)?;
                Ok::<_, Errno>((stat_fd(fd.as_fd())?, fd))
            };
            let (stat, fd) = open().map_err(|errno| match errno {
                errno if is_absent(errno) => ReadError::Changed(self.path.clone()),
                errno => ReadError::new("open", &self.path, errno),
            })?;
            if stat.identity() != frame.stat.identity() {
                return Err(ReadError::Changed(self.path.clone()));
            }
            from_len = frame.path_len;
            self.stack[number].fd = Some(fd);
        }
        self.first_open = self.first_open.min(from);
        Ok(())
    }
}
