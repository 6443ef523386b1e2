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
use crate::names::{Buffer, ListError, NAMES_MAX, Names};
use crate::root::{Looked, Root, look, open_list};
use crate::stat::{Identity, Stat, stat_fd};

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
    /// subvolumes, are not entered.
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
    /// listed: what is in it is unknown then, and none of it is an item.
    Error(ReadError),
}

/// A walk; the items are those of the iterator.
pub struct Walk<'a, F> {
    root: &'a Root,
    options: WalkOptions,
    decide: F,
    /// The directory where the walk is.
    path: RelPath,
    /// From the start down to it.
    frames: Vec<Frame>,
    /// The first frame that has its descriptor.
    first_open: usize,
    buffer: Buffer,
    /// The directory that was the last item and is entered next.
    enter: Option<(RelPath, Stat)>,
}

/// A directory that the walk is in.
struct Frame {
    fd: Option<OwnedFd>,
    stat: Stat,
    names: Names,
    next: usize,
    /// How much of the walk's path leads to it.
    path_len: usize,
}

impl Frame {
    fn identity(&self) -> Identity {
        self.stat.identity()
    }
}

impl Root {
    /// Walks over everything below the directory `start`, which is no item
    /// itself. `decide` is asked about every name.
    ///
    /// A directory is listed after it was the item, so what `decide` knows may
    /// come from there.
    ///
    /// # Errors
    ///
    /// Those of opening and listing `start`. All others are items.
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
        let open_dirs_max = options.open_dirs_max.max(1);
        let mut walk = Walk {
            root: self,
            options: WalkOptions { open_dirs_max, ..options },
            decide,
            path: start.clone(),
            frames: Vec::new(),
            first_open: 0,
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
    /// As [`Root::walk`].
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
        if names.len() == 0 {
            return Ok(());
        }
        let path_len = path.as_bytes().len();
        self.frames.push(Frame { fd: Some(fd), stat, names, next: 0, path_len });
        self.path = path;
        self.close_some();
        Ok(())
    }

    fn pop(&mut self) {
        self.frames.pop();
        self.first_open = self.first_open.min(self.frames.len());
        if !self.frames.is_empty() {
            self.path = self.path.parent().unwrap_or_else(RelPath::root);
        }
    }

    /// Gives up the descriptors that are furthest from where the walk is.
    fn close_some(&mut self) {
        let keep_from = self.frames.len().saturating_sub(self.options.open_dirs_max);
        for frame in &mut self.frames[self.first_open.min(keep_from)..keep_from] {
            frame.fd = None;
        }
        self.first_open = self.first_open.max(keep_from);
    }

    /// Opens the last frame's directory again, and some of those above it,
    /// which will be wanted soon.
    fn reopen(&mut self) -> Result<(), ReadError> {
        let from = self.frames.len().saturating_sub(self.options.open_dirs_max.div_ceil(2));
        let mut from_len = 0;
        for number in from..self.frames.len() {
            let frame = &self.frames[number];
            let relative = &self.path.as_bytes()[from_len..frame.path_len];
            let relative = relative.strip_prefix(b"/").unwrap_or(relative);
            let above = (number > from).then(|| self.frames[number - 1].fd.as_ref()).flatten();
            let base = above.map_or(self.root.fd(), AsFd::as_fd);
            let open = || {
                let fd = self.root.resolution().open_dir(base, relative)?;
                Ok::<_, Errno>((stat_fd(fd.as_fd())?, fd))
            };
            let (stat, fd) = open().map_err(|errno| ReadError::new("open", &self.path, errno))?;
            if stat.identity() != frame.identity() {
                return Err(ReadError::Changed(self.path.clone()));
            }
            from_len = frame.path_len;
            self.frames[number].fd = Some(fd);
        }
        self.first_open = from;
        Ok(())
    }

    /// Enters a directory that was an item.
    fn enter(&mut self, path: RelPath, stat: &Stat) -> Result<(), ReadError> {
        let parent = self.frames.last().and_then(|frame| frame.fd.as_ref());
        let parent = parent.expect("the item before this was in the last frame");
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
        if self.frames.last().is_some_and(|frame| frame.fd.is_none()) {
            if let Err(error) = self.reopen() {
                // The rest of the directory cannot be reached any more.
                if let Some(frame) = self.frames.last_mut() {
                    frame.next = frame.names.len();
                }
                return Err(error);
            }
        }
        let Some(frame) = self.frames.last() else { return Ok(None) };
        let Some((name, mut kind)) = frame.names.get(number) else { return Ok(None) };
        let dir = frame.fd.as_ref().expect("it was open, or has been opened again");
        let path = self.path.join(name.to_bytes()).map_err(|source| ReadError::Name {
            parent: self.path.clone(),
            name: crate::error::os_name(name.to_bytes()),
            source,
        })?;
        let mut visit = None;
        if let Some(kind) = kind {
            let decided = (self.decide)(&path, kind);
            if decided == Visit::Skip {
                return Ok(None);
            }
            visit = Some(decided);
        }
        let (stat, target) = match look(dir.as_fd(), name, kind) {
            Ok(Looked::At(stat, target)) => (stat, target),
            Ok(Looked::Changing) => return Err(ReadError::Changed(path)),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(ReadError::new("examine", &path, errno)),
        };
        let is_mount_point = frame.stat.is_mount_boundary(&stat);
        let found = self.root.found(path, &stat, target, is_mount_point)?;
        // The directory did not say what it is, or it is something else now.
        if kind != Some(found.kind()) {
            kind = Some(found.kind());
            visit = None;
        }
        let visit = visit
            .unwrap_or_else(|| (self.decide)(&found.path, kind.unwrap_or_else(|| found.kind())));
        if visit == Visit::Skip {
            return Ok(None);
        }
        if let FoundKind::Dir { is_mount_point } = found.kind {
            let stays_out = is_mount_point && self.options.one_file_system;
            if visit == Visit::Descend && !stays_out {
                self.enter = Some((found.path.clone(), stat));
            }
        }
        Ok(Some(found))
    }
}

impl<F: FnMut(&RelPath, Kind) -> Visit> Iterator for Walk<'_, F> {
    type Item = WalkItem;

    fn next(&mut self) -> Option<WalkItem> {
        loop {
            if let Some((path, stat)) = self.enter.take() {
                if let Err(error) = self.enter(path, &stat) {
                    return Some(WalkItem::Error(error));
                }
            }
            let frame = self.frames.last_mut()?;
            let number = frame.next;
            if number == frame.names.len() {
                self.pop();
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
        f.debug_struct("Walk").field("path", &self.path).field("depth", &self.frames.len()).finish()
    }
}
