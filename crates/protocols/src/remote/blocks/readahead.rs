//! Readahead: predicts the blocks that a restore will request next. No I/O.
//!
//! A node, a header or a segment lists blocks in the order in which a reader will request them: a
//! *run*. When the reader requests a block of a run, the blocks behind it are prefetched, up to a
//! window. A prefetched block is kept until it is requested or its run is forgotten.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use net::Want;
use types::Cid;

/// Maximum length of the blocks that are prefetched for one run, in bytes: 80 ms at 100 MB/s.
pub(super) const WINDOW: usize = 8 << 20;
/// Maximum number of blocks that are prefetched for one run.
const WINDOW_BLOCKS: usize = 1024;
/// Maximum length of the blocks that are kept or in flight for all runs, in bytes.
pub(super) const KEPT_MAX: usize = 64 << 20;
/// Maximum number of runs; the least recently used one is forgotten.
pub(super) const RUNS_MAX: usize = 24;
/// Assumed length of a block of unknown length, in bytes.
const ASSUMED_LEN: usize = 64 << 10;

/// Blocks in the order in which the reader will request them.
#[derive(Debug)]
struct Run {
    id: u64,
    items: Vec<Want>,
    /// The reader has requested the items before this index.
    read: usize,
    /// The items before this index are read, kept or in flight.
    fetched: usize,
    /// True if it is certain that the reader needs the run.
    is_wanted: bool,
}

/// State of a prefetched block.
#[derive(Debug)]
enum Slot {
    /// In flight; holds its expected length in bytes.
    InFlight(usize),
    /// Received.
    Received(Bytes),
}

/// Result of requesting a block from the readahead.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The block was prefetched; it is no longer kept.
    Here(Bytes),
    /// The block is in flight.
    InFlight,
    /// The block was not prefetched.
    Absent,
}

/// All runs, and the blocks that were prefetched for them.
#[derive(Debug, Default)]
pub(super) struct Readahead {
    /// The most recently used run is the last.
    runs: VecDeque<Run>,
    /// The newest run that contains a block, and its index there.
    places: HashMap<Cid, (u64, usize)>,
    /// The prefetched blocks, and the run for which each was requested.
    slots: HashMap<Cid, (u64, Slot)>,
    kept: usize,
    next_id: u64,
}

fn len_of(want: &Want) -> usize {
    want.len.map_or(ASSUMED_LEN, |len| len as usize)
}

impl Readahead {
    /// Returns the length of the blocks that are kept or in flight, in bytes.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Adds a run. Prefetches from its start if `is_wanted`, otherwise from the first item that the
    /// reader requests.
    pub(super) fn follow(&mut self, items: Vec<Want>, is_wanted: bool) {
        if items.len() < 2 {
            return;
        }
        let is_same = |run: &Run| run.items.len() == items.len() && run.items == items;
        let same = self.runs.iter().position(is_same);
        // Another reader is in the same run, for example in a copy of the file: share it.
        if same.is_some_and(|at| self.runs[at].read < items.len()) {
            return;
        }
        // A run that was read to its end starts again.
        let full = (self.runs.len() >= RUNS_MAX).then_some(0);
        if let Some(gone) = same.or(full).and_then(|at| self.runs.remove(at)) {
            self.forget(&gone);
        }
        let id = self.next_id;
        self.next_id += 1;
        for (at, item) in items.iter().enumerate() {
            self.places.insert(item.cid, (id, at));
        }
        self.runs.push_back(Run { id, items, read: 0, fetched: 0, is_wanted });
    }

    fn forget(&mut self, run: &Run) {
        for item in &run.items {
            if self.places.get(&item.cid).is_some_and(|(id, _)| *id == run.id) {
                self.places.remove(&item.cid);
            }
            if self.slots.get(&item.cid).is_some_and(|(id, _)| *id == run.id) {
                self.drop_slot(&item.cid);
            }
        }
    }

    fn drop_slot(&mut self, cid: &Cid) {
        match self.slots.remove(cid) {
            Some((_, Slot::InFlight(len))) => self.kept -= len,
            Some((_, Slot::Received(bytes))) => self.kept -= bytes.len(),
            None => {}
        }
    }

    /// Takes a block that the reader requests now.
    pub(super) fn take(&mut self, cid: &Cid) -> Taken {
        match self.slots.get(cid) {
            Some((_, Slot::InFlight(_))) => Taken::InFlight,
            Some((_, Slot::Received(bytes))) => {
                let bytes = bytes.clone();
                self.drop_slot(cid);
                Taken::Here(bytes)
            }
            None => Taken::Absent,
        }
    }

    /// Records that the reader has requested these blocks.
    pub(super) fn requested(&mut self, cids: &[Cid]) {
        for cid in cids {
            let Some((id, at)) = self.places.get(cid).copied() else { continue };
            let Some(place) = self.runs.iter().position(|run| run.id == id) else { continue };
            let Some(mut run) = self.runs.remove(place) else { continue };
            run.is_wanted = true;
            run.read = run.read.max(at + 1);
            run.fetched = run.fetched.max(run.read);
            self.runs.push_back(run);
        }
    }

