//! Small files of state, and what happens to one that cannot be used.
//!
//! Invariant: only a file that does not exist is absent. A file that cannot be read, or whose
//! content is damaged, is never replaced: it stays, or is kept under another name.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::aside::Aside;
use crate::atomic::{FileError, read_file};
use crate::disk::Disk;

/// Result of parsing the content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The content is valid.
    Valid(T),
    /// The content is damaged.
    Damaged {
        /// The part that is valid, if it can be used.
        usable: Option<T>,
        /// The reason.
        reason: String,
    },
    /// A later version of this program wrote the file.
    Newer,
}

impl<T> Parsed<T> {
    /// Returns the result of a parser for which a damaged file has no valid part.
    pub fn of<E: ToString>(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Valid(value),
            Err(reason) => Self::Damaged { usable: None, reason: reason.to_string() },
        }
    }

    /// Returns the content, or the part of a damaged content that can be used.
    pub fn usable(self) -> Option<T> {
        match self {
            Self::Valid(value) => Some(value),
            Self::Damaged { usable, .. } => usable,
            Self::Newer => None,
        }
    }

    /// Parses a text of lines. The lines that `line` does not accept are damaged, and the others
    /// are usable.
    pub fn of_lines<L>(bytes: &[u8], line: impl Fn(&str) -> Option<L>) -> Self
    where
        T: FromIterator<L>,
    {
        let text = String::from_utf8_lossy(bytes);
        let all = || text.lines().zip(1_u64..);
        let damaged = all().find(|(text, _)| line(text).is_none());
        let value = all().filter_map(|(text, _)| line(text)).collect();
        match damaged {
            None => Self::Valid(value),
            Some((_, number)) => Self::Damaged {
                usable: Some(value),
                reason: format!("line {number} is not of the form"),
            },
        }
    }
}

/// Reason why a file of state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read, or a damaged file cannot be kept under another name.
    #[error(transparent)]
    File(#[from] FileError),
    /// A later version of this program wrote the file.
    #[error(
        "{} was written by a newer version of this program: update this program, or move the \
         file away",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
    },
}

/// A damaged file that was kept under another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The file.
    pub path: PathBuf,
    /// Path of the file, or of its copy, under the other name.
    pub aside: PathBuf,
    /// The damage.
    pub reason: String,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, aside) = (self.path.display(), self.aside.display());
        write!(f, "{path} is damaged ({}) and was kept as {aside}", self.reason)
    }
}

/// A file of state that was read.
#[derive(Debug)]
pub struct StateRead<T> {
    /// The content; `None` if there is no file, or nothing of a damaged one is usable.
    pub value: Option<T>,
    /// Set if the file is damaged and was kept under another name. If a part is usable, the file
    /// is still there, and the caller replaces it.
    pub kept: Option<Kept>,
}

impl<T> StateRead<T> {
    const ABSENT: Self = Self { value: None, kept: None };
}

