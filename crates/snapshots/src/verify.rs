//! Verification: every block that a snapshot or a data item needs is there, or
//! (`full`) is read and hashed; what is not is named, with the snapshots, the
//! paths and the items that it concerns.
//!
//! What was found good is remembered, so that what snapshots share is looked
//! at once. Memory is bounded: beyond some millions of blocks the memory is
//! cleared, and some are looked at again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use store::{BlockRead, content_of};
use tokio_util::sync::CancellationToken;
use types::{Cid, Codec, EntryKind, FileNode, MAX_TREE_DEPTH, ManifestHeader, decode_segment};

use crate::snapshot_id::SnapshotId;
use crate::snapshot_store::{DamagedSnapshot, Snapshot, SnapshotError, SnapshotStore};
use crate::snapshot_tree::header_of;

/// Blocks that are remembered as good: some 100 MB.
const GOOD_MAX: usize = 2 << 20;
/// Nodes of one file that are remembered as leading to what is not good.
const BAD_MAX: usize = 64 * 1024;
/// What the names of the roots of data items begin with.
const DATA_PREFIX: &str = "data/";
/// Blocks that are named as not to be had.
const PROBLEMS_MAX: usize = 1000;
/// Snapshots that are named for one of them …
const SNAPSHOTS_PER_PROBLEM_MAX: usize = 100;
/// … and paths.
const PATHS_PER_PROBLEM_MAX: usize = 20;

/// How far a verification is.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    snapshots: AtomicU64,
    snapshots_total: AtomicU64,
    blocks: AtomicU64,
    read_bytes: AtomicU64,
}

impl VerifyProgress {
    /// Snapshots that were looked through.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// All that there are.
    pub fn snapshots_total(&self) -> u64 {
        self.snapshots_total.load(Ordering::Relaxed)
    }

    /// Blocks that were looked at.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Bytes of blocks that were read.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

/// A block that is needed and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyProblem {
    /// The block.
    pub cid: Cid,
    /// Why.
    pub reason: String,
    /// The snapshots that need it; the first hundred.
    pub snapshots: BTreeSet<SnapshotId>,
    /// The files that need it, as people read them, and the roots of the data
    /// items; the first twenty. Empty, where it is a part of the manifest
    /// itself.
    pub paths: BTreeSet<String>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Snapshots that were looked through.
    pub snapshots: u64,
    /// Data items that were looked through.
    pub items: u64,
    /// Blocks that were looked at. One that many snapshots share counts once,
    /// unless millions of others came in between.
    pub blocks: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Blocks that cannot be had; the first thousand.
    pub problems: Vec<VerifyProblem>,
    /// Whether there are more of them.
    pub is_cut_short: bool,
    /// Every snapshot that is not whole, by its record.
    pub broken: BTreeSet<Cid>,
    /// The root of every data item that is not whole.
    pub broken_items: BTreeSet<String>,
    /// Snapshots whose record itself cannot be read.
    pub damaged: Vec<DamagedSnapshot>,
}

impl VerifyReport {
    /// Whether every snapshot and every data item is whole.
    pub fn is_ok(&self) -> bool {
        self.broken.is_empty() && self.broken_items.is_empty() && self.damaged.is_empty()
    }
}

/// Why a verification ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The snapshots cannot be listed.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// It was told to stop.
    #[error("the verification was stopped")]
    Stopped,
}

