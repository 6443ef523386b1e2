//! The blocks that are damaged or missing, and the time of the next attempt to fetch each
//! again. No I/O, except for the file of the state.
//!
//! The file keeps the counters and the known consequences over a restart. Damage itself
//! is remembered by the store, and missing blocks are found again, so nothing depends on
//! the file.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use api::OutstandingBlock;
use disk::{AtomicWrite, Parsed, RealDisk, read_cache, write_atomic};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use types::Cid;

/// Maximum number of blocks in the list. Further ones are found again later.
const BLOCKS_MAX: usize = 20_000;
/// Maximum number of blocks that are fetched in one attempt.
const BATCH_MAX: usize = 1000;
/// Maximum number of blocks in a status.
const LISTED_MAX: usize = 100;
/// Maximum number of snapshots, paths and items that are named for a block.
const CONCERNS_MAX: usize = 40;
/// Pause after the first failed attempt. Each further failure doubles the pause.
const PAUSE_FIRST: Duration = Duration::from_secs(15);
/// Maximum pause while a source that may have the block cannot be asked. A source that
/// connects ends the pause.
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);
/// Maximum pause if every source has answered that it does not have the block: the file
/// may come back.
const PAUSE_LOST: Duration = Duration::from_secs(6 * 3600);
/// Maximum length of the file in bytes.
const FILE_LEN_MAX: u64 = 64 << 20;

/// A fault of a stored block, as its finder reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) cid: Cid,
    pub(crate) reason: String,
    pub(crate) found_by: &'static str,
    /// Snapshots, paths and data items that need the block, if they are known.
    pub(crate) concerns: BTreeSet<String>,
}

/// A block that is damaged or missing, and the progress of its healing.
#[derive(Clone, Debug)]
struct Outstanding {
    block: OutstandingBlock,
    next_try: Instant,
    /// True if a presence check has looked for what needs the block.
    is_located: bool,
    /// True if the failure of the healing is in the journal.
    is_reported: bool,
}

/// The blocks that are damaged or missing.
#[derive(Debug, Default)]
pub(crate) struct HealingState {
    found: u64,
    healed: u64,
    blocks: BTreeMap<Cid, Outstanding>,
    /// Damaged blocks that no snapshot and no data item needs.
    unneeded: HashSet<Cid>,
    is_changed: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    found: u64,
    healed: u64,
    blocks: Vec<OutstandingBlock>,
}

impl Saved {
    fn parse(bytes: &[u8]) -> Parsed<Self> {
        Parsed::of(serde_json::from_slice(bytes))
    }
}

fn pause(attempts: u64, is_lost: bool) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(20);
    let pause = PAUSE_FIRST.saturating_mul(1 << doublings);
    pause.min(if is_lost { PAUSE_LOST } else { PAUSE_MAX })
}

impl HealingState {
    /// Adds faults. Returns the new ones.
    pub(crate) fn add(&mut self, faults: Vec<Fault>, at: Timestamp, now: Instant) -> Vec<Fault> {
        let mut new = Vec::new();
        for fault in faults {
            if let Some(known) = self.blocks.get_mut(&fault.cid) {
                add_concerns(&mut known.block.concerns, &fault.concerns);
                continue;
            }
            if self.blocks.len() >= BLOCKS_MAX
                || (self.unneeded.contains(&fault.cid) && fault.concerns.is_empty())
            {
                continue;
            }
            self.unneeded.remove(&fault.cid);
            let mut concerns = Vec::new();
            add_concerns(&mut concerns, &fault.concerns);
            let block = OutstandingBlock {
                cid: fault.cid,
                reason: fault.reason.clone(),
                found_by: fault.found_by.to_owned(),
                found_at: at,
                attempts: 0,
                is_lost: false,
                error: None,
                concerns,
            };
            self.blocks.insert(
                fault.cid,
                Outstanding { block, next_try: now, is_located: false, is_reported: false },
            );
            self.found = self.found.saturating_add(1);
            self.is_changed = true;
            new.push(fault);
        }
        new
    }

