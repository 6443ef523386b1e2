//! The files that differ between two manifests, as samples of limited size.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;

use bytes::Bytes;
use store::{BlockRead, get_required};
use types::{Cid, Entry, EntryKind, ManifestHeader, RelPath};

use crate::snapshot_tree::TreeError;

/// Maximum number of files in a sample.
const SAMPLE_MAX: usize = 8192;

/// The content of a file at a path.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: RelPath,
    pub(super) cid: Cid,
}

/// A file with two contents.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) path: RelPath,
    pub(super) old: Cid,
    pub(super) new: Cid,
}

/// Some of a number of items, chosen by chance.
#[derive(Debug)]
pub(super) struct Sample<T> {
    /// Number of all items.
    pub(super) total: u64,
    /// The chosen items with their keys. Items with a key below `limit` are all there.
    items: Vec<(u64, T)>,
    limit: u64,
}

/// The number of items that each chosen item stands for: `total` divided by `chosen`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    pub(super) total: u64,
    pub(super) chosen: usize,
}

impl Weight {
    /// Returns the number of items that some of the chosen items stand for.
    pub(super) fn of(self, count: usize) -> u64 {
        let chosen = self.chosen.max(1) as u128;
        let all = (count as u128 * u128::from(self.total) + chosen / 2) / chosen;
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

impl<T> Default for Sample<T> {
    fn default() -> Self {
        Self { total: 0, items: Vec::new(), limit: u64::MAX }
    }
}

impl<T> Sample<T> {
    fn add(&mut self, key: u64, item: T) {
        self.total += 1;
        if key < self.limit {
            self.items.push((key, item));
            if self.items.len() >= 2 * SAMPLE_MAX {
                self.limit_to(SAMPLE_MAX);
            }
        }
    }

    /// Keeps the items with the smallest keys.
    fn limit_to(&mut self, count: usize) {
        if self.items.len() > count {
            self.items.sort_unstable_by_key(|(key, _)| *key);
            self.limit = self.items[count].0;
            self.items.truncate(count);
        }
    }

    /// Removes the items with a key of `limit` or more.
    fn limit_keys(&mut self, limit: u64) {
        if limit < self.limit {
            self.limit = limit;
            self.items.retain(|(key, _)| *key < limit);
        }
    }

    /// Removes items, also from the total.
    fn remove(&mut self, mut is_removed: impl FnMut(&T) -> bool) {
        let (before, weight) = (self.items.len(), self.weight());
        self.items.retain(|(_, item)| !is_removed(item));
        self.total = self.total.saturating_sub(weight.of(before - self.items.len()));
    }

    /// Returns at most `count` items in the order of their keys, and the number of items that each
    /// of them stands for.
    pub(super) fn take(mut self, count: usize) -> (Vec<T>, Weight) {
        self.limit_to(count);
        self.items.sort_unstable_by_key(|(key, _)| *key);
        let weight = self.weight();
        (self.items.into_iter().map(|(_, item)| item).collect(), weight)
    }

    fn weight(&self) -> Weight {
        Weight { total: self.total, chosen: self.items.len() }
    }
}

/// The differences between two manifests. Only files are compared, and only by their content.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Files with another content than before.
    pub(super) changed: Sample<Changed>,
    /// Files at new paths whose content no removed file had.
    pub(super) added: Sample<File>,
    /// Files whose paths no longer exist, and whose content no added file has.
    pub(super) removed: Sample<File>,
}

/// Compares two manifests of one folder. Segments that both have are not read.
///
/// The source must not know which files are sampled: the keys depend on a random number of this
/// process. A file that was renamed has one key at both paths.
pub(super) fn diff(
    store: &dyn BlockRead,
    old: &ManifestHeader,
    new: &ManifestHeader,
) -> Result<Changes, TreeError> {
    let cids = |header: &ManifestHeader| -> HashSet<Cid> {
        header.segments.iter().map(|segment| segment.cid).collect()
    };
    let (of_old, of_new) = (cids(old), cids(new));
    let lines = |header: &ManifestHeader, others: &HashSet<Cid>| {
        let own = header.segments.iter().map(|segment| segment.cid);
        Lines::new(store, own.filter(|cid| !others.contains(cid)).collect())
    };
    let (mut old, mut new) = (lines(old, &of_new), lines(new, &of_old));
    let hasher = std::hash::RandomState::new();
    let mut changes = Changes::default();
    loop {
        old.fill()?;
        new.fill()?;
        if old.is_at_end() && new.is_at_end() {
            break;
        }
        if old.line() == new.line() {
            old.advance();
            new.advance();
            continue;
        }
        let (before, after) = (old.entry()?, new.entry()?);
        let order = match (&before, &after) {
            (Some(before), Some(after)) => before.path.cmp(&after.path),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        let before = before.filter(|_| order.is_le()).and_then(file);
        let after = after.filter(|_| order.is_ge()).and_then(file);
        match (before, after) {
            (Some(before), Some(after)) if before.cid == after.cid => {}
            (Some(before), Some(after)) => {
                let key = hasher.hash_one(after.cid);
                let (old, new) = (before.cid, after.cid);
                changes.changed.add(key, Changed { path: after.path, old, new });
            }
            (Some(before), None) => changes.removed.add(hasher.hash_one(before.cid), before),
            (None, Some(after)) => changes.added.add(hasher.hash_one(after.cid), after),
            (None, None) => {}
        }
        if order.is_le() {
            old.advance();
        }
        if order.is_ge() {
            new.advance();
        }
    }
    changes.remove_renamed();
    Ok(changes)
}

fn file(entry: &Entry) -> Option<File> {
    match entry.kind {
        EntryKind::File { cid, .. } => Some(File { path: entry.path.clone(), cid }),
        _ => None,
    }
}

impl Changes {
    /// Removes the files that have the same content at another path.
    fn remove_renamed(&mut self) {
        let limit = self.added.limit.min(self.removed.limit);
        self.added.limit_keys(limit);
        self.removed.limit_keys(limit);
        let mut of_removed: HashMap<Cid, usize> = HashMap::new();
        for (_, file) in &self.removed.items {
            *of_removed.entry(file.cid).or_default() += 1;
        }
        let mut renamed: HashMap<Cid, usize> = HashMap::new();
        self.added.remove(|file| match of_removed.get_mut(&file.cid) {
            Some(left) if *left > 0 => {
                *left -= 1;
                *renamed.entry(file.cid).or_default() += 1;
                true
            }
            _ => false,
        });
        self.removed.remove(|file| match renamed.get_mut(&file.cid) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        });
    }
}

/// The lines of some segments, in order.
struct Lines<'a> {
    store: &'a dyn BlockRead,
    segments: std::vec::IntoIter<Cid>,
    /// The segment that is read, and its bytes that follow.
    cid: Option<Cid>,
    bytes: Bytes,
    /// The entry of the next line, if it was parsed.
    entry: Option<Entry>,
}

