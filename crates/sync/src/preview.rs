//! What a folder would have in it, and what its patterns would leave out.
//!
//! It looks at names and lengths alone, and not for long: a preview of a large
//! folder is of a part of it, and says so.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use fstree::{
    FileKind, FoundKind, RootError, SourceTree, TreeReader as _, Visit, WalkItem, WalkOptions,
};
use types::RelPath;

use crate::rules::{Rules, RulesError, matcher};

/// How long a preview may look, and at how much.
#[derive(Clone, Copy, Debug)]
pub struct PreviewLimits {
    /// Not longer than this.
    pub time: Duration,
    /// At most so many entries.
    pub entries: u64,
    /// At most so many of what is left out are named.
    pub named: usize,
}

/// What is left out: a file, or a directory with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Where it is.
    pub path: RelPath,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Files in it, or itself.
    pub files: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
}

/// What a folder would come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Files that would be backed up.
    pub files: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
    /// Files that would be left out.
    pub excluded_files: u64,
    /// Their lengths together, in bytes.
    pub excluded_bytes: u64,
    /// What is left out, the largest first.
    pub excluded: Vec<LeftOut>,
    /// Whether only a part of the folder was looked at.
    pub is_cut_short: bool,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The directory.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It cannot be listed.
    #[error(transparent)]
    Read(#[from] fstree::ReadError),
    /// A pattern.
    #[error("{0}")]
    Pattern(String),
}

impl From<RulesError> for PreviewError {
    fn from(error: RulesError) -> Self {
        Self::Pattern(types::with_causes(&error))
    }
}

/// Whether these patterns can be used for a folder.
///
/// # Errors
///
/// [`PreviewError::Pattern`], which names the first that cannot.
pub fn check_patterns(exclude: &[String]) -> Result<(), PreviewError> {
    matcher(exclude)?;
    Ok(())
}

/// Looks through the directory at `path`, with these patterns and the ignore
/// files that are in it. It blocks on the disk.
///
/// # Errors
///
/// [`PreviewError`]; what cannot be read below `path` is not counted.
pub fn preview(
    path: &Path,
    exclude: &[String],
    limits: PreviewLimits,
) -> Result<Preview, PreviewError> {
    let root = SourceTree::open(path)?;
    let rules = RefCell::new(Rules::new(&root, exclude)?);
    rules.borrow_mut().enter(&RelPath::root());
    // As a scan does: no other file systems, and nothing in a cache.
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
        // In the order of paths, what is in a directory comes right after it.
        match preview.excluded.last_mut() {
            Some(top) if top.is_dir && found.path.is_within(&top.path) => {
                top.files += files;
                top.bytes += bytes;
            }
            _ => preview.excluded.push(LeftOut { path: found.path, is_dir, files, bytes }),
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
    fn it_tells_what_is_left_out_and_how_big_that_is() {
        let dir = folder();
        let exclude = ["*.tmp".to_owned(), "m/".to_owned()];
        let found = preview(dir.path(), &exclude, LIMITS).unwrap();
        // a.txt, sub/c.tmp (taken back in), sub/d and the ignore file.
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