    /// Returns blocks whose next attempt is due.
    pub(crate) fn due(&self, now: Instant) -> Vec<Cid> {
        let due = self.blocks.iter().filter(|(_, known)| known.next_try <= now);
        due.map(|(cid, _)| *cid).take(BATCH_MAX).collect()
    }

    /// Returns the time of the next attempt.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.blocks.values().map(|known| known.next_try).min()
    }

    /// Makes every block due.
    pub(crate) fn retry_now(&mut self, now: Instant) {
        for known in self.blocks.values_mut() {
            known.next_try = known.next_try.min(now);
        }
    }

    /// Records that a block is stored again. Reports whether it was in the list.
    pub(crate) fn set_healed(&mut self, cid: &Cid) -> bool {
        let was_known = self.blocks.remove(cid).is_some();
        self.healed = self.healed.saturating_add(u64::from(was_known));
        self.is_changed |= was_known;
        was_known
    }

    /// Records a failed attempt.
    pub(crate) fn set_failed(&mut self, cid: &Cid, is_lost: bool, error: &str, now: Instant) {
        if let Some(known) = self.blocks.get_mut(cid) {
            let block = &mut known.block;
            block.attempts = block.attempts.saturating_add(1);
            block.is_lost = is_lost;
            block.error = Some(error.to_owned());
            known.next_try = now + pause(block.attempts, is_lost);
            self.is_changed = true;
        }
    }

    /// Reports whether an attempt has failed for a block whose snapshots, paths and data items
    /// are not known.
    pub(crate) fn must_locate(&self) -> bool {
        let is_unknown = |known: &Outstanding| {
            known.block.attempts > 0 && known.block.concerns.is_empty() && !known.is_located
        };
        self.blocks.values().any(is_unknown)
    }

    /// Records that a presence check has looked for what needs the blocks.
    pub(crate) fn set_located(&mut self) {
        for known in self.blocks.values_mut() {
            known.is_located = true;
        }
    }

    /// Removes the blocks that nothing needs, given all blocks that are missing and
    /// needed. Returns their number.
    pub(crate) fn drop_unneeded(&mut self, needed: &HashSet<Cid>) -> usize {
        let before = self.blocks.len();
        let unneeded: Vec<Cid> =
            self.blocks.keys().filter(|cid| !needed.contains(*cid)).copied().collect();
        for cid in unneeded {
            self.blocks.remove(&cid);
            self.unneeded.insert(cid);
        }
        let dropped = before - self.blocks.len();
        // Garbage is no damage.
        self.found = self.found.saturating_sub(dropped as u64);
        self.is_changed |= dropped > 0;
        dropped
    }

    /// Returns the blocks of which an attempt has failed and that are not in the journal
    /// yet, and regards them as written.
    pub(crate) fn take_unreported(&mut self) -> Vec<OutstandingBlock> {
        let mut unreported = Vec::new();
        for known in self.blocks.values_mut() {
            let is_located = known.is_located || !known.block.concerns.is_empty();
            if known.block.attempts > 0 && is_located && !known.is_reported {
                known.is_reported = true;
                unreported.push(known.block.clone());
            }
        }
        unreported
    }

    /// Returns the state for the API.
    pub(crate) fn to_api(&self) -> api::Healing {
        let blocks = self.blocks.values().take(LISTED_MAX).map(|known| known.block.clone());
        api::Healing {
            found: self.found,
            healed: self.healed,
            outstanding: self.blocks.len() as u64,
            blocks: blocks.collect(),
        }
    }

    /// Returns the alarm, if blocks are damaged or missing.
    pub(crate) fn problem(&self) -> Option<String> {
        // The block whose consequences are known is the most useful example.
        let shown = self.blocks.values().max_by_key(|known| !known.block.concerns.is_empty())?;
        let (count, lost) =
            (self.blocks.len(), self.blocks.values().filter(|known| known.block.is_lost).count());
        let mut text = match count {
            1 => "1 stored block is damaged or missing".to_owned(),
            _ => format!("{count} stored blocks are damaged or missing"),
        };
        if !shown.block.concerns.is_empty() {
            let all = shown.block.concerns.iter().take(3).map(String::as_str);
            text += &format!("; needed by {}", all.collect::<Vec<_>>().join(", "));
        }
        if let Some(error) = &shown.block.error {
            text += &format!("; the last attempt to fetch the data failed: {error}");
        }
        text += match (lost == count, lost) {
            (true, _) => {
                ". No source has the content any more: restore an older snapshot instead, or put \
                 the file back on the source"
            }
            (false, _) => {
                ". Archivist fetches the data again when a computer that has it is connected: start \
                 the source"
            }
        };
        Some(text)
    }

    /// Returns the content of the file if the state has changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let blocks = self.blocks.values().map(|known| known.block.clone()).collect();
        let saved = Saved { found: self.found, healed: self.healed, blocks };
        match serde_json::to_vec(&saved) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::warn!(%error, "cannot encode the list of damaged blocks");
                None
            }
        }
    }

    /// Reads the state from its file. Every block is due. A file that cannot be used is kept
    /// under another name.
    pub(crate) fn read(path: &Path, now: Instant) -> Self {
        let consequence = "the damaged blocks are found again, and the counters start at 0";
        let saved = read_cache(&RealDisk, path, FILE_LEN_MAX, consequence, Saved::parse);
        Self::of(saved.unwrap_or_default(), now)
    }

    fn of(saved: Saved, now: Instant) -> Self {
        let known = |block: OutstandingBlock| {
            let is_reported = block.attempts > 0;
            (block.cid, Outstanding { block, next_try: now, is_located: false, is_reported })
        };
        Self {
            found: saved.found,
            healed: saved.healed,
            blocks: saved.blocks.into_iter().map(known).collect(),
            ..Self::default()
        }
    }
}

