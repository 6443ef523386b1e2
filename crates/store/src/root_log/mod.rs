//! The roots: names that keep blocks alive, recorded in two equal logs.
//!
//! If a root were lost, the next collection would delete its blocks. So the roots
//! are recorded twice, and any damage to one log (a lost file, a torn end, a
//! flipped bit) is repaired from the other when the store is opened. If both logs
//! lack a record, the roots are *incomplete*, and nothing is collected until the
//! user has accepted the remaining roots.
//!
//! A log that cannot be read is neither damaged nor absent ([`read`]). If the other
//! log is complete, the store is opened with that one, and the next change moves the
//! unreadable log aside. Otherwise the store is not opened. A damaged log is kept
//! beside the log that replaces it (`a.log.damaged-1`).
//!
//! Each log is a base (the roots at one sequence number) and the changes since.
//! Space for the removal of every root is reserved ahead, so that all roots can be
//! removed when the disk is full. The bytes are specified in
//! `docs/formats/roots.md`; `docs/decisions/0010-roots.md` has the reasons.

mod format;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::Cid;

use self::format::{Change, Parsed, encode_base, encode_change, removal_len};
use self::read::{Loaded, LogFile};
use crate::error::{IoContext, StoreError};
use disk::{ASIDE, Aside, AtomicWrite, Disk, DiskFile, FileError, write_atomic};

pub(crate) use self::read::read_roots;

/// Maximum length of the name of a root in bytes.
pub const MAX_ROOT_NAME_LEN: usize = 512;

/// Number of bytes by which a log grows.
const EXTENT: u64 = 64 * 1024;
/// Maximum length of a log in bytes: several million roots.
const MAX_LOG_LEN: u64 = 1 << 30;
/// File names of the two logs.
const LOGS: [&str; 2] = ["a.log", "b.log"];

/// A name that keeps a block, and all that it refers to, alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The block.
    pub cid: Cid,
    /// True if blocks below it may be missing, because a fetch is in progress.
    pub partial: bool,
}

/// State of the logs when they were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Both logs were complete and equal.
    Clean,
    /// One log was damaged, absent or behind. Both have been rewritten.
    Repaired,
    /// Records are lost in both logs.
    Incomplete,
}

/// The roots and their two logs; see the module.
#[derive(Debug)]
pub(crate) struct RootLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    roots: BTreeMap<String, Root>,
    sequence: u64,
    /// `None` if the logs must be rewritten before the next change.
    logs: Option<[OpenLog; 2]>,
    /// Treatment of the files of the logs when they are rewritten.
    old_files: [OldFile; 2],
    /// True if a change has failed that may be in one of the logs.
    has_failed_change: bool,
    /// Number of records in a log. Only as many as there are roots are needed.
    records: usize,
    /// Number of records up to which no rewrite is tried, because there was no space
    /// for one.
    no_space_until: usize,
    /// Length of the records that would remove every root, in bytes.
    removals_len: u64,
    is_incomplete: bool,
}

/// An open log.
#[derive(Debug)]
struct OpenLog {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    end: u64,
    reserved: u64,
}

/// Treatment of the file of a log that is about to be replaced.
#[derive(Debug)]
enum OldFile {
    /// The new file replaces it: it is intact or absent.
    Replace,
    /// These bytes of a damaged log are written to another file first.
    Copy(Vec<u8>),
    /// The file cannot be read and gets another name first.
    MoveAside,
}

/// Result of opening the logs.
#[derive(Debug)]
pub(crate) struct OpenedRoots {
    pub(crate) health: Health,
    /// Description of the log that cannot be read, if the other one is complete.
    pub(crate) unreadable: Option<String>,
}

