//! Compares two trees: content byte by byte, and all recorded metadata. For tests,
//! and to verify a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use types::RelPath;

use crate::entry::{FileKind, FoundEntry, FoundKind};
use crate::error::{ReadError, RootError};
use crate::platform::SourceTree;
use crate::source::{OpenFile, TreeReader, Visit, WalkItem, WalkOptions};

/// Optional parts of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareOptions {
    /// Compares owners and groups by number.
    pub owners: bool,
    /// Compares extended attributes and ACLs.
    pub xattrs: bool,
    /// Checks that files with holes in the first tree have holes in the second.
    pub holes: bool,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { owners: true, xattrs: true, holes: true }
    }
}

/// One difference between two trees.
#[derive(Debug)]
pub struct Difference {
    /// Path of the entry.
    pub path: RelPath,
    /// The difference.
    pub kind: DifferenceKind,
}

/// A way in which an entry differs between two trees.
#[derive(Debug)]
pub enum DifferenceKind {
    /// The second tree does not contain the entry.
    OnlyInFirst,
    /// The first tree does not contain the entry.
    OnlyInSecond,
    /// The entries are of different kinds.
    Kind {
        /// In the first tree.
        first: FileKind,
        /// In the second tree.
        second: FileKind,
    },
    /// The files have different lengths.
    Size {
        /// In the first tree.
        first: u64,
        /// In the second tree.
        second: u64,
    },
    /// The content of the files differs.
    Content {
        /// Offset at or shortly before the first different byte.
        offset: u64,
    },
    /// The file has holes in the first tree only.
    Holes,
    /// The targets of the links differ.
    LinkTarget,
    /// The device numbers differ.
    Device,
    /// The permissions differ.
    Mode {
        /// In the first tree.
        first: u32,
        /// In the second tree.
        second: u32,
    },
    /// The owner or the group differs.
    Owner {
        /// In the first tree.
        first: (u32, u32),
        /// In the second tree.
        second: (u32, u32),
    },
    /// The time of the last write differs.
    Mtime {
        /// In the first tree, in nanoseconds.
        first: i128,
        /// In the second tree, in nanoseconds.
        second: i128,
    },
    /// An extended attribute, or ACL, differs or is missing in one tree.
    Xattr(Vec<u8>),
    /// The file has different other names in the two trees.
    HardLinks,
    /// The entry could not be read.
    Unread(ReadError),
}

/// Names of files with several names, by the number that the names share.
type Groups = BTreeMap<u64, BTreeSet<RelPath>>;

/// Compares everything below two directories, without the directories themselves.
///
/// # Errors
///
/// Returns [`RootError`] if one of them cannot be opened. All other errors are
/// differences.
pub fn compare(
    first: &Path,
    second: &Path,
    options: CompareOptions,
) -> Result<Vec<Difference>, RootError> {
    Ok(compare_trees([&SourceTree::open(first)?, &SourceTree::open(second)?], options))
}

fn compare_trees<R: TreeReader>(trees: [&R; 2], options: CompareOptions) -> Vec<Difference> {
    let mut entries = Entries { trees, options, differences: Vec::new() };
    let walks = trees.map(|tree| {
        tree.walk(&RelPath::root(), WalkOptions::default(), |_, _| Visit::Descend)
            .map_err(|error| entries.report(&RelPath::root(), DifferenceKind::Unread(error)))
    });
    let [Ok(first), Ok(second)] = walks else { return entries.differences };
    let mut pairs = Pairs { first, second, next: [None, None] };
    let mut groups = [Groups::new(), Groups::new()];
    while let Some(pair) = pairs.next(&mut entries.differences) {
        for (found, groups) in pair.iter().zip(&mut groups) {
            if let Some((id, found)) = found.as_ref().and_then(|f| Some((f.hard_link?, f))) {
                groups.entry(id).or_default().insert(found.path.clone());
            }
        }
        match pair {
            [Some(first), Some(second)] => entries.compare(&first, &second),
            [Some(first), None] => entries.report(&first.path, DifferenceKind::OnlyInFirst),
            [None, Some(second)] => entries.report(&second.path, DifferenceKind::OnlyInSecond),
            [None, None] => {}
        }
    }
    entries.compare_groups(&groups);
    entries.differences
}

/// Two walks, merged by path.
struct Pairs<A, B> {
    first: A,
    second: B,
    next: [Option<FoundEntry>; 2],
}

impl<A, B> Pairs<A, B>
where
    A: Iterator<Item = WalkItem>,
    B: Iterator<Item = WalkItem>,
{
    fn next(&mut self, differences: &mut Vec<Difference>) -> Option<[Option<FoundEntry>; 2]> {
        fill(&mut self.next[0], &mut self.first, differences);
        fill(&mut self.next[1], &mut self.second, differences);
        let [first, second] = &mut self.next;
        let (takes_first, takes_second) = match (&first, &second) {
            (None, None) => return None,
            (Some(a), Some(b)) => (a.path <= b.path, b.path <= a.path),
            (first, second) => (first.is_some(), second.is_some()),
        };
        let take = |next: &mut Option<FoundEntry>, takes| if takes { next.take() } else { None };
        Some([take(first, takes_first), take(second, takes_second)])
    }
}

fn fill(
    next: &mut Option<FoundEntry>,
    walk: &mut impl Iterator<Item = WalkItem>,
    differences: &mut Vec<Difference>,
) {
    while next.is_none() {
        match walk.next() {
            None => return,
            Some(WalkItem::Entry(found)) => *next = Some(found),
            Some(WalkItem::Error(error)) => {
                let path = error.path().clone();
                differences.push(Difference { path, kind: DifferenceKind::Unread(error) });
            }
        }
    }
}

