//! Recovery: finds the snapshots and data items in the packs that no root names, and sets their
//! roots again.
//!
//! The records of snapshots are self-describing nodes, and the source has signed each manifest, so
//! the list of snapshots can be rebuilt from the packs alone. A record without a root is not
//! necessarily lost: its snapshot may have been removed, or its pull may have failed at the last
//! step. So the search changes nothing; the owner decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use net::PeerId;
use store::{BlockRead, NodeScan, NodeScanReport, Pin, Root, WriteEpoch};
use tokio_util::sync::CancellationToken;
use types::{Cid, Dataset, FolderId, MANIFEST_MIME, with_causes};

use crate::record::{ORDER_GIVEN_MAX, SnapshotRecord};
use crate::snapshot_id::SnapshotId;
use crate::snapshot_reader::{PREFIX, Snapshot, SnapshotError, SnapshotReader};
use crate::snapshot_store::SnapshotStore;
use crate::verify::{
    DATA_PREFIX, Objects, VerifyError, VerifyProblem, VerifyProgress, VerifyReport, check,
};

/// Maximum number of records, of items and of manifests that a search remembers.
const FOUND_MAX: usize = 200_000;
/// Numbers that are skipped if records cannot be read: more than these records can have used.
const ORDER_GAP: u64 = 100_000_000;

/// State of a snapshot or a data item that was found in the packs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// A root names it.
    Known,
    /// No root names it, and all its blocks are present.
    Complete,
    /// As [`FoundState::Complete`], but its root was removed on purpose.
    Removed,
    /// No root names it, and blocks are missing or damaged.
    Incomplete {
        /// Number of bad blocks that were found.
        blocks: u64,
        /// Reason why the first of them is bad.
        reason: String,
        /// True if its root was removed on purpose: a collection frees its blocks.
        was_removed: bool,
    },
    /// No root names it, and a block cannot be read at present; contains the reason.
    Unreadable(String),
    /// A record of the same manifest is known or is recovered instead of this one.
    Duplicate(SnapshotId),
    /// No root names it, all its blocks are present, and another snapshot, which is known or is
    /// recovered too, has the same number. It is listed before the other one.
    Conflict(SnapshotId),
}

/// A snapshot whose record is in the packs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its state.
    pub state: FoundState,
}

/// A data item in the packs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundItem {
    /// CID of the item.
    pub cid: Cid,
    /// Name, type and length of the content.
    pub dataset: Dataset,
    /// Its state: never [`FoundState::Duplicate`] or [`FoundState::Conflict`].
    pub state: FoundState,
}

/// A record that is not that of a snapshot which can be recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableRecord {
    /// CID of the record.
    pub cid: Cid,
    /// Reason why the record cannot be used.
    pub reason: String,
}

/// Result of a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The snapshots, sorted by source, folder and order.
    pub snapshots: Vec<FoundSnapshot>,
    /// The data items, sorted by CID.
    pub items: Vec<FoundItem>,
    /// Records that are forged, malformed or of another version, sorted by CID.
    pub unusable: Vec<UnusableRecord>,
    /// Manifests that neither a record nor a root names, sorted by CID: an unfinished pull has left
    /// them, or their record is damaged.
    pub manifests: Vec<Cid>,
    /// The roots of snapshots without a record that can be used, with the reason, sorted by name.
    pub without_record: Vec<(String, String)>,
    /// True if there are more objects than a search remembers.
    pub is_cut_short: bool,
    /// Number of reads that the disk has failed while the blocks were checked: an incomplete
    /// snapshot may be complete.
    pub failed_reads: u64,
    /// Result of reading the packs.
    pub scan: NodeScanReport,
}

impl FoundState {
    /// Reports whether the object can be recovered and was not removed on purpose.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Complete | Self::Conflict(_))
    }
}

impl RecoveryReport {
    /// Reports whether everything in the store was read, and every known snapshot has a record. If
    /// not, there may be more snapshots.
    pub fn is_complete(&self) -> bool {
        let is_unreadable = |state: &FoundState| matches!(state, FoundState::Unreadable(_));
        self.scan.is_complete()
            && self.without_record.is_empty()
            && !self.is_cut_short
            && self.failed_reads == 0
            && !self.snapshots.iter().any(|found| is_unreadable(&found.state))
            && !self.items.iter().any(|found| is_unreadable(&found.state))
    }

    /// Returns the number of snapshots that no root names, of which blocks are missing or damaged,
    /// and that were not removed on purpose. Their other blocks may be all that is left of files.
    pub fn incomplete(&self) -> usize {
        let is_incomplete =
            |state: &FoundState| matches!(state, FoundState::Incomplete { was_removed: false, .. });
        self.snapshots.iter().filter(|found| is_incomplete(&found.state)).count()
    }

