//! Verification: checks that every block that a snapshot or a data item needs exists or, with
//! `full`, can be read and has the right hash. The report names the bad blocks, and the snapshots,
//! paths and items that need them.
//!
//! Good blocks are remembered, so that a block that snapshots share is checked once. Memory is
//! bounded: beyond two million blocks they are forgotten, and some are checked again.
//!
//! A prune may remove snapshots meanwhile, and a collection their blocks. A snapshot or item with
//! bad blocks is reported only if its root still exists then.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use store::{BlockRead, Root, StoreError, content_of};
use tokio_util::sync::CancellationToken;
use types::{
    Cid, Codec, EntryKind, FileNode, MAX_TREE_DEPTH, ManifestHeader, NodeError, decode_segment,
};

use crate::snapshot_id::SnapshotId;
use crate::snapshot_reader::{DamagedSnapshot, Snapshot, SnapshotError, SnapshotReader};
use crate::snapshot_tree::header_of;

/// Maximum number of blocks that are remembered as good: about 100 MB.
const GOOD_MAX: usize = 2 << 20;
/// Maximum number of nodes of one file that are remembered as bad.
const BAD_MAX: usize = 64 * 1024;
/// Prefix of the names of the roots of data items.
pub(crate) const DATA_PREFIX: &str = "data/";
/// Maximum number of bad blocks in a report.
const PROBLEMS_MAX: usize = 1000;
/// Maximum number of snapshots that are named for one bad block.
const SNAPSHOTS_PER_PROBLEM_MAX: usize = 100;
/// Maximum number of paths that are named for one bad block.
const PATHS_PER_PROBLEM_MAX: usize = 20;

/// Progress of a verification. Can be read while it runs.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    snapshots: AtomicU64,
    snapshots_total: AtomicU64,
    blocks: AtomicU64,
    read_bytes: AtomicU64,
}

impl VerifyProgress {
    /// Returns the number of checked snapshots.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Returns the number of all snapshots.
    pub fn snapshots_total(&self) -> u64 {
        self.snapshots_total.load(Ordering::Relaxed)
    }

    /// Returns the number of checked blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Returns the length of the blocks that were read, in bytes.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

/// A block that is needed, but missing or unreadable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyProblem {
    /// CID of the block.
    pub cid: Cid,
    /// Reason why the block is bad.
    pub reason: String,
    /// Snapshots that need the block, at most 100.
    pub snapshots: BTreeSet<SnapshotId>,
    /// Paths of the files, and roots of the data items, that need the block, at most 20. Empty if
    /// the block is part of a manifest.
    pub paths: BTreeSet<String>,
}

/// Result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Number of checked snapshots.
    pub snapshots: u64,
    /// Number of checked data items.
    pub items: u64,
    /// Number of checked blocks. A block that snapshots share is counted once, unless it was
    /// forgotten after millions of others.
    pub blocks: u64,
    /// Length of the blocks that were read, in bytes.
    pub read_bytes: u64,
    /// The bad blocks, at most 1000.
    pub problems: Vec<VerifyProblem>,
    /// True if there are more bad blocks than listed.
    pub is_cut_short: bool,
    /// The incomplete snapshots, by the CID of the record.
    pub broken: BTreeSet<Cid>,
    /// The incomplete data items, by the name of the root.
    pub broken_items: BTreeSet<String>,
    /// The snapshots whose record cannot be read.
    pub damaged: Vec<DamagedSnapshot>,
    /// Snapshots and data items that were not checked, or only in part, because a newer version of
    /// the program wrote them: the id of a snapshot, or the name of a root.
    pub newer: BTreeSet<String>,
    /// The records of snapshots, and the items, of which a block could not be read at present: it
    /// may be intact.
    pub unreadable: BTreeSet<String>,
}

impl VerifyReport {
    /// Reports whether all snapshots and data items are complete.
    pub fn is_ok(&self) -> bool {
        self.broken.is_empty() && self.broken_items.is_empty() && self.damaged.is_empty()
    }
}

/// Reason why a verification was not completed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The snapshots cannot be listed.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The caller stopped the verification.
    #[error("the verification was stopped")]
    Stopped,
}

