//! Scrubbing: reads every record of a pack from the disk and checks its hash.
//!
//! Damage is found while good copies still exist elsewhere. A damaged record is
//! quarantined, like any record that a reader finds damaged. A record that the disk
//! cannot deliver is only reported: an I/O error may disappear, and the bytes may be
//! intact. [`Inner::set_aside_unreadable`] ends the attempts.
//!
//! The page cache of the pack is dropped before the pack is read, so that the bytes
//! come from the disk, and again while it is read, so that a scrub does not displace
//! the pages of other programs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use types::{Cid, Codec};

use super::Inner;
use super::packs::Pack;
use super::read::Place;
use crate::error::{IoContext, StoreError};
use crate::pack::{HEADER_BYTES, read_footer};
use crate::record::{Entry, Form, ReadError, read_record};
use crate::scrub_dates::{PackId, PackLen};
use crate::sync::atomic::Ordering;
use disk::DiskFile;

/// Number of bytes between two calls of the function that sets the pace.
const PACE_LEN: u64 = 1 << 20;
/// Number of bytes that are read before the page cache of the pack is dropped.
const DROP_CACHE_AFTER: u64 = 8 << 20;
/// Number of unreadable records of a pack after which the scrub of the pack ends: the
/// disk itself may be failing.
const UNREADABLE_MAX: usize = 64;

/// Result of the scrub of one pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Number of records that were read and checked.
    pub blocks: u64,
    /// Number of bytes that were read.
    pub bytes: u64,
    /// The blocks that were found damaged.
    pub damaged: Vec<FaultyBlock>,
    /// The blocks that the disk could not deliver.
    pub unreadable: Vec<FaultyBlock>,
    /// True if the footer of the pack is damaged. The records do not depend on it.
    pub is_footer_damaged: bool,
    /// True if records of the pack can no longer be found in it. Their blocks are
    /// absent from then on.
    pub has_lost_records: bool,
    /// Reason why the scrub of the pack ended.
    pub end: ScrubEnd,
}

/// Reason why the scrub of a pack ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScrubEnd {
    /// All records were read, or reading them was attempted.
    #[default]
    Complete,
    /// The caller stopped it.
    Stopped,
    /// The pack no longer exists: a collection or a recompression has replaced it.
    Gone,
    /// The file of the pack has vanished. Its blocks are absent from then on.
    Lost,
    /// Too many records of the pack cannot be read.
    Unreadable,
}

/// A stored block that is damaged or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultyBlock {
    /// CID of the block, with the codec of the record; that of a chunk if this version
    /// does not know the codec.
    pub cid: Cid,
    /// The pack file that contains the block.
    pub pack: PathBuf,
    /// Offset of the block in the pack, in bytes.
    pub offset: u64,
    /// The fault.
    pub reason: String,
}

fn faulty(pack: &Pack, entry: &Entry, reason: String) -> FaultyBlock {
    let codec = match entry.form {
        Form::Block { codec, .. } => codec,
        // Lookups and requests are by hash.
        Form::Newer(_) => Codec::Raw,
    };
    FaultyBlock {
        cid: Cid::new(codec, entry.hash),
        pack: pack.path.clone(),
        offset: entry.offset.into(),
        reason,
    }
}

impl Inner {
    /// Returns all packs with their lengths.
    pub(super) fn pack_lens(&self) -> Vec<PackLen> {
        let len = |pack: &Arc<Pack>| PackLen { id: id(pack), len: pack.state.lock().file_len };
        self.packs.all().iter().map(len).collect()
    }

    /// Reads and checks all records of a pack; see [`super::PackStore::scrub`].
    pub(super) fn scrub(
        &self,
        wanted: PackId,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ScrubReport, StoreError> {
        let mut report = ScrubReport::default();
        let Some(pack) = self.packs.get(wanted.number).filter(|pack| id(pack) == wanted) else {
            report.end = ScrubEnd::Gone;
            return Ok(report);
        };
        // Not the open file of the pack: it would hide that the name has vanished.
        let file = match self.disk.open(&pack.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.end = if self.packs.get(wanted.number).is_some() {
                    self.lose_pack(&pack);
                    ScrubEnd::Lost
                } else {
                    ScrubEnd::Gone
                };
                return Ok(report);
            }
            Err(error) => return Err(StoreError::io("open", &pack.path, error)),
        };
        file.drop_cache(file.len().context("read", &pack.path)?);
        let records = pack.records();
        report.is_footer_damaged = pack.is_sealed()
            && read_footer(&*file, &pack.header).context("read", &pack.path)?.is_none()
            && self.packs.get(wanted.number).is_some();
        let entries = self.packs.entries(&pack)?;
        report.end = self.scrub_records(&pack, &*file, &entries, &mut report, pace);
        if report.end == ScrubEnd::Complete && (entries.len() as u64) < u64::from(records) {
            if self.packs.get(wanted.number).is_none() {
                report.end = ScrubEnd::Gone;
                return Ok(report);
            }
            // The index still names the lost records, and the others have new numbers.
            self.quarantine.retain(|(number, _)| number != pack.number());
            self.rebuild_index()?;
            report.has_lost_records = true;
            self.losses.add_pack(pack.path.clone());
        }
        Ok(report)
    }