    /// Returns the number of snapshots and of data items that can be recovered and were not removed
    /// on purpose.
    pub fn lost(&self) -> (usize, usize) {
        (
            self.snapshots.iter().filter(|found| found.state.is_lost()).count(),
            self.items.iter().filter(|found| found.state.is_lost()).count(),
        )
    }
}

/// Searches the packs for snapshots and data items. Blocks the thread, and changes nothing. The pin
/// keeps all that is found until it is dropped; without it, a collection may delete what was found.
///
/// # Errors
///
/// Returns [`VerifyError`] if the store cannot be read at all, or the caller stops the search.
/// Packs and blocks that cannot be read are part of the report.
pub fn find_lost(
    snapshots: &SnapshotReader,
    scan: &dyn NodeScan,
    pin: Option<&Pin>,
    progress: &VerifyProgress,
    stop: &CancellationToken,
) -> Result<RecoveryReport, VerifyError> {
    let mut nodes = FoundNodes::default();
    let scanned = scan.scan_nodes(&mut |cid, bytes| {
        nodes.add(cid, &bytes);
        if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let scanned = scanned.map_err(SnapshotError::from)?;
    if stop.is_cancelled() {
        return Err(VerifyError::Stopped);
    }
    if let Some(pin) = pin {
        // Before the blocks are looked up: a collection keeps what was found complete.
        pin.add(nodes.records.keys().chain(nodes.items.keys()).copied());
    }
    let roots: BTreeMap<String, Cid> =
        snapshots.store().roots("").into_iter().map(|(name, root)| (name, root.cid)).collect();
    let is_unnamed = |name: &String, cid: &Cid| roots.get(name) != Some(cid);
    let is_known = |found: &Snapshot| found.root_of(|name| roots.get(name).copied()).is_some();
    let unnamed = nodes.records.values().filter(|found| !is_known(found));
    let items = nodes.items.keys().map(|cid| (item_root(cid), *cid));
    let objects = Objects {
        snapshots: unnamed.cloned().collect(),
        items: items.filter(|(name, cid)| is_unnamed(name, cid)).collect(),
    };
    // They have no roots.
    let failed_reads = scan.failed_reads();
    let checked = check(&**snapshots.store(), objects, &|_, _| true, false, progress, stop)?;
    let rooted: HashSet<Cid> = roots.values().copied().collect();
    let named: HashSet<Cid> = nodes.records.values().map(|found| found.record.manifest).collect();
    let mut report = RecoveryReport {
        is_cut_short: nodes.is_cut_short,
        failed_reads: scan.failed_reads() - failed_reads,
        without_record: without_record(&roots, &nodes, &**snapshots.store()),
        scan: scanned,
        manifests: nodes
            .manifests
            .difference(&named.union(&rooted).copied().collect())
            .copied()
            .collect(),
        ..RecoveryReport::default()
    };
    for snapshot in nodes.records.into_values() {
        let state = if is_known(&snapshot) {
            FoundState::Known
        } else {
            snapshot_state(&snapshot, &checked, scan)
        };
        report.snapshots.push(FoundSnapshot { snapshot, state });
    }
    mark_duplicates(&mut report.snapshots);
    mark_conflicts(&mut report.snapshots, &roots);
    report.snapshots.sort_by_cached_key(|found| found.snapshot.root_name());
    for (cid, dataset) in nodes.items {
        let name = item_root(&cid);
        let state = if is_unnamed(&name, &cid) {
            item_state(&name, cid, &checked, scan)
        } else {
            FoundState::Known
        };
        report.items.push(FoundItem { cid, dataset, state });
    }
    let unusable = nodes.unusable.into_iter();
    report.unusable = unusable.map(|(cid, reason)| UnusableRecord { cid, reason }).collect();
    Ok(report)
}

/// Returns the roots of snapshots without a record that can be used, with the reason.
fn without_record(
    roots: &BTreeMap<String, Cid>,
    nodes: &FoundNodes,
    store: &dyn BlockRead,
) -> Vec<(String, String)> {
    let roots = roots.iter().filter(|(name, _)| name.starts_with(PREFIX));
    let unread = roots.filter(|(_, cid)| !nodes.records.contains_key(cid));
    let reason = |(name, cid): (&String, &Cid)| {
        let reason = match nodes.unusable.get(cid) {
            Some(reason) => reason.clone(),
            // Stored after the search; or its pack could not be read, which is reported.
            None if store.has(cid).unwrap_or(false) => return None,
            None => "the record is missing or damaged".to_owned(),
        };
        Some((name.clone(), reason))
    };
    unread.filter_map(reason).collect()
}

/// The nodes of a store that matter for a recovery, by CID.
#[derive(Default)]
struct FoundNodes {
    records: BTreeMap<Cid, Snapshot>,
    unusable: BTreeMap<Cid, String>,
    items: BTreeMap<Cid, Dataset>,
    manifests: BTreeSet<Cid>,
    is_cut_short: bool,
}

impl FoundNodes {
    fn add(&mut self, cid: Cid, bytes: &[u8]) {
        let found =
            [self.records.len(), self.unusable.len(), self.items.len(), self.manifests.len()];
        if found.into_iter().any(|count| count >= FOUND_MAX) {
            self.is_cut_short = true;
            return;
        }
        match SnapshotRecord::of_node(bytes) {
            Some(Ok(record)) if is_signed(&record) => {
                self.records.insert(cid, Snapshot { id: SnapshotId::of(&cid), cid, record });
            }
            Some(Ok(record)) => {
                let (folder, source) = (&record.folder, &record.source);
                let reason = format!(
                    "the signature is not that of the source {source} over manifest {} of folder \
                     {folder}",
                    record.sequence
                );
                self.unusable.insert(cid, reason);
            }
            Some(Err(error)) => {
                self.unusable.insert(cid, error.to_string());
            }
            None => match Dataset::decode(bytes) {
                Ok(dataset) if dataset.mimetype.as_deref() == Some(MANIFEST_MIME) => {
                    self.manifests.insert(cid);
                }
                Ok(dataset) => {
                    self.items.insert(cid, dataset);
                }
                Err(_) => {}
            },
        }
    }
}

/// Reports whether the source has signed the manifest of the record.
fn is_signed(record: &SnapshotRecord) -> bool {
    let SnapshotRecord { source, folder, sequence, manifest, signature, .. } = record;
    manifest::verify(source, folder, *sequence, manifest, signature)
}

fn item_root(cid: &Cid) -> String {
    format!("{DATA_PREFIX}{cid}")
}

/// Returns the state of a snapshot without a root.
fn snapshot_state(snapshot: &Snapshot, checked: &VerifyReport, scan: &dyn NodeScan) -> FoundState {
    let cid = &snapshot.cid;
    let bad = checked.problems.iter().filter(|bad| bad.snapshots.contains(&snapshot.id));
    if checked.unreadable.contains(&cid.to_string()) {
        FoundState::Unreadable(first_reason(bad))
    } else if checked.broken.contains(cid) {
        incomplete(bad, scan.was_removed(cid))
    } else {
        complete_or_removed(cid, scan)
    }
}

/// Returns the state of a data item without a root.
fn item_state(name: &str, cid: Cid, checked: &VerifyReport, scan: &dyn NodeScan) -> FoundState {
    let bad = checked.problems.iter().filter(|bad| bad.paths.contains(name));
    if checked.unreadable.contains(name) {
        FoundState::Unreadable(first_reason(bad))
    } else if checked.broken_items.contains(name) {
        incomplete(bad, scan.was_removed(&cid))
    } else {
        complete_or_removed(&cid, scan)
    }
}

fn incomplete<'a>(
    bad: impl Iterator<Item = &'a VerifyProblem> + Clone,
    was_removed: bool,
) -> FoundState {
    let blocks = bad.clone().count() as u64;
    FoundState::Incomplete { blocks, reason: first_reason(bad), was_removed }
}

fn complete_or_removed(cid: &Cid, scan: &dyn NodeScan) -> FoundState {
    if scan.was_removed(cid) { FoundState::Removed } else { FoundState::Complete }
}

/// Returns why the first of these blocks is bad. A check of very many blocks does not list all.
fn first_reason<'a>(mut bad: impl Iterator<Item = &'a VerifyProblem>) -> String {
    match bad.next() {
        Some(bad) => format!("{}: {}", bad.cid, bad.reason),
        None => "blocks are missing".to_owned(),
    }
}

