//! A walk over a tree, in the order of paths.
//!
//! **Invariants**: entries come in the order of [`RelPath`], so a directory comes
//! before its content; no link is followed; only directories are opened; an error
//! that concerns one entry is an item, and the walk continues. An entry that
//! disappears during the walk is not an error.
//!
//! The names of the directories between the start and the current position are in
//! memory, and a limited number of these directories is open. A directory whose
//! descriptor was closed is opened again by its path and must be the same directory.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use types::RelPath;

use super::super::Call;
use super::super::beneath::is_absent;
use super::super::error::os_name;
use super::super::names::{Buffer, ListError, NAMES_MAX, Names};
use super::super::open::open_list;
use super::super::stat::{Stat, stat_fd};
use super::frames::{Frames, OPEN};
use super::{Examined, SourceTree, examine};
use crate::entry::{FileKind, FoundEntry, FoundKind};
use crate::error::ReadError;
use crate::source::{Visit, WalkItem, WalkOptions};

/// A walk; an iterator over its items.
pub(super) struct Walk<'a, F> {
    root: &'a SourceTree,
    one_file_system: bool,
    decide: F,
    frames: Frames,
    buffer: Buffer,
    /// The directory that was the last item and must be entered next.
    enter: Option<(RelPath, Stat)>,
}

impl<'a, F: FnMut(&RelPath, FileKind) -> Visit> Walk<'a, F> {
    /// Opens and lists the directory `start`.
    pub(super) fn new(
        root: &'a SourceTree,
        start: &RelPath,
        options: WalkOptions,
        decide: F,
    ) -> Result<Self, ReadError> {
        root.check_hung(start)?;
        let list = |errno| ReadError::new("list", start, errno);
        root.check(Call::List, start).map_err(list)?;
        let held = root.resolution.open_dir(root.fd(), start.as_bytes()).map_err(list)?;
        let fd = open_list(held.as_fd(), c".").map_err(list)?;
        let stat = stat_fd(fd.as_fd()).map_err(list)?;
        let expected = options.within.unwrap_or(root.stat.mount_id());
        if options.one_file_system && expected.differs(stat.mount_id()) {
            return Err(ReadError::Mounted(start.clone()));
        }
        let mut walk = Self {
            root,
            one_file_system: options.one_file_system,
            decide,
            frames: Frames::new(start.clone(), options.open_dirs_max),
            buffer: Buffer::new(),
            enter: None,
        };
        walk.push(start.clone(), fd, stat)?;
        Ok(walk)
    }

    fn push(&mut self, path: RelPath, fd: OwnedFd, stat: Stat) -> Result<(), ReadError> {
        let names = Names::read(fd.as_fd(), &mut self.buffer).map_err(|error| match error {
            ListError::Io(errno) => ReadError::new("list", &path, errno),
            ListError::TooMany => ReadError::TooMany { path: path.clone(), limit: NAMES_MAX },
        })?;
        self.frames.push(path, fd, stat, names);
        Ok(())
    }

    /// Enters a directory that was an item.
    fn enter(&mut self, path: RelPath, stat: &Stat) -> Result<(), ReadError> {
        self.frames.open_last(self.root)?;
        let parent = self.frames.last().and_then(|frame| frame.fd.as_ref()).expect(OPEN);
        let name = path.name().unwrap_or(b".");
        self.root.check(Call::List, &path).map_err(|errno| ReadError::new("list", &path, errno))?;
        let opened = open_list(parent.as_fd(), name).and_then(|fd| Ok((stat_fd(fd.as_fd())?, fd)));
        let (now, fd) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            // A link or a file has replaced the directory.
            Err(errno) if is_absent(errno) => return Err(ReadError::Changed(path)),
            Err(errno) => return Err(ReadError::new("list", &path, errno)),
        };
        if now.identity() != stat.identity() {
            // Another directory has replaced it, or was mounted on it.
            return Err(ReadError::Changed(path));
        }
        self.push(path, fd, now)
    }

    /// Examines one name of the last frame; `None` if the entry no longer exists, or
    /// is skipped.
    fn visit(&mut self, number: usize) -> Result<Option<FoundEntry>, ReadError> {
        self.frames.open_last(self.root)?;
        let Some(frame) = self.frames.last() else { return Ok(None) };
        let Some((name, listed_kind)) = frame.names.get(number) else { return Ok(None) };
        let path = self.frames.path().join(name.to_bytes()).map_err(|source| ReadError::Name {
            parent: self.frames.path().clone(),
            name: os_name(name.to_bytes()),
            source,
        })?;
        self.root.check_hung(&path)?;
        let visit = listed_kind.map(|kind| (self.decide)(&path, kind));
        if visit == Some(Visit::Skip) {
            return Ok(None);
        }
        self.root
            .check(Call::Examine, &path)
            .map_err(|errno| ReadError::new("examine", &path, errno))?;
        let dir = frame.fd.as_ref().expect(OPEN).as_fd();
        let (stat, target) = match examine(dir, name, listed_kind) {
            Ok(Examined::Entry(stat, target)) => (stat, target),
            Ok(Examined::Changing) => return Err(ReadError::Changed(path)),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(ReadError::new("examine", &path, errno)),
        };
        let is_mount_point = frame.stat.is_mount_boundary(&stat);
        let found = self.root.found(path, &stat, target, is_mount_point)?;
        let visit = match visit {
            Some(visit) if listed_kind == Some(found.kind()) => visit,
            // The directory does not store the kind, or the entry was replaced.
            _ => (self.decide)(&found.path, found.kind()),
        };
        if visit == Visit::Skip {
            return Ok(None);
        }
        if let FoundKind::Dir { is_mount_point } = found.kind
            && visit == Visit::Descend
            && !(is_mount_point && self.one_file_system)
        {
            self.enter = Some((found.path.clone(), stat));
        }
        Ok(Some(found))
    }
}

impl<F: FnMut(&RelPath, FileKind) -> Visit> Iterator for Walk<'_, F> {
    type Item = WalkItem;

    fn next(&mut self) -> Option<WalkItem> {
        loop {
            if let Some((path, stat)) = self.enter.take()
                && let Err(error) = self.enter(path, &stat)
            {
                return Some(WalkItem::Error(error));
            }
            let frame = self.frames.last_mut()?;
            let number = frame.next;
            if number == frame.names.len() {
                self.frames.pop();
                continue;
            }
            frame.next += 1;
            match self.visit(number) {
                Ok(Some(found)) => return Some(WalkItem::Entry(found)),
                Ok(None) => {}
                Err(error) => return Some(WalkItem::Error(error)),
            }
        }
    }
}

impl<F> std::fmt::Debug for Walk<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("at", self.frames.path()).finish_non_exhaustive()
    }
}
