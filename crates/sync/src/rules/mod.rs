//! Excluded paths: the patterns of the configuration, and the `.archivistignore` files in the
//! tree, with the semantics of git.
//!
//! The last matching pattern decides. Patterns of a deeper file come after those of the files
//! above it, and the patterns of the configuration come first. A pattern with `!` includes a
//! path again, but nothing below an excluded directory.
//!
//! **Invariants.** An ignore file is read below the descriptor of the root, as a regular file,
//! without following symbolic links. A file or line that cannot be read or parsed excludes
//! nothing, and is reported. The time for matching is linear in the length of the path.

mod pattern;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use fstree::{ReadError, SourceTree, TreeReader as _};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use types::{RelPath, with_causes};

pub(crate) use pattern::PatternError;

/// The name of ignore files.
const FILE_NAME: &[u8] = b".archivistignore";

/// Maximum length of an ignore file, in bytes: compiling one of this length needs about a
/// second.
const FILE_LEN_MAX: usize = 64 << 10;

/// Maximum total length of the ignore files from the root down to one directory, in bytes: they
/// need a hundred times as much memory.
const FILES_LEN_MAX: usize = 512 << 10;

/// Maximum number of invalid lines of one file that are reported.
const INVALID_LINES_MAX: usize = 5;

/// An invalid pattern of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("invalid exclude pattern `{pattern}`")]
pub(crate) struct RulesError {
    /// The pattern.
    pub(crate) pattern: String,
    /// The cause.
    #[source]
    pub(crate) source: PatternError,
}

/// The rules of one folder, at the current place of a walk.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    root: &'a SourceTree,
    config: Gitignore,
    /// The directories from the root down to the current one.
    levels: Vec<Level>,
    problems: Vec<(RelPath, String)>,
}

#[derive(Debug)]
struct Level {
    dir: RelPath,
    /// True if it or a directory above it is excluded.
    excluded: bool,
    /// The patterns of its ignore file, and the length of that file.
    file: Option<(Gitignore, usize)>,
}

/// Compiles the patterns of the configuration.
///
/// # Errors
///
/// Returns [`RulesError`] for the first invalid pattern.
pub(crate) fn matcher(exclude: &[String]) -> Result<Gitignore, RulesError> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in exclude {
        add(&mut builder, pattern.as_bytes())
            .map_err(|source| RulesError { pattern: pattern.clone(), source })?;
    }
    builder
        .build()
        .map_err(|_| RulesError { pattern: exclude.join("`, `"), source: PatternError::Refused })
}

impl<'a> Rules<'a> {
    /// Returns the rules of a folder, before its root is entered.
    ///
    /// # Errors
    ///
    /// Returns [`RulesError`] for the first invalid pattern of the configuration.
    pub(crate) fn new(root: &'a SourceTree, exclude: &[String]) -> Result<Self, RulesError> {
        let config = matcher(exclude)?;
        Ok(Self { root, config, levels: Vec::new(), problems: Vec::new() })
    }

