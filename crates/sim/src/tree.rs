//! The tree that the source watches: a real directory, and the record of every state that
//! each of its paths had.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use fstree::sim::{FaultyPart, TreeFault, TreeFaults};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use types::{Hash, RelPath};

use crate::clock::SimClock;

/// Maximum number of entries, so that a scan stays short.
const ENTRIES_MAX: usize = 12;
const NAMES: [&str; 6] = ["a", "b", "notes.txt", "data.bin", "x y", "ü"];
const DIRS: [&str; 3] = ["docs", "src", "docs/old"];
/// Errors of failing reads: `EIO` and `EACCES`.
const ERRORS: [i32; 2] = [5, 13];
/// A file that is never removed, so that the folder is never empty.
const ANCHOR: &str = "anchor";

/// The state of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A directory.
    Dir,
    /// A file, with the hash and the length of its content and its mtime in nanoseconds.
    File { hash: Hash, len: u64, mtime_ns: i128 },
    /// A symbolic link.
    Link(String),
}

/// The states of a path: from when on it had which; `None` if nothing was there.
type States = Vec<(Timestamp, Option<Node>)>;

/// The watched tree.
pub(crate) struct Tree {
    base: PathBuf,
    name: &'static str,
    faults: TreeFaults,
    clock: SimClock,
    now: BTreeMap<String, Node>,
    history: BTreeMap<String, States>,
    written: u64,
}

impl Tree {
    /// Creates a tree with one file in the directory `name` below `base`.
    pub(crate) fn new(base: &Path, name: &'static str, clock: SimClock) -> io::Result<Self> {
        let root = base.join(name);
        std::fs::create_dir(&root)?;
        let mut tree = Self {
            base: base.to_owned(),
            name,
            faults: TreeFaults::new(&root),
            clock,
            now: BTreeMap::new(),
            history: BTreeMap::new(),
            written: 0,
        };
        tree.write(ANCHOR, b"anchor")?;
        Ok(tree)
    }

