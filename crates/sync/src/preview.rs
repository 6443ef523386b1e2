//! A preview of a folder: the files that would be backed up, and those that its patterns would
//! exclude.
//!
//! A preview reads only names and lengths, and for a limited time. The preview of a large folder
//! covers a part of it, and says so.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use fstree::{
    FileKind, FoundKind, Mount, ReadError, RootError, SourceTree, TreeReader as _, Visit, WalkItem,
    WalkOptions,
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
    let mut root = SourceTree::open(path)?;
    // Such mounts are left out in any case, and a call to one may block.
    let remote = remote_mounts(path);
    root.set_hung(remote.iter().map(|mount| mount.path.clone()).collect());
    let root = root;
    let settings = rules;
    let rules = RefCell::new(Rules::new(&root, &settings.exclude)?);
    rules.borrow_mut().enter(&RelPath::root());
    let is_cache = |path: &RelPath| settings.exclude_caches && root.is_cache_dir(path);
    let decide = |path: &RelPath, kind: FileKind| {
        if kind == FileKind::Dir && !is_cache(path) { Visit::Descend } else { Visit::Record }
    };
    let options = WalkOptions { one_file_system: true, ..WalkOptions::default() };
    let until = Instant::now() + limits.time;
    let mut preview = Preview::default();
    let mut seen = 0;
    for item in root.walk(&RelPath::root(), options, decide)? {
        seen += 1;
        if seen > limits.entries || Instant::now() > until {
            preview.is_cut_short = true;
            break;
        }
        let found = match item {
            WalkItem::Entry(found) => found,
            WalkItem::Error(ReadError::NotAnswering { path, .. }) => {
                let mount = remote.iter().find(|mount| mount.path == path);
                if let Some(mount) = mount.filter(|_| !rules.borrow().is_excluded(&path, true)) {
                    let reason = LeftOutReason::Remote(mount.file_system.clone());
                    preview.left_out.push(LeftOut { path, reason });
                }
                continue;
            }
            WalkItem::Error(_) => continue,
        };
        let is_dir = found.kind() == FileKind::Dir;
        let is_excluded = rules.borrow().is_excluded(&found.path, is_dir);
        if is_dir {
            rules.borrow_mut().enter(&found.path);
        }
        if !is_excluded
            && preview.left_out.len() < limits.named
            && let FoundKind::Dir { is_mount_point } = found.kind
        {
            let reason = if is_mount_point {
                reason_of_mount(&root, &found.path, settings.one_file_system)
            } else {
                is_cache(&found.path).then_some(LeftOutReason::Cache)
            };
            let path = found.path.clone();
            preview.left_out.extend(reason.map(|reason| LeftOut { path, reason }));
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
    let mut root = SourceTree::open(outer)?;
    let remote = remote_mounts(outer);
    if remote.iter().any(|mount| inner.is_within(&mount.path)) {
        return Ok(true);
    }
    root.set_hung(remote.into_iter().map(|mount| mount.path).collect());
    let mounts = root.mount_points(inner)?;
    if mounts.iter().any(|mount| LeftOutReason::of_mount(mount, rules.one_file_system).is_some()) {
        return Ok(true);
    }
    let mut at = Some(inner.clone());
    while let Some(dir) = at.filter(|dir| rules.exclude_caches && !dir.is_root()) {
        if root.is_cache_dir(&dir) {
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

/// Returns the reason why a scan leaves a mount point or a subvolume out, if it does.
fn reason_of_mount(
    root: &SourceTree,
    path: &RelPath,
    one_file_system: bool,
) -> Option<LeftOutReason> {
    let mount = root.mount_points(path).ok()?.pop()?;
    LeftOutReason::of_mount(&mount, one_file_system)
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
        assert_eq!(found.left_out, [LeftOut { path, reason: LeftOutReason::Cache }]);
        let rules = PreviewRules { exclude: vec!["m/".to_owned()], ..rules };
        assert_eq!(preview(dir.path(), &rules, LIMITS).unwrap().left_out, []);
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
