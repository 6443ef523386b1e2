//! Recompression: compresses blocks that were stored uncompressed.
//!
//! Blocks that arrive over a fast link are not compressed. Later, when the computer
//! is idle, packs that would shrink are rewritten: all records of a pack, needed or
//! not, go to a new pack, compressed if that saves space. The old pack is removed
//! when the new one is durable, in the same way as by a collection, and only one
//! of the two runs at a time. Since no record is left out, nothing needs to be
//! marked, and nothing can be deleted by mistake.
//!
//! A pack is rewritten completely or not at all: if the rewrite cannot be finished
//! (it was stopped, the disk is full, a record is damaged), the new pack is
//! discarded, and the old one stays unchanged.

use std::sync::Arc;

use types::{Codec, EncodedBlock, Encoding};

use super::Inner;
use super::gc::SMALL_PACK_SHARE;
use super::packs::Pack;
use super::read::Place;
use super::relocate::RelocationBatch;
use super::write::Writer;
use crate::error::{IoContext, StoreError};
use crate::record::{Entry, Form, Record};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Level of zstd; figures: `docs/decisions/0006`.
const LEVEL: i32 = 6;
/// Percentage by which a pack must shrink to be rewritten. It is the same as for a
/// single block.
const WORTH_PERCENT: u64 = 5;
/// Number of blocks of a pack that are compressed as samples, spread over its
/// bytes.
const SAMPLES: u64 = 32;
/// Level of zstd for samples: shows at the lowest cost what shrinks.
const SAMPLE_LEVEL: i32 = 1;

/// Result of a recompression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecompressReport {
    /// Number of packs of which samples were compressed.
    pub tried_packs: u64,
    /// Number of packs that were rewritten.
    pub rewritten_packs: u64,
    /// Length of the rewritten packs before, in bytes.
    pub before_bytes: u64,
    /// Length of the rewritten packs after, in bytes.
    pub after_bytes: u64,
    /// Number of bytes of packs that were read.
    pub read_bytes: u64,
    /// Descriptions of damaged blocks. Their packs were not changed.
    pub damaged: Vec<String>,
    /// Reason why the recompression ended.
    pub end: RecompressEnd,
}

/// Reason why a recompression ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecompressEnd {
    /// No pack is left that would shrink.
    #[default]
    Done,
    /// The budget is used up; more packs may shrink.
    Budget,
    /// The caller stopped it.
    Stopped,
    /// The disk has no space for a new pack beside the old one.
    Full,
}

/// Length in bytes of all packs that were recompressed since the store was opened.
#[derive(Debug, Default)]
pub(super) struct RecompressTotals {
    before: AtomicU64,
    after: AtomicU64,
}

impl RecompressTotals {
    pub(super) fn get(&self) -> (u64, u64) {
        (self.before.load(Ordering::Relaxed), self.after.load(Ordering::Relaxed))
    }
}

