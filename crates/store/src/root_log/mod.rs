//! The roots: names that keep blocks alive, recorded in two equal logs.
//!
//! If a root were lost, the next collection would delete its blocks. So the roots
//! are recorded twice, and any damage to one log (a lost file, a torn end, a
//! flipped bit) is repaired from the other when the store is opened. If both logs
//! lack a record, the roots are *incomplete*, and nothing is collected until the
//! user has accepted the remaining roots.
//!
//! Each log is a base (the roots at one sequence number) and the changes since.
//! Space is reserved ahead, so that a root can be removed when the disk is full.
//! The bytes are specified in `docs/formats/roots.md`.

mod format;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::Cid;

use self::format::{Change, Parsed, encode_base, encode_change, parse};
use crate::error::{IoContext, StoreError};
use disk::{AtomicWrite, Disk, DiskFile, read_file, write_atomic};

/// Maximum length of the name of a root in bytes.
pub const MAX_ROOT_NAME_LEN: usize = 512;

/// Number of bytes by which a log grows.
const EXTENT: u64 = 64 * 1024;
/// Number of reserved bytes that only removals may use.
const FOR_REMOVALS: u64 = 16 * 1024;
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
    /// One log was damaged or behind. Both have been rewritten.
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
    /// Number of records in a log. Only as many as there are roots are needed.
    records: usize,
    is_incomplete: bool,
}

#[derive(Debug)]
struct OpenLog {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    end: u64,
    reserved: u64,
}

impl RootLog {
    /// Opens the logs, or creates them if `is_new`. Repairs one from the other.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        is_new: bool,
    ) -> Result<(Self, Health), StoreError> {
        let mut log = Self {
            disk,
            dir,
            roots: BTreeMap::new(),
            sequence: 0,
            logs: None,
            records: 0,
            is_incomplete: false,
        };
        if is_new {
            log.rewrite()?;
            return Ok((log, Health::Clean));
        }
        let [first, second] = LOGS.map(|name| log.read(name));
        let health = log.merge(&first, &second);
        log.is_incomplete = health == Health::Incomplete;
        if health == Health::Clean {
            log.records = first.base.len() + first.changes.len();
            log.logs = Some([log.resume(LOGS[0], &first)?, log.resume(LOGS[1], &second)?]);
            return Ok((log, health));
        }
        match log.rewrite() {
            // The next change tries again; reading works without the logs.
            Err(StoreError::Full { .. }) => log.logs = None,
            result => result?,
        }
        Ok((log, health))
    }

    /// Reads a log. A log that is absent, too long or unreadable (`EIO` is
    /// damage like any other) is empty: the other log has the roots, too.
    fn read(&self, name: &str) -> Parsed {
        read_file(&*self.disk, &self.dir.join(name), MAX_LOG_LEN)
            .map(|bytes| parse(&bytes))
            .unwrap_or_default()
    }

    /// Opens a log for appending after the records that were read.
    fn resume(&self, name: &str, read: &Parsed) -> Result<OpenLog, StoreError> {
        let path = self.dir.join(name);
        let file = self.disk.open(&path).context("open", &path)?;
        // A process that died may not have synced the end of the log.
        file.sync().context("sync", &path)?;
        Ok(OpenLog { path, file, end: read.end, reserved: read.len })
    }

    /// Merges the content of both logs.
    fn merge(&mut self, first: &Parsed, second: &Parsed) -> Health {
        let base = [first, second]
            .into_iter()
            .filter(|log| log.is_base_whole)
            .max_by_key(|log| log.base_sequence);
        // If both logs are damaged, the newest records may be lost in both
        // without a gap in the numbers. A crash leaves one of them complete: the
        // second is written when the first is durable.
        // A base that was written after a loss is marked until the user has
        // accepted the remaining roots.
        let is_marked = |log: &Parsed| {
            log.incomplete && base.is_some_and(|base| log.base_sequence == base.base_sequence)
        };
        let mut complete = base.is_some()
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
            complete &= number == sequence + 1;
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
        // A crash between the two writes leaves one log shorter than the other,
        // with a clean end. The record that only one log has was not reported as
        // durable.
        self.roots = roots;
        self.sequence = sequence;
        let is_equal = first.is_whole
            && second.is_whole
            && first.base_sequence == second.base_sequence
            && first.changes == second.changes;
        match (complete, is_equal) {
            (false, _) => Health::Incomplete,
            (true, true) => Health::Clean,
            (true, false) => Health::Repaired,
        }
    }

    /// Rewrites both logs with a base and no changes.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        self.logs = None;
        self.sequence += 1;
        let content = encode_base(self.sequence, &self.roots, self.is_incomplete);
        let end = content.len() as u64;
        let reserved = (end + FOR_REMOVALS).next_multiple_of(EXTENT);
        let mut padded = content;
        padded.resize(usize::try_from(reserved).unwrap_or(usize::MAX), 0);
        let [first, second] = LOGS.map(|name| {
            let path = self.dir.join(name);
            let file = write_atomic(&*self.disk, &path, &padded, &AtomicWrite::PRIVATE)?;
            Ok::<_, StoreError>(OpenLog { path, file, end, reserved })
        });
        self.logs = Some([first?, second?]);
        self.records = self.roots.len();
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

    /// Sets a root, durably.
    pub(crate) fn set(&mut self, name: &str, root: Root) -> Result<(), StoreError> {
        check_name(name)?;
        if self.get(name) == Some(root) {
            return Ok(());
        }
        self.append(&Change::Set(name.to_owned(), root))?;
        self.roots.insert(name.to_owned(), root);
        Ok(())
    }

    /// Removes a root, durably. Reports whether it existed.
    pub(crate) fn remove(&mut self, name: &str) -> Result<bool, StoreError> {
        if !self.roots.contains_key(name) {
            return Ok(false);
        }
        self.append(&Change::Remove(name.to_owned()))?;
        self.roots.remove(name);
        Ok(true)
    }

    fn append(&mut self, change: &Change) -> Result<(), StoreError> {
        if self.logs.is_none() || self.records > 1000 + 4 * self.roots.len() {
            self.rewrite()?;
        }
        let record = encode_change(self.sequence + 1, change);
        let is_removal = matches!(change, Change::Remove(_));
        let Some(logs) = &mut self.logs else { unreachable!("`rewrite` opened them") };
        // Space is reserved in both logs first: a full disk must change nothing.
        for log in logs.iter_mut() {
            log.reserve(record.len() as u64, is_removal)?;
        }
        let written = logs.iter_mut().try_for_each(|log| log.append(&record));
        if let Err(error) = written {
            // The content of the files is not known now: the next change rewrites
            // them.
            self.logs = None;
            return Err(error);
        }
        self.sequence += 1;
        self.records += 1;
        Ok(())
    }
}

impl OpenLog {
    fn reserve(&mut self, len: u64, is_removal: bool) -> Result<(), StoreError> {
        let kept = if is_removal { 0 } else { FOR_REMOVALS };
        if self.end + len + kept <= self.reserved {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(EXTENT).unwrap_or(0)];
        self.file.write_at(&[&zeros], self.reserved).context("extend", &self.path)?;
        self.reserved += EXTENT;
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

/// Reports whether at least one log exists.
pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> bool {
    LOGS.iter().any(|name| disk.open(&dir.join(name)).is_ok())
}
