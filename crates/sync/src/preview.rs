//! A preview of a folder: the files that would be backed up, and those that its patterns would
//! exclude.
//!
//! A preview reads only names and lengths, and for a limited time. The preview of a large folder
//! covers a part of it, and says so.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use fstree::{
    FileKind, FoundEntry, FoundKind, Mount, ReadError, RootError, SourceTree, TreeReader as _,
    Visit, WalkItem, WalkOptions,
};
use types::RelPath;

use crate::folder::may_hang;
use crate::left_out::{LeftOut, LeftOutReason};
use crate::rules::{Rules, RulesError, matcher};

/// The settings of a folder that decide which entries are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewRules {
    /// Patterns of excluded paths.
    pub exclude: Vec<String>,
    /// See [`crate::FolderSettings::one_file_system`].
    pub one_file_system: bool,
    /// See [`crate::FolderSettings::exclude_caches`].
    pub exclude_caches: bool,
}

impl Default for PreviewRules {
    fn default() -> Self {
        Self { exclude: Vec::new(), one_file_system: true, exclude_caches: false }
    }
}

/// The limits of a preview.
#[derive(Clone, Copy, Debug)]
pub struct PreviewLimits {
    /// Maximum duration.
    pub time: Duration,
    /// Maximum number of examined entries.
    pub entries: u64,
    /// Maximum number of excluded entries that are listed.
    pub named: usize,
}

/// An excluded entry: a file, or a directory with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExcludedEntry {
    /// The path in the folder.
    pub path: RelPath,
    /// True if it is a directory.
    pub is_dir: bool,
    /// Number of files in it; 1 for a file.
    pub files: u64,
    /// Sum of their lengths, in bytes.
    pub bytes: u64,
}

/// The preview of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Number of files that would be backed up.
    pub files: u64,
    /// Sum of their lengths, in bytes.
    pub bytes: u64,
    /// Number of files that would be excluded.
    pub excluded_files: u64,
    /// Sum of their lengths, in bytes.
    pub excluded_bytes: u64,
    /// The excluded entries, the largest first.
    pub excluded: Vec<ExcludedEntry>,
    /// Other file systems and caches that would be left out, in the order of paths.
    pub left_out: Vec<LeftOut>,
    /// True if only a part of the folder was examined.
    pub is_cut_short: bool,
}

/// The reason why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The directory cannot be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The directory cannot be listed.
    #[error(transparent)]
    Read(#[from] fstree::ReadError),
    /// A pattern is invalid.
    #[error("{0}")]
    Pattern(String),
}

impl From<RulesError> for PreviewError {
    fn from(error: RulesError) -> Self {
        Self::Pattern(types::with_causes(&error))
    }
}

/// Checks the exclude patterns of a folder.
///
/// # Errors
///
/// Returns [`PreviewError::Pattern`] for the first invalid pattern.
pub fn check_patterns(exclude: &[String]) -> Result<(), PreviewError> {
    matcher(exclude)?;
    Ok(())
}

/// Previews the directory at `path`, with these rules and the ignore files in it. Entries
/// that cannot be read are not counted, nor are those of other file systems. The call blocks on
/// the disk.
///
/// # Errors
///
/// Returns [`PreviewError::Root`] or [`PreviewError::Read`] if the directory cannot be opened
/// or listed, and [`PreviewError::Pattern`] if a pattern is invalid.
pub fn preview(
    path: &Path,
    rules: &PreviewRules,
    limits: PreviewLimits,
) -> Result<Preview, PreviewError> {
    let search = Search::open(path, rules)?;
    let rules = RefCell::new(Rules::new(&search.root, &rules.exclude)?);
    rules.borrow_mut().enter(&RelPath::root());
    let decide = |path: &RelPath, kind: FileKind| {
        let is_entered = kind == FileKind::Dir && !search.is_cache(path);
        if is_entered { Visit::Descend } else { Visit::Record }
    };
    let until = Instant::now() + limits.time;
    let mut preview = Preview::default();
    let mut seen = 0;
    for item in search.root.walk(&RelPath::root(), one_file_system(), decide)? {
        seen += 1;
        if seen > limits.entries || Instant::now() > until {
            preview.is_cut_short = true;
            break;
        }
        let found = match item {
            WalkItem::Entry(found) => found,
            WalkItem::Error(error) => {
                if !rules.borrow().is_excluded(error.path(), true) {
                    preview.left_out.extend(search.remote_mount(&error));
                }
                continue;
            }
        };
        let is_dir = found.kind() == FileKind::Dir;
        let is_excluded = rules.borrow().is_excluded(&found.path, is_dir);
        if is_dir {
            rules.borrow_mut().enter(&found.path);
        }
        if !is_excluded && preview.left_out.len() < limits.named {
            preview.left_out.extend(search.left_out(&found));
        }
        let (files, bytes) = match found.kind {
            FoundKind::Dir { .. } => (0, 0),
            FoundKind::File { .. } => (1, found.stamp.size),
            _ => (1, 0),
        };
        if !is_excluded {
            preview.files += files;
            preview.bytes += bytes;
            continue;
        }
        preview.excluded_files += files;
        preview.excluded_bytes += bytes;
        // In the order of paths, the contents of a directory directly follow it.
        match preview.excluded.last_mut() {
            Some(top) if top.is_dir && found.path.is_within(&top.path) => {
                top.files += files;
                top.bytes += bytes;
            }
            _ => preview.excluded.push(ExcludedEntry { path: found.path, is_dir, files, bytes }),
        }
    }
    preview.excluded.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    preview.excluded.truncate(limits.named);
    Ok(preview)
}

