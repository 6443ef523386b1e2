//! What is left out of a folder: the patterns of the configuration, and the
//! files `.archivistignore` in the tree, with the meaning of git.
//!
//! The last pattern that matches decides; those of a deeper file come after
//! those of the files above it, and the configuration's before all. A pattern
//! with `!` takes back in, but nothing below a directory that is left out.
//!
//! **Invariants.** An ignore file is read below the root's descriptor, as a
//! regular file that no link leads to. What cannot be read or understood
//! excludes nothing, and is reported. Matching takes time linear in the path.

mod pattern;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use fstree::{ReadError, SourceTree, TreeReader as _};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use types::{RelPath, with_causes};

pub(crate) use pattern::PatternError;

/// The files that say what is left out.
const FILE_NAME: &[u8] = b".archivistignore";

/// The longest ignore file that is used, in bytes: making it ready to match
/// takes about a second.
const FILE_LEN_MAX: usize = 64 << 10;

/// All that are in use at a time, in bytes: those from the root down to one
/// directory, which take a hundred times that in memory.
const FILES_LEN_MAX: usize = 512 << 10;

/// How many bad lines of one file are reported.
const BAD_LINES_MAX: usize = 5;

/// A pattern of the configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the exclude pattern `{pattern}` cannot be used")]
pub(crate) struct RulesError {
    /// The pattern.
    pub(crate) pattern: String,
    /// What is wrong with it.
    #[source]
    pub(crate) source: PatternError,
}

/// What is left out of one folder, as it is at one place of a walk.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    root: &'a SourceTree,
    config: Gitignore,
    /// The directories from the root down to where the walk is.
    levels: Vec<Level>,
    problems: Vec<(RelPath, String)>,
}

#[derive(Debug)]
struct Level {
    dir: RelPath,
    /// It is left out, or one above it is.
    excluded: bool,
    /// What its ignore file says, and how long that is.
    file: Option<(Gitignore, usize)>,
}

/// What the patterns of the configuration match.
///
/// # Errors
///
/// [`RulesError`]: the first bad one.
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
    /// The rules of a folder, before its root was entered.
    ///
    /// # Errors
    ///
    /// [`RulesError`]: the first bad pattern of the configuration.
    pub(crate) fn new(root: &'a SourceTree, exclude: &[String]) -> Result<Self, RulesError> {
        let config = matcher(exclude)?;
        Ok(Self { root, config, levels: Vec::new(), problems: Vec::new() })
    }

    /// The name of the files that say what is left out.
    pub(crate) fn ignore_file_name() -> &'static [u8] {
        FILE_NAME
    }

    /// The walk enters a directory. To be called from the root down for each
    /// on the way; entering it once more reads its ignore file once more.
    pub(crate) fn enter(&mut self, dir: &RelPath) {
        while let Some(top) = self.levels.last() {
            if dir.is_within(&top.dir) && *dir != top.dir {
                break;
            }
            self.levels.pop();
        }
        let excluded = !dir.is_root() && self.is_excluded(dir, true);
        // What is below an excluded directory is decided.
        let file = if excluded { None } else { self.read(dir) };
        self.levels.push(Level { dir: dir.clone(), excluded, file });
    }

    /// Whether this is left out, by itself or by a directory above it.
    pub(crate) fn is_excluded(&self, path: &RelPath, is_dir: bool) -> bool {
        let levels = match self.levels.last() {
            None => 0,
            // As a rule the walk is where the path is.
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
        // Directories between where the walk is and the path.
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

    /// What was wrong with ignore files since the last call: the file, and
    /// what.
    pub(crate) fn problems(&mut self) -> Vec<(RelPath, String)> {
        std::mem::take(&mut self.problems)
    }

    /// What the patterns say of a path itself.
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

    /// The ignore file of a directory, if it has one of use.
    fn read(&mut self, dir: &RelPath) -> Option<(Gitignore, usize)> {
        // Too long to be there.
        let path = dir.join(FILE_NAME).ok()?;
        let used: usize = self.levels.iter().filter_map(|l| Some(l.file.as_ref()?.1)).sum();
        let text = match self.text(&path) {
            Ok(text) => text?,
            Err(error) => {
                self.problem(path, format!("is not used: {error}"));
                return None;
            }
        };
        if text.len() > FILE_LEN_MAX {
            self.problem(path, format!("is not used: it has more than {FILE_LEN_MAX} bytes"));
            return None;
        }
        if used + text.len() > FILES_LEN_MAX {
            let what = format!("is not used: with those above it has over {FILES_LEN_MAX} bytes");
            self.problem(path, what);
            return None;
        }
        let mut builder = GitignoreBuilder::new("");
        let mut bad = Vec::new();
        for (line, number) in lines(&text).zip(1_usize..) {
            if let Err(error) = add(&mut builder, line) {
                bad.push((number, error));
            }
        }
        for (number, error) in bad.iter().take(BAD_LINES_MAX) {
            self.problem(path.clone(), format!("line {number} excludes nothing: {error}"));
        }
        if bad.len() > BAD_LINES_MAX {
            let more = bad.len() - BAD_LINES_MAX;
            self.problem(path.clone(), format!("{more} further lines exclude nothing"));
        }
        match builder.build() {
            Ok(file) if file.is_empty() => None,
            Ok(file) => Some((file, text.len())),
            Err(error) => {
                self.problem(path, format!("is not used: {error}"));
                None
            }
        }
    }

    /// The text of an ignore file, or a byte more than it may have.
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

/// The lines of an ignore file.
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

/// What one set of patterns says of a path below its directory.
fn decide(patterns: &Gitignore, path: &[u8], is_dir: bool) -> Option<bool> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::OsStr::from_bytes(path);
    match patterns.matched(path, is_dir) {
        Match::None => None,
        Match::Ignore(_) => Some(true),
        Match::Whitelist(_) => Some(false),
    }
}
