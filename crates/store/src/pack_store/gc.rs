//! Garbage collection: deletes the blocks that no root and no pin leads to.
//!
//! A collection first announces itself ([`Collection`]): from then on, every block
//! that anyone finds in the store is marked as live. Then it reads roots and pins
//! and marks all blocks that they lead to. A block that was found before that is
//! pinned or reachable; a block that is found later is marked when it is found; a
//! block that is put later is in a newer record, which this collection does not
//! touch. Finally it decides pack by pack: from that moment on, the dead blocks of
//! the pack cannot be found any more, and the live ones are moved to another pack,
//! which is durable before the old one is removed.
//!
//! If a block has two copies, one of them is dead. It is removed only after the
//! other copy was read and found to be good.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::mark::{Marks, PackMarks, UnreadableBlock};
use super::packs::Pack;
use super::read::Place;
use super::relocate::RelocationBatch;
use super::write::Writer;
use super::{Inner, PackStore};
use crate::block_store::{GcOptions, GcReport, WriteEpoch};
use crate::error::{IoContext, StoreError};
use crate::pack::{HEADER_LEN, PackKind, RETIRED_MAGIC};
use crate::record::Entry;

/// A sealed pack is small if it is shorter than this fraction (1/8) of a full
/// pack.
pub(super) const SMALL_PACK_SHARE: u64 = 8;
/// Number of small packs of a kind from which on they are merged.
const SMALL_PACKS_MAX: usize = 8;
/// Percentage of stale entries, whose packs no longer exist, above which the index
/// is rewritten.
const STALE_INDEX_PERCENT: u64 = 20;

/// Function that returns the reason why nothing may be collected, if there is one; see
/// [`super::PackStore::guard_collections`].
#[derive(Default)]
pub(super) struct Guard(pub(super) OnceLock<GuardFn>);

type GuardFn = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").finish_non_exhaustive()
    }
}

impl PackStore {
    /// Calls `guard` before each collection. If it returns a reason, nothing is collected, unless
    /// the collection accepts the known roots; see [`GcOptions::accept_roots`]. `guard` may read
    /// the store and must not collect. Only the first call of this function has an effect.
    pub fn guard_collections(
        &self,
        guard: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let _ = self.inner.guard.0.set(Box::new(guard));
    }
}

/// A collection in progress.
#[derive(Debug)]
pub(super) struct Collection {
    marks: Marks,
}

impl Collection {
    /// Keeps a record that was found. Returns false if it is too late: the record is
    /// about to be deleted.
    pub(super) fn keep(&self, place: &Place) -> bool {
        let Some(marks) = self.marks.packs.get(&place.pack.number()) else { return true };
        let is_decided = marks.is_decided.read();
        if *is_decided {
            return marks.is_live(place.record);
        }
        marks.set_live(place.record);
        true
    }
}

/// A pack and the length of its live and dead records.
struct Candidate<'a> {
    marks: &'a PackMarks,
    live_bytes: u64,
    dead_bytes: u64,
}