/// Returns the other file systems and caches in the directory at `path` that a scan with these
/// rules would leave out, in the order of paths: [`Preview::left_out`] without a look at the
/// files. The call blocks on the disk.
///
/// # Errors
///
/// Same as [`preview`].
pub fn find_left_out(
    path: &Path,
    rules: &PreviewRules,
    limits: PreviewLimits,
) -> Result<Vec<LeftOut>, PreviewError> {
    let search = Search::open(path, rules)?;
    let rules = RefCell::new(Rules::new(&search.root, &rules.exclude)?);
    rules.borrow_mut().enter(&RelPath::root());
    let decide = |path: &RelPath, kind: FileKind| {
        if kind != FileKind::Dir || rules.borrow().is_excluded(path, true) {
            Visit::Skip
        } else if search.is_cache(path) {
            Visit::Record
        } else {
            Visit::Descend
        }
    };
    let until = Instant::now() + limits.time;
    let mut left_out = Vec::new();
    let mut seen = 0;
    for item in search.root.walk(&RelPath::root(), one_file_system(), decide)? {
        seen += 1;
        if seen > limits.entries || Instant::now() > until || left_out.len() >= limits.named {
            break;
        }
        match item {
            WalkItem::Entry(found) => {
                rules.borrow_mut().enter(&found.path);
                left_out.extend(search.left_out(&found));
            }
            WalkItem::Error(error) => left_out.extend(search.remote_mount(&error)),
        }
    }
    Ok(left_out)
}

/// Returns the options of a walk that lists mount points and subvolumes, and does not enter them.
fn one_file_system() -> WalkOptions {
    WalkOptions { one_file_system: true, ..WalkOptions::default() }
}

/// A search for directories that a scan leaves out.
struct Search<'a> {
    root: SourceTree,
    /// The mounts that may hang.
    remote: Vec<Mount>,
    rules: &'a PreviewRules,
}

impl<'a> Search<'a> {
    fn open(path: &Path, rules: &'a PreviewRules) -> Result<Self, RootError> {
        let mut root = SourceTree::open(path)?;
        // Such mounts are left out in any case, and a call to one may block.
        let remote = remote_mounts(path);
        root.set_hung(remote.iter().map(|mount| mount.path.clone()).collect());
        Ok(Self { root, remote, rules })
    }

    fn is_cache(&self, path: &RelPath) -> bool {
        self.rules.exclude_caches && self.root.is_cache_dir(path)
    }

    /// Returns an entry of the walk if a scan leaves it out.
    fn left_out(&self, found: &FoundEntry) -> Option<LeftOut> {
        let FoundKind::Dir { is_mount_point } = found.kind else { return None };
        let path = found.path.clone();
        let reason = if is_mount_point {
            let mount = self.root.mount_points(&path).ok()?.pop()?;
            LeftOutReason::of_mount(&mount, self.rules.one_file_system)
        } else {
            self.is_cache(&path).then_some(LeftOutReason::Cache)
        };
        reason.map(|reason| LeftOut { path, reason })
    }

    /// Returns the mount of which the walk reports that it does not answer.
    fn remote_mount(&self, error: &ReadError) -> Option<LeftOut> {
        let ReadError::NotAnswering { path, .. } = error else { return None };
        let mount = self.remote.iter().find(|mount| mount.path == *path)?;
        let reason = LeftOutReason::Remote(mount.file_system.clone());
        Some(LeftOut { path: path.clone(), reason })
    }
}