/// Marks all but one of the records of the same manifest: a commit that failed at its last step has
/// left a record, and was repeated with another.
fn mark_duplicates(all: &mut [FoundSnapshot]) {
    // The known record stays, else a removed one, else the last one.
    let rank = |found: &FoundSnapshot| {
        let class = match found.state {
            FoundState::Known => 3,
            FoundState::Removed => 2,
            FoundState::Complete => 1,
            _ => 0,
        };
        (class, found.snapshot.record.order, found.snapshot.cid)
    };
    let manifest_of = |found: &FoundSnapshot| {
        let record = &found.snapshot.record;
        (record.source, record.folder.clone(), record.manifest)
    };
    let mut first: HashMap<(PeerId, FolderId, Cid), usize> = HashMap::new();
    for (at, found) in all.iter().enumerate() {
        let best = first.entry(manifest_of(found)).or_insert(at);
        if rank(found) > rank(&all[*best]) {
            *best = at;
        }
    }
    for at in 0..all.len() {
        let best = first[&manifest_of(&all[at])];
        if best != at && all[at].state != FoundState::Known {
            all[at].state = FoundState::Duplicate(all[best].snapshot.id.clone());
        }
    }
}

/// Marks the snapshots whose number another snapshot has: after a loss of roots, a backup server
/// may have given the same number again.
fn mark_conflicts(all: &mut [FoundSnapshot], roots: &BTreeMap<String, Cid>) {
    let mut first: HashMap<String, usize> = HashMap::new();
    let can_be_set = |found: &FoundSnapshot| found.state == FoundState::Complete;
    for (at, found) in all.iter().enumerate().filter(|(_, found)| can_be_set(found)) {
        let best = first.entry(found.snapshot.root_name()).or_insert(at);
        if lateness(&found.snapshot) > lateness(&all[*best].snapshot) {
            *best = at;
        }
    }
    for at in 0..all.len() {
        if !can_be_set(&all[at]) {
            continue;
        }
        let name = all[at].snapshot.root_name();
        let best = first[&name];
        let other = match roots.get(&name) {
            Some(known) => SnapshotId::of(known),
            None if best != at => all[best].snapshot.id.clone(),
            None => continue,
        };
        all[at].state = FoundState::Conflict(other);
    }
}

