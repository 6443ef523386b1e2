//! Compressing what was stored as it came.
//!
//! Over a fast link nothing is compressed on the way. Later, when there is
//! time, a pack that would shrink is written anew: all of its records, whether
//! anything needs them or not, go to a new pack, compressed where that pays.
//! The old one goes when the new one is durable, as the collector does it, and
//! only one of the two works at a time. Since nothing is left out, nothing has
//! to be marked, and nothing can be deleted by mistake.
//!
//! A pack is done whole or not at all: where it cannot be finished (somebody
//! wants the machine, the disk is full, a record is damaged), what was made for
//! it is given up, and the old pack stays as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use types::{EncodedBlock, Encoding};

use super::Inner;
use super::gc::SMALL_PACK_SHARE;
use super::moving::Moving;
use super::packs::Pack;
use super::read::Place;
use super::write::Writer;
use crate::error::{IoContext, StoreError};
use crate::pack::Entry;

/// How hard to compress; figures: `docs/decisions/0006`.
const LEVEL: i32 = 6;
/// A pack is written anew where it shrinks by this share of it, in percent: by
/// as much as makes a block worth it.
const WORTH_PERCENT: u64 = 5;
/// So many blocks of a pack are tried, spread over its bytes.
const SAMPLES: u64 = 32;
/// How hard they are compressed: it tells what shrinks, at the least cost.
const SAMPLE_LEVEL: i32 = 1;

/// What a recompression did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecompressReport {
    /// Packs of which some blocks were tried.
    pub tried_packs: u64,
    /// Packs that were written anew.
    pub rewritten_packs: u64,
    /// The bytes of those before …
    pub before_bytes: u64,
    /// … and after.
    pub after_bytes: u64,
    /// Bytes of packs that were read.
    pub read_bytes: u64,
    /// Blocks that are damaged; their packs were left alone.
    pub damaged: Vec<String>,
    /// Why it ended.
    pub end: RecompressEnd,
}

/// Why a recompression ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecompressEnd {
    /// There is nothing left to do.
    #[default]
    Done,
    /// It has done what it was to do at once; there may be more.
    Budget,
    /// It was stopped.
    Stopped,
    /// The disk has no room for a pack beside the old one.
    Full,
}

/// Counts what was gained since the store was opened, in bytes of packs.
#[derive(Debug, Default)]
pub(super) struct Recompressed {
    before: AtomicU64,
    after: AtomicU64,
}

impl Recompressed {
    pub(super) fn get(&self) -> (u64, u64) {
        (self.before.load(Ordering::Relaxed), self.after.load(Ordering::Relaxed))
    }
}

/// What became of one pack.
enum Outcome {
    Rewritten,
    /// There is nothing to do in it, or nothing that can be done.
    Settled,
    /// It is gone, or cannot be closed.
    Left,
    Stopped,
    Full,
}