    fn scrub_records(
        &self,
        pack: &Arc<Pack>,
        file: &dyn DiskFile,
        entries: &[Entry],
        report: &mut ScrubReport,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> ScrubEnd {
        let (mut unpaced, mut cached) = (0, 0);
        for (record, entry) in (0..).zip(entries) {
            if record >= pack.usable_records.load(Ordering::SeqCst)
                || self.quarantine.contains((pack.number(), record))
            {
                continue;
            }
            let fault = read_record(file, entry).err();
            if fault.is_some() && self.packs.get(pack.number()).is_none() {
                // A collection has emptied the pack in the meantime.
                return ScrubEnd::Gone;
            }
            match fault {
                None => {
                    report.blocks += 1;
                    report.bytes += entry.record_len();
                }
                Some(ReadError::Damaged(reason)) => {
                    let place = Place { pack: pack.clone(), record, entry: *entry };
                    report.damaged.push(faulty(pack, entry, reason.clone()));
                    self.quarantine(&place, reason);
                }
                Some(ReadError::Io(error)) => {
                    report.unreadable.push(faulty(pack, entry, error.to_string()));
                    if report.unreadable.len() >= UNREADABLE_MAX {
                        return ScrubEnd::Unreadable;
                    }
                }
            }
            unpaced += entry.record_len();
            cached += entry.record_len();
            if cached >= DROP_CACHE_AFTER {
                cached = 0;
                file.drop_cache(entry.end());
            }
            if unpaced >= PACE_LEN && !pace(std::mem::take(&mut unpaced)) {
                return ScrubEnd::Stopped;
            }
        }
        file.drop_cache(pack.state.lock().file_len);
        if unpaced > 0 && !pace(unpaced) {
            return ScrubEnd::Stopped;
        }
        ScrubEnd::Complete
    }

    /// Quarantines the copies of a block that the disk cannot deliver; see
    /// [`super::PackStore::set_aside_unreadable`].
    pub(super) fn set_aside_unreadable(&self, cid: &Cid) -> Result<bool, StoreError> {
        let mut is_set_aside = false;
        for place in self.places(cid.hash())?.usable {
            match self.read_any(&place) {
                Ok(_) => {}
                Err(StoreError::Damaged { .. }) => is_set_aside = true,
                Err(error @ StoreError::Io { .. }) => {
                    // If not even the header can be read, the disk has failed, not a
                    // sector of it.
                    let file = self.packs.file(&place.pack)?;
                    let mut header = [0; HEADER_BYTES];
                    if file.read_at(&mut header, 0).is_err() {
                        return Err(error);
                    }
                    self.quarantine(&place, types::with_causes(&error));
                    is_set_aside = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(is_set_aside)
    }

    /// Returns the blocks in quarantine of which no good copy exists.
    pub(super) fn damaged_blocks(&self) -> Result<Vec<FaultyBlock>, StoreError> {
        let mut found = Vec::new();
        let mut current: Option<(u32, Vec<Entry>)> = None;
        for (number, record) in self.quarantine.all() {
            let Some(pack) = self.packs.get(number) else { continue };
            if current.as_ref().is_none_or(|(cached, _)| *cached != number) {
                current = Some((number, self.packs.entries(&pack)?));
            }
            let Some((_, entries)) = &current else { continue };
            let Some(entry) = entries.get(record as usize) else { continue };
            if self.places(&entry.hash)?.usable.is_empty() {
                found.push(faulty(&pack, entry, "it was found damaged".into()));
            }
        }
        Ok(found)
    }
}

fn id(pack: &Pack) -> PackId {
    PackId { number: pack.number(), uuid: pack.header.uuid }
}