struct Entries<'a, R> {
    trees: [&'a R; 2],
    options: CompareOptions,
    differences: Vec<Difference>,
}

impl<R: TreeReader> Entries<'_, R> {
    fn report(&mut self, path: &RelPath, kind: DifferenceKind) {
        self.differences.push(Difference { path: path.clone(), kind });
    }

    /// Compares the sets of names that lead to the same file.
    fn compare_groups(&mut self, groups: &[Groups; 2]) {
        let [first, second] = [&groups[0], &groups[1]].map(|groups| -> BTreeSet<_> {
            groups.values().filter(|group| group.len() > 1).cloned().collect()
        });
        let unlike: BTreeSet<_> = first.symmetric_difference(&second).flatten().collect();
        for path in unlike {
            self.report(path, DifferenceKind::HardLinks);
        }
    }

    fn compare(&mut self, first: &FoundEntry, second: &FoundEntry) {
        let path = &first.path;
        if first.kind() != second.kind() {
            return self
                .report(path, DifferenceKind::Kind { first: first.kind(), second: second.kind() });
        }
        match (&first.kind, &second.kind) {
            (FoundKind::File { is_sparse: a }, FoundKind::File { is_sparse: b }) => {
                if self.options.holes && *a && !b {
                    self.report(path, DifferenceKind::Holes);
                }
                self.compare_files(first, second);
            }
            (FoundKind::Symlink { target: a }, FoundKind::Symlink { target: b }) if a != b => {
                self.report(path, DifferenceKind::LinkTarget);
            }
            (
                FoundKind::CharDevice { device: a } | FoundKind::BlockDevice { device: a },
                FoundKind::CharDevice { device: b } | FoundKind::BlockDevice { device: b },
            ) if a != b => self.report(path, DifferenceKind::Device),
            _ => {}
        }
        if first.mode != second.mode {
            self.report(path, DifferenceKind::Mode { first: first.mode, second: second.mode });
        }
        let owner = |found: &FoundEntry| (found.uid, found.gid);
        if self.options.owners && owner(first) != owner(second) {
            self.report(path, DifferenceKind::Owner { first: owner(first), second: owner(second) });
        }
        let [a, b] = [first, second].map(|found| found.stamp.mtime_ns());
        if a != b {
            self.report(path, DifferenceKind::Mtime { first: a, second: b });
        }
        if self.options.xattrs {
            self.compare_xattrs(first, second);
        }
    }

    fn compare_xattrs(&mut self, first: &FoundEntry, second: &FoundEntry) {
        let path = &first.path;
        let (a, b) = match (self.trees[0].xattrs(first), self.trees[1].xattrs(second)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) | (_, Err(error)) => {
                return self.report(path, DifferenceKind::Unread(error));
            }
        };
        if let Some(source) = a.unlisted.or(b.unlisted) {
            let action = "list the extended attributes of";
            let unread = ReadError::Io { action, path: path.clone(), source };
            return self.report(path, DifferenceKind::Unread(unread));
        }
        let names: BTreeSet<&Vec<u8>> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
        for name in names {
            if a.xattrs.get(name) != b.xattrs.get(name) {
                self.report(path, DifferenceKind::Xattr(name.clone()));
            }
        }
        for (name, _) in a.unread.into_iter().chain(b.unread) {
            self.report(path, DifferenceKind::Xattr(name));
        }
    }

    fn compare_files(&mut self, first: &FoundEntry, second: &FoundEntry) {
        let path = &first.path;
        let (a, b) = (first.stamp.size, second.stamp.size);
        if a != b {
            return self.report(path, DifferenceKind::Size { first: a, second: b });
        }
        if a == 0 {
            return;
        }
        match (self.trees[0].open_file(path), self.trees[1].open_file(path)) {
            (Ok(a_file), Ok(b_file)) => match self.first_difference([&a_file, &b_file]) {
                Ok(None) => {}
                Ok(Some(offset)) => self.report(path, DifferenceKind::Content { offset }),
                Err(source) => {
                    let (action, path) = ("read", path.clone());
                    let error = ReadError::Io { action, path: path.clone(), source };
                    self.report(&path, DifferenceKind::Unread(error));
                }
            },
            (Err(error), _) | (_, Err(error)) => self.report(path, DifferenceKind::Unread(error)),
        }
    }

    /// Returns an offset at or shortly before the first difference of two files of
    /// the same length. Holes common to both are not read.
    fn first_difference(&self, files: [&OpenFile; 2]) -> io::Result<Option<u64>> {
        const LEN: usize = 1 << 18;
        let mut buffers = [vec![0; LEN], vec![0; LEN]];
        let mut at = 0;
        loop {
            let ranges =
                [self.trees[0].next_data(files[0], at), self.trees[1].next_data(files[1], at)];
            let Some(range) = ranges.into_iter().flatten().min_by_key(|range| range.start) else {
                return Ok(None);
            };
            at = range.start;
            while at < range.end {
                let len = usize::try_from(range.end - at).unwrap_or(LEN).min(LEN);
                for (file, buffer) in files.iter().zip(&mut buffers) {
                    let mut file = &file.file;
                    file.seek(SeekFrom::Start(at))?;
                    file.read_exact(&mut buffer[..len])?;
                }
                if buffers[0][..len] != buffers[1][..len] {
                    let first = buffers[0].iter().zip(&buffers[1]).position(|(a, b)| a != b);
                    return Ok(Some(at + first.unwrap_or(0) as u64));
                }
                at += len as u64;
            }
        }
    }
}
