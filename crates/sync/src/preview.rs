//! A preview of a folder: the files that would be backed up, and those that its patterns would
//! exclude.
//!
//! A preview reads only names and lengths, and for a limited time. The preview of a large folder
//! covers a part of it, and says so.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use fstree::{
    FileKind, FoundKind, RootError, SourceTree, TreeReader as _, Visit, WalkItem, WalkOptions,
};
use types::RelPath;

use crate::rules::{Rules, RulesError, matcher};

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

/// Previews the directory at `path`, with these patterns and the ignore files in it. Entries
/// that cannot be read are not counted. The call blocks on the disk.
///
/// # Errors
///
/// Returns [`PreviewError::Root`] or [`PreviewError::Read`] if the directory cannot be opened
/// or listed, and [`PreviewError::Pattern`] if a pattern is invalid.
pub fn preview(
    path: &Path,
    exclude: &[String],
    limits: PreviewLimits,
) -> Result<Preview, PreviewError> {
    let root = SourceTree::open(path)?;
    let rules = RefCell::new(Rules::new(&root, exclude)?);
    rules.borrow_mut().enter(&RelPath::root());
    // Like a scan: without other file systems, and without the contents of caches.
    let decide = |path: &RelPath, kind: FileKind| {
        if kind == FileKind::Dir && !root.is_cache_dir(path) {
            Visit::Descend
        } else {
            Visit::Record
        }
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
        let WalkItem::Entry(found) = item else { continue };
        let is_dir = found.kind() == FileKind::Dir;
        let is_excluded = rules.borrow().is_excluded(&found.path, is_dir);
        if is_dir {
            rules.borrow_mut().enter(&found.path);
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

    #[test]
    fn it_lists_excluded_entries_with_their_sizes() {
        let dir = folder();
        let exclude = ["*.tmp".to_owned(), "m/".to_owned()];
        let found = preview(dir.path(), &exclude, LIMITS).unwrap();
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
        let found = preview(dir.path(), &[], PreviewLimits { entries: 2, ..LIMITS }).unwrap();
        assert!(found.is_cut_short && found.files <= 2);
        let found =
            preview(dir.path(), &["*".into()], PreviewLimits { named: 1, ..LIMITS }).unwrap();
        assert_eq!(found.excluded.len(), 1);
    }

    #[test]
    fn a_bad_pattern_or_no_directory_is_an_error() {
        let dir = folder();
        let bad = preview(dir.path(), &["a[".into()], LIMITS);
        assert!(matches!(bad, Err(PreviewError::Pattern(_))), "{bad:?}");
        assert!(check_patterns(&["a".into(), "a[".into()]).is_err());
        assert!(check_patterns(&["a".into(), "!b/**".into()]).is_ok());
        assert!(preview(&dir.path().join("gone"), &[], LIMITS).is_err());
    }
}