/// Reads a file of state, of at most `len_max` bytes. A damaged file is kept under another name.
///
/// # Errors
///
/// Returns [`StateError::File`] if the file exists and cannot be read, or is damaged and cannot
/// be kept under another name, and [`StateError::Newer`] if a later version of this program wrote
/// the file. The file is unchanged then.
pub fn read_state<T>(
    disk: &dyn Disk,
    path: &Path,
    len_max: u64,
    parse: impl FnOnce(&[u8]) -> Parsed<T>,
) -> Result<StateRead<T>, StateError> {
    let (usable, bytes, reason) = match read_file(disk, path, len_max) {
        Ok(bytes) => match parse(&bytes) {
            Parsed::Valid(value) => return Ok(StateRead { value: Some(value), kept: None }),
            Parsed::Newer => return Err(StateError::Newer { path: path.to_owned() }),
            Parsed::Damaged { usable, reason } => (usable, bytes, reason),
        },
        Err(FileError::TooLong { len, limit, .. }) => {
            (None, Vec::new(), format!("it has {len} bytes, more than the limit of {limit}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StateRead::ABSENT),
        Err(error) => return Err(error.into()),
    };
    let aside = Aside::next(disk, path)?;
    if usable.is_some() {
        aside.copy(&bytes)?;
    } else {
        aside.rename()?;
    }
    let kept = Kept { path: path.to_owned(), aside: aside.path().to_owned(), reason };
    Ok(StateRead { value: usable, kept: Some(kept) })
}

/// Reads a file on which nothing depends: without it, its content is found or counted again. Same
/// as [`read_state`], but a file that cannot be read is kept under another name, too, and no
/// error stops the caller. Logs `consequence` with the reason.
pub fn read_cache<T>(
    disk: &dyn Disk,
    path: &Path,
    len_max: u64,
    consequence: &str,
    parse: impl FnOnce(&[u8]) -> Parsed<T>,
) -> Option<T> {
    match read_state(disk, path, len_max, parse) {
        Ok(read) => {
            if let Some(kept) = &read.kept {
                tracing::warn!("{kept}: {consequence}");
            }
            read.value
        }
        Err(error) => {
            let aside = Aside::next(disk, path).and_then(|aside| {
                aside.rename()?;
                Ok(aside.path().display().to_string())
            });
            let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
            match aside {
                Ok(aside) => {
                    tracing::warn!("{error}{cause}; the file was kept as {aside}: {consequence}");
                }
                Err(_) => tracing::warn!("{error}{cause}; the file is not used: {consequence}"),
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{EACCES, EIO, EMFILE, FaultRule, SimDisk};
    use crate::{AtomicWrite, write_atomic};

    const PATH: &str = "/d/list";

    fn disk(content: &[u8]) -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/d")).unwrap();
        write_atomic(&disk, Path::new(PATH), content, &AtomicWrite::PRIVATE).unwrap();
        disk
    }

    fn numbers(bytes: &[u8]) -> Parsed<Vec<u32>> {
        match bytes {
            b"newer" => Parsed::Newer,
            b"bad" => Parsed::of(Err("it is bad")),
            _ => Parsed::of_lines(bytes, |line| line.parse().ok()),
        }
    }

    fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
        read_file(disk, Path::new(path), 100).ok()
    }

    #[test]
    fn only_a_file_that_does_not_exist_is_absent() {
        let disk = disk(b"1\n2\n");
        let read = |disk| read_state(disk, Path::new(PATH), 10, numbers);
        assert_eq!(read(&disk).unwrap().value, Some(vec![1, 2]));
        for error in [EIO, EACCES, EMFILE] {
            disk.add_fault(FaultRule::reads(error).on(PATH));
            assert!(matches!(read(&disk), Err(StateError::File(_))));
            disk.clear_fault_rules();
        }
        assert_eq!(content(&disk, PATH).unwrap(), b"1\n2\n");
        disk.damage(Path::new(PATH), |bytes| *bytes = b"newer".to_vec());
        assert!(matches!(read(&disk), Err(StateError::Newer { .. })));
        assert_eq!(content(&disk, PATH).unwrap(), b"newer");
        assert_eq!(disk.list(Path::new("/d")).unwrap().len(), 1);
        disk.lose(Path::new(PATH));
        let absent = read(&disk).unwrap();
        assert_eq!((absent.value, absent.kept), (None, None));
    }

    #[test]
    fn a_damaged_file_is_kept_and_its_valid_lines_are_used() {
        for (damaged, usable, stays) in [
            (&b"1\nx\n3\n"[..], Some(vec![1, 3]), true),
            (b"bad", None, false),
            (b"12345678901", None, false),
        ] {
            let disk = disk(damaged);
            let read = read_state(&disk, Path::new(PATH), 10, numbers).unwrap();
            assert_eq!(read.value, usable);
            let kept = read.kept.unwrap();
            assert_eq!(kept.aside, Path::new("/d/list.damaged-1"));
            assert!(kept.to_string().starts_with("/d/list is damaged ("), "{kept}");
            assert_eq!(content(&disk, "/d/list.damaged-1").unwrap(), damaged);
            assert_eq!(content(&disk, PATH).is_some(), stays);
            // Without a name for the damaged file, nothing happens to it.
            let disk = self::disk(damaged);
            disk.set_fault(disk.operations(), crate::sim::Fault::Fail(io::ErrorKind::Other));
            assert!(read_state(&disk, Path::new(PATH), 10, numbers).is_err());
            assert_eq!(content(&disk, PATH).unwrap(), damaged);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_used_is_kept_and_stops_nothing() {
        let disk = disk(b"1\n");
        let read = |disk| read_cache(disk, Path::new(PATH), 10, "it is counted again", numbers);
        assert_eq!(read(&disk), Some(vec![1]));
        disk.add_fault(FaultRule::reads(EIO).on(PATH).times(1));
        assert_eq!(read(&disk), None);
        assert_eq!(content(&disk, "/d/list.damaged-1").unwrap(), b"1\n");
        assert_eq!(read(&disk), None, "it is absent");
        write_atomic(&disk, Path::new(PATH), b"bad", &AtomicWrite::PRIVATE).unwrap();
        assert_eq!(read(&disk), None);
        assert_eq!(content(&disk, "/d/list.damaged-2").unwrap(), b"bad");
    }
}
