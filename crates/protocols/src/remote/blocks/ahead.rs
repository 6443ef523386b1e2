//! What will be asked for next: what is below a node, in order. Pure.
//!
//! A node, a header or a segment says in which order blocks will be wanted: a
//! *run*. When something of a run is asked for, the blocks behind it are
//! fetched ahead, up to a window; what was fetched is kept until it is asked
//! for, or the run is forgotten.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use net::Want;
use types::Cid;

/// What is fetched ahead of one run, in bytes: 80 ms at 100 MB/s.
pub(super) const WINDOW: usize = 8 << 20;
/// … and in blocks.
const WINDOW_BLOCKS: usize = 1024;
/// What is kept and under way for all runs together, in bytes.
pub(super) const KEPT_MAX: usize = 64 << 20;
/// Runs that are followed; the one that was quiet for longest is forgotten.
pub(super) const RUNS_MAX: usize = 24;
/// What a block is taken for whose length is not known, in bytes.
const ASSUMED_LEN: usize = 64 << 10;

/// The order in which blocks will be wanted.
#[derive(Debug)]
struct Run {
    id: u64,
    items: Vec<Want>,
    /// Everything before it was asked for by the reader.
    taken: usize,
    /// Everything before it was taken, or is kept or under way.
    asked: usize,
    /// Whether it is sure that the reader wants it.
    is_wanted: bool,
}

/// A block that was asked for ahead.
#[derive(Debug)]
enum Slot {
    /// It is under way, and is expected to be so long.
    Coming(usize),
    /// It is here.
    Here(Bytes),
}

/// What is known of a block that is wanted now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is here; it is kept no longer.
    Here(Bytes),
    /// It is under way.
    Coming,
    /// Nobody has asked for it.
    Not,
}

/// All runs, and what was fetched ahead for them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The one that was asked for last is the last.
    runs: VecDeque<Run>,
    /// The newest run that each block is in, and its place there.
    places: HashMap<Cid, (u64, usize)>,
    /// What was asked for ahead, and for which run.
    slots: HashMap<Cid, (u64, Slot)>,
    kept: usize,
    next_id: u64,
}

fn len_of(want: &Want) -> usize {
    want.len.map_or(ASSUMED_LEN, |len| len as usize)
}

