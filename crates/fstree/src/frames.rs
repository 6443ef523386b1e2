//! The directories between the start of a walk and where it is.
//!
//! **Invariant**: of their descriptors a bounded number is open, those nearest
//! to where the walk is. One that was given up is opened again by its path from
//! the nearest that is open, and has to be the directory that it was.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use types::RelPath;

use crate::beneath::is_absent;
use crate::error::ReadError;
use crate::names::Names;
use crate::root::SourceTree;
use crate::stat::{Stat, stat_fd};

/// Why a descriptor is there, after [`Frames::open_last`].
pub(crate) const OPEN: &str = "the last directory is open, or has been opened again";

/// A directory that the walk is in.
pub(crate) struct Frame {
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) stat: Stat,
    pub(crate) names: Names,
    /// The number of the name that is looked at next.
    pub(crate) next: usize,
    /// How much of the path leads to it.
    path_len: usize,
}

pub(crate) struct Frames {
    stack: Vec<Frame>,
    /// The path of the last one.
    path: RelPath,
    /// No frame before this one has its descriptor.
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

    /// Goes into a directory, unless it has no names.
    pub(crate) fn push(&mut self, path: RelPath, fd: OwnedFd, stat: Stat, names: Names) {
        if names.len() == 0 {
            return;
        }
        let path_len = path.as_bytes().len();
        self.stack.push(Frame { fd: Some(fd), stat, names, next: 0, path_len });
        self.path = path;
        // Those furthest from here are wanted last.
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

    /// Sees to it that the last frame has its descriptor.
    pub(crate) fn open_last(&mut self, root: &SourceTree) -> Result<(), ReadError> {
        if self.stack.last().is_none_or(|frame| frame.fd.is_some()) {
            return Ok(());
        }
        self.reopen(root).inspect_err(|_| {
            // The rest of the directory cannot be reached any more.
            if let Some(frame) = self.stack.last_mut() {
                frame.next = frame.names.len();
            }
        })
    }

    /// Opens the last directory again, and some of those above it, which will
    /// be wanted soon.
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
                let fd = root.resolution().open_dir(base, relative)?;
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
