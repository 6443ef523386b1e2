//! A walk over a tree, in the order of paths.
//!
//! **Invariants**: entries come in the order of [`RelPath`], so a directory
//! comes before what is in it; no link is followed; nothing is opened but
//! directories; whatever goes wrong with one entry is an item, and the walk
//! goes on. What vanishes while it is looked at is no error: it is not there.
//!
//! What is in memory are the names of the directories between the root and
//! where the walk is, and of those a bounded number is open. A directory whose
//! descriptor had to be given up is opened again by its path, and has to be the
//! one that it was.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use types::RelPath;

use crate::beneath::is_absent;
use crate::error::ReadError;
use crate::found::{Found, FoundKind, Kind};
use crate::frames::{Frames, OPEN};
use crate::names::{Buffer, ListError, NAMES_MAX, Names};
use crate::root::{Looked, SourceTree, look, open_list};
use crate::stat::{Stat, stat_fd};

/// What to do about a name, decided before anything but its kind is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It is an item, and a directory is entered.
    Descend,
    /// It is an item; a directory is not entered.
    Record,
    /// It is as if it were not there.
    Skip,
}

/// How to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkOptions {
    /// Whether directories on which another file system is mounted, and
    /// subvolumes, are not entered. Nor is a walk begun in one.
    pub one_file_system: bool,
    /// The number of directories that are held open at once, at least 1.
    pub open_dirs_max: usize,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { one_file_system: false, open_dirs_max: 16 }
    }
}

/// What a walk comes to.
#[derive(Debug)]
pub enum WalkItem {
    /// Something that is there.
    Entry(Found),
    /// Something that could not be looked at, or a directory that could not be
    /// listed, or not to the end. Nothing in it will be an item after this, and
    /// what of it was none is not gone, but unknown.
    Error(ReadError),
}

/// A walk; the items are those of the iterator.
pub struct Walk<'a, F> {
    root: &'a SourceTree,
    one_file_system: bool,
    decide: F,
    frames: Frames,
    buffer: Buffer,
    /// The directory that was the last item and is entered next.
    enter: Option<(RelPath, Stat)>,
}

impl SourceTree {
    /// Walks over everything below the directory `start`, which is no item
    /// itself. `decide` is asked about every name.
    ///
    /// A directory is listed after it was the item, so what `decide` knows may
    /// come from there.
    ///
    /// # Errors
    ///
    /// Those of opening and listing `start`, and [`ReadError::Mounted`]. All
    /// others are items.
    pub fn walk<F>(
        &self,
        start: &RelPath,
        options: WalkOptions,
        decide: F,
    ) -> Result<Walk<'_, F>, ReadError>
    where
        F: FnMut(&RelPath, Kind) -> Visit,
    {
        let list = |errno| ReadError::new("list", start, errno);
        let held = self.resolution().open_dir(self.fd(), start.as_bytes()).map_err(list)?;
        let fd = open_list(held.as_fd(), c".").map_err(list)?;
        let stat = stat_fd(fd.as_fd()).map_err(list)?;
        if options.one_file_system && self.is_mount_boundary(&stat) {
            return Err(ReadError::Mounted(start.clone()));
        }
        let mut walk = Walk {
            root: self,
            one_file_system: options.one_file_system,
            decide,
            frames: Frames::new(start.clone(), options.open_dirs_max),
            buffer: Buffer::new(),
            enter: None,
        };
        walk.push(start.clone(), fd, stat)?;
        Ok(walk)
    }

    /// The entries of one directory, without what is in those that are
    /// directories themselves.
    ///
    /// # Errors
    ///
    /// As [`SourceTree::walk`].
    pub fn list(
        &self,
        dir: &RelPath,
    ) -> Result<Walk<'_, impl FnMut(&RelPath, Kind) -> Visit + use<>>, ReadError> {
        self.walk(dir, WalkOptions::default(), |_: &RelPath, _| Visit::Record)
    }
}

impl<F: FnMut(&RelPath, Kind) -> Visit> Walk<'_, F> {
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
        let opened = open_list(parent.as_fd(), name).and_then(|fd| Ok((stat_fd(fd.as_fd())?, fd)));
        let (now, fd) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            // A link or a file has taken its place.
            Err(errno) if is_absent(errno) => return Err(ReadError::Changed(path)),
            Err(errno) => return Err(ReadError::new("list", &path, errno)),
        };
        if now.identity() != stat.identity() {
            // Another directory, or something was mounted on it just now.
            return Err(ReadError::Changed(path));
        }
        self.push(path, fd, now)
    }

    /// Looks at one name of the last frame; `None` where it is not there, or
    /// not wanted.
    fn visit(&mut self, number: usize) -> Result<Option<Found>, ReadError> {
        self.frames.open_last(self.root)?;
        let Some(frame) = self.frames.last() else { return Ok(None) };
        let Some((name, said)) = frame.names.get(number) else { return Ok(None) };
        let path = self.frames.path().join(name.to_bytes()).map_err(|source| ReadError::Name {
            parent: self.frames.path().clone(),
            name: crate::error::os_name(name.to_bytes()),
            source,
        })?;
        let visit = said.map(|kind| (self.decide)(&path, kind));
        if visit == Some(Visit::Skip) {
            return Ok(None);
        }
        let (stat, target) = match look(frame.fd.as_ref().expect(OPEN).as_fd(), name, said) {
            Ok(Looked::At(stat, target)) => (stat, target),
            Ok(Looked::Changing) => return Err(ReadError::Changed(path)),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(ReadError::new("examine", &path, errno)),
        };
        let is_mount_point = frame.stat.is_mount_boundary(&stat);
        let found = self.root.found(path, &stat, target, is_mount_point)?;
        let visit = match visit {
            Some(visit) if said == Some(found.kind()) => visit,
            // The directory did not say what it is, or it is another thing now.
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

impl<F: FnMut(&RelPath, Kind) -> Visit> Iterator for Walk<'_, F> {
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