impl Ahead {
    /// Bytes that are here or under way.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Follows a run; where `is_wanted`, from its beginning, and else from
    /// where something of it is asked for.
    pub(super) fn follow(&mut self, items: Vec<Want>, is_wanted: bool) {
        if items.len() < 2 {
            return;
        }
        let is_same = |run: &Run| run.items.len() == items.len() && run.items == items;
        let same = self.runs.iter().position(is_same);
        // Another reads the same, as where a file has a copy: with it.
        if same.is_some_and(|at| self.runs[at].taken < items.len()) {
            return;
        }
        // One that was read to its end is read again, from its beginning.
        let full = (self.runs.len() >= RUNS_MAX).then_some(0);
        if let Some(gone) = same.or(full).and_then(|at| self.runs.remove(at)) {
            self.forget(&gone);
        }
        let id = self.next_id;
        self.next_id += 1;
        for (at, item) in items.iter().enumerate() {
            self.places.insert(item.cid, (id, at));
        }
        self.runs.push_back(Run { id, items, taken: 0, asked: 0, is_wanted });
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
            Some((_, Slot::Coming(len))) => self.kept -= len,
            Some((_, Slot::Here(bytes))) => self.kept -= bytes.len(),
            None => {}
        }
    }

    /// Takes a block that is wanted now.
    pub(super) fn take(&mut self, cid: &Cid) -> Taken {
        match self.slots.get(cid) {
            Some((_, Slot::Coming(_))) => Taken::Coming,
            Some((_, Slot::Here(bytes))) => {
                let bytes = bytes.clone();
                self.drop_slot(cid);
                Taken::Here(bytes)
            }
            None => Taken::Not,
        }
    }

    /// Notes that the reader has asked for these.
    pub(super) fn asked_for(&mut self, cids: &[Cid]) {
        for cid in cids {
            let Some((id, at)) = self.places.get(cid).copied() else { continue };
            let Some(place) = self.runs.iter().position(|run| run.id == id) else { continue };
            let Some(mut run) = self.runs.remove(place) else { continue };
            run.is_wanted = true;
            run.taken = run.taken.max(at + 1);
            run.asked = run.asked.max(run.taken);
            self.runs.push_back(run);
        }
    }

    /// What is to be fetched ahead now: one list for each run that has half of
    /// its window free. It counts as under way from now on.
    pub(super) fn due(&mut self) -> Vec<Vec<Want>> {
        let mut all = Vec::new();
        for run in self.runs.iter_mut().rev().filter(|run| run.is_wanted) {
            let mut open: usize = run.items[run.taken..run.asked].iter().map(len_of).sum();
            let blocks = run.asked - run.taken;
            if open > WINDOW / 2 || blocks > WINDOW_BLOCKS / 2 {
                continue;
            }
            let mut wants = Vec::new();
            while run.asked < run.items.len()
                && open < WINDOW
                && run.asked - run.taken < WINDOW_BLOCKS
            {
                let want = run.items[run.asked];
                let len = len_of(&want);
                if self.kept + len > KEPT_MAX {
                    break;
                }
                run.asked += 1;
                open += len;
                // A block that comes twice in a run is fetched once.
                if let std::collections::hash_map::Entry::Vacant(slot) = self.slots.entry(want.cid)
                {
                    slot.insert((run.id, Slot::Coming(len)));
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

    /// Takes a block that came ahead; one that is not there is forgotten, and
    /// whoever wants it asks again.
    pub(super) fn came(&mut self, cid: Cid, bytes: Option<Bytes>) {
        let Some((run, Slot::Coming(len))) = self.slots.get(&cid) else { return };
        let run = *run;
        self.kept -= len;
        match bytes {
            Some(bytes) => {
                self.kept += bytes.len();
                self.slots.insert(cid, (run, Slot::Here(bytes)));
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
        let mut ahead = Ahead::default();
        let items = run(0, 100, 1 << 20);
        ahead.follow(items.clone(), false);
        // Nobody wants it yet.
        assert!(ahead.due().is_empty());
        ahead.asked_for(&[items[0].cid]);
        assert_eq!(ahead.take(&items[0].cid), Taken::Not);
        let due = ahead.due();
        assert_eq!(due, [items[1..9].to_vec()]);
        assert!(ahead.due().is_empty());
        assert_eq!(ahead.take(&items[1].cid), Taken::Coming);
        for want in &due[0] {
            ahead.came(want.cid, Some(bytes(want)));
        }
        assert!(matches!(ahead.take(&items[1].cid), Taken::Here(_)));
        assert_eq!(ahead.take(&items[1].cid), Taken::Not);
        ahead.asked_for(&[items[1].cid, items[2].cid, items[3].cid]);
        assert!(ahead.due().is_empty());
        ahead.asked_for(&[items[4].cid]);
        assert_eq!(ahead.due(), [items[9..13].to_vec()]);
        // What failed is asked for by whoever wants it.
        ahead.came(items[9].cid, None);
        assert_eq!(ahead.take(&items[9].cid), Taken::Not);
        // The end of the run.
        ahead.asked_for(&[items[99].cid]);
        assert!(ahead.due().is_empty());
        // What nobody has taken goes when others push the run out.
        assert!(ahead.kept() > 0);
        for seed in 1..=RUNS_MAX {
            ahead.follow(run(seed, 3, 10), false);
        }
        assert_eq!((ahead.kept(), ahead.places.len()), (0, RUNS_MAX * 3));
    }

    #[test]
    fn a_run_that_is_used_outlives_others() {
        let mut ahead = Ahead::default();
        let items = run(0, 500, 10);
        ahead.follow(items.clone(), true);
        for (seed, item) in items.iter().enumerate() {
            ahead.follow(run(seed + 1, 3, 10), true);
            ahead.asked_for(&[item.cid]);
            assert!(ahead.places.contains_key(&items[0].cid));
        }
        // Read to its end; the same run again begins at its beginning. Begun,
        // it is not begun again.
        ahead.due();
        for _ in 0..2 {
            ahead.follow(items.clone(), true);
        }
        assert!(ahead.due().contains(&items));
        ahead.follow(items.clone(), true);
        assert!(ahead.due().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_kept_has_a_bound(
            steps in prop::collection::vec((0..40_usize, 0..50_usize, any::<bool>()), 1..300),
        ) {
            let mut ahead = Ahead::default();
            let mut coming: Vec<Want> = Vec::new();
            for (seed, at, is_wanted) in steps {
                let items = run(seed, 50, 700_000);
                ahead.follow(items.clone(), is_wanted);
                ahead.asked_for(&[items[at].cid]);
                if let Taken::Here(taken) = ahead.take(&items[at].cid) {
                    prop_assert_eq!(taken.len(), 700_000);
                }
                coming.extend(ahead.due().into_iter().flatten());
                if is_wanted {
                    for want in coming.drain(..coming.len() / 2) {
                        // The bytes are the same; only their count matters.
                        ahead.came(want.cid, Some(Bytes::from_static(&[0; 700_000])));
                    }
                }
                prop_assert!(ahead.kept() <= KEPT_MAX);
                prop_assert!(ahead.runs.len() <= RUNS_MAX);
                let counted: usize = ahead.slots.values().map(|(_, slot)| match slot {
                    Slot::Coming(len) => *len,
                    Slot::Here(bytes) => bytes.len(),
                }).sum();
                prop_assert_eq!(counted, ahead.kept());
            }
        }
    }
}
