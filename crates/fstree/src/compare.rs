//! Whether two trees are the same, byte by byte and in all that is recorded of
//! them. For tests, and to prove a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use types::RelPath;

use crate::content::next_data;
use crate::error::{ReadError, RootError};
use crate::found::{Found, FoundKind, Kind};
use crate::root::SourceTree;
use crate::walk::{Visit, WalkItem, WalkOptions};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareOptions {
    /// Owners and groups, by number.
    pub owners: bool,
    /// Extended attributes and ACLs.
    pub xattrs: bool,
    /// Whether what has holes in the first tree has some in the second.
    pub holes: bool,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { owners: true, xattrs: true, holes: true }
    }
}

/// One way in which two trees differ.
#[derive(Debug)]
pub struct Difference {
    /// Where.
    pub path: RelPath,
    /// How.
    pub what: Unlike,
}

/// How an entry of one tree is unlike that of the other.
#[derive(Debug)]
pub enum Unlike {
    /// The second tree does not have it.
    OnlyInFirst,
    /// The first tree does not have it.
    OnlyInSecond,
    /// They are different things.
    Kind {
        /// In the first tree.
        first: Kind,
        /// In the second tree.
        second: Kind,
    },
    /// The files have different lengths.
    Size {
        /// In the first tree.
        first: u64,
        /// In the second tree.
        second: u64,
    },
    /// The files differ in a byte.
    Content {
        /// Near which; nothing before it differs.
        offset: u64,
    },
    /// The file of the first tree has holes, that of the second has none.
    Holes,
    /// The links point to different things.
    LinkTarget,
    /// The devices have different numbers.
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
    /// An extended attribute, or ACL, differs or is missing in one.
    Xattr(Vec<u8>),
    /// In one tree it is one file with other names of the tree than in the
    /// other.
    HardLinks,
    /// It could not be read, so nothing is known.
    Unread(ReadError),
}

/// Files with several names, by the number that they share.
type Groups = BTreeMap<u64, BTreeSet<RelPath>>;

/// Compares everything below two directories; of these two themselves,
/// nothing.
///
/// # Errors
///
/// Where one of them cannot be opened. All else is a difference.
pub fn compare(
    first: &Path,
    second: &Path,
    options: CompareOptions,
) -> Result<Vec<Difference>, RootError> {
    let roots = [SourceTree::open(first)?, SourceTree::open(second)?];
    let roots = [&roots[0], &roots[1]];
    let mut entries = Entries { roots, options, differences: Vec::new() };
    let walks = roots.map(|root| {
        root.walk(&RelPath::root(), WalkOptions::default(), |_, _| Visit::Descend)
            .map_err(|error| entries.report(&RelPath::root(), Unlike::Unread(error)))
    });
    let [Ok(first), Ok(second)] = walks else { return Ok(entries.differences) };
    let mut pairs = Pairs { first, second, held: [None, None] };
    let mut groups = [Groups::new(), Groups::new()];
    while let Some(pair) = pairs.next(&mut entries.differences) {
        for (found, groups) in pair.iter().zip(&mut groups) {
            if let Some((id, found)) = found.as_ref().and_then(|f| Some((f.hard_link?, f))) {
                groups.entry(id).or_default().insert(found.path.clone());
            }
        }
        match pair {
            [Some(first), Some(second)] => entries.compare(&first, &second),
            [Some(first), None] => entries.report(&first.path, Unlike::OnlyInFirst),
            [None, Some(second)] => entries.report(&second.path, Unlike::OnlyInSecond),
            [None, None] => {}
        }
    }
    entries.compare_groups(&groups);
    Ok(entries.differences)
}

/// Two walks, side by side.
struct Pairs<A, B> {
    first: A,
    second: B,
    held: [Option<Found>; 2],
}

impl<A, B> Pairs<A, B>
where
    A: Iterator<Item = WalkItem>,
    B: Iterator<Item = WalkItem>,
{
    fn next(&mut self, differences: &mut Vec<Difference>) -> Option<[Option<Found>; 2]> {
        fill(&mut self.held[0], &mut self.first, differences);
        fill(&mut self.held[1], &mut self.second, differences);
        let [first, second] = &mut self.held;
        let (takes_first, takes_second) = match (&first, &second) {
            (None, None) => return None,
            (Some(a), Some(b)) => (a.path <= b.path, b.path <= a.path),
            (first, second) => (first.is_some(), second.is_some()),
        };
        let take = |held: &mut Option<Found>, takes| if takes { held.take() } else { None };
        Some([take(first, takes_first), take(second, takes_second)])
    }
}

fn fill(
    held: &mut Option<Found>,
    walk: &mut impl Iterator<Item = WalkItem>,
    differences: &mut Vec<Difference>,
) {
    while held.is_none() {
        match walk.next() {
            None => return,
            Some(WalkItem::Entry(found)) => *held = Some(found),
            Some(WalkItem::Error(error)) => {
                let path = error.path().clone();
                differences.push(Difference { path, what: Unlike::Unread(error) });
            }
        }
    }
}

