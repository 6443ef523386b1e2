//! A file system in memory with the features of a memory stick: names that differ only
//! in case are the same, some characters are not allowed in names, there are no links,
//! owners, permissions or attributes, and times are even seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

const TTL: Duration = Duration::ZERO;
const FIRST: Generation = Generation(0);

#[derive(Debug)]
struct Node {
    parent: u64,
    name: OsString,
    is_dir: bool,
    content: Vec<u8>,
    mtime: SystemTime,
    is_link: bool,
    /// Its extended attributes, and true if its content was written and not synced.
    xattrs: BTreeMap<OsString, Vec<u8>>,
    is_dirty: bool,
}

/// Behaviour of real programs behind FUSE.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quirks {
    /// A call that sets the mtime without the atime has no effect (version 2 of libfuse).
    pub(crate) ignores_lone_mtime: bool,
    /// Links can be created. A change of a link is a change of its target (sshfs); the root
    /// gets the mtime 4, so that a test can notice.
    pub(crate) follows_links: bool,
    /// Attributes cannot be listed (rclone).
    pub(crate) lists_no_attributes: bool,
    /// Attributes can be set. The program writes the content of a file later, and the file
    /// loses its attributes then (fuse-overlayfs loses file capabilities).
    pub(crate) loses_attributes: bool,
}

/// The mtime of the root after a change of a link, in seconds since 1970.
pub(crate) const FOLLOWED: u64 = 4;

#[derive(Debug)]
pub(crate) struct PoorFs(Mutex<State>, Quirks);

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    last: u64,
    /// Files whose content was reported as lost.
    lost: BTreeSet<u64>,
}

/// Content that begins with this is not written to the disk. The error is reported
/// once, as on Linux.
pub(crate) const LOST: &[u8] = b"lost";

fn is_one(a: &OsStr, b: &OsStr) -> bool {
    a.to_string_lossy().to_lowercase() == b.to_string_lossy().to_lowercase()
}

fn check(name: &OsStr) -> Result<(), Errno> {
    let is_bad = |char: char| char.is_control() || "\\:*?\"<>|".contains(char);
    if name.to_str().is_none_or(|name| name.contains(is_bad)) { Err(Errno::EINVAL) } else { Ok(()) }
}

impl State {
    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        let is_it = |node: &Node| node.parent == parent.0 && is_one(&node.name, name);
        let found = self.nodes.iter().find(|(ino, node)| **ino != 1 && is_it(node));
        found.map(|(ino, _)| *ino).ok_or(Errno::ENOENT)
    }

    fn attr(&self, ino: u64) -> Result<FileAttr, Errno> {
        let node = self.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        let (kind, perm) = match (node.is_dir, node.is_link) {
            (true, _) => (FileType::Directory, 0o755),
            (_, true) => (FileType::Symlink, 0o777),
            _ => (FileType::RegularFile, 0o644),
        };
        Ok(FileAttr {
            ino: INodeNo(ino),
            size: node.content.len() as u64,
            blocks: node.content.len().div_ceil(512) as u64,
            atime: node.mtime,
            mtime: node.mtime,
            ctime: node.mtime,
            crtime: node.mtime,
            kind,
            perm,
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 512,
            flags: 0,
        })
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, is_dir: bool) -> Result<FileAttr, Errno> {
        check(name)?;
        if self.find(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.last += 1;
        let (parent, name) = (parent.0, name.to_owned());
        let (content, mtime) = (Vec::new(), UNIX_EPOCH);
        let xattrs = BTreeMap::new();
        let (is_link, is_dirty) = (false, false);
        let node = Node { parent, name, is_dir, content, mtime, is_link, xattrs, is_dirty };
        self.nodes.insert(self.last, node);
        self.attr(self.last)
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let ino = self.find(parent, name)?;
        if self.nodes.values().any(|node| node.parent == ino) {
            return Err(Errno::ENOTEMPTY);
        }
        self.nodes.remove(&ino);
        Ok(())
    }
}