/// Checks all snapshots and data items. With `full`, reads and hashes every block; otherwise only
/// looks the blocks up. Blocks the thread.
///
/// # Errors
///
/// Returns [`VerifyError`] if the snapshots cannot be listed or the caller stops the verification.
/// Missing and damaged blocks are part of the report.
pub fn verify(
    snapshots: &SnapshotReader,
    full: bool,
    progress: &VerifyProgress,
    stop: &CancellationToken,
) -> Result<VerifyReport, VerifyError> {
    let listing = snapshots.list()?;
    let roots = snapshots.store().roots(DATA_PREFIX).into_iter();
    let items = roots.filter(|(_, root)| !root.partial).map(|(name, root)| (name, root.cid));
    let objects = Objects { snapshots: listing.snapshots, items: items.collect() };
    let store = snapshots.store();
    let is_kept = |name: &str, cid| store.root(name) == Some(Root { cid, partial: false });
    let report = check(&**store, objects, &is_kept, full, progress, stop)?;
    let (newer, damaged): (Vec<_>, Vec<_>) =
        listing.damaged.into_iter().partition(|damaged| damaged.is_newer);
    let mut report = VerifyReport { damaged, ..report };
    report.newer.extend(newer.into_iter().map(|newer| newer.root));
    Ok(report)
}

/// The objects of a verification.
pub(crate) struct Objects {
    pub(crate) snapshots: Vec<Snapshot>,
    /// Data items: the name of the root and the block.
    pub(crate) items: Vec<(String, Cid)>,
}

/// Checks the objects; see [`verify`]. `is_kept` reports whether there is a root with this
/// name for this block: an object without its root was removed, and is not broken.
pub(crate) fn check(
    store: &dyn BlockRead,
    objects: Objects,
    is_kept: &dyn Fn(&str, Cid) -> bool,
    full: bool,
    progress: &VerifyProgress,
    stop: &CancellationToken,
) -> Result<VerifyReport, VerifyError> {
    progress.snapshots_total.store(objects.snapshots.len() as u64, Ordering::Relaxed);
    let mut walk = Walk {
        store,
        full,
        progress,
        stop,
        good: HashSet::new(),
        bad: HashSet::new(),
        problems: BTreeMap::new(),
        unreadable: HashSet::new(),
        report: VerifyReport::default(),
        snapshot: None,
        path: None,
    };
    for snapshot in objects.snapshots {
        let was_cut_short = walk.report.is_cut_short;
        walk.snapshot(&snapshot)?;
        if walk.report.broken.contains(&snapshot.cid)
            && !is_kept(&snapshot.root_name(), snapshot.cid)
            && !is_kept(&snapshot.second_root_name(), snapshot.cid)
        {
            walk.forget_snapshot(&snapshot, was_cut_short);
        }
        progress.snapshots.fetch_add(1, Ordering::Relaxed);
        walk.report.snapshots += 1;
    }
    walk.snapshot = None;
    for (name, cid) in objects.items {
        let was_cut_short = walk.report.is_cut_short;
        walk.item(name.clone(), cid)?;
        if walk.report.broken_items.contains(&name) && !is_kept(&name, cid) {
            walk.forget_item(&name, was_cut_short);
        }
        walk.report.items += 1;
    }
    let mut report = walk.report;
    report.problems = walk.problems.into_values().collect();
    Ok(report)
}

struct Walk<'a> {
    store: &'a dyn BlockRead,
    full: bool,
    progress: &'a VerifyProgress,
    stop: &'a CancellationToken,
    /// Blocks that are good, with all blocks below them, by the first half of their hashes.
    good: HashSet<[u8; 16]>,
    /// Nodes of the current file with a bad block below them. Each is walked once, even if the tree
    /// contains it many times.
    bad: HashSet<[u8; 16]>,
    problems: BTreeMap<Cid, VerifyProblem>,
    /// The blocks that could not be read, but may be intact.
    unreadable: HashSet<Cid>,
    report: VerifyReport,
    /// The current snapshot; `None` in a data item, whose root `path` names.
    snapshot: Option<Snapshot>,
    path: Option<String>,
}

/// Returns the key under which a block is remembered.
fn key(cid: &Cid) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&cid.hash().as_bytes()[..16]);
    // The same bytes under another codec are another block.
    key[0] ^= match cid.codec() {
        Codec::Raw => 0,
        Codec::DagCbor => 1,
        Codec::Json => 2,
    };
    key
}