    /// Returns the directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.base.join(self.name)
    }

    /// Returns the current state.
    pub(crate) fn now(&self) -> &BTreeMap<String, Node> {
        &self.now
    }

    /// Returns all paths that ever existed.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &String> {
        self.history.keys()
    }

    /// Reports whether a path had this state at any time since `since`.
    pub(crate) fn had(&self, path: &str, node: Option<&Node>, since: Timestamp) -> bool {
        let Some(states) = self.history.get(path) else { return node.is_none() };
        let is_before = states.first().is_some_and(|(at, _)| since < *at) && node.is_none();
        let mut ends = states.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        is_before
            || states.iter().any(|(_, state)| {
                let end = ends.next().flatten();
                state.as_ref() == node && end.is_none_or(|end| end > since)
            })
    }

    /// Reports whether a path that had the state `node` was absent at any later time.
    pub(crate) fn was_removed(&self, path: &str, node: &Node) -> bool {
        let states = self.history.get(path).map_or(&[][..], Vec::as_slice);
        let since = states.iter().position(|(_, state)| state.as_ref() == Some(node));
        since.is_some_and(|at| states[at..].iter().any(|(_, state)| state.is_none()))
    }

    /// Lets the reads of a random entry fail: in addition to the others, or instead. Returns a
    /// description, and the directory of the entry.
    pub(crate) fn fail_reads(&self, rng: &mut StdRng) -> (String, String) {
        let paths: Vec<&String> = self.now.keys().collect();
        let path = paths.choose(rng).map_or_else(String::new, |path| (*path).clone());
        // The root in rare cases.
        let path = if rng.random_bool(0.05) { String::new() } else { path };
        let part =
            *[FaultyPart::Entry, FaultyPart::Content, FaultyPart::Below].choose(rng).unwrap();
        let errno = *ERRORS.choose(rng).unwrap();
        let fault = TreeFault { path: RelPath::new(path.as_str()).unwrap(), part, errno };
        let mut faults = if rng.random() { self.faults.get() } else { Vec::new() };
        faults.push(fault);
        self.faults.set(faults);
        (format!("reads of {path:?} fail: {part:?}, error {errno}"), parent(&path).to_owned())
    }

    /// Ends all faults. Returns the paths that had any.
    pub(crate) fn mend_reads(&self) -> Vec<String> {
        let faults = self.faults.get();
        self.faults.set(Vec::new());
        faults.iter().map(|fault| fault.path.to_string()).collect()
    }

    /// Saves one more file.
    pub(crate) fn save_last(&mut self) -> io::Result<()> {
        self.write(ANCHOR, b"saved last")
    }

    fn time(&self) -> Timestamp {
        self.clock.right_time()
    }

    fn note(&mut self, path: &str, node: Option<Node>) {
        let time = self.time();
        self.history.entry(path.to_owned()).or_default().push((time, node.clone()));
        match node {
            Some(node) => self.now.insert(path.to_owned(), node),
            None => self.now.remove(path),
        };
    }

    /// Sets the mtime of an entry and of its directory to the simulated time, and returns it.
    fn stamp(&self, path: &str) -> io::Result<i128> {
        if self.now_exists(path) {
            self.set_mtime(path)?;
        }
        self.set_mtime(parent(path))
    }

    fn now_exists(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }

    fn set_mtime(&self, path: &str) -> io::Result<i128> {
        let time = self.time();
        let modified =
            Timespec { tv_sec: time.as_second(), tv_nsec: i64::from(time.subsec_nanosecond()) };
        let times = Timestamps { last_access: modified, last_modification: modified };
        utimensat(CWD, self.root().join(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(time.as_nanosecond())
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.root().join(path);
        self.written += 1;
        if self.written.is_multiple_of(2) {
            std::fs::write(&target, bytes)?;
        } else {
            // As editors do.
            let temporary = self.base.join(format!("{} edit", self.name));
            std::fs::write(&temporary, bytes)?;
            std::fs::rename(temporary, &target)?;
        }
        let mtime_ns = self.stamp(path)?;
        let node = Node::File { hash: Hash::of(bytes), len: bytes.len() as u64, mtime_ns };
        self.note(path, Some(node));
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        let target = self.root().join(path);
        match self.now.get(path) {
            Some(Node::Dir) => std::fs::remove_dir(target)?,
            _ => std::fs::remove_file(target)?,
        }
        self.stamp(path)?;
        self.note(path, None);
        Ok(())
    }

    /// Makes one random change. Returns its description, and the changed directories.
    pub(crate) fn edit(&mut self, rng: &mut StdRng) -> io::Result<Option<(String, Vec<String>)>> {
        let dirs: Vec<String> = self.of_kind(|node| *node == Node::Dir).collect();
        let files: Vec<String> = self.of_kind(|node| matches!(node, Node::File { .. })).collect();
        let dir = dirs.choose(rng).filter(|_| rng.random_bool(0.6)).cloned().unwrap_or_default();
        let in_dir = |name: &str| {
            if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
        };
        let (what, paths) = match rng.random_range(0..10) {
            0..5 => {
                let path = in_dir(NAMES.choose(rng).unwrap());
                let is_new = !self.now.contains_key(&path);
                let is_file = self.now.get(&path).is_none_or(|n| matches!(n, Node::File { .. }));
                if !is_file || (is_new && self.now.len() >= ENTRIES_MAX) {
                    return Ok(None);
                }
                let bytes = content(rng);
                self.write(&path, &bytes)?;
                (format!("write {path}, {} bytes", bytes.len()), vec![path])
            }
            5 => {
                let path = DIRS.choose(rng).unwrap().to_string();
                let parent = parent(&path).to_owned();
                let has_parent = parent.is_empty() || self.now.get(&parent) == Some(&Node::Dir);
                if !has_parent || self.now.contains_key(&path) || self.now.len() >= ENTRIES_MAX {
                    return Ok(None);
                }
                std::fs::create_dir(self.root().join(&path))?;
                self.stamp(&path)?;
                self.note(&path, Some(Node::Dir));
                (format!("make {path}"), vec![path])
            }
            6 => {
                let path = in_dir("link");
                if self.now.contains_key(&path) || self.now.len() >= ENTRIES_MAX {
                    return Ok(None);
                }
                let target = NAMES.choose(rng).unwrap().to_string();
                std::os::unix::fs::symlink(&target, self.root().join(&path))?;
                self.stamp(&path)?;
                self.note(&path, Some(Node::Link(target)));
                (format!("link {path}"), vec![path])
            }
            7 => {
                // The end of a file that grows in its place.
                let Some(path) = files.choose(rng).cloned() else { return Ok(None) };
                let mut bytes = std::fs::read(self.root().join(&path))?;
                bytes.extend(content(rng).iter().take(500));
                self.written |= 1;
                self.write(&path, &bytes)?;
                (format!("append to {path}"), vec![path])
            }
            8 => {
                let all: Vec<String> = self.now.keys().cloned().collect();
                let Some(path) = all.choose(rng).cloned() else { return Ok(None) };
                let below = format!("{path}/");
                let is_full = self.now.keys().any(|other| other.starts_with(&below));
                if is_full || path == ANCHOR {
                    return Ok(None);
                }
                self.remove(&path)?;
                (format!("remove {path}"), vec![path])
            }
            _ => {
                let (Some(from), to) = (files.choose(rng).cloned(), in_dir("moved")) else {
                    return Ok(None);
                };
                let is_free = self.now.get(&to).is_none_or(|n| matches!(n, Node::File { .. }));
                if from == ANCHOR || from == to || !is_free {
                    return Ok(None);
                }
                let node = self.now.get(&from).cloned();
                std::fs::rename(self.root().join(&from), self.root().join(&to))?;
                self.set_mtime(parent(&from))?;
                self.set_mtime(parent(&to))?;
                self.note(&from, None);
                self.note(&to, node);
                (format!("move {from} to {to}"), vec![from, to])
            }
        };
        let dir_of = |path: &String| parent(path).to_owned();
        Ok(Some((what, paths.iter().map(dir_of).collect())))
    }

    fn of_kind<'a>(&'a self, is_kind: impl Fn(&Node) -> bool + 'a) -> impl Iterator<Item = String> {
        self.now.iter().filter(move |(_, node)| is_kind(node)).map(|(path, _)| path.clone())
    }
}

/// Returns the directory of a path; empty for the root of the tree.
fn parent(path: &str) -> &str {
    Path::new(path).parent().and_then(Path::to_str).unwrap_or_default()
}

/// Returns random content: usually short, sometimes of several chunks, often compressible.
fn content(rng: &mut StdRng) -> Vec<u8> {
    let len = match rng.random_range(0..20) {
        0 => 0,
        1 => rng.random_range(100_000..400_000),
        2..8 => rng.random_range(1000..9000),
        _ => rng.random_range(1..400),
    };
    let mut bytes = vec![0; len];
    if rng.random() {
        rng.fill_bytes(&mut bytes);
    } else {
        let word = rng.next_u64().to_le_bytes();
        bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = word[at * at % 8]);
    }
    bytes
}