struct Entries<'a> {
    roots: [&'a SourceTree; 2],
    options: CompareOptions,
    differences: Vec<Difference>,
}

impl Entries<'_> {
    fn report(&mut self, path: &RelPath, what: Unlike) {
        self.differences.push(Difference { path: path.clone(), what });
    }

    /// Names of one file in one tree are those of one file in the other.
    fn compare_groups(&mut self, groups: &[Groups; 2]) {
        let [first, second] = [&groups[0], &groups[1]].map(|groups| -> BTreeSet<_> {
            groups.values().filter(|group| group.len() > 1).cloned().collect()
        });
        let unlike: BTreeSet<_> = first.symmetric_difference(&second).flatten().collect();
        for path in unlike {
            self.report(path, Unlike::HardLinks);
        }
    }

    fn compare(&mut self, first: &Found, second: &Found) {
        let path = &first.path;
        if first.kind() != second.kind() {
            return self.report(path, Unlike::Kind { first: first.kind(), second: second.kind() });
        }
        match (&first.kind, &second.kind) {
            (FoundKind::File { is_sparse: a }, FoundKind::File { is_sparse: b }) => {
                if self.options.holes && *a && !b {
                    self.report(path, Unlike::Holes);
                }
                self.compare_files(first, second);
            }
            (FoundKind::Symlink { target: a }, FoundKind::Symlink { target: b }) if a != b => {
                self.report(path, Unlike::LinkTarget);
            }
            (
                FoundKind::CharDevice { device: a } | FoundKind::BlockDevice { device: a },
                FoundKind::CharDevice { device: b } | FoundKind::BlockDevice { device: b },
            ) if a != b => self.report(path, Unlike::Device),
            _ => {}
        }
        if first.mode != second.mode {
            self.report(path, Unlike::Mode { first: first.mode, second: second.mode });
        }
        let owner = |found: &Found| (found.uid, found.gid);
        if self.options.owners && owner(first) != owner(second) {
            self.report(path, Unlike::Owner { first: owner(first), second: owner(second) });
        }
        let [a, b] = [first, second].map(|found| found.stamp.mtime_ns());
        if a != b {
            self.report(path, Unlike::Mtime { first: a, second: b });
        }
        if self.options.xattrs {
            self.compare_xattrs(first, second);
        }
    }

    fn compare_xattrs(&mut self, first: &Found, second: &Found) {
        let path = &first.path;
        let (a, b) = match (self.roots[0].xattrs(first), self.roots[1].xattrs(second)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) | (_, Err(error)) => return self.report(path, Unlike::Unread(error)),
        };
        let names: BTreeSet<&Vec<u8>> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
        for name in names {
            if a.xattrs.get(name) != b.xattrs.get(name) {
                self.report(path, Unlike::Xattr(name.clone()));
            }
        }
        for (name, _) in a.unread.into_iter().chain(b.unread) {
            self.report(path, Unlike::Xattr(name));
        }
    }

    fn compare_files(&mut self, first: &Found, second: &Found) {
        let path = &first.path;
        let (a, b) = (first.stamp.size, second.stamp.size);
        if a != b {
            return self.report(path, Unlike::Size { first: a, second: b });
        }
        if a == 0 {
            return;
        }
        match (self.roots[0].open_file(path), self.roots[1].open_file(path)) {
            (Ok(a_file), Ok(b_file)) => match first_unlike(&a_file.file, &b_file.file, a) {
                Ok(None) => {}
                Ok(Some(offset)) => self.report(path, Unlike::Content { offset }),
                Err(source) => {
                    let (action, path) = ("read", path.clone());
                    let error = ReadError::Io { action, path: path.clone(), source };
                    self.report(&path, Unlike::Unread(error));
                }
            },
            (Err(error), _) | (_, Err(error)) => self.report(path, Unlike::Unread(error)),
        }
    }
}

/// Near where two files of one length differ first. What is a hole in both is
/// not read.
fn first_unlike(a: &File, b: &File, size: u64) -> std::io::Result<Option<u64>> {
    const LEN: usize = 1 << 18;
    let mut buffers = [vec![0; LEN], vec![0; LEN]];
    let mut at = 0;
    loop {
        let ranges = [next_data(a, at, size), next_data(b, at, size)];
        let Some(range) = ranges.into_iter().flatten().min_by_key(|range| range.start) else {
            return Ok(None);
        };
        at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(LEN).min(LEN);
            a.read_exact_at(&mut buffers[0][..len], at)?;
            b.read_exact_at(&mut buffers[1][..len], at)?;
            if buffers[0][..len] != buffers[1][..len] {
                let unlike = buffers[0].iter().zip(&buffers[1]).position(|(a, b)| a != b);
                return Ok(Some(at + unlike.unwrap_or(0) as u64));
            }
            at += len as u64;
        }
    }
}