impl Walk<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), VerifyError> {
        self.path = None;
        self.snapshot = Some(snapshot.clone());
        // Checked although it was listed: the record may come from the cache.
        self.chunk(snapshot.cid)?;
        let manifest = snapshot.record.manifest;
        let Some(bytes) = self.read(manifest)? else { return Ok(()) };
        let header_cid = match header_of(manifest, &bytes) {
            Ok(header) => header,
            Err(error) => {
                self.note(manifest, &error.to_string());
                return Ok(());
            }
        };
        let Some(bytes) = self.read(header_cid)? else { return Ok(()) };
        match ManifestHeader::decode(&bytes) {
            Ok(header) => {
                for segment in &header.segments {
                    self.segment(segment.cid)?;
                }
            }
            Err(error) => self.note(header_cid, &error.to_string()),
        }
        Ok(())
    }

    /// Checks a data item.
    fn item(&mut self, name: String, cid: Cid) -> Result<(), VerifyError> {
        self.path = Some(name);
        self.bad.clear();
        if cid.codec() == Codec::DagCbor {
            let Some(bytes) = self.read(cid)? else { return Ok(()) };
            match content_of(cid, &bytes) {
                Ok(content) if content.tree != cid => {
                    self.tree(content.tree, 0)?;
                    return Ok(());
                }
                Ok(_) => {}
                Err(StoreError::Node { source: NodeError::Newer(_), .. }) => {
                    self.note_newer();
                    return Ok(());
                }
                Err(error) => {
                    self.note(cid, &error.to_string());
                    return Ok(());
                }
            }
        }
        self.tree(cid, 0)?;
        Ok(())
    }

    /// Checks a segment and all its files.
    fn segment(&mut self, cid: Cid) -> Result<(), VerifyError> {
        if self.good.contains(&key(&cid)) {
            return Ok(());
        }
        self.path = None;
        let Some(bytes) = self.read(cid)? else { return Ok(()) };
        let mut is_good = true;
        let walked = decode_segment(&bytes, |entry| {
            let EntryKind::File { cid, .. } = entry.kind else {
                return ControlFlow::Continue(());
            };
            if self.good.contains(&key(&cid)) {
                return ControlFlow::Continue(());
            }
            self.path = Some(entry.path.to_string());
            self.bad.clear();
            match self.tree(cid, 0) {
                Ok(good) => {
                    is_good &= good;
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            }
        });
        self.path = None;
        match walked {
            Ok(None) if is_good => self.remember(cid),
            Ok(None) => {}
            Ok(Some(error)) => return Err(error),
            Err(error) => self.note(cid, &error.to_string()),
        }
        Ok(())
    }

    /// Checks a chunk of a file, or a node and all blocks below it. Returns whether all are good.
    fn tree(&mut self, cid: Cid, depth: usize) -> Result<bool, VerifyError> {
        if self.good.contains(&key(&cid)) {
            return Ok(true);
        }
        if let Some(problem) = self.problems.get(&cid) {
            // Found bad earlier; record that this path needs it, too.
            let reason = problem.reason.clone();
            self.note(cid, &reason);
            return Ok(false);
        }
        if self.bad.contains(&key(&cid)) {
            return Ok(false);
        }
        if cid.codec() != Codec::DagCbor {
            return self.chunk(cid);
        }
        let Some(bytes) = self.read(cid)? else { return Ok(false) };
        let node = match FileNode::decode(&bytes) {
            Ok(node) if depth < MAX_TREE_DEPTH => node,
            Ok(_) => {
                self.note(cid, "the tree of the file is too deep");
                return Ok(false);
            }
            Err(NodeError::Newer(_)) => {
                self.note_newer();
                return Ok(false);
            }
            Err(error) => {
                self.note(cid, &error.to_string());
                return Ok(false);
            }
        };
        let mut is_good = true;
        for child in node.children() {
            is_good &= self.tree(child.cid, depth + 1)?;
        }
        if is_good {
            self.remember(cid);
        } else {
            if self.bad.len() >= BAD_MAX {
                self.bad.clear();
            }
            self.bad.insert(key(&cid));
        }
        Ok(is_good)
    }

    /// Checks a block without following it. Returns whether it is good.
    fn chunk(&mut self, cid: Cid) -> Result<bool, VerifyError> {
        let is_good = if self.full {
            self.read(cid)?.is_some()
        } else {
            self.begin(cid)?;
            match self.store.has(&cid) {
                Ok(true) => true,
                Ok(false) => {
                    self.note(cid, "the block is missing");
                    false
                }
                Err(error) => {
                    self.note_error(cid, &error);
                    false
                }
            }
        };
        if is_good {
            self.remember(cid);
        }
        Ok(is_good)
    }

    /// Counts a block that is about to be checked.
    fn begin(&mut self, cid: Cid) -> Result<(), VerifyError> {
        if self.stop.is_cancelled() {
            return Err(VerifyError::Stopped);
        }
        // A bad block was counted when it was found.
        if !self.problems.contains_key(&cid) {
            self.report.blocks += 1;
            self.progress.blocks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads and hashes a block. Records a problem and returns `None` if it is missing or damaged.
    fn read(&mut self, cid: Cid) -> Result<Option<Bytes>, VerifyError> {
        self.begin(cid)?;
        match self.store.get(&cid) {
            Ok(Some(bytes)) => {
                let len = bytes.len() as u64;
                self.report.read_bytes += len;
                self.progress.read_bytes.fetch_add(len, Ordering::Relaxed);
                return Ok(Some(bytes));
            }
            Ok(None) => self.note(cid, "the block is missing"),
            // Read errors of the disk, too: other blocks may be readable.
            Err(error) => self.note_error(cid, &error),
        }
        Ok(None)
    }

    /// Records that the current snapshot or item needs a block that cannot be read.
    fn note_error(&mut self, cid: Cid, error: &StoreError) {
        if matches!(error, StoreError::Newer { .. }) {
            self.note_newer();
            return;
        }
        if !matches!(error, StoreError::Damaged { .. }) {
            self.unreadable.insert(cid);
        }
        self.note(cid, &error.to_string());
    }

    /// Records that the current snapshot or item cannot be checked completely by this version.
    fn note_newer(&mut self) {
        let object = match (&self.snapshot, &self.path) {
            (Some(snapshot), _) => Some(snapshot.id.to_string()),
            (None, item) => item.clone(),
        };
        self.report.newer.extend(object);
    }

    fn remember(&mut self, cid: Cid) {
        if self.good.len() >= GOOD_MAX {
            self.good.clear();
        }
        self.good.insert(key(&cid));
    }

    /// Withdraws everything that was recorded about a snapshot. It was removed while it
    /// was checked, so that a collection has deleted its blocks.
    fn forget_snapshot(&mut self, snapshot: &Snapshot, was_cut_short: bool) {
        self.report.broken.remove(&snapshot.cid);
        self.report.newer.remove(snapshot.id.as_str());
        self.report.unreadable.remove(&snapshot.cid.to_string());
        self.report.is_cut_short = was_cut_short;
        for problem in self.problems.values_mut() {
            problem.snapshots.remove(&snapshot.id);
        }
        // Items are checked after all snapshots.
        self.problems.retain(|_, problem| !problem.snapshots.is_empty());
    }

    /// Withdraws everything that was recorded about a data item; see
    /// [`Walk::forget_snapshot`].
    fn forget_item(&mut self, name: &str, was_cut_short: bool) {
        self.report.broken_items.remove(name);
        self.report.newer.remove(name);
        self.report.unreadable.remove(name);
        self.report.is_cut_short = was_cut_short;
        for problem in self.problems.values_mut() {
            problem.paths.remove(name);
        }
        self.problems
            .retain(|_, problem| !(problem.snapshots.is_empty() && problem.paths.is_empty()));
    }

    /// Records that the current snapshot or item needs a bad block.
    fn note(&mut self, cid: Cid, reason: &str) {
        match (&self.snapshot, &self.path) {
            (Some(snapshot), _) => {
                self.report.broken.insert(snapshot.cid);
            }
            (None, Some(item)) => {
                self.report.broken_items.insert(item.clone());
            }
            (None, None) => {}
        }
        if self.unreadable.contains(&cid) {
            let object = match (&self.snapshot, &self.path) {
                (Some(snapshot), _) => Some(snapshot.cid.to_string()),
                (None, item) => item.clone(),
            };
            self.report.unreadable.extend(object);
        }
        if !self.problems.contains_key(&cid) && self.problems.len() >= PROBLEMS_MAX {
            self.report.is_cut_short = true;
            return;
        }
        // The first reason is kept: after damage was found, the store reports the block as missing.
        let problem = self.problems.entry(cid).or_insert_with(|| VerifyProblem {
            cid,
            reason: reason.to_owned(),
            snapshots: BTreeSet::new(),
            paths: BTreeSet::new(),
        });
        if let Some(snapshot) = &self.snapshot
            && problem.snapshots.len() < SNAPSHOTS_PER_PROBLEM_MAX
        {
            problem.snapshots.insert(snapshot.id.clone());
        }
        if let Some(path) = &self.path
            && problem.paths.len() < PATHS_PER_PROBLEM_MAX
        {
            problem.paths.insert(path.clone());
        }
    }
}