    /// Returns the name of ignore files.
    pub(crate) fn ignore_file_name() -> &'static [u8] {
        FILE_NAME
    }

    /// Enters a directory. Call it for each directory from the root down. Entering a directory
    /// again reads its ignore file again.
    pub(crate) fn enter(&mut self, dir: &RelPath) {
        while let Some(top) = self.levels.last() {
            if dir.is_within(&top.dir) && *dir != top.dir {
                break;
            }
            self.levels.pop();
        }
        let excluded = !dir.is_root() && self.is_excluded(dir, true);
        // Everything below an excluded directory is excluded.
        let file = if excluded { None } else { self.read(dir) };
        self.levels.push(Level { dir: dir.clone(), excluded, file });
    }

    /// Reports whether a path or a directory above it is excluded.
    pub(crate) fn is_excluded(&self, path: &RelPath, is_dir: bool) -> bool {
        let levels = match self.levels.last() {
            None => 0,
            // The usual case: the path is below the current directory.
            Some(top) if is_below(path, &top.dir) => self.levels.len(),
            Some(_) => self.levels.iter().take_while(|level| is_below(path, &level.dir)).count(),
        };
        let levels = &self.levels[..levels];
        if levels.last().is_some_and(|level| level.excluded) {
            return true;
        }
        if self.config.is_empty() && levels.iter().all(|level| level.file.is_none()) {
            return false;
        }
        // Checks the directories between the current one and the path.
        let path = path.as_bytes();
        let known = levels.last().map_or(0, |level| match level.dir.as_bytes().len() {
            0 => 0,
            len => len + 1,
        });
        let mut from = known;
        while let Some(at) = path.get(from..).and_then(|rest| rest.iter().position(is_slash)) {
            from += at;
            if self.is_matched(levels, &path[..from], true) {
                return true;
            }
            from += 1;
        }
        self.is_matched(levels, path, is_dir)
    }

    /// Returns the problems of ignore files since the last call, each with its file.
    pub(crate) fn problems(&mut self) -> Vec<(RelPath, String)> {
        std::mem::take(&mut self.problems)
    }

    /// Reports whether the patterns exclude the path itself.
    fn is_matched(&self, levels: &[Level], path: &[u8], is_dir: bool) -> bool {
        for level in levels.iter().rev() {
            let Some((file, _)) = &level.file else { continue };
            let start = match level.dir.as_bytes().len() {
                0 => 0,
                len => len + 1,
            };
            let Some(path) = path.get(start..) else { continue };
            if let Some(excluded) = decide(file, path, is_dir) {
                return excluded;
            }
        }
        decide(&self.config, path, is_dir).unwrap_or(false)
    }

    /// Reads the ignore file of a directory. Returns `None` if there is none, or if it cannot
    /// be used.
    fn read(&mut self, dir: &RelPath) -> Option<(Gitignore, usize)> {
        // A path that is too long cannot exist.
        let path = dir.join(FILE_NAME).ok()?;
        let used: usize = self.levels.iter().filter_map(|l| Some(l.file.as_ref()?.1)).sum();
        let text = match self.text(&path) {
            Ok(text) => text?,
            Err(error) => {
                self.problem(path, format!("cannot read the ignore file: {error}"));
                return None;
            }
        };
        if text.len() > FILE_LEN_MAX {
            self.problem(
                path,
                format!("the ignore file has no effect: it is longer than {FILE_LEN_MAX} bytes"),
            );
            return None;
        }
        if used + text.len() > FILES_LEN_MAX {
            let what = format!(
                "the ignore file has no effect: together with those above, it is longer than \
                 {FILES_LEN_MAX} bytes"
            );
            self.problem(path, what);
            return None;
        }
        let mut builder = GitignoreBuilder::new("");
        let mut invalid = Vec::new();
        for (line, number) in lines(&text).zip(1_usize..) {
            if let Err(error) = add(&mut builder, line) {
                invalid.push((number, error));
            }
        }
        for (number, error) in invalid.iter().take(INVALID_LINES_MAX) {
            self.problem(path.clone(), format!("line {number} has no effect: {error}"));
        }
        if invalid.len() > INVALID_LINES_MAX {
            let more = invalid.len() - INVALID_LINES_MAX;
            self.problem(path.clone(), format!("{more} further lines have no effect"));
        }
        match builder.build() {
            Ok(file) if file.is_empty() => None,
            Ok(file) => Some((file, text.len())),
            Err(error) => {
                self.problem(path, format!("the ignore file has no effect: {error}"));
                None
            }
        }
    }

    /// Returns the text of an ignore file, cut off one byte after the maximum length.
    fn text(&self, path: &RelPath) -> Result<Option<Vec<u8>>, String> {
        let open = match self.root.open_file(path) {
            Ok(open) => open,
            Err(ReadError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(with_causes(&error)),
        };
        let mut text = Vec::new();
        let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
        open.file.take(limit).read_to_end(&mut text).map_err(|error| error.to_string())?;
        Ok(Some(text))
    }

    fn problem(&mut self, path: RelPath, what: String) {
        self.problems.push((path, what));
    }
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

fn is_below(path: &RelPath, dir: &RelPath) -> bool {
    path.is_within(dir) && path.as_bytes().len() > dir.as_bytes().len()
}

/// Returns the lines of an ignore file.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn add(builder: &mut GitignoreBuilder, line: &[u8]) -> Result<(), PatternError> {
    if let Some(line) = pattern::rewrite(line)? {
        builder.add_line(None, &line).map_err(|_| PatternError::Refused)?;
    }
    Ok(())
}

/// Returns the decision of one set of patterns about a path below its directory.
fn decide(patterns: &Gitignore, path: &[u8], is_dir: bool) -> Option<bool> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::OsStr::from_bytes(path);
    match patterns.matched(path, is_dir) {
        Match::None => None,
        Match::Ignore(_) => Some(true),
        Match::Whitelist(_) => Some(false),
    }
}
