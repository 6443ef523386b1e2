//! Reads both logs and merges them, without writing.
//!
//! Only a log that does not exist is absent, and only bytes that were read and do
//! not match their checksums are damage. A log that cannot be read (no permission,
//! a failed disk, no descriptor left, too long) may contain every root: it is never
//! taken for an empty one.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::format::{Change, Parsed, is_newer, parse};
use super::{Health, LOGS, MAX_LOG_LEN, Root};
use crate::error::StoreError;
use disk::{Disk, FileError, read_file};

/// Content of a log as it was found.
#[derive(Debug)]
pub(super) enum LogFile {
    Absent,
    Read {
        bytes: Vec<u8>,
        parsed: Parsed,
    },
    /// The file exists or may exist, and was not read.
    Unreadable {
        path: PathBuf,
        reason: String,
    },
}

impl LogFile {
    fn read(disk: &dyn Disk, path: PathBuf, len_max: u64) -> Self {
        match read_file(disk, &path, len_max) {
            Ok(bytes) => {
                let parsed = parse(&bytes);
                Self::Read { bytes, parsed }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Absent,
            Err(error) => {
                let reason = match error {
                    FileError::Io { source, .. } => source.to_string(),
                    error @ FileError::TooLong { .. } => error.to_string(),
                };
                Self::Unreadable { path, reason }
            }
        }
    }

    fn parsed(&self) -> Option<&Parsed> {
        match self {
            Self::Read { parsed, .. } => Some(parsed),
            Self::Absent | Self::Unreadable { .. } => None,
        }
    }

    fn is_whole(&self) -> bool {
        self.parsed().is_some_and(|parsed| parsed.is_whole)
    }
}

/// The roots that both logs contain, and the logs.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) roots: BTreeMap<String, Root>,
    /// Number of the newest change.
    pub(super) sequence: u64,
    pub(super) health: Health,
    /// True if both logs are intact and have the same records, or the only readable
    /// one is intact: they can be used as they are.
    pub(super) is_usable: bool,
    pub(super) files: [LogFile; 2],
}

impl Loaded {
    /// Reads both logs. A log of more than `len_max` bytes is unreadable.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::RootsUnreadable`] if a log cannot be read and the other
    /// one is not complete, and [`StoreError::Unusable`] if a later version of the
    /// program wrote a log.
    pub(super) fn read(disk: &dyn Disk, dir: &Path, len_max: u64) -> Result<Self, StoreError> {
        let files = LOGS.map(|name| LogFile::read(disk, dir.join(name), len_max));
        for (name, file) in LOGS.iter().zip(&files) {
            if matches!(file, LogFile::Read { bytes, .. } if is_newer(bytes)) {
                return Err(StoreError::Unusable {
                    path: dir.join(name),
                    reason: "a newer version of this program wrote it; use that version".into(),
                });
            }
        }
        for (file, other) in [(&files[0], &files[1]), (&files[1], &files[0])] {
            if let LogFile::Unreadable { path, reason } = file
                && !other.is_whole()
            {
                let (path, reason) = (path.clone(), reason.clone());
                return Err(StoreError::RootsUnreadable { path, reason });
            }
        }
        let empty = Parsed::default();
        let [first, second] = files.each_ref().map(|file| file.parsed().unwrap_or(&empty));
        let Merged { roots, sequence, is_complete, is_equal } = merge(first, second);
        // An unreadable log is not compared: the other one has every change that was
        // reported as durable.
        let is_one = files.iter().any(|file| matches!(file, LogFile::Unreadable { .. }));
        let is_usable = is_equal || is_one;
        let health = match (is_complete, is_usable) {
            (false, _) => Health::Incomplete,
            (true, true) => Health::Clean,
            (true, false) => Health::Repaired,
        };
        Ok(Self { roots, sequence, health, is_usable, files })
    }

    /// Returns the names and the bytes of the logs that were read.
    pub(super) fn bytes(&self) -> Vec<(&'static str, Vec<u8>)> {
        let bytes = |(name, file): (&'static str, &LogFile)| match file {
            LogFile::Read { bytes, .. } => Some((name, bytes.clone())),
            LogFile::Absent | LogFile::Unreadable { .. } => None,
        };
        LOGS.into_iter().zip(&self.files).filter_map(bytes).collect()
    }