impl Inner {
    pub(super) fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        let _one_at_a_time = self.collecting.lock();
        if let Some(guard) = self.guard.0.get()
            && !options.accept_roots
        {
            guard().map_err(StoreError::NotCollected)?;
        }
        if self.roots.lock().is_incomplete() && !options.accept_roots {
            return Err(StoreError::NotCollected(
                "records of roots are lost, so it is not known which blocks are needed; run \
                 `archivist recover` first, which finds lost snapshots; if `archivist snapshots` \
                 lists all of them, accept the list with `archivist prune --accept-roots`"
                    .into(),
            ));
        }
        let collection = Arc::new(Collection { marks: Marks::new(self.packs.all()) });
        *self.collection.write() = Some(collection.clone());
        let result = self.collect(&collection.marks, options);
        *self.collection.write() = None;
        self.reserve_file.give_back(&*self.disk);
        let mut report = result?;
        report.live_blocks = self.live_blocks(&collection.marks);
        // All nodes that a root leads to were read, so none of them was lost.
        let forget =
            || self.pack_list.forget_lost(|number| Some(self.packs.get(number)?.records()));
        if let Err(error) = self.with_reserve(forget) {
            // They are reported again, and forgotten by the next collection.
            tracing::warn!(%error, "cannot save the list of packs");
        }
        self.removed_roots.retain(|hash| !matches!(self.locate(hash), Ok(None)));
        self.drop_stale_entries()?;
        Ok(report)
    }

    fn collect(&self, marks: &Marks, options: GcOptions) -> Result<GcReport, StoreError> {
        // Taken before the first block is moved: originals are deleted only if no
        // sync, of any thread, has failed since.
        let epoch = self.write_epoch();
        // Roots and pins are read at the same moment: code that hands a block over
        // from a pin to a root, or the reverse, holds both for a short time only.
        let (roots, pinned): (Vec<_>, _) = {
            let mut roots = self.roots.lock();
            // A root that could not be set may come back after a restart, and its
            // blocks would be missing then.
            self.with_reserve(|| roots.settle())?;
            (roots.iter().map(|(_, root)| *root).collect(), self.pins.snapshot())
        };
        let (complete, partial): (Vec<_>, Vec<_>) =
            roots.into_iter().partition(|root| !root.partial);
        let unreadable = self.mark(marks, complete.iter().map(|root| root.cid))?;
        refuse_newer(&unreadable)?;
        if let Some(block) = unreadable.first() {
            return Err(StoreError::NotCollected(format!(
                "block {} is needed and cannot be read ({}), so it is not known which other \
                 blocks are needed; verify and repair first",
                block.cid, block.reason
            )));
        }
        if options.accept_roots {
            let mut roots = self.roots.lock();
            self.with_reserve(|| roots.accept())?;
        }
        // Blocks below partial roots and pins may be missing: their work is in
        // progress.
        refuse_newer(&self.mark(marks, partial.iter().map(|root| root.cid))?)?;
        refuse_newer(&self.mark(marks, pinned)?)?;

        let mut report = GcReport::default();
        let first_pack = options.since.map_or(0, |since| since.first_pack);
        let mut candidates = self.candidates(marks, first_pack, &mut report)?;
        // Packs without live records come first: removing them needs no space.
        candidates.sort_by_key(|candidate| candidate.live_bytes);
        let small = self.small_packs(&candidates);
        let mut writers: [Writer; 2] = Default::default();
        let mut moved: Vec<&PackMarks> = Vec::new();
        let mut outcome = Ok(());
        for candidate in &candidates {
            let number = candidate.marks.pack.number();
            let content = candidate.live_bytes + candidate.dead_bytes;
            let live_percent = candidate.live_bytes * 100 / content.max(1);
            let is_wanted = candidate.live_bytes == 0
                || (candidate.dead_bytes > 0 && live_percent < u64::from(options.min_live_percent))
                || small.contains(&number);
            if !is_wanted {
                report.left_bytes += candidate.dead_bytes;
                continue;
            }
            let mut emptied = self.empty_pack(candidate, marks, &mut writers, &mut report);
            if matches!(emptied, Err(StoreError::Full { .. })) {
                // Frees the packs that were emptied before, and the reserve file.
                outcome = self.remove_moved(epoch, &mut writers, &mut moved, &mut report);
                if outcome.is_err() {
                    break;
                }
                self.reserve_file.take(&*self.disk);
                emptied = self.empty_pack(candidate, marks, &mut writers, &mut report);
            }
            match emptied {
                Ok(true) => moved.push(candidate.marks),
                Ok(false) => {}
                Err(StoreError::Full { .. }) => report.left_bytes += candidate.dead_bytes,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            // The old packs are removed as soon as the new one is full, so that
            // little space is needed.
            let pending: u64 = moved.iter().map(|marks| marks.pack.state.lock().file_len).sum();
            if pending >= self.pack_len {
                outcome = self.remove_moved(epoch, &mut writers, &mut moved, &mut report);
                if outcome.is_err() {
                    break;
                }
            }
        }
        let end = self.remove_moved(epoch, &mut writers, &mut moved, &mut report);
        for pack in writers.iter().filter_map(|writer| writer.pack.as_ref()) {
            self.close(pack);
        }
        outcome.and(end)?;
        Ok(report)
    }

    /// Returns every pack with its live and dead lengths. An open pack with dead
    /// records is closed, so that it can be removed too.
    fn candidates<'a>(
        &self,
        marks: &'a Marks,
        first_pack: u32,
        report: &mut GcReport,
    ) -> Result<Vec<Candidate<'a>>, StoreError> {
        let mut candidates = Vec::new();
        for marks in marks.packs.values().filter(|marks| marks.pack.number() >= first_pack) {
            let entries = self.packs.entries(&marks.pack)?;
            if entries.len() < marks.records as usize {
                // The footer and some records are damaged: the numbers of the
                // remaining records differ from the marked ones.
                let path = marks.pack.path.display();
                report.damaged.push(format!("{path}: some of its records are lost"));
                continue;
            }
            let live_bytes = live(marks, &entries).map(|(_, entry)| entry.record_len()).sum();
            let dead_bytes = marks.pack.content_len().saturating_sub(live_bytes);
            if !marks.pack.is_sealed() {
                if dead_bytes == 0 {
                    continue;
                }
                self.close(&marks.pack);
            }
            candidates.push(Candidate { marks, live_bytes, dead_bytes });
        }
        Ok(candidates)
    }

    /// Closes a pack, so that nobody appends to it any more, and seals it.
    pub(super) fn close(&self, pack: &Arc<Pack>) {
        let mut writer = self.writers[pack.header.kind as usize].lock();
        if writer.pack.as_ref().is_some_and(|open| Arc::ptr_eq(open, pack)) {
            writer.pack = None;
        }
        drop(writer);
        if let Err(error) = self.seal(pack) {
            tracing::debug!(%error, "a closed pack could not be sealed yet");
        }
    }

    /// Returns the numbers of small packs, of those kinds that have many of them.
    fn small_packs(&self, candidates: &[Candidate<'_>]) -> Vec<u32> {
        let mut all = Vec::new();
        for kind in PackKind::ALL {
            let small = candidates.iter().filter(|candidate| {
                candidate.marks.pack.header.kind == kind
                    && candidate.live_bytes + candidate.dead_bytes
                        < self.pack_len / SMALL_PACK_SHARE
            });
            let small: Vec<_> = small.map(|candidate| candidate.marks.pack.number()).collect();
            if small.len() >= SMALL_PACKS_MAX {
                all.extend(small);
            }
        }
        all
    }

    /// Decides on a pack and moves its live records. Returns `Ok(false)` if the pack
    /// must stay.
    fn empty_pack(
        &self,
        candidate: &Candidate<'_>,
        all: &Marks,
        writers: &mut [Writer; 2],
        report: &mut GcReport,
    ) -> Result<bool, StoreError> {
        let marks = candidate.marks;
        *marks.is_decided.write() = true;
        let result = self.move_live(marks, all, writers, report);
        if !matches!(result, Ok(true)) {
            // The pack stays, with all of its records.
            *marks.is_decided.write() = false;
        }
        result
    }

    fn move_live(
        &self,
        marks: &PackMarks,
        all: &Marks,
        writers: &mut [Writer; 2],
        report: &mut GcReport,
    ) -> Result<bool, StoreError> {
        let pack = &marks.pack;
        let kind = pack.header.kind;
        let entries = self.packs.entries(pack)?;
        for (record, entry) in dead(marks, &entries) {
            if !self.may_drop(pack, record, &entry, all)? {
                marks.set_live(record);
            }
        }
        let writer = &mut writers[kind as usize];
        let mut batch = RelocationBatch::default();
        for (record, entry) in live(marks, &entries) {
            let place = Place { pack: pack.clone(), record, entry };
            match self.read_any(&place) {
                Ok(Some(record)) => batch.push(record),
                Ok(None) => return Ok(false),
                // The pack stays, and the others are collected.
                Err(error @ (StoreError::Damaged { .. } | StoreError::Io { .. })) => {
                    report.damaged.push(error.to_string());
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            if batch.is_full() {
                report.rewritten_bytes += self.append_batch(&mut batch, writer, kind)?;
            }
        }
        report.rewritten_bytes += self.append_batch(&mut batch, writer, kind)?;
        Ok(true)
    }

    /// Reports whether a dead record may be deleted: not if it is the good copy of a
    /// block whose live copy is damaged.
    fn may_drop(
        &self,
        pack: &Arc<Pack>,
        record: u32,
        entry: &Entry,
        all: &Marks,
    ) -> Result<bool, StoreError> {
        let places = self.places(&entry.hash)?;
        let others = places
            .usable
            .iter()
            .filter(|place| !(Arc::ptr_eq(&place.pack, pack) && place.record == record));
        let is_live = |place: &Place| {
            all.packs.get(&place.pack.number()).is_none_or(|marks| marks.is_live(place.record))
        };
        // A place that is known to be damaged does not count as a copy. It may have
        // been marked before the damage was known.
        let mut is_needed = places.damaged.iter().any(is_live);
        for other in others.filter(|place| is_live(place)) {
            if self.read(other).is_ok_and(|block| block.is_some()) {
                return Ok(true);
            }
            is_needed = true;
        }
        Ok(!is_needed)
    }

    /// Makes the moved records durable, and removes the packs that contained them.
    fn remove_moved(
        &self,
        epoch: WriteEpoch,
        writers: &mut [Writer; 2],
        moved: &mut Vec<&PackMarks>,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        if moved.is_empty() {
            return Ok(());
        }
        for writer in writers {
            if let Some(pack) = writer.pack.take() {
                self.seal(&pack)?;
            }
        }
        // The commit also covers packs that became full in between. If another
        // thread syncs them now, or has failed to, the commit waits for it and
        // reports the failure.
        self.commit(epoch)?;
        let mut gone = Vec::new();
        for marks in moved.drain(..) {
            let live = (0..marks.records).filter(|record| marks.is_live(*record)).count() as u64;
            report.deleted_blocks += u64::from(marks.records) - live;
            report.freed_bytes += marks.pack.state.lock().file_len;
            gone.push(marks.pack.clone());
        }
        self.remove_packs(&gone)
    }

    /// Removes packs whose live records are durable elsewhere, with their files.
    pub(super) fn remove_packs(&self, gone: &[Arc<Pack>]) -> Result<(), StoreError> {
        for pack in gone {
            self.packs.forget(pack.number());
        }
        // The catalog and the list are written before the packs are emptied: an empty pack
        // with records in the catalog would be reported as damaged, and one without a file
        // as lost. On a full disk, emptying them makes the space for the catalog.
        let numbers = || gone.iter().map(|pack| pack.number());
        let save = || self.pack_list.remove(numbers()).and_then(|()| self.flush_index());
        let mut flushed = save();
        if !matches!(flushed, Ok(()) | Err(StoreError::Full { .. })) {
            // They stay, and the next collection finds their records again.
            for pack in gone {
                self.packs.insert(pack.clone());
            }
            let synced = |pack: &Arc<Pack>| (pack.number(), pack.state.lock().synced_records);
            let durable = gone.iter().map(synced).filter(|(_, records)| *records > 0);
            self.pack_list.add(durable, |_| true);
            return flushed;
        }
        for pack in gone {
            self.retire(pack)?;
        }
        if flushed.is_err() {
            flushed = save();
        }
        match flushed {
            Ok(()) => {}
            // The files stay, and are removed when the store is opened again.
            Err(StoreError::Full { .. }) => {
                self.pack_list.remove_later(numbers());
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        for pack in gone {
            self.disk.remove(&pack.path).context("remove", &pack.path)?;
        }
        self.quarantine.retain(|(pack, _)| self.packs.get(pack).is_some());
        self.disk.sync_dir(self.packs.dir()).context("sync", self.packs.dir())
    }

    /// Empties the file of a pack in place, which needs no space.
    fn retire(&self, pack: &Pack) -> Result<(), StoreError> {
        let file = self.disk.open(&pack.path).context("open", &pack.path)?;
        file.write_at(&[&RETIRED_MAGIC], 0).context("write", &pack.path)?;
        file.sync().context("sync", &pack.path)?;
        file.truncate(HEADER_LEN).context("cut", &pack.path)?;
        file.sync().context("sync", &pack.path)
    }

    fn live_blocks(&self, marks: &Marks) -> u64 {
        let live = |marks: &PackMarks| (0..marks.records).filter(|r| marks.is_live(*r)).count();
        marks.packs.values().map(live).sum::<usize>() as u64
    }

    /// Rewrites the index if many of its entries are stale.
    fn drop_stale_entries(&self) -> Result<(), StoreError> {
        let records: u64 = self.packs.all().iter().map(|pack| u64::from(pack.records())).sum();
        let stale = self.index.len().saturating_sub(records);
        if stale * 100 <= self.index.len() * STALE_INDEX_PERCENT {
            return Ok(());
        }
        let result = self.index.retain(
            |value| self.packs.get(super::read::pack_of(value)).is_some(),
            || self.catalog_of_packs(),
            |catalog, runs| self.write_catalog(catalog, runs),
        );
        match result {
            // The index is unchanged, only longer than necessary.
            Err(StoreError::Full { .. }) => Ok(()),
            result => result,
        }
    }
}

/// Refuses a collection if the links of a block are unknown because a newer version
/// of the program wrote it.
fn refuse_newer(unreadable: &[UnreadableBlock]) -> Result<(), StoreError> {
    match unreadable.iter().find(|block| block.is_newer) {
        Some(block) => Err(StoreError::NotCollected(format!(
            "it is not known which other blocks are needed: {}",
            block.reason
        ))),
        None => Ok(()),
    }
}

fn live<'a>(marks: &'a PackMarks, entries: &'a [Entry]) -> impl Iterator<Item = (u32, Entry)> + 'a {
    (0..).zip(entries.iter().copied()).filter(|(record, _)| marks.is_live(*record))
}

fn dead<'a>(marks: &'a PackMarks, entries: &'a [Entry]) -> impl Iterator<Item = (u32, Entry)> + 'a {
    (0..).zip(entries.iter().copied()).filter(|(record, _)| !marks.is_live(*record))
}