impl PoorFs {
    pub(crate) fn new(quirks: Quirks) -> Self {
        let root = Node {
            parent: 1,
            name: OsString::new(),
            is_dir: true,
            content: Vec::new(),
            mtime: UNIX_EPOCH,
            is_link: false,
            xattrs: BTreeMap::new(),
            is_dirty: false,
        };
        let nodes = BTreeMap::from([(1, root)]);
        Self(Mutex::new(State { nodes, last: 1, lost: BTreeSet::new() }), quirks)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn entry(attr: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match attr {
        Ok(attr) => reply.entry(&TTL, &attr, FIRST),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with a value, or with its length.
#[allow(clippy::cast_possible_truncation, reason = "the values of a test are short")]
fn xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(value.len() as u32),
        size if (size as usize) < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

fn done(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "what it holds is in memory")]
impl Filesystem for PoorFs {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        entry(state.find(parent, name).and_then(|ino| state.attr(ino)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        if node.is_link && (uid.is_some() || gid.is_some() || mtime.is_some()) {
            let attr = state.attr(ino.0);
            if let Some(root) = state.nodes.get_mut(&1) {
                root.mtime = UNIX_EPOCH + Duration::from_secs(FOLLOWED);
            }
            return match attr {
                Ok(attr) => reply.attr(&TTL, &attr),
                Err(errno) => reply.error(errno),
            };
        }
        if uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        let is_ignored = self.1.ignores_lone_mtime && atime.is_none();
        if let Some(size) = size {
            node.content.resize(size as usize, 0);
        }
        if let Some(TimeOrNow::SpecificTime(time)) = mtime.filter(|_| !is_ignored) {
            let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            node.mtime = UNIX_EPOCH + Duration::from_secs(seconds / 2 * 2);
        }
        match state.attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(self.state().make(parent, name, true), reply);
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        if !self.1.follows_links {
            return reply.error(Errno::EPERM);
        }
        let mut state = self.state();
        let made = state.make(parent, name, false).and_then(|attr| {
            let node = state.nodes.get_mut(&attr.ino.0).ok_or(Errno::ENOENT)?;
            node.is_link = true;
            node.content = target.as_os_str().as_encoded_bytes().to_vec();
            state.attr(attr.ino.0)
        });
        entry(made, reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        reply.data(self.state().nodes.get(&ino.0).map_or(&[][..], |node| &node.content));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.1.loses_attributes {
            return reply.error(if self.1.lists_no_attributes {
                Errno::EIO
            } else {
                Errno::ENOSYS
            });
        }
        let mut names = Vec::new();
        if let Some(node) = self.state().nodes.get(&ino.0) {
            for name in node.xattrs.keys() {
                names.extend_from_slice(name.as_encoded_bytes());
                names.push(0);
            }
        }
        xattr(&names, size, reply);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.1.loses_attributes {
            return reply.error(Errno::ENOSYS);
        }
        let state = self.state();
        match state.nodes.get(&ino.0).and_then(|node| node.xattrs.get(name)) {
            Some(value) => xattr(value, size, reply),
            None => reply.error(Errno::ENODATA),
        }
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if !self.1.loses_attributes {
            return reply.error(Errno::ENOSYS);
        }
        if let Some(node) = self.state().nodes.get_mut(&ino.0) {
            node.xattrs.insert(name.to_owned(), value.to_vec());
        }
        reply.ok();
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.state().make(parent, name, false) {
            Ok(attr) => {
                reply.created(&TTL, &attr, FIRST, FileHandle(0), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.state().remove(parent, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.state().remove(parent, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let mut rename = || {
            check(new_name)?;
            if !flags.is_empty() {
                return Err(Errno::EINVAL);
            }
            let ino = state.find(parent, name)?;
            if let Ok(there) = state.find(new_parent, new_name) {
                if state.nodes[&there].is_dir {
                    return Err(Errno::EISDIR);
                }
                state.nodes.remove(&there);
            }
            let node = state.nodes.get_mut(&ino).ok_or(Errno::ENOENT)?;
            (node.parent, node.name) = (new_parent.0, new_name.to_owned());
            Ok(())
        };
        done(rename(), reply);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        let content = state.nodes.get(&ino.0).map_or(&[][..], |node| &node.content);
        let rest = content.get(offset as usize..).unwrap_or_default();
        reply.data(&rest[..rest.len().min(size as usize)]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        let end = offset as usize + data.len();
        if node.content.len() < end {
            node.content.resize(end, 0);
        }
        node.content[offset as usize..end].copy_from_slice(data);
        node.is_dirty = true;
        reply.written(data.len() as u32);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        let inside = state.nodes.iter().filter(|(id, node)| **id != 1 && node.parent == ino.0);
        for (number, (id, node)) in inside.enumerate().skip(offset as usize) {
            let kind = if node.is_dir { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*id), number as u64 + 1, kind, &node.name) {
                break;
            }
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        let is_lost = state.nodes.get(&ino.0).is_some_and(|node| node.content.starts_with(LOST));
        let is_news = is_lost && state.lost.insert(ino.0);
        if let Some(node) = state.nodes.get_mut(&ino.0).filter(|node| node.is_dirty) {
            node.xattrs.clear();
            node.is_dirty = false;
        }
        done(if is_news { Err(Errno::EIO) } else { Ok(()) }, reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}