/// Returns the key by which the later one of two snapshots with the same number is the greater
/// one.
fn lateness(snapshot: &Snapshot) -> impl Ord + use<> {
    let record = &snapshot.record;
    (record.sequence, record.received_at, snapshot.cid)
}

/// Sets the roots of snapshots and data items that [`find_lost`] has found, the oldest first, and
/// returns the number of roots that were set. Skips an object that a root names already. A
/// snapshot whose number another one has gets a second name, and is listed before the other one.
/// `epoch` is older than the search.
///
/// # Errors
///
/// Returns [`SnapshotError::Store`] if a root cannot be set. The roots that were set before stay.
pub fn recover<'a>(
    snapshots: &SnapshotStore,
    found: impl IntoIterator<Item = &'a Snapshot>,
    items: impl IntoIterator<Item = Cid>,
    epoch: WriteEpoch,
) -> Result<u64, SnapshotError> {
    let store = snapshots.store();
    let mut found: Vec<&Snapshot> = found.into_iter().collect();
    // The later one of two snapshots with the same number gets the first name.
    found.sort_by_key(|found| (found.record.order, Reverse(lateness(found))));
    let block_of = |name: &str| Some(store.root(name)?.cid);
    let mut set = 0;
    for snapshot in found {
        if snapshot.root_of(block_of).is_some() {
            continue;
        }
        let first = snapshot.root_name();
        let is_free = store.root(&first).is_none();
        let name = if is_free { first } else { snapshot.second_root_name() };
        snapshots.use_order(snapshot.record.order);
        store.set_root(&name, Root { cid: snapshot.cid, partial: false }, epoch)?;
        let record = &snapshot.record;
        tracing::info!(snapshot = %snapshot.id, folder = %record.folder, "recovered a snapshot");
        set += 1;
    }
    for cid in items {
        let name = item_root(&cid);
        if store.root(&name).is_none() {
            store.set_root(&name, Root { cid, partial: false }, epoch)?;
            tracing::info!(%cid, "recovered a data item");
            set += 1;
        }
    }
    Ok(set)
}

/// Returns a number such that no record in the packs has a higher one: after a loss of roots, a
/// number must not be given again. This is the highest number that was found, or a far higher one
/// if records cannot be read.
pub fn last_order(scan: &dyn NodeScan) -> u64 {
    let mut last = 0;
    let scanned = scan.scan_nodes(&mut |_, bytes| {
        if let Some(Ok(record)) = SnapshotRecord::of_node(&bytes)
            && is_signed(&record)
            && record.order <= ORDER_GIVEN_MAX
        {
            last = last.max(record.order);
        }
        ControlFlow::Continue(())
    });
    let reason = match scanned {
        Ok(report) if report.is_complete() => return last,
        Ok(report) => {
            let faults = [&report.unreadable, &report.damaged].into_iter();
            faults.flat_map(|faults| &faults.descriptions).next().cloned()
        }
        Err(error) => Some(with_causes(&error)),
    };
    let reason = reason.unwrap_or_else(|| "a newer version of this program wrote some".to_owned());
    tracing::warn!(
        reason,
        "some records of snapshots cannot be read, so the numbers of new snapshots continue after \
         a gap"
    );
    last.saturating_add(ORDER_GAP).min(ORDER_GIVEN_MAX)
}