/// Writes the file of the state.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    if let Err(error) = write_atomic(&RealDisk, path, bytes, &AtomicWrite::PRIVATE) {
        tracing::warn!(%error, "cannot write the list of damaged blocks");
    }
}

fn add_concerns(all: &mut Vec<String>, new: &BTreeSet<String>) {
    for concern in new {
        if all.len() < CONCERNS_MAX && !all.contains(concern) {
            all.push(concern.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use types::Codec;

    use super::*;

    fn cid(number: u64) -> Cid {
        Cid::of(Codec::Raw, &number.to_le_bytes())
    }

    fn fault(number: u64, concerns: &[&str]) -> Fault {
        Fault {
            cid: cid(number),
            reason: "damaged".into(),
            found_by: "scrub",
            concerns: concerns.iter().map(|concern| (*concern).to_owned()).collect(),
        }
    }

    #[test]
    fn the_pauses_grow_and_are_bounded() {
        let secs = |attempts, is_lost| pause(attempts, is_lost).as_secs();
        assert_eq!([secs(1, false), secs(2, false), secs(3, false)], [15, 30, 60]);
        assert_eq!([secs(100, false), secs(100, true)], [600, 6 * 3600]);
        assert_eq!([secs(u64::MAX, true), secs(0, false)], [6 * 3600, 15]);
    }

    #[test]
    fn a_block_is_due_until_it_is_healed() {
        let (at, start) = (Timestamp::UNIX_EPOCH, Instant::now());
        let after = |secs| start + Duration::from_secs(secs);
        let mut state = HealingState::default();
        assert_eq!(
            state.add(vec![fault(1, &[]), fault(1, &[]), fault(2, &[])], at, start).len(),
            2
        );
        assert_eq!(state.due(start).len(), 2);
        state.set_failed(&cid(1), false, "no peer", start);
        assert_eq!(state.due(after(14)), [cid(2)]);
        assert_eq!(state.due(after(15)).len(), 2);
        state.set_failed(&cid(1), true, "no peer has it", after(15));
        assert_eq!(state.due(after(44)), [cid(2)]);
        state.retry_now(after(20));
        assert_eq!(state.due(after(20)).len(), 2);
        assert!(state.set_healed(&cid(2)) && !state.set_healed(&cid(2)));
        let status = state.to_api();
        assert_eq!((status.found, status.healed, status.outstanding), (2, 1, 1));
        assert!(status.blocks[0].is_lost && status.blocks[0].attempts == 2);
        assert!(state.problem().unwrap().contains("no peer has it"));
        assert!(state.set_healed(&cid(1)));
        assert_eq!((state.problem(), state.next_try()), (None, None));
    }

    #[test]
    fn what_nothing_needs_is_dropped_and_stays_dropped() {
        let (at, now) = (Timestamp::UNIX_EPOCH, Instant::now());
        let mut state = HealingState::default();
        state.add(vec![fault(1, &[]), fault(2, &[])], at, now);
        assert!(!state.must_locate());
        state.set_failed(&cid(1), false, "no peer", now);
        assert!(state.must_locate());
        assert!(state.take_unreported().is_empty(), "its consequences are not known yet");
        state.set_located();
        assert!(!state.must_locate());
        assert_eq!(state.take_unreported().len(), 1);
        assert_eq!(state.drop_unneeded(&HashSet::from([cid(2)])), 1);
        assert_eq!(state.to_api().found, 1);
        assert!(state.add(vec![fault(1, &[])], at, now).is_empty());
        // Something needs it after all.
        assert_eq!(state.add(vec![fault(1, &["a.txt"])], at, now).len(), 1);
        assert!(state.problem().unwrap().contains("a.txt"));
    }

    #[test]
    fn the_state_survives_a_restart_and_each_failure_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("healing.json");
        let (at, now) = (Timestamp::UNIX_EPOCH, Instant::now());
        assert_eq!(HealingState::read(&path, now).to_api(), api::Healing::default());
        let mut state = HealingState::default();
        state.add(vec![fault(1, &["a.txt"]), fault(2, &[])], at, now);
        assert!(state.take_unreported().is_empty());
        state.set_failed(&cid(1), true, "gone", now);
        assert_eq!(state.take_unreported().len(), 1);
        assert!(state.take_unreported().is_empty());
        write(&path, &state.take_changed().unwrap());
        assert_eq!(state.take_changed(), None);
        let mut again = HealingState::read(&path, now);
        assert_eq!(again.to_api(), state.to_api());
        assert_eq!(again.due(now).len(), 2);
        assert!(again.take_unreported().is_empty());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(HealingState::read(&path, now).to_api(), api::Healing::default());
    }

    #[test]
    fn fuzz_healing_state() {
        let now = Instant::now();
        let mut state = HealingState::default();
        state.add(vec![fault(1, &["a.txt"]), fault(2, &[])], Timestamp::UNIX_EPOCH, now);
        let example = state.take_changed().unwrap();
        assert_eq!(HealingState::of(Saved::parse(&example).usable().unwrap(), now).blocks.len(), 2);
        let full = String::from_utf8(example.clone()).unwrap();
        let full = full.replace("\"found\":2", &format!("\"found\":{}", u64::MAX)).into_bytes();
        assert_ne!(full, example);
        fuzzing::target!(&[example, full], |bytes: &[u8]| {
            let mut state = HealingState::of(Saved::parse(bytes).usable().unwrap_or_default(), now);
            let known = state.blocks.len();
            // The numbers in the file may be as large as they fit.
            state.add(vec![fault(3, &["b.txt"])], Timestamp::UNIX_EPOCH, now);
            assert!(state.blocks.len() >= known);
            let saved = Saved::parse(&state.take_changed().unwrap()).usable().unwrap();
            let again = HealingState::of(saved, now);
            assert_eq!(again.blocks.len(), state.blocks.len());
        });
    }
}