/// Result of the recompression of one pack.
enum PackResult {
    Rewritten,
    /// The pack would not shrink, or is damaged.
    Skipped,
    /// The pack no longer exists, or cannot be closed.
    Unavailable,
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
        self.recompress_skiplist.save(&self.packs.all());
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
                PackResult::Rewritten => {}
                PackResult::Skipped | PackResult::Unavailable => {
                    self.recompress_skiplist.add(&pack);
                }
                PackResult::Stopped => return Ok(RecompressEnd::Stopped),
                PackResult::Full => return Ok(RecompressEnd::Full),
            }
        }
        Ok(RecompressEnd::Done)
    }

    /// Reports whether a pack must be examined. Packs of nodes need not: nodes are
    /// compressed before they are stored. A pack that still grows waits until it is
    /// no longer small, since closing it early would make one more pack.
    fn may_shrink(&self, pack: &Pack) -> bool {
        pack.header.kind == crate::pack::PackKind::Data
            && (pack.is_sealed() || pack.content_len() >= self.pack_len / SMALL_PACK_SHARE)
            && !pack.state.lock().has_failed
            && !self.recompress_skiplist.contains(pack)
    }

    fn recompress_pack(
        &self,
        pack: &Arc<Pack>,
        stop: &dyn Fn() -> bool,
        report: &mut RecompressReport,
    ) -> Result<PackResult, StoreError> {
        let Some(entries) = self.all_entries(pack, report) else { return Ok(PackResult::Skipped) };
        match self.is_worth_it(pack, &entries, report) {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok(PackResult::Skipped),
            Ok(None) => return Ok(PackResult::Unavailable),
            Err(error @ StoreError::Damaged { .. }) => {
                report.damaged.push(error.to_string());
                return Ok(PackResult::Skipped);
            }
            Err(error) => return Err(error),
        }
        if !pack.is_sealed() {
            self.close(pack);
            if !pack.is_sealed() {
                return Ok(PackResult::Unavailable);
            }
        }
        // The new pack may be as long as the old one if the samples are not
        // typical.
        let free = self.disk.space(&self.dir).context("measure", &self.dir)?.free;
        if free < pack.content_len() {
            return Ok(PackResult::Full);
        }
        // The pack may have grown until it was closed.
        let Some(entries) = self.all_entries(pack, report) else { return Ok(PackResult::Skipped) };
        self.rewrite(pack, &entries, stop, report)
    }

    /// Returns the entries of a pack. `None`, with an entry in the report, if they
    /// cannot be read or some are lost: those records could not be moved.
    fn all_entries(&self, pack: &Pack, report: &mut RecompressReport) -> Option<Vec<Entry>> {
        let reason = match self.packs.entries(pack) {
            Ok(entries) if entries.len() as u64 >= u64::from(pack.records()) => {
                return Some(entries);
            }
            Ok(_) => "some of its records are lost".to_owned(),
            Err(error) => error.to_string(),
        };
        report.damaged.push(format!("{}: {reason}", pack.path.display()));
        None
    }

    /// Estimates from samples whether a pack would shrink enough. `None` if the pack
    /// no longer exists.
    fn is_worth_it(
        &self,
        pack: &Arc<Pack>,
        entries: &[Entry],
        report: &mut RecompressReport,
    ) -> Result<Option<bool>, StoreError> {
        const PLAIN: Form = Form::Block { codec: Codec::Raw, encoding: Encoding::Plain };
        let is_plain = |(_, entry): &(u32, Entry)| entry.form == PLAIN && entry.stored_len > 0;
        let plain: Vec<_> = (0..).zip(entries.iter().copied()).filter(is_plain).collect();
        let plain_bytes: u64 = plain.iter().map(|(_, entry)| u64::from(entry.stored_len)).sum();
        let enough = pack.content_len() * WORTH_PERCENT / 100;
        if plain_bytes <= enough {
            return Ok(Some(false));
        }
        report.tried_packs += 1;
        let (mut tried, mut saved, mut end, mut samples) = (0, 0, 0, 0);
        for (record, entry) in plain {
            // The samples are spread over the bytes, not over the blocks: a block is
            // a sample if one of the evenly spaced marks falls into it.
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

    /// Rewrites a pack.
    fn rewrite(
        &self,
        pack: &Arc<Pack>,
        entries: &[Entry],
        stop: &dyn Fn() -> bool,
        report: &mut RecompressReport,
    ) -> Result<PackResult, StoreError> {
        // Taken before the first block is moved, as in a collection.
        let epoch = self.write_epoch();
        let losses = *self.loss_counter.lock();
        let mut writer = Writer { pack: None, created: Some(Vec::new()) };
        let moved = self.move_all(pack, entries, &mut writer, stop, report).and_then(|result| {
            if matches!(result, PackResult::Rewritten) {
                for pack in writer.created.iter().flatten() {
                    self.seal(pack)?;
                }
                self.commit(epoch)?;
            }
            Ok(result)
        });
        let new_packs = writer.created.unwrap_or_default();
        if !matches!(moved, Ok(PackResult::Rewritten)) {
            // A record that was found damaged during the move counts as a loss, and
            // has no copy.
            let losses = losses + u64::from(matches!(moved, Ok(PackResult::Skipped)));
            if let Err(error) = self.discard(&new_packs, losses) {
                // The blocks exist twice until they are collected.
                tracing::debug!(%error, "a discarded pack stays until it is collected");
            }
            return match moved {
                Err(StoreError::Full { .. }) => Ok(PackResult::Full),
                moved => moved,
            };
        }
        let before = pack.state.lock().file_len;
        let after: u64 = new_packs.iter().map(|pack| pack.state.lock().file_len).sum();
        self.remove_packs(std::slice::from_ref(pack))?;
        for new_pack in &new_packs {
            self.recompress_skiplist.add(new_pack);
        }
        report.rewritten_packs += 1;
        report.before_bytes += before;
        report.after_bytes += after;
        self.recompress_totals.before.fetch_add(before, Ordering::Relaxed);
        self.recompress_totals.after.fetch_add(after, Ordering::Relaxed);
        Ok(PackResult::Rewritten)
    }

    /// Appends every record of a pack to the pack of `writer`.
    fn move_all(
        &self,
        pack: &Arc<Pack>,
        entries: &[Entry],
        writer: &mut Writer,
        stop: &dyn Fn() -> bool,
        report: &mut RecompressReport,
    ) -> Result<PackResult, StoreError> {
        let mut batch = RelocationBatch::default();
        for (record, entry) in (0..).zip(entries) {
            if batch.is_empty() && stop() {
                return Ok(PackResult::Stopped);
            }
            match self.read_any(&Place { pack: pack.clone(), record, entry: *entry }) {
                Ok(Some(Record::Block(block))) => batch.push(Record::Block(compressed(block))),
                Ok(Some(newer)) => batch.push(newer),
                Ok(None) => return Ok(PackResult::Unavailable),
                Err(error @ StoreError::Damaged { .. }) => {
                    report.damaged.push(error.to_string());
                    return Ok(PackResult::Skipped);
                }
                Err(error) => return Err(error),
            }
            report.read_bytes += entry.record_len();
            if batch.is_full() {
                self.append_batch(&mut batch, writer, pack.header.kind)?;
            }
        }
        self.append_batch(&mut batch, writer, pack.header.kind)?;
        Ok(PackResult::Rewritten)
    }

    /// Removes new packs whose records are all in the old pack, which stays. `losses`
    /// is the expected value of the loss counter.
    fn discard(&self, new_packs: &[Arc<Pack>], losses: u64) -> Result<(), StoreError> {
        if new_packs.is_empty() {
            return Ok(());
        }
        // After this, no commit of another thread syncs them.
        self.commit(self.write_epoch())?;
        {
            let _nobody_seals: Vec<_> = new_packs.iter().map(|pack| pack.syncing.lock()).collect();
            let counter = self.loss_counter.lock();
            if *counter != losses {
                // A record of the old pack may have been found damaged, so that its
                // copy is the only one. A collection will decide.
                return Ok(());
            }
            for pack in new_packs {
                pack.state.lock().has_failed = true;
                self.packs.forget(pack.number());
            }
        }
        self.remove_packs(new_packs)
    }
}

/// Returns the block, compressed if that saves space. The result is decompressed
/// and compared, because the original will be deleted.
fn compressed(block: EncodedBlock) -> EncodedBlock {
    if block.encoding() != Encoding::Plain {
        return block;
    }
    let packed = block.clone().packed(LEVEL);
    let payload = packed.payload().clone();
    match EncodedBlock::verify(packed.cid(), packed.encoding(), packed.len(), payload) {
        Ok(packed) => packed,
        Err(error) => {
            tracing::error!(%error, "a block was compressed incorrectly and stays uncompressed");
            block
        }
    }
}