    /// Returns the blocks to prefetch now: one list for each run that has half of its window free.
    /// They are in flight from now on.
    pub(super) fn due(&mut self) -> Vec<Vec<Want>> {
        let mut all = Vec::new();
        for run in self.runs.iter_mut().rev().filter(|run| run.is_wanted) {
            let mut open_len: usize = run.items[run.read..run.fetched].iter().map(len_of).sum();
            let blocks = run.fetched - run.read;
            if open_len > WINDOW / 2 || blocks > WINDOW_BLOCKS / 2 {
                continue;
            }
            let mut wants = Vec::new();
            while run.fetched < run.items.len()
                && open_len < WINDOW
                && run.fetched - run.read < WINDOW_BLOCKS
            {
                let want = run.items[run.fetched];
                let len = len_of(&want);
                if self.kept + len > KEPT_MAX {
                    break;
                }
                run.fetched += 1;
                open_len += len;
                // A block that occurs twice in a run is fetched once.
                if let std::collections::hash_map::Entry::Vacant(slot) = self.slots.entry(want.cid)
                {
                    slot.insert((run.id, Slot::InFlight(len)));
                    self.kept += len;
                    wants.push(want);
                }
            }
            if !wants.is_empty() {
                all.push(wants);
            }
        }
        all
    }

    /// Stores a prefetched block. If the peer does not have it (`None`), it is forgotten, and the
    /// reader requests it again.
    pub(super) fn received(&mut self, cid: Cid, bytes: Option<Bytes>) {
        let Some((run, Slot::InFlight(len))) = self.slots.get(&cid) else { return };
        let run = *run;
        self.kept -= len;
        match bytes {
            Some(bytes) => {
                self.kept += bytes.len();
                self.slots.insert(cid, (run, Slot::Received(bytes)));
            }
            None => {
                self.slots.remove(&cid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::Codec;

    use super::*;

    fn run(seed: usize, count: usize, len: u32) -> Vec<Want> {
        (0..count)
            .map(|n| Want {
                cid: Cid::of(Codec::Raw, format!("{seed} {n}").as_bytes()),
                len: Some(len),
            })
            .collect()
    }

    fn bytes(want: &Want) -> Bytes {
        Bytes::from(vec![0; want.len.unwrap() as usize])
    }

    #[test]
    fn a_window_goes_ahead_of_what_is_asked_for() {
        let mut readahead = Readahead::default();
        let items = run(0, 100, 1 << 20);
        readahead.follow(items.clone(), false);
        // The reader has requested nothing yet.
        assert!(readahead.due().is_empty());
        readahead.requested(&[items[0].cid]);
        assert_eq!(readahead.take(&items[0].cid), Taken::Absent);
        let due = readahead.due();
        assert_eq!(due, [items[1..9].to_vec()]);
        assert!(readahead.due().is_empty());
        assert_eq!(readahead.take(&items[1].cid), Taken::InFlight);
        for want in &due[0] {
            readahead.received(want.cid, Some(bytes(want)));
        }
        assert!(matches!(readahead.take(&items[1].cid), Taken::Here(_)));
        assert_eq!(readahead.take(&items[1].cid), Taken::Absent);
        readahead.requested(&[items[1].cid, items[2].cid, items[3].cid]);
        assert!(readahead.due().is_empty());
        readahead.requested(&[items[4].cid]);
        assert_eq!(readahead.due(), [items[9..13].to_vec()]);
        // The reader requests a failed block itself.
        readahead.received(items[9].cid, None);
        assert_eq!(readahead.take(&items[9].cid), Taken::Absent);
        // The end of the run.
        readahead.requested(&[items[99].cid]);
        assert!(readahead.due().is_empty());
        // Blocks that nobody has taken are dropped with their run.
        assert!(readahead.kept() > 0);
        for seed in 1..=RUNS_MAX {
            readahead.follow(run(seed, 3, 10), false);
        }
        assert_eq!((readahead.kept(), readahead.places.len()), (0, RUNS_MAX * 3));
    }

    #[test]
    fn a_run_that_is_used_outlives_others() {
        let mut readahead = Readahead::default();
        let items = run(0, 500, 10);
        readahead.follow(items.clone(), true);
        for (seed, item) in items.iter().enumerate() {
            readahead.follow(run(seed + 1, 3, 10), true);
            readahead.requested(&[item.cid]);
            assert!(readahead.places.contains_key(&items[0].cid));
        }
        // A run that was read to its end can start again, but not while it is being read.
        readahead.due();
        for _ in 0..2 {
            readahead.follow(items.clone(), true);
        }
        assert!(readahead.due().contains(&items));
        readahead.follow(items.clone(), true);
        assert!(readahead.due().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_kept_has_a_bound(
            steps in prop::collection::vec((0..40_usize, 0..50_usize, any::<bool>()), 1..300),
        ) {
            let mut readahead = Readahead::default();
            let mut coming: Vec<Want> = Vec::new();
            for (seed, at, is_wanted) in steps {
                let items = run(seed, 50, 700_000);
                readahead.follow(items.clone(), is_wanted);
                readahead.requested(&[items[at].cid]);
                if let Taken::Here(taken) = readahead.take(&items[at].cid) {
                    prop_assert_eq!(taken.len(), 700_000);
                }
                coming.extend(readahead.due().into_iter().flatten());
                if is_wanted {
                    for want in coming.drain(..coming.len() / 2) {
                        // Only the length matters here.
                        readahead.received(want.cid, Some(Bytes::from_static(&[0; 700_000])));
                    }
                }
                prop_assert!(readahead.kept() <= KEPT_MAX);
                prop_assert!(readahead.runs.len() <= RUNS_MAX);
                let counted: usize = readahead.slots.values().map(|(_, slot)| match slot {
                    Slot::InFlight(len) => *len,
                    Slot::Received(bytes) => bytes.len(),
                }).sum();
                prop_assert_eq!(counted, readahead.kept());
            }
        }
    }
}
