//! Marking: walks from roots and pins over every block that they lead to.
//!
//! Memory use: two bits for each record of each pack, a few bytes for each node
//! that is put during the walk, and a stack of names that is bounded by the
//! fan-out of nodes times the depth of trees.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use types::{Cid, Codec, links};

use super::Inner;
use super::packs::Pack;
use super::read::Place;
use crate::error::StoreError;
use crate::record::Record;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of missing blocks that are listed.
const MISSING_MAX: usize = 10_000;

/// Marks of the records of one pack.
#[derive(Debug)]
pub(super) struct PackMarks {
    pub(super) pack: Arc<Pack>,
    /// Number of records when marking started.
    pub(super) records: u32,
    live: Vec<AtomicU64>,
    walked: Vec<AtomicU64>,
    /// True when the pack is about to be removed: no further record may become
    /// live.
    pub(super) is_decided: RwLock<bool>,
}

/// The marks of all packs.
#[derive(Debug)]
pub(super) struct Marks {
    /// By number: a collection works on the packs in this order.
    pub(super) packs: BTreeMap<u32, PackMarks>,
}

fn bits(count: u32) -> Vec<AtomicU64> {
    (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

/// Sets a bit. Reports whether it was set before.
fn set(bits: &[AtomicU64], number: u32) -> bool {
    let bit = 1 << (number % 64);
    bits[number as usize / 64].fetch_or(bit, Ordering::SeqCst) & bit != 0
}

impl PackMarks {
    pub(super) fn is_live(&self, record: u32) -> bool {
        record >= self.records
            || self.live[record as usize / 64].load(Ordering::SeqCst) >> (record % 64) & 1 == 1
    }

    fn has_live(&self) -> bool {
        self.live.iter().any(|word| word.load(Ordering::SeqCst) != 0)
    }

    pub(super) fn set_live(&self, record: u32) {
        if record < self.records {
            set(&self.live, record);
        }
    }

    /// Marks a record as walked. Reports whether it was marked before; `None` if
    /// the record is newer than the marking.
    fn set_walked(&self, record: u32) -> Option<bool> {
        (record < self.records).then(|| set(&self.walked, record))
    }
}

impl Marks {
    /// Creates marks for these packs, with no record marked.
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

    /// Marks a record as live. Reports whether its links must still be walked.
    /// `newer` contains the walked records that are newer than the marking.
    fn mark(&self, place: &Place, codec: Codec, newer: &mut HashSet<(u32, u32)>) -> bool {
        let number = place.pack.number();
        let marks = self.packs.get(&number);
        if let Some(marks) = marks {
            marks.set_live(place.record);
        }
        // The same bytes may be named as a chunk and as a node, so a live record
        // has not necessarily been walked.
        codec != Codec::Raw
            && !marks
                .and_then(|marks| marks.set_walked(place.record))
                .unwrap_or_else(|| !newer.insert((number, place.record)))
    }
}

/// A block that is needed and whose links cannot be read.
#[derive(Debug)]
pub(super) struct UnreadableBlock {
    pub(super) cid: Cid,
    pub(super) reason: String,
    /// True if the block is intact, but of a form that this version does not know.
    pub(super) is_newer: bool,
}

impl Inner {
    /// Marks every block that `from` leads to. Returns the blocks that cannot be
    /// read.
    pub(super) fn mark(
        &self,
        marks: &Marks,
        from: impl IntoIterator<Item = Cid>,
    ) -> Result<Vec<UnreadableBlock>, StoreError> {
        let mut missing: BTreeMap<Cid, UnreadableBlock> = BTreeMap::new();
        let note = |missing: &mut BTreeMap<_, _>, cid, reason| {
            if missing.len() < MISSING_MAX {
                missing.insert(cid, UnreadableBlock { cid, reason, is_newer: false });
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
                    note(&mut missing, cid, format!("it is {reason}"));
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
                            note(&mut missing, cid, error.to_string());
                        }
                    },
                    Ok(None) => {
                        note(&mut missing, cid, "it is missing".into());
                    }
                    Err(error @ StoreError::Damaged { .. }) => {
                        note(&mut missing, cid, error.to_string());
                    }
                    Err(error @ StoreError::Newer { .. }) => {
                        if let Some(links) = self.links_of_newer(&cid)? {
                            stack.extend(links);
                        } else {
                            // Never cut from the list: such a block stops the collection.
                            let reason = error.to_string();
                            missing.insert(cid, UnreadableBlock { cid, reason, is_newer: true });
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(missing.into_values().collect())
    }

    /// Returns the stored length of the blocks that the roots with these prefixes lead to.
    pub(super) fn reached_bytes(&self, prefixes: &[String]) -> Result<u64, StoreError> {
        // A collection moves blocks to other packs.
        let _no_collection = self.collecting.lock();
        let marks = Marks::new(self.packs.all());
        let roots: Vec<Cid> = {
            let roots = self.roots.lock();
            let all = prefixes.iter().flat_map(|prefix| roots.with_prefix(prefix));
            all.map(|(_, root)| root.cid).collect()
        };
        self.mark(&marks, roots)?;
        let mut bytes = 0;
        for marks in marks.packs.values().filter(|marks| marks.has_live()) {
            let entries = self.packs.entries(&marks.pack)?;
            let known = entries.iter().zip(0..marks.records);
            let live = known.filter(|(_, record)| marks.is_live(*record));
            bytes += live.map(|(entry, _)| entry.record_len()).sum::<u64>();
        }
        Ok(bytes)
    }

    /// Returns the links of a record of a later version, if they are outside the
    /// parts that this version does not know.
    fn links_of_newer(&self, cid: &Cid) -> Result<Option<Vec<Cid>>, StoreError> {
        for place in self.places(cid.hash())?.usable {
            let Ok(Some(Record::Newer(record))) = self.read_any(&place) else { continue };
            if let Ok(Some(block)) = record.block(cid.codec())
                && let Ok(links) = links(cid.codec(), &block.decode()?)
            {
                return Ok(Some(links));
            }
        }
        Ok(None)
    }
}