/// Reports whether a scan of the folder `outer` leaves out the directory `inner`, a path in it,
/// since another file system or a cache is there or above it. Patterns are not considered. The
/// call blocks on the disk.
///
/// # Errors
///
/// Returns [`PreviewError::Root`] or [`PreviewError::Read`] if a directory cannot be opened.
pub fn is_left_out(
    outer: &Path,
    inner: &RelPath,
    rules: &PreviewRules,
) -> Result<bool, PreviewError> {
    let search = Search::open(outer, rules)?;
    if search.remote.iter().any(|mount| inner.is_within(&mount.path)) {
        return Ok(true);
    }
    let mounts = search.root.mount_points(inner)?;
    if mounts.iter().any(|mount| LeftOutReason::of_mount(mount, rules.one_file_system).is_some()) {
        return Ok(true);
    }
    let mut at = Some(inner.clone());
    while let Some(dir) = at.filter(|dir| !dir.is_root()) {
        if search.is_cache(&dir) {
            return Ok(true);
        }
        at = dir.parent();
    }
    Ok(false)
}

/// Returns the mounts in a directory that may hang.
fn remote_mounts(path: &Path) -> Vec<Mount> {
    let mounts = fstree::mounts_below(path);
    mounts.into_iter().filter(|mount| may_hang(&mount.file_system)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMITS: PreviewLimits =
        PreviewLimits { time: Duration::from_secs(60), entries: 1000, named: 10 };

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, len) in [
            ("a.txt", 10),
            ("b.tmp", 20),
            ("m/x/1", 300),
            ("m/2", 40),
            ("sub/c.tmp", 5),
            ("sub/d", 6),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; len]).unwrap();
        }
        fs::write(dir.path().join("sub/.archivistignore"), "!c.tmp\n").unwrap();
        dir
    }

    fn excluding(patterns: &[&str]) -> PreviewRules {
        let exclude = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        PreviewRules { exclude, ..PreviewRules::default() }
    }

    #[test]
    fn caches_are_left_out_on_request_and_listed() {
        let dir = folder();
        let tag = "Signature: 8a477f597d28d172789f06886806bc55";
        fs::write(dir.path().join("m/CACHEDIR.TAG"), tag).unwrap();
        let all = preview(dir.path(), &PreviewRules::default(), LIMITS).unwrap();
        assert_eq!((all.files, all.left_out.len()), (8, 0));
        let rules = PreviewRules { exclude_caches: true, ..PreviewRules::default() };
        let found = preview(dir.path(), &rules, LIMITS).unwrap();
        assert_eq!(found.files, 5);
        let path = RelPath::new("m").unwrap();
        let cache = LeftOut { path, reason: LeftOutReason::Cache };
        assert_eq!(found.left_out, std::slice::from_ref(&cache));
        assert_eq!(find_left_out(dir.path(), &rules, LIMITS).unwrap(), [cache]);
        let rules = PreviewRules { exclude: vec!["m/".to_owned()], ..rules };
        assert_eq!(preview(dir.path(), &rules, LIMITS).unwrap().left_out, []);
        assert_eq!(find_left_out(dir.path(), &rules, LIMITS).unwrap(), []);
    }

    #[test]
    fn it_lists_excluded_entries_with_their_sizes() {
        let dir = folder();
        let found = preview(dir.path(), &excluding(&["*.tmp", "m/"]), LIMITS).unwrap();
        // a.txt, sub/c.tmp (included again), sub/d and the ignore file.
        assert_eq!((found.files, found.bytes), (4, 10 + 5 + 6 + 7));
        assert_eq!((found.excluded_files, found.excluded_bytes), (3, 360));
        let named: Vec<_> = found
            .excluded
            .iter()
            .map(|one| (one.path.as_bytes(), one.is_dir, one.files, one.bytes))
            .collect();
        assert_eq!(named, [(&b"m"[..], true, 2, 340), (&b"b.tmp"[..], false, 1, 20)]);
        assert!(!found.is_cut_short);
    }

    #[test]
    fn it_stops_at_its_limits_and_says_so() {
        let dir = folder();
        let limits = PreviewLimits { entries: 2, ..LIMITS };
        let found = preview(dir.path(), &PreviewRules::default(), limits).unwrap();
        assert!(found.is_cut_short && found.files <= 2);
        let found =
            preview(dir.path(), &excluding(&["*"]), PreviewLimits { named: 1, ..LIMITS }).unwrap();
        assert_eq!(found.excluded.len(), 1);
    }

    #[test]
    fn a_bad_pattern_or_no_directory_is_an_error() {
        let dir = folder();
        let bad = preview(dir.path(), &excluding(&["a["]), LIMITS);
        assert!(matches!(bad, Err(PreviewError::Pattern(_))), "{bad:?}");
        assert!(check_patterns(&["a".into(), "a[".into()]).is_err());
        assert!(check_patterns(&["a".into(), "!b/**".into()]).is_ok());
        assert!(preview(&dir.path().join("gone"), &PreviewRules::default(), LIMITS).is_err());
    }
}
