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

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::{Cid, Codec, Hash};

use crate::atomic_file;
use crate::disk::{Disk, DiskFile};
use crate::error::{IoContext, StoreError};

/// The longest name of a root, in bytes.
pub const MAX_ROOT_NAME_LEN: usize = 512;

const MAGIC: [u8; 8] = *b"ARCHROOT";
const RECORD_MAGIC: [u8; 4] = *b"RTR1";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 32;
const RECORD_HEADER_LEN: usize = 12;
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Set(String, Root),
    Remove(String),
}

/// One log as it was read.
#[derive(Debug, Default)]
struct Parsed {
    base_sequence: u64,
    base: BTreeMap<String, Root>,
    changes: BTreeMap<u64, Change>,
    /// All that the header promises is there, and nothing is behind the end.
    whole: bool,
    /// The header and the base are whole, whatever the changes are.
    base_whole: bool,
    /// Where the last record ends.
    end: u64,
    /// The length of the file.
    len: u64,
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
        let (first, second) = (first?, second?);
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

    fn read(&self, name: &str) -> Result<Parsed, StoreError> {
        let path = self.dir.join(name);
        match atomic_file::read(&*self.disk, &path, MAX_LOG_LEN) {
            Ok(bytes) => Ok(parse(&bytes)),
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Parsed::default())
            }
            // An EIO is damage like any other; the other log has it all.
            Err(StoreError::Io { .. } | StoreError::Unusable { .. }) => Ok(Parsed::default()),
            Err(error) => Err(error),
        }
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
        let mut complete = base.is_some();
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
        // between the two writes leaves. Both torn at their end is what a
        // crash in the first write leaves; a record that both lack was never
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
        let content = encode_base(self.sequence, &self.roots);
        let end = content.len() as u64;
        let reserved = (end + FOR_REMOVALS).next_multiple_of(EXTENT);
        let mut padded = content;
        padded.resize(usize::try_from(reserved).unwrap_or(usize::MAX), 0);
        let [first, second] = LOGS.map(|name| {
            let path = self.dir.join(name);
            atomic_file::write(&*self.disk, &path, &padded)?;
            let file = self.disk.open(&path).context("open", &path)?;
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

    /// Takes the roots that are there as all that there are.
    pub(crate) fn accept(&mut self) {
        self.incomplete = false;
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

#[expect(clippy::cast_possible_truncation, reason = "names are at most 512 bytes")]
fn encode_body(sequence: u64, op: u8, name: &str, root: Option<Root>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + name.len());
    body.extend_from_slice(&sequence.to_le_bytes());
    body.push(op);
    body.push(root.map_or(0, |root| u8::from(root.partial)));
    body.extend_from_slice(&(name.len() as u16).to_le_bytes());
    body.extend_from_slice(name.as_bytes());
    if let Some(root) = root {
        body.push(root.cid.codec().tag());
        body.extend_from_slice(root.cid.hash().as_bytes());
    }
    let mut record = Vec::with_capacity(RECORD_HEADER_LEN + body.len());
    record.extend_from_slice(&RECORD_MAGIC);
    record.extend_from_slice(&(body.len() as u32).to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

const OP_BASE: u8 = 0;
const OP_SET: u8 = 1;
const OP_REMOVE: u8 = 2;

fn encode_change(sequence: u64, change: &Change) -> Vec<u8> {
    match change {
        Change::Set(name, root) => encode_body(sequence, OP_SET, name, Some(*root)),
        Change::Remove(name) => encode_body(sequence, OP_REMOVE, name, None),
    }
}

fn encode_base(sequence: u64, roots: &BTreeMap<String, Root>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&(roots.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    for (name, root) in roots {
        bytes.extend_from_slice(&encode_body(sequence, OP_BASE, name, Some(*root)));
    }
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// Reads a log; total, for any bytes.
fn parse(bytes: &[u8]) -> Parsed {
    let header_whole = bytes.len() >= HEADER_LEN
        && bytes[..8] == MAGIC
        && u32_at(bytes, 8) == VERSION
        && u32_at(bytes, 28) == crc32c::crc32c(&bytes[..28]);
    let mut parsed = Parsed::default();
    let mut promised = 0;
    if header_whole {
        parsed.base_sequence = u64_at(bytes, 12);
        promised = u64_at(bytes, 20);
    }
    let mut at = HEADER_LEN.min(bytes.len());
    let mut skipped = false;
    while at < bytes.len() {
        let Some((sequence, op, name, root, len)) = parse_record(&bytes[at..]) else {
            if bytes[at..].iter().all(|byte| *byte == 0) {
                break;
            }
            skipped = true;
            let next = bytes[at + 1..].windows(4).position(|four| four == RECORD_MAGIC);
            let Some(next) = next else { break };
            at += 1 + next;
            continue;
        };
        at += len;
        match (op, root) {
            (OP_BASE, Some(root)) => {
                parsed.base.insert(name, root);
            }
            (OP_SET, Some(root)) => {
                parsed.changes.insert(sequence, Change::Set(name, root));
            }
            (OP_REMOVE, None) => {
                parsed.changes.insert(sequence, Change::Remove(name));
            }
            _ => skipped = true,
        }
    }
    parsed.end = at as u64;
    parsed.len = bytes.len() as u64;
    parsed.base_whole = header_whole && parsed.base.len() as u64 == promised;
    parsed.whole = parsed.base_whole && !skipped;
    parsed
}

type Record = (u64, u8, String, Option<Root>, usize);

fn parse_record(bytes: &[u8]) -> Option<Record> {
    if bytes.len() < RECORD_HEADER_LEN || bytes[..4] != RECORD_MAGIC {
        return None;
    }
    let len = u32_at(bytes, 4) as usize;
    let body = bytes.get(RECORD_HEADER_LEN..RECORD_HEADER_LEN.checked_add(len)?)?;
    if crc32c::crc32c(body) != u32_at(bytes, 8) || body.len() < 12 {
        return None;
    }
    let name_len = usize::from(u16::from_le_bytes([body[10], body[11]]));
    let name = String::from_utf8(body.get(12..12 + name_len)?.to_vec()).ok()?;
    let rest = &body[12 + name_len..];
    let root = match rest.len() {
        0 => None,
        33 => {
            let mut digest = [0; 32];
            digest.copy_from_slice(&rest[1..]);
            let cid = Cid::new(Codec::from_tag(rest[0])?, Hash::from_bytes(digest));
            Some(Root { cid, partial: body[9] == 1 })
        }
        _ => return None,
    };
    Some((u64_at(body, 0), body[8], name, root, RECORD_HEADER_LEN + len))
}

/// Whether there is a log at all.
pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> bool {
    LOGS.iter().any(|name| disk.open(&dir.join(name)).is_ok())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::sim::{Fault, Power, SimDisk};

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/r")).unwrap();
        disk
    }

    fn open(disk: &SimDisk) -> (RootLog, Health) {
        let is_new = !exists(disk, Path::new("/r"));
        RootLog::open(Arc::new(disk.clone()), "/r".into(), is_new).unwrap()
    }

    fn root(name: &str) -> Root {
        Root { cid: Cid::of(Codec::DagCbor, name.as_bytes()), partial: false }
    }

    fn names(log: &RootLog) -> Vec<String> {
        log.iter().map(|(name, _)| name.clone()).collect()
    }

    fn filled() -> SimDisk {
        let disk = disk();
        let (mut log, _) = open(&disk);
        for name in ["data/1", "data/2", "snap/1"] {
            log.set(name, root(name)).unwrap();
        }
        log.remove("data/1").unwrap();
        disk
    }

    #[test]
    fn roots_survive_a_restart_and_list_by_prefix() {
        let disk = filled();
        let (log, health) = open(&disk);
        assert_eq!(health, Health::Clean);
        assert_eq!(names(&log), ["data/2", "snap/1"]);
        assert_eq!(log.get("snap/1"), Some(root("snap/1")));
        assert_eq!(log.with_prefix("data/"), [("data/2".to_owned(), root("data/2"))]);
        let partial = Root { partial: true, ..root("x") };
        let (mut log, _) = open(&disk);
        log.set("x", partial).unwrap();
        assert_eq!(open(&disk).0.get("x"), Some(partial));
    }

    #[test]
    fn damage_of_one_log_is_healed_from_the_other() {
        let len = 2000;
        for log in ["/r/a.log", "/r/b.log"] {
            let path = Path::new(log);
            for at in 0..len {
                let disk = filled();
                disk.damage(path, |bytes| bytes[at] ^= 1 << (at % 8));
                let (log, health) = open(&disk);
                assert_eq!(names(&log), ["data/2", "snap/1"], "flip at {at}");
                assert_ne!(health, Health::Incomplete, "flip at {at}");
                assert_eq!(open(&disk).1, Health::Clean);
            }
            for keep in [0, 1, 31, 32, 50, 100, 200] {
                let disk = filled();
                disk.damage(path, |bytes| bytes.truncate(keep));
                let (log, health) = open(&disk);
                assert_eq!(names(&log), ["data/2", "snap/1"], "cut at {keep}");
                assert_eq!(health, Health::Healed);
            }
            let disk = filled();
            disk.lose(path);
            let (log, health) = open(&disk);
            assert_eq!((names(&log).len(), health), (2, Health::Healed));
        }
    }

    #[test]
    fn records_lost_in_both_are_noticed_and_nothing_is_dropped() {
        let disk = filled();
        let (mut log, _) = open(&disk);
        for name in ["data/5", "data/6", "data/7"] {
            log.set(name, root(name)).unwrap();
        }
        for log in ["/r/a.log", "/r/b.log"] {
            disk.damage(Path::new(log), |bytes| {
                let at = bytes.windows(6).position(|w| w == b"data/6").unwrap();
                bytes[at] ^= 1;
            });
        }
        let (log, health) = open(&disk);
        assert_eq!(health, Health::Incomplete);
        assert!(log.is_incomplete());
        assert_eq!(names(&log), ["data/2", "data/5", "data/7", "snap/1"]);
        for log in ["/r/a.log", "/r/b.log"] {
            disk.lose(Path::new(log));
        }
        let (log, health) = RootLog::open(Arc::new(disk.clone()), "/r".into(), false).unwrap();
        assert_eq!((names(&log).len(), health), (0, Health::Incomplete));
    }

    #[test]
    fn what_was_acknowledged_survives_death_and_failure_at_every_step() {
        let faults =
            [Fault::Die, Fault::Fail(ErrorKind::Other), Fault::Fail(ErrorKind::StorageFull)];
        let powers = [
            Power::Kept,
            Power::Dropped,
            Power::Torn,
            Power::Reordered(1),
            Power::Reordered(2),
            Power::Reordered(3),
        ];
        for fault in faults {
            for at in 0.. {
                let disk = filled();
                let start = disk.operations();
                disk.set_fault(start + at, fault);
                let mut acknowledged = vec![];
                let opened = RootLog::open(Arc::new(disk.clone()), "/r".into(), false);
                let mut removed = false;
                if let Ok((mut log, _)) = opened {
                    for name in ["new/1", "new/2", "new/3"] {
                        if log.set(name, root(name)).is_ok() {
                            acknowledged.push(name);
                        }
                    }
                    removed = log.remove("snap/1").is_ok();
                }
                for power in powers {
                    let (log, health) = open(&disk.crash(power));
                    let names = names(&log);
                    assert_ne!(health, Health::Incomplete, "{fault:?} at {at}, {power:?}");
                    assert!(names.contains(&"data/2".to_owned()));
                    for name in &acknowledged {
                        assert_eq!(log.get(name), Some(root(name)), "{fault:?} at {at}, {power:?}");
                    }
                    assert!(!removed || log.get("snap/1").is_none());
                }
                if disk.operations() <= start + at {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_root_can_be_removed_when_the_disk_is_full() {
        let disk = filled();
        let (mut log, _) = open(&disk);
        disk.set_capacity(Some(disk.used()));
        let mut added = 0;
        while log.set(&format!("fill/{added:0300}"), root("x")).is_ok() {
            added += 1;
            assert!(added < 10_000, "the disk is never full");
        }
        assert!(log.remove("data/2").unwrap());
        assert!(log.remove("fill/0").is_ok());
        let (log, health) = open(&disk.crash(Power::Dropped));
        assert_eq!((log.get("data/2"), health), (None, Health::Clean));
        assert_eq!(log.iter().count(), 1 + added);
    }

    #[test]
    fn the_log_does_not_grow_with_changes() {
        let disk = disk();
        let (mut log, _) = open(&disk);
        for n in 0..5000 {
            log.set(&format!("r/{n}"), root("x")).unwrap();
            log.remove(&format!("r/{n}")).unwrap();
        }
        assert!(disk.used() < 600_000, "{} bytes", disk.used());
    }

    #[test]
    fn bad_names_are_refused() {
        let (mut log, _) = open(&disk());
        for name in ["", "a\nb", "a\0b", &"x".repeat(513)] {
            assert!(matches!(log.set(name, root("x")), Err(StoreError::RootName(_))));
        }
    }
}