    /// Describes the log that cannot be read.
    pub(super) fn unreadable(&self) -> Option<String> {
        self.files.iter().find_map(|file| match file {
            LogFile::Unreadable { path, reason } => {
                Some(format!("{} cannot be read: {reason}", path.display()))
            }
            LogFile::Absent | LogFile::Read { .. } => None,
        })
    }

    /// Reports whether the bytes of this log must be kept when it is replaced. They
    /// need not be if nothing is lost and the log is intact, or its end is torn, as by
    /// a crash, and the other log is intact.
    pub(super) fn must_be_kept(&self, number: usize) -> bool {
        let Some(parsed) = self.files[number].parsed() else { return false };
        let is_crash = parsed.is_torn && self.files[1 - number].is_whole();
        !self.is_usable && (self.health == Health::Incomplete || !(parsed.is_whole || is_crash))
    }
}

/// Number of times that a reader reads the logs before it reports them as incomplete:
/// a process that appends to them may be in the middle of a record in both.
const READS_MAX: usize = 5;

/// The roots in both logs, as a reader finds them. It repairs nothing.
#[derive(Debug)]
pub(crate) struct RootsFound {
    pub(crate) roots: BTreeMap<String, Root>,
    /// [`Health::Repaired`] means that one log is damaged, absent or behind.
    pub(crate) health: Health,
    /// Description of the log that cannot be read, if the other one is complete.
    pub(crate) unreadable: Option<String>,
}

/// Reads the roots in `dir` and changes nothing. An empty store (`is_empty`) may have
/// no logs.
///
/// # Errors
///
/// Same as [`Loaded::read`].
pub(crate) fn read_roots(
    disk: &dyn Disk,
    dir: &Path,
    is_empty: bool,
) -> Result<RootsFound, StoreError> {
    let mut loaded = Loaded::read(disk, dir, MAX_LOG_LEN)?;
    for _ in 1..READS_MAX {
        if loaded.health != Health::Incomplete {
            break;
        }
        loaded = Loaded::read(disk, dir, MAX_LOG_LEN)?;
    }
    let is_absent = loaded.files.iter().all(|file| matches!(file, LogFile::Absent));
    let health = if is_empty && is_absent { Health::Clean } else { loaded.health };
    let unreadable = loaded.unreadable();
    Ok(RootsFound { roots: loaded.roots, health, unreadable })
}

/// Content of both logs together.
struct Merged {
    roots: BTreeMap<String, Root>,
    sequence: u64,
    /// True if no record is lost.
    is_complete: bool,
    /// True if both logs are intact and have the same records.
    is_equal: bool,
}

/// Merges the content of both logs. An absent log is an empty one.
fn merge(first: &Parsed, second: &Parsed) -> Merged {
    let base = [first, second]
        .into_iter()
        .filter(|log| log.is_base_whole)
        .max_by_key(|log| log.base_sequence);
    // If both logs are damaged, the newest records may be lost in both without a gap
    // in the numbers. A crash leaves one of them complete: the second is written when
    // the first is durable. A base that was written after a loss is marked until the
    // user has accepted the remaining roots.
    let is_marked = |log: &Parsed| {
        log.incomplete && base.is_some_and(|base| log.base_sequence == base.base_sequence)
    };
    let mut is_complete = base.is_some()
        && (first.is_whole || second.is_whole)
        && !is_marked(first)
        && !is_marked(second);
    let (mut roots, base_sequence) = match base {
        Some(log) => (log.base.clone(), log.base_sequence),
        // Too many roots are harmless: they only keep blocks alive.
        None => {
            let all = first.base.iter().chain(&second.base);
            (all.map(|(name, root)| (name.clone(), *root)).collect(), 0)
        }
    };
    let mut changes = first.changes.clone();
    changes.extend(second.changes.iter().map(|(seq, change)| (*seq, change.clone())));
    let mut sequence = base_sequence;
    for (number, change) in changes {
        if number <= base_sequence {
            continue;
        }
        is_complete &= number == sequence + 1;
        sequence = number;
        match change {
            Change::Set(name, root) => {
                roots.insert(name, root);
            }
            Change::Remove(name) => {
                roots.remove(&name);
            }
        }
    }
    // A crash between the two writes leaves one log shorter than the other, with a
    // clean end. The record that only one log has was not reported as durable.
    let is_equal = first.is_whole
        && second.is_whole
        && first.base_sequence == second.base_sequence
        && first.changes == second.changes;
    Merged { roots, sequence, is_complete, is_equal }
}
