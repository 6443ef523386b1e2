//! Marking: walking from roots and pins over everything that they lead to.
//!
//! Memory is two bits for each record of each pack, a few bytes for each node
//! that comes while it walks, and a stack of names that is bounded by the
//! fan-out of nodes times the depth of trees.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use types::{Cid, Codec, links};

use super::Inner;
use super::packs::Pack;
use super::read::Place;
use crate::error::StoreError;

/// So many lacks are listed; with more, the list is long enough.
const LACKS_MAX: usize = 10_000;

/// What is known of the records of one pack.
#[derive(Debug)]
pub(super) struct PackMarks {
    pub(super) pack: Arc<Pack>,
    /// Records that were there when marking began.
    pub(super) records: u32,
    live: Vec<AtomicU64>,
    walked: Vec<AtomicU64>,
    /// No record comes to life any more: the pack is about to go.
    pub(super) is_decided: RwLock<bool>,
}

/// The marks of all packs.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) packs: HashMap<u32, PackMarks>,
}

fn bits(count: u32) -> Vec<AtomicU64> {
    (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

/// Sets a bit; tells whether it was set before.
fn set(bits: &[AtomicU64], number: u32) -> bool {
    let bit = 1 << (number % 64);
    bits[number as usize / 64].fetch_or(bit, Ordering::SeqCst) & bit != 0
}

impl PackMarks {
    pub(super) fn is_live(&self, record: u32) -> bool {
        record >= self.records
            || self.live[record as usize / 64].load(Ordering::SeqCst) >> (record % 64) & 1 == 1
    }

    pub(super) fn set_live(&self, record: u32) {
        if record < self.records {
            set(&self.live, record);
        }
    }

    /// Marks a record as walked; tells whether it was before. `None`: it is
    /// newer than the marking.
    fn set_walked(&self, record: u32) -> Option<bool> {
        (record < self.records).then(|| set(&self.walked, record))
    }
}

impl Marks {
    /// Nothing marked, over the packs that there are.
    pub(super) fn new(packs: Vec<Arc<Pack>>) -> Self {
        let marks = |pack: Arc<Pack>| {
            let records = pack.records();
            let marks = PackMarks {
                records,
                live: bits(records),
                walked: bits(records),
                is_decided: RwLock::new(false),
                pack,
            };
            (marks.pack.number(), marks)
        };
        Self { packs: packs.into_iter().map(marks).collect() }
    }

    /// Marks a record; tells whether what it refers to is still to be walked.
    /// `newer` holds what was walked of what is newer than the marking.
    fn mark(&self, place: &Place, codec: Codec, newer: &mut HashSet<(u32, u32)>) -> bool {
        let number = place.pack.number();
        let marks = self.packs.get(&number);
        if let Some(marks) = marks {
            marks.set_live(place.record);
        }
        // The same bytes may be named as a chunk here and as a node there:
        // that the record is marked does not say that it was walked.
        codec != Codec::Raw
            && !marks
                .and_then(|marks| marks.set_walked(place.record))
                .unwrap_or_else(|| !newer.insert((number, place.record)))
    }
}

/// A block that is needed and cannot be had.
#[derive(Debug)]
pub(super) struct Lack {
    pub(super) cid: Cid,
    pub(super) reason: String,
}

impl Inner {
    /// Marks everything that `from` leads to. What cannot be had is in the
    /// answer, once for each name that leads to it and is walked.
    pub(super) fn mark(
        &self,
        marks: &Marks,
        from: impl IntoIterator<Item = Cid>,
    ) -> Result<Vec<Lack>, StoreError> {
        let mut lacks: BTreeMap<Cid, String> = BTreeMap::new();
        let lack = |lacks: &mut BTreeMap<_, _>, cid, reason| {
            if lacks.len() < LACKS_MAX {
                lacks.insert(cid, reason);
            }
        };
        let mut newer = HashSet::new();
        let mut stack = Vec::new();
        for root in from {
            stack.push(root);
            while let Some(cid) = stack.pop() {
                let places = self.places(cid.hash())?;
                let Some(place) = places.usable.first() else {
                    let reason = if places.damaged.is_empty() { "missing" } else { "damaged" };
                    lack(&mut lacks, cid, format!("it is {reason}"));
                    continue;
                };
                if !marks.mark(place, cid.codec(), &mut newer) {
                    continue;
                }
                let bytes = self
                    .get_encoded(&cid)
                    .and_then(|block| Ok(block.map(|block| block.decode()).transpose()?));
                match bytes {
                    Ok(Some(bytes)) => match links(cid.codec(), &bytes) {
                        Ok(links) => stack.extend(links),
                        Err(error) => {
                            lack(&mut lacks, cid, error.to_string());
                        }
                    },
                    Ok(None) => {
                        lack(&mut lacks, cid, "it is missing".into());
                    }
                    Err(error @ StoreError::Damaged { .. }) => {
                        lack(&mut lacks, cid, error.to_string());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(lacks.into_iter().map(|(cid, reason)| Lack { cid, reason }).collect())
    }
}