impl Inner {
    pub(super) fn recompress(
        &self,
        budget: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<RecompressReport, StoreError> {
        let _one_at_a_time = self.collecting.lock();
        let mut report = RecompressReport::default();
        let result = self.recompress_packs(budget, stop, &mut report);
        self.settled.save(&self.packs.all());
        report.end = result?;
        Ok(report)
    }

    fn recompress_packs(
        &self,
        budget: u64,
        stop: &dyn Fn() -> bool,
        report: &mut RecompressReport,
    ) -> Result<RecompressEnd, StoreError> {
        for pack in self.packs.all() {
            if !self.may_shrink(&pack) {
                continue;
            }
            if stop() {
                return Ok(RecompressEnd::Stopped);
            }
            if report.read_bytes > 0 && report.read_bytes >= budget {
                return Ok(RecompressEnd::Budget);
            }
            match self.recompress_pack(&pack, stop, report)? {
                Outcome::Rewritten => {}
                Outcome::Settled | Outcome::Left => self.settled.add(&pack),
                Outcome::Stopped => return Ok(RecompressEnd::Stopped),
                Outcome::Full => return Ok(RecompressEnd::Full),
            }
        }
        Ok(RecompressEnd::Done)
    }

    /// Whether a pack has to be looked at. Nodes are compressed before they are
    /// stored. A pack that still grows waits until it is not small any more:
    /// each that is closed early is one more pack.
    fn may_shrink(&self, pack: &Pack) -> bool {
        pack.header.kind == crate::pack::PackKind::Data
            && (pack.is_sealed() || pack.content_len() >= self.pack_len / SMALL_PACK_SHARE)
            && !pack.state.lock().failed
            && !self.settled.contains(pack)
    }

    fn recompress_pack(
        &self,
        pack: &Arc<Pack>,
        stop: &dyn Fn() -> bool,
        report: &mut RecompressReport,
    ) -> Result<Outcome, StoreError> {
        let Some(entries) = self.whole_entries(pack, report) else { return Ok(Outcome::Settled) };
        match self.is_worth_it(pack, &entries, report) {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok(Outcome::Settled),
            Ok(None) => return Ok(Outcome::Left),
            Err(error @ StoreError::Damaged { .. }) => {
                report.damaged.push(error.to_string());
                return Ok(Outcome::Settled);
            }
            Err(error) => return Err(error),
        }
        if !pack.is_sealed() {
            self.close(pack);
            if !pack.is_sealed() {
                return Ok(Outcome::Left);
            }
        }
        // As long as the old one, if the samples have told a lie.
        let free = self.disk.space(&self.dir).context("measure", &self.dir)?.free;
        if free < pack.content_len() {
            return Ok(Outcome::Full);
        }
        // It may have grown until it was closed.
        let Some(entries) = self.whole_entries(pack, report) else { return Ok(Outcome::Settled) };
        self.rewrite(pack, &entries, stop, report)
    }

    /// The entries of a pack; `None` where they cannot be read or some of them
    /// are gone, which is told: what cannot be named cannot be moved.
    fn whole_entries(&self, pack: &Pack, report: &mut RecompressReport) -> Option<Vec<Entry>> {
        let reason = match self.packs.entries(pack) {
            Ok(entries) if entries.len() as u64 >= u64::from(pack.records()) => {
                return Some(entries);
            }
            Ok(_) => "some of its records are gone".to_owned(),
            Err(error) => error.to_string(),
        };
        report.damaged.push(format!("{}: {reason}", pack.path.display()));
        None
    }

    /// Whether a pack would shrink by enough, by a few of its blocks. `None`:
    /// it is gone.
    fn is_worth_it(
        &self,
        pack: &Arc<Pack>,
        entries: &[Entry],
        report: &mut RecompressReport,
    ) -> Result<Option<bool>, StoreError> {
        let is_plain =
            |(_, entry): &(u32, Entry)| entry.encoding == Encoding::Plain && entry.stored_len > 0;
        let plain: Vec<_> = (0..).zip(entries.iter().copied()).filter(is_plain).collect();
        let plain_bytes: u64 = plain.iter().map(|(_, entry)| u64::from(entry.stored_len)).sum();
        let enough = pack.content_len() * WORTH_PERCENT / 100;
        if plain_bytes <= enough {
            return Ok(Some(false));
        }
        report.tried_packs += 1;
        let (mut tried, mut saved, mut end, mut samples) = (0, 0, 0, 0);
        for (record, entry) in plain {
            // Spread over the bytes, since those are what is to shrink: a block
            // is tried where one of the evenly spaced marks is in it.
            end += u64::from(entry.stored_len);
            let marks = end * SAMPLES / plain_bytes;
            if marks == samples {
                continue;
            }
            samples = marks;
            let Some(block) = self.read(&Place { pack: pack.clone(), record, entry })? else {
                return Ok(None);
            };
            report.read_bytes += entry.record_len();
            tried += u64::from(entry.stored_len);
            let packed = block.packed(SAMPLE_LEVEL).payload().len() as u64;
            saved += u64::from(entry.stored_len) - packed;
        }
        Ok(Some(tried > 0 && saved * plain_bytes / tried >= enough))
    }

    /// Writes a pack anew.
    fn rewrite(
        &self,
        pack: &Arc<Pack>,
        entries: &[Entry],
        stop: &dyn Fn() -> bool,
        report: &mut RecompressReport,
    ) -> Result<Outcome, StoreError> {
        // From before the first block is moved, as in a collection.
        let epoch = self.write_epoch();
        let losses = *self.losses.lock();
        let mut writer = Writer { pack: None, made: Some(Vec::new()) };
        let moved = self.move_all(pack, entries, &mut writer, stop, report).and_then(|outcome| {
            if matches!(outcome, Outcome::Rewritten) {
                for made in writer.made.iter().flatten() {
                    self.seal(made)?;
                }
                self.commit(epoch)?;
            }
            Ok(outcome)
        });
        let made = writer.made.unwrap_or_default();
        if !matches!(moved, Ok(Outcome::Rewritten)) {
            // The record that was found damaged now, which is in no copy.
            let losses = losses + u64::from(matches!(moved, Ok(Outcome::Settled)));
            if let Err(error) = self.give_up(&made, losses) {
                // The blocks are there twice, until they are collected.
                tracing::debug!(%error, "a pack that was given up stays until it is collected");
            }
            return match moved {
                Err(StoreError::Full { .. }) => Ok(Outcome::Full),
                moved => moved,
            };
        }
        let before = pack.state.lock().file_len;
        let after: u64 = made.iter().map(|made| made.state.lock().file_len).sum();
        self.packs.forget(pack.number());
        self.retire(pack)?;
        self.remove_files(std::slice::from_ref(&pack.path))?;
        for made in &made {
            self.settled.add(made);
        }
        report.rewritten_packs += 1;
        report.before_bytes += before;
        report.after_bytes += after;
        self.recompressed.before.fetch_add(before, Ordering::Relaxed);
        self.recompressed.after.fetch_add(after, Ordering::Relaxed);
        Ok(Outcome::Rewritten)
    }

    /// Appends every record of a pack to `writer`'s.
    fn move_all(
        &self,
        pack: &Arc<Pack>,
        entries: &[Entry],
        writer: &mut Writer,
        stop: &dyn Fn() -> bool,
        report: &mut RecompressReport,
    ) -> Result<Outcome, StoreError> {
        let mut moving = Moving::default();
        for (record, entry) in (0..).zip(entries) {
            if moving.is_empty() && stop() {
                return Ok(Outcome::Stopped);
            }
            match self.read(&Place { pack: pack.clone(), record, entry: *entry }) {
                Ok(Some(block)) => moving.push(compressed(block)),
                Ok(None) => return Ok(Outcome::Left),
                Err(error @ StoreError::Damaged { .. }) => {
                    report.damaged.push(error.to_string());
                    return Ok(Outcome::Settled);
                }
                Err(error) => return Err(error),
            }
            report.read_bytes += entry.record_len();
            if moving.is_full() {
                self.append_moving(&mut moving, writer, pack.header.kind)?;
            }
        }
        self.append_moving(&mut moving, writer, pack.header.kind)?;
        Ok(Outcome::Rewritten)
    }

    /// Takes away what was made for a pack that stays: everything in it is in
    /// that too. `losses` is how many there were before, and by the move itself.
    fn give_up(&self, made: &[Arc<Pack>], losses: u64) -> Result<(), StoreError> {
        if made.is_empty() {
            return Ok(());
        }
        // From then on, nobody else's commit syncs them.
        self.commit(self.write_epoch())?;
        {
            let _nobody_seals: Vec<_> = made.iter().map(|pack| pack.syncing.lock()).collect();
            let now = self.losses.lock();
            if *now != losses {
                // A record of the old pack may have been found damaged by now,
                // and its copy be all that there is. The collector knows.
                return Ok(());
            }
            for pack in made {
                pack.state.lock().failed = true;
                self.packs.forget(pack.number());
            }
        }
        for pack in made {
            self.retire(pack)?;
        }
        self.remove_files(&made.iter().map(|pack| pack.path.clone()).collect::<Vec<_>>())
    }
}

/// The block, smaller where that pays. The original is about to go: what takes
/// its place was unpacked and is the same.
fn compressed(block: EncodedBlock) -> EncodedBlock {
    if block.encoding() != Encoding::Plain {
        return block;
    }
    let packed = block.clone().packed(LEVEL);
    let payload = packed.payload().clone();
    match EncodedBlock::verify(packed.cid(), packed.encoding(), packed.len(), payload) {
        Ok(packed) => packed,
        Err(error) => {
            tracing::error!(%error, "a block was compressed wrongly; it stays as it is");
            block
        }
    }
}
