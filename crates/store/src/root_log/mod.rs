//! The roots: names that keep blocks alive, in two equal logs.
//!
//! A root that is lost takes its blocks with it at the next collection, so the
//! record of roots is kept twice, and everything that happens to one copy (a
//! lost file, a torn end, a flipped bit) is healed from the other when the
//! store is opened. Where neither has a record that should be there, the roots
//! are *incomplete*, and nothing is collected until that is mended.
//!
//! Each log is a base (the roots at one sequence number) and the changes since.
//! Space is reserved ahead, so that a root can be removed when the disk is
//! full. The bytes are in `docs/formats/roots.md`.

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

/// The longest name of a root, in bytes.
pub const MAX_ROOT_NAME_LEN: usize = 512;

/// The log grows by this much at a time.
const EXTENT: u64 = 64 * 1024;
/// Only removals may use the last part of what is reserved.
const FOR_REMOVALS: u64 = 16 * 1024;
/// A log is at most this long: some million roots.
const MAX_LOG_LEN: u64 = 1 << 30;
/// The names of the two logs.
const LOGS: [&str; 2] = ["a.log", "b.log"];

/// A name that keeps a block, and all that it refers to, alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The block.
    pub cid: Cid,
    /// Whether blocks may be missing below it: a fetch that goes on.
    pub partial: bool,
}

/// What became of the logs when they were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Both were whole and equal.
    Clean,
    /// One was not, and has been made anew from the other.
    Healed,
    /// Records are lost in both.
    Incomplete,
}

#[derive(Debug)]
pub(crate) struct RootLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    roots: BTreeMap<String, Root>,
    sequence: u64,
    logs: Option<[OpenLog; 2]>,
    /// Records in the logs, of which as many as there are roots are of use.
    records: usize,
    incomplete: bool,
}

#[derive(Debug)]
struct OpenLog {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    end: u64,
    reserved: u64,
}

impl RootLog {
    /// Opens the logs, or makes them where `is_new`; heals what can be healed.
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
            incomplete: false,
        };
        if is_new {
            log.rewrite()?;
            return Ok((log, Health::Clean));
        }
        let [first, second] = LOGS.map(|name| log.read(name));
        let health = log.merge(&first, &second);
        log.incomplete = health == Health::Incomplete;
        if health == Health::Clean {
            log.records = first.base.len() + first.changes.len();
            log.logs = Some([log.resume(LOGS[0], &first)?, log.resume(LOGS[1], &second)?]);
            return Ok((log, health));
        }
        match log.rewrite() {
            // The change that needs them tries again; reading goes without.
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

    /// Goes on behind what was read.
    fn resume(&self, name: &str, read: &Parsed) -> Result<OpenLog, StoreError> {
        let path = self.dir.join(name);
        let file = self.disk.open(&path).context("open", &path)?;
        // A process that died may have left its end in memory alone.
        file.sync().context("sync", &path)?;
        Ok(OpenLog { path, file, end: read.end, reserved: read.len })
    }

    /// Takes what both logs say together.
    fn merge(&mut self, first: &Parsed, second: &Parsed) -> Health {
        let base = [first, second]
            .into_iter()
            .filter(|log| log.base_whole)
            .max_by_key(|log| log.base_sequence);
        // Where neither log is whole, the newest records may be gone from
        // both, and no gap in the numbers would tell. A crash leaves one whole:
        // the second is written when the first is durable.
        // A base that was written when records were lost says so, until the
        // owner has accepted it.
        let is_marked = |log: &Parsed| {
            log.incomplete && base.is_some_and(|base| log.base_sequence == base.base_sequence)
        };
        let mut complete = base.is_some()
            && (first.whole || second.whole)
            && !is_marked(first)
            && !is_marked(second);
        let (mut roots, base_sequence) = match base {
            Some(log) => (log.base.clone(), log.base_sequence),
            // Better too many roots than too few: they only keep blocks alive.
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
        // A log that ends before the other, at a clean end, is what a crash
        // between the two writes leaves; a record that one log lacks was never
        // acknowledged.
        self.roots = roots;
        self.sequence = sequence;
        let same = first.whole
            && second.whole
            && first.base_sequence == second.base_sequence
            && first.changes == second.changes;
        match (complete, same) {
            (false, _) => Health::Incomplete,
            (true, true) => Health::Clean,
            (true, false) => Health::Healed,
        }
    }

    /// Writes both logs anew: a base, no changes.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        self.logs = None;
        self.sequence += 1;
        let content = encode_base(self.sequence, &self.roots, self.incomplete);
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

    /// Whether records are lost, so that more may be alive than is known.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Takes the roots that are there as all that there are, durably.
    pub(crate) fn accept(&mut self) -> Result<(), StoreError> {
        if !self.incomplete {
            return Ok(());
        }
        self.incomplete = false;
        let written = self.rewrite();
        self.incomplete = written.is_err();
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

    /// Removes a root, durably; tells whether it was there.
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
        let Some(logs) = &mut self.logs else { unreachable!("they were just opened") };
        // Room first, in both: a full disk must change nothing.
        for log in logs.iter_mut() {
            log.reserve(record.len() as u64, is_removal)?;
        }
        let written = logs.iter_mut().try_for_each(|log| log.append(&record));
        if let Err(error) = written {
            // What is in the files now is not known: the next change begins
            // with new ones.
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

/// Whether there is a log at all.
pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> bool {
    LOGS.iter().any(|name| disk.open(&dir.join(name)).is_ok())
}