impl RootLog {
    /// Opens the logs, or creates them if `is_new`. Repairs one from the other.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::RootsUnreadable`] if a log cannot be read and the other
    /// one is not complete; nothing was changed then. Returns [`StoreError::Io`] if
    /// the logs cannot be written.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        is_new: bool,
    ) -> Result<(Self, OpenedRoots), StoreError> {
        let mut log = Self {
            disk,
            dir,
            roots: BTreeMap::new(),
            sequence: 0,
            logs: None,
            old_files: [OldFile::Replace, OldFile::Replace],
            has_failed_change: false,
            records: 0,
            no_space_until: 0,
            removals_len: 0,
            is_incomplete: false,
        };
        if is_new {
            log.rewrite()?;
            return Ok((log, OpenedRoots { health: Health::Clean, unreadable: None }));
        }
        let loaded = Loaded::read(&*log.disk, &log.dir, MAX_LOG_LEN)?;
        let (health, is_usable) = (loaded.health, loaded.is_usable);
        let unreadable = loaded.unreadable();
        let old = if is_usable { Vec::new() } else { loaded.bytes() };
        log.adopt(loaded)?;
        if !is_usable {
            match log.rewrite() {
                // The next change tries again. Until then the old logs are the only record
                // of the roots.
                Err(StoreError::Full { .. }) => {
                    for (name, bytes) in old {
                        log.make_durable(name, &bytes)?;
                    }
                }
                result => result?,
            }
        }
        // A name that a rewrite before the restart did not make durable.
        log.disk.sync_dir(&log.dir).context("sync", &log.dir)?;
        Ok((log, OpenedRoots { health, unreadable }))
    }

    /// Takes over what was read. Opens the logs if they are equal and intact.
    fn adopt(&mut self, mut loaded: Loaded) -> Result<(), StoreError> {
        self.is_incomplete = loaded.health == Health::Incomplete;
        self.sequence = loaded.sequence;
        self.roots = std::mem::take(&mut loaded.roots);
        self.removals_len = self.roots.keys().map(|name| removal_len(name)).sum();
        let keep = [0, 1].map(|number| loaded.must_be_kept(number));
        let is_usable = loaded.is_usable;
        let mut open = Vec::new();
        for (number, file) in loaded.files.into_iter().enumerate() {
            match file {
                LogFile::Unreadable { .. } => self.old_files[number] = OldFile::MoveAside,
                LogFile::Read { bytes, .. } if keep[number] => {
                    self.old_files[number] = OldFile::Copy(bytes);
                }
                LogFile::Read { bytes, parsed } if is_usable => {
                    self.records = parsed.base.len() + parsed.changes.len();
                    open.extend(self.resume(LOGS[number], &bytes, &parsed)?);
                }
                LogFile::Read { .. } | LogFile::Absent => {}
            }
        }
        // With one log, the next change rewrites both.
        self.logs = open.try_into().ok();
        Ok(())
    }

    /// Opens a log for appending after the records that were read. `None` if the disk
    /// is full and copies on write.
    fn resume(
        &self,
        name: &str,
        bytes: &[u8],
        read: &Parsed,
    ) -> Result<Option<OpenLog>, StoreError> {
        let Some(file) = self.make_durable(name, bytes)? else { return Ok(None) };
        let path = self.dir.join(name);
        let mut log = OpenLog { path, file, end: read.end, reserved: read.len };
        // Best effort: the next new root tries again.
        let _ = log.reserve(0, self.removals_len);
        Ok(Some(log))
    }

    /// Makes the bytes durable that were read of a log, and returns its file. `None` if
    /// the disk is full and copies on write.
    fn make_durable(
        &self,
        name: &str,
        bytes: &[u8],
    ) -> Result<Option<Box<dyn DiskFile>>, StoreError> {
        let path = self.dir.join(name);
        let file = self.disk.open(&path).context("open", &path)?;
        // The bytes may come from the page cache, and not be on the disk: a process
        // that died may not have synced them, and after a failed sync Linux regards
        // them as written. Written again, they are.
        let written = file.write_at(&[bytes], 0).context("write", &path);
        let is_full = matches!(written, Err(StoreError::Full { .. }));
        if !is_full {
            written?;
        }
        match file.sync().context("sync", &path) {
            Ok(()) => Ok((!is_full).then_some(file)),
            Err(StoreError::Full { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Rewrites both logs with a base and no changes. The number of the base is a new
    /// one, so that a change that failed and reached one of the logs is void.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        self.logs = None;
        self.sequence += 1;
        let first = self.write_base(0)?;
        let second = self.write_base(1)?;
        self.logs = Some([first, second]);
        self.records = self.roots.len();
        self.no_space_until = 0;
        self.has_failed_change = false;
        Ok(())
    }

    /// Shortens the logs: replaces them by a base with the current number. If there is
    /// no space, the old logs stay in use.
    fn compact(&mut self) -> Result<(), StoreError> {
        let Some(mut logs) = self.logs.take() else { return self.rewrite() };
        for (number, log) in logs.iter_mut().enumerate() {
            match self.write_base(number) {
                Ok(new) => *log = new,
                // The old file still has the name: only the sync of the directory,
                // which needs no space, comes after the rename.
                Err(FileError::Io { source, path, .. })
                    if crate::error::is_full(&source) && path != self.dir =>
                {
                    self.no_space_until = self.records * 2;
                    self.logs = Some(logs);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.logs = Some(logs);
        self.records = self.roots.len();
        self.no_space_until = 0;
        Ok(())
    }

    /// Replaces the file of a log by a base, durably. Keeps the old file if necessary.
    fn write_base(&mut self, number: usize) -> Result<OpenLog, FileError> {
        let content = encode_base(self.sequence, &self.roots, self.is_incomplete);
        let end = content.len() as u64;
        let reserved = (end + self.removals_len + 1).next_multiple_of(EXTENT);
        let mut padded = content;
        padded.resize(usize::try_from(reserved).unwrap_or(usize::MAX), 0);
        self.put_old_file_aside(number)?;
        let path = self.dir.join(LOGS[number]);
        let file = write_atomic(&*self.disk, &path, &padded, &AtomicWrite::PRIVATE)?;
        Ok(OpenLog { path, file, end, reserved })
    }

    /// Keeps the bytes of a damaged or unreadable log under another name, durably.
    fn put_old_file_aside(&mut self, number: usize) -> Result<(), FileError> {
        let path = self.dir.join(LOGS[number]);
        let aside = match &self.old_files[number] {
            OldFile::Replace => return Ok(()),
            OldFile::Copy(bytes) => {
                let aside = Aside::next(&*self.disk, &path)?;
                aside.copy(bytes)?;
                aside
            }
            OldFile::MoveAside => {
                let aside = Aside::next(&*self.disk, &path)?;
                aside.rename()?;
                aside
            }
        };
        let kept = aside.path().display();
        tracing::warn!(%kept, "a damaged root log was kept under another name");
        self.old_files[number] = OldFile::Replace;
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Root> {
        self.roots.get(name).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Root)> {
        self.roots.iter()
    }

    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<(String, Root)> {
        self.roots
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, root)| (name.clone(), *root))
            .collect()
    }

    /// Reports whether records are lost, so that more blocks may be needed than
    /// the known roots lead to.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Regards the known roots as incomplete, durably, until [`RootLog::accept`]. If there is no
    /// space for that, they are incomplete until the store is closed.
    pub(crate) fn mark_incomplete(&mut self) -> Result<(), StoreError> {
        if self.is_incomplete {
            return Ok(());
        }
        self.is_incomplete = true;
        self.compact()
    }

    /// Regards the known roots as complete, durably.
    pub(crate) fn accept(&mut self) -> Result<(), StoreError> {
        if !self.is_incomplete {
            return Ok(());
        }
        self.is_incomplete = false;
        let written = self.rewrite();
        self.is_incomplete = written.is_err();
        written
    }

    /// Voids a failed change that may be in one of the logs, durably. Without this,
    /// the roots after a restart may be others than the roots now.
    pub(crate) fn settle(&mut self) -> Result<(), StoreError> {
        if self.has_failed_change { self.rewrite() } else { Ok(()) }
    }

    /// Sets a root, durably.
    pub(crate) fn set(&mut self, name: &str, root: Root) -> Result<(), StoreError> {
        check_name(name)?;
        // After a failed change, memory and logs may differ: a removal that was
        // reported as failed may be durable.
        if self.get(name) == Some(root) && !self.has_failed_change {
            return Ok(());
        }
        self.append(&Change::Set(name.to_owned(), root))?;
        if self.roots.insert(name.to_owned(), root).is_none() {
            self.removals_len += removal_len(name);
        }
        Ok(())
    }

    /// Removes a root, durably. Reports whether it existed.
    pub(crate) fn remove(&mut self, name: &str) -> Result<bool, StoreError> {
        if !self.roots.contains_key(name) {
            // A failed change may have set it.
            return self.settle().map(|()| false);
        }
        self.append(&Change::Remove(name.to_owned()))?;
        self.roots.remove(name);
        self.removals_len -= removal_len(name);
        Ok(true)
    }

    fn append(&mut self, change: &Change) -> Result<(), StoreError> {
        if self.logs.is_none() {
            self.rewrite()?;
        } else if self.records > (1000 + 4 * self.roots.len()).max(self.no_space_until) {
            self.compact()?;
        }
        let record = encode_change(self.sequence + 1, change);
        // A removal uses the space that was reserved for it.
        let for_removals = match change {
            Change::Set(name, _) => self.removals_len + removal_len(name),
            Change::Remove(_) => 0,
        };
        let Some(logs) = &mut self.logs else { unreachable!("`rewrite` opened them") };
        // Space is reserved in both logs first: a full disk must change nothing.
        for log in logs.iter_mut() {
            log.reserve(record.len() as u64, for_removals)?;
        }
        let written = logs.iter_mut().try_for_each(|log| log.append(&record));
        if let Err(error) = written {
            // The content of the files is not known now: the next change rewrites
            // them.
            self.logs = None;
            self.has_failed_change = true;
            return Err(error);
        }
        self.sequence += 1;
        self.records += 1;
        Ok(())
    }
}

impl OpenLog {
    /// Ensures that there is space for `len` bytes, and after them for `more`.
    fn reserve(&mut self, len: u64, more: u64) -> Result<(), StoreError> {
        let needed = self.end + len + more;
        if needed <= self.reserved {
            return Ok(());
        }
        if needed > MAX_LOG_LEN {
            let reason = format!("it would have more than {MAX_LOG_LEN} bytes");
            return Err(StoreError::Unusable { path: self.path.clone(), reason });
        }
        let missing = (needed - self.reserved).next_multiple_of(EXTENT);
        let zeros = vec![0; usize::try_from(missing).unwrap_or(usize::MAX)];
        self.file.write_at(&[&zeros], self.reserved).context("extend", &self.path)?;
        self.reserved += missing;
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StoreError> {
        self.file.write_at(&[record], self.end).context("write", &self.path)?;
        self.file.sync().context("sync", &self.path)?;
        self.end += record.len() as u64;
        Ok(())
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), StoreError> {
    let usable =
        !name.is_empty() && name.len() <= MAX_ROOT_NAME_LEN && !name.chars().any(char::is_control);
    if usable { Ok(()) } else { Err(StoreError::RootName(name.to_owned())) }
}

/// Reports whether there is a log, or one that was kept under another name.
///
/// # Errors
///
/// Returns [`StoreError::Io`] if the directory cannot be listed.
pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, StoreError> {
    let names = disk.list(dir).context("list", dir)?;
    Ok(names.iter().filter_map(|name| name.to_str()).any(|name| {
        let rest = LOGS.iter().find_map(|log| name.strip_prefix(log));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(ASIDE))
    }))
}