/// Looks through all snapshots and data items. Blocks, for as long as reading
/// everything takes where it is `full`.
///
/// # Errors
///
/// [`VerifyError`]; what is missing or damaged is in the report.
pub fn verify(
    snapshots: &SnapshotStore,
    full: bool,
    progress: &VerifyProgress,
    stop: &CancellationToken,
) -> Result<VerifyReport, VerifyError> {
    let listing = snapshots.list()?;
    progress.snapshots_total.store(listing.snapshots.len() as u64, Ordering::Relaxed);
    let mut walk = Walk {
        store: &**snapshots.store(),
        full,
        progress,
        stop,
        good: HashSet::new(),
        bad: HashSet::new(),
        problems: BTreeMap::new(),
        report: VerifyReport { damaged: listing.damaged, ..VerifyReport::default() },
        snapshot: None,
        path: None,
    };
    for snapshot in listing.snapshots {
        walk.snapshot(&snapshot)?;
        progress.snapshots.fetch_add(1, Ordering::Relaxed);
        walk.report.snapshots += 1;
    }
    walk.snapshot = None;
    for (name, root) in snapshots.store().roots(DATA_PREFIX) {
        if !root.partial {
            walk.item(name, root.cid)?;
            walk.report.items += 1;
        }
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
    /// Blocks that are good, with everything below them, by the first half of
    /// their hashes.
    good: HashSet<[u8; 16]>,
    /// Nodes of this file below which something is not: each is walked once,
    /// however often the tree names it.
    bad: HashSet<[u8; 16]>,
    problems: BTreeMap<Cid, VerifyProblem>,
    report: VerifyReport,
    /// Where the walk is: in a snapshot, or in the data item that `path` names.
    snapshot: Option<Snapshot>,
    path: Option<String>,
}

fn key(cid: &Cid) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&cid.hash().as_bytes()[..16]);
    // The same bytes are another thing under another codec.
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
        // The record has been read before, maybe long ago.
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

    /// Looks through a data item.
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
                Err(error) => {
                    self.note(cid, &error.to_string());
                    return Ok(());
                }
            }
        }
        self.tree(cid, 0)?;
        Ok(())
    }

    /// Looks through a segment and all its files.
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

    /// Looks at a file's chunk, or a node and all below it; whether all is
    /// good.
    fn tree(&mut self, cid: Cid, depth: usize) -> Result<bool, VerifyError> {
        if self.good.contains(&key(&cid)) {
            return Ok(true);
        }
        if let Some(problem) = self.problems.get(&cid) {
            // Read before; it is another's problem too.
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
                self.note(cid, "its tree is too deep");
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

    /// Looks at a block that leads to no other.
    fn chunk(&mut self, cid: Cid) -> Result<bool, VerifyError> {
        let is_good = if self.full {
            self.read(cid)?.is_some()
        } else {
            self.begin(cid)?;
            match self.store.has(&cid) {
                Ok(true) => true,
                Ok(false) => {
                    self.note(cid, "it is missing");
                    false
                }
                Err(error) => {
                    self.note(cid, &error.to_string());
                    false
                }
            }
        };
        if is_good {
            self.remember(cid);
        }
        Ok(is_good)
    }

    fn begin(&mut self, cid: Cid) -> Result<(), VerifyError> {
        if self.stop.is_cancelled() {
            return Err(VerifyError::Stopped);
        }
        // One that is known to be bad was counted when it was found.
        if !self.problems.contains_key(&cid) {
            self.report.blocks += 1;
            self.progress.blocks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads and hashes a block. One that cannot be had is noted.
    fn read(&mut self, cid: Cid) -> Result<Option<Bytes>, VerifyError> {
        self.begin(cid)?;
        let reason = match self.store.get(&cid) {
            Ok(Some(bytes)) => {
                let len = bytes.len() as u64;
                self.report.read_bytes += len;
                self.progress.read_bytes.fetch_add(len, Ordering::Relaxed);
                return Ok(Some(bytes));
            }
            Ok(None) => "it is missing".to_owned(),
            // Also where the disk cannot be read at that place: the others
            // may well be.
            Err(error) => error.to_string(),
        };
        self.note(cid, &reason);
        Ok(None)
    }

    fn remember(&mut self, cid: Cid) {
        if self.good.len() >= GOOD_MAX {
            self.good.clear();
        }
        self.good.insert(key(&cid));
    }

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
        if !self.problems.contains_key(&cid) && self.problems.len() >= PROBLEMS_MAX {
            self.report.is_cut_short = true;
            return;
        }
        // The first reason is the one: once damaged, a block counts as absent.
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