impl<'a> Lines<'a> {
    fn new(store: &'a dyn BlockRead, segments: Vec<Cid>) -> Self {
        let segments = segments.into_iter();
        Self { store, segments, cid: None, bytes: Bytes::new(), entry: None }
    }

    /// Reads the next segment if the last one is at its end.
    fn fill(&mut self) -> Result<(), TreeError> {
        while self.bytes.is_empty() {
            let Some(cid) = self.segments.next() else { break };
            self.bytes = get_required(self.store, cid)?;
            self.cid = Some(cid);
        }
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the next line with its end; empty at the end.
    fn line(&self) -> &[u8] {
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        &self.bytes[..end.map_or(self.bytes.len(), |end| end + 1)]
    }

    /// Returns the entry of the next line, or `None` at the end.
    fn entry(&mut self) -> Result<Option<&Entry>, TreeError> {
        if self.is_at_end() {
            return Ok(None);
        }
        if self.entry.is_none() {
            let line = self.line();
            let parsed = Entry::from_json(line.strip_suffix(b"\n").unwrap_or(line));
            let cid = self.cid.unwrap_or_else(|| Cid::of(types::Codec::Json, line));
            let entry = parsed.map_err(|source| TreeError::Manifest { cid, source })?;
            self.entry = Some(entry);
        }
        Ok(self.entry.as_ref())
    }

    fn advance(&mut self) {
        self.entry = None;
        let len = self.line().len();
        self.bytes = self.bytes.slice(len..);
    }
}
