//! Checking that every root is whole.

use std::collections::BTreeMap;

use types::Cid;

use super::Inner;
use super::mark::Marks;
use super::read::Place;
use crate::block_store::{Problem, VerifyDepth, VerifyReport};
use crate::error::StoreError;

impl Inner {
    pub(super) fn verify(&self, depth: VerifyDepth) -> Result<VerifyReport, StoreError> {
        let roots: Vec<_> = self
            .roots
            .lock()
            .iter()
            .filter(|(_, root)| !root.partial)
            .map(|(name, root)| (name.clone(), root.cid))
            .collect();
        let marks = Marks::new(self.packs.all());
        let mut problems: BTreeMap<Cid, String> = BTreeMap::new();
        for lack in self.mark(&marks, roots.iter().map(|(_, cid)| *cid))? {
            problems.insert(lack.cid, lack.reason);
        }
        let mut report = VerifyReport { roots: roots.len() as u64, ..VerifyReport::default() };
        if depth == VerifyDepth::Full && self.read_all(&marks, &mut report)? {
            // A block that was found damaged may have another copy; marking
            // again says what is lacking now.
            let again = Marks::new(self.packs.all());
            for lack in self.mark(&again, roots.iter().map(|(_, cid)| *cid))? {
                problems.entry(lack.cid).or_insert(lack.reason);
            }
            report.blocks = self.count_live(&again);
        } else {
            report.blocks = self.count_live(&marks);
        }
        if !problems.is_empty() {
            self.name_roots(&roots, problems, &mut report)?;
        }
        Ok(report)
    }

    fn count_live(&self, marks: &Marks) -> u64 {
        let live = |marks: &super::mark::PackMarks| {
            (0..marks.records).filter(|record| marks.is_live(*record)).count() as u64
        };
        marks.packs.values().map(live).sum()
    }

    /// Reads every marked record, in the order of the packs; tells whether
    /// any was damaged.
    fn read_all(&self, marks: &Marks, report: &mut VerifyReport) -> Result<bool, StoreError> {
        let mut found_damage = false;
        for pack in self.packs.all() {
            let Some(marks) = marks.packs.get(&pack.number()) else { continue };
            for (record, entry) in (0..).zip(self.packs.entries(&pack)?) {
                if !marks.is_live(record) {
                    continue;
                }
                let place = Place { pack: pack.clone(), record, entry };
                match self.read(&place) {
                    Ok(Some(_)) => report.read_bytes += entry.record_len(),
                    // Collected meanwhile: then it has been moved.
                    Ok(None) => {}
                    Err(StoreError::Damaged { .. }) => found_damage = true,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found_damage)
    }

    /// Says of each problem which roots it concerns: root by root, with marks
    /// of its own, since what one root has walked the next does not walk.
    fn name_roots(
        &self,
        roots: &[(String, Cid)],
        problems: BTreeMap<Cid, String>,
        report: &mut VerifyReport,
    ) -> Result<(), StoreError> {
        let mut named: BTreeMap<Cid, Vec<String>> = BTreeMap::new();
        for (name, cid) in roots {
            let marks = Marks::new(self.packs.all());
            for lack in self.mark(&marks, [*cid])? {
                named.entry(lack.cid).or_default().push(name.clone());
            }
        }
        report.problems = problems
            .into_iter()
            .map(|(cid, reason)| Problem {
                cid,
                reason,
                roots: named.remove(&cid).unwrap_or_default(),
            })
            .collect();
        Ok(())
    }
}
