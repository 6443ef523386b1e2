//! Appends blocks to packs, syncs packs and seals them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use types::EncodedBlock;

use super::packs::Pack;
use super::read::encode_place;
use super::{Inner, Upkeep};
use crate::block_store::{Usage, WriteEpoch};
use crate::error::{IoContext, Limit, StoreError};
use crate::pack::{HEADER_LEN, PackKind, encode_footer};
use crate::record::{RECORD_HEADER_LEN, ToRecord};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

/// Maximum number of records in a pack: its entries are in memory until it is
/// sealed.
const RECORDS_MAX: u32 = 64 * 1024;

/// Maximum number of records in one write: the kernel accepts 1,024 parts, and a
/// record consists of two.
const RECORDS_AT_ONCE: usize = 512;

/// Number of bytes after which a growing pack is synced early, so that the disk
/// works while blocks still arrive.
const WRITE_OUT_LEN: u64 = 16 << 20;

/// The writer of packs of one kind. Its lock admits one thread at a time.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) pack: Option<Arc<Pack>>,
    /// The packs that the writer has created, if requested.
    pub(super) created: Option<Vec<Arc<Pack>>>,
}

fn record_len(block: &impl ToRecord) -> u64 {
    (RECORD_HEADER_LEN + block.payload().len()) as u64
}

impl Inner {
    pub(super) fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        for kind in PackKind::ALL {
            let mut of_kind =
                blocks.iter().filter(|b| PackKind::of(b.cid().codec()) == kind).peekable();
            if of_kind.peek().is_none() {
                continue;
            }
            // The lookup happens under the lock: two callers with the same block must
            // not both find it absent.
            let mut writer = self.writers[kind as usize].lock();
            let mut seen = HashSet::new();
            let mut new = Vec::new();
            for block in of_kind {
                let hash = *block.cid().hash();
                if seen.insert(hash) && self.locate(&hash)?.is_none() {
                    new.push(block);
                }
            }
            let needed = new.iter().map(|block| record_len(*block)).sum();
            if needed > 0 {
                self.check_space(needed)?;
                self.append(&mut writer, kind, &new)?;
            }
        }
        if self.index.is_flush_due() {
            self.request(Upkeep::FlushIndex);
        }
        Ok(())
    }

    pub(super) fn write_epoch(&self) -> WriteEpoch {
        let open = self
            .writers
            .iter()
            .filter_map(|writer| writer.lock().pack.as_ref().map(|pack| pack.number()));
        WriteEpoch {
            failed_syncs: self.failed_syncs.load(Ordering::SeqCst),
            first_pack: open.min().unwrap_or_else(|| self.packs.next_number()),
        }
    }

    /// Refuses a write that would exceed a limit.
    fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        let max = self.max_storage.load(Ordering::Relaxed);
        if self.packs.used_bytes().saturating_add(needed) > max {
            return Err(StoreError::Full { limit: Limit::Quota, needed });
        }
        let reserve = self.disk_reserve.load(Ordering::Relaxed);
        let for_gc = self.reserve_file.space_for_gc();
        if reserve > 0 || for_gc > 0 {
            let free = self.disk.space(&self.dir).context("measure", &self.dir)?.free;
            if free < needed.saturating_add(reserve) {
                return Err(StoreError::Full { limit: Limit::Reserve, needed });
            }
            if free < needed.saturating_add(for_gc) {
                return Err(StoreError::Full { limit: Limit::Disk, needed });
            }
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        let free = self.disk.space(&self.dir).context("measure", &self.dir)?.free;
        let max = self.max_storage.load(Ordering::Relaxed);
        let used_bytes = self.packs.used_bytes();
        let until_reserve = free.saturating_sub(self.disk_reserve.load(Ordering::Relaxed));
        Ok(Usage {
            blocks: self.packs.records(),
            used_bytes,
            max_bytes: (max != u64::MAX).then_some(max),
            available_bytes: until_reserve.min(max.saturating_sub(used_bytes)),
        })
    }

    /// Appends records to the open pack, and to new packs when it is full.
    pub(super) fn append<R: ToRecord>(
        &self,
        writer: &mut Writer,
        kind: PackKind,
        blocks: &[&R],
    ) -> Result<(), StoreError> {
        let mut rest = blocks;
        while !rest.is_empty() {
            let pack = match &writer.pack {
                Some(pack) => pack.clone(),
                None => {
                    let pack = self.packs.create(kind)?;
                    if let Some(created) = &mut writer.created {
                        created.push(pack.clone());
                    }
                    writer.pack.insert(pack).clone()
                }
            };
            let (end, records) = {
                let state = pack.state.lock();
                if state.has_failed {
                    drop(state);
                    writer.pack = None;
                    continue;
                }
                (state.end, state.records)
            };
            let count = self.how_many_fit(end, records, rest);
            match self.append_to(&pack, &rest[..count]) {
                Ok(true) => rest = &rest[count..],
                // Use another pack.
                Ok(false) => writer.pack = None,
                Err(error) => {
                    // A full disk may have space again later. After any other error
                    // the pack is not used any more.
                    if !matches!(error, StoreError::Full { .. }) {
                        writer.pack = None;
                    }
                    return Err(error);
                }
            }
            let (is_full, write_out) = {
                let mut state = pack.state.lock();
                let write_out = state.end - state.written_out >= WRITE_OUT_LEN;
                if write_out {
                    state.written_out = state.end;
                }
                (state.end >= self.pack_len || state.records >= RECORDS_MAX, write_out)
            };
            if is_full {
                writer.pack = None;
                self.request(Upkeep::Seal(pack));
            } else if write_out {
                self.request(Upkeep::WriteOut(pack));
            }
        }
        Ok(())
    }

    /// Returns how many of `blocks`, at least one, fit into a pack that ends at
    /// `end`.
    fn how_many_fit<R: ToRecord>(&self, end: u64, records: u32, blocks: &[&R]) -> usize {
        let most = RECORDS_AT_ONCE.min((RECORDS_MAX - records.min(RECORDS_MAX - 1)) as usize);
        let mut at = end;
        let mut count = 0;
        for block in blocks.iter().take(most) {
            at += record_len(*block);
            count += 1;
            if at >= self.pack_len {
                break;
            }
        }
        count.max(1)
    }

    /// Writes records after the last one. Returns `Ok(false)` if the pack has failed or
    /// vanished, so that the records must not be used.
    #[expect(clippy::cast_possible_truncation, reason = "packs are far below 4 GiB")]
    fn append_to<R: ToRecord>(&self, pack: &Arc<Pack>, blocks: &[&R]) -> Result<bool, StoreError> {
        let _not_rebuilding = self.indexing.read();
        let start = pack.state.lock().end;
        let headers: Vec<_> = blocks.iter().map(|block| block.header()).collect();
        let mut parts: Vec<&[u8]> = Vec::with_capacity(blocks.len() * 2);
        let mut entries = Vec::with_capacity(blocks.len());
        let mut end = start;
        for (block, header) in blocks.iter().zip(&headers) {
            parts.extend([&header[..], block.payload()]);
            let entry = block.entry(end as u32);
            end = entry.end();
            entries.push(entry);
        }
        let file = match self.packs.file_to_write(pack) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.lose_pack(pack);
                return Ok(false);
            }
            file => file?,
        };
        file.write_at(&parts, start).context("write", &pack.path)?;
        let (first, records) = {
            let mut state = pack.state.lock();
            let first = state.records;
            let Some(all) = &mut state.entries else {
                unreachable!("a pack is sealed only after its last append")
            };
            all.extend_from_slice(&entries);
            if state.has_failed {
                return Ok(false);
            }
            state.end = end;
            state.records += entries.len() as u32;
            state.unsynced_file = Some(file);
            self.packs.set_file_len(&mut state, end);
            (first, state.records)
        };
        self.add_dirty(pack.clone());
        // Counted before the blocks are visible: whoever finds one of them and commits
        // waits for the sync of this pack.
        self.appended.fetch_add(1, Ordering::SeqCst);
        let places = entries
            .iter()
            .zip(first..)
            .map(|(entry, record)| (entry.hash, encode_place(pack.number(), record, entry)));
        self.index.insert(places, || pack.indexed.store(records, Ordering::SeqCst));
        Ok(true)
    }

    /// Adds a pack to those that the next commit syncs.
    fn add_dirty(&self, pack: Arc<Pack>) {
        let mut dirty = self.dirty.lock();
        if !dirty.iter().any(|other| Arc::ptr_eq(other, &pack)) {
            dirty.push(pack);
        }
    }

    /// Makes all appended blocks durable; see [`crate::BlockWrite::commit`]. The
    /// first caller syncs for all callers that have arrived by then; the others wait.
    pub(super) fn commit(&self, epoch: WriteEpoch) -> Result<(), StoreError> {
        let ticket = self.appended.load(Ordering::SeqCst);
        let mut commits = self.commits.lock();
        while commits.done < ticket {
            if commits.running {
                self.commit_done.wait(&mut commits);
                continue;
            }
            commits.running = true;
            let target = self.appended.load(Ordering::SeqCst);
            let result = MutexGuard::unlocked(&mut commits, || self.sync_dirty());
            commits.running = false;
            if result.is_ok() {
                commits.done = commits.done.max(target);
            }
            self.commit_done.notify_all();
            result?;
        }
        drop(commits);
        if self.failed_syncs.load(Ordering::SeqCst) == epoch.failed_syncs {
            Ok(())
        } else {
            Err(StoreError::LostWrites)
        }
    }

    /// Syncs every pack that has unsynced records, data before nodes.
    fn sync_dirty(&self) -> Result<(), StoreError> {
        let mut dirty = std::mem::take(&mut *self.dirty.lock());
        dirty.sort_by_key(|pack| pack.header.kind);
        let mut result = Ok(());
        let mut synced = Vec::with_capacity(dirty.len());
        for pack in dirty {
            if result.is_ok() {
                result = self.sync_pack(&pack);
                // After a failed sync, the records are not used any more. If the sync
                // could not begin, they are, and the next commit must sync them.
                if result.is_ok() {
                    synced.push((pack.number(), pack.state.lock().synced_records));
                    continue;
                }
                if pack.state.lock().has_failed {
                    continue;
                }
            }
            self.add_dirty(pack);
        }
        self.pack_list.add(synced, |number| self.packs.get(number).is_some());
        result
    }

    /// Makes the records and the name of a pack durable.
    pub(super) fn sync_pack(&self, pack: &Pack) -> Result<(), StoreError> {
        let _one_at_a_time = pack.syncing.lock();
        let (records, file) = {
            let state = pack.state.lock();
            if state.has_failed {
                return Err(StoreError::LostWrites);
            }
            if state.synced_records == state.records {
                return Ok(());
            }
            (state.records, state.unsynced_file.clone())
        };
        let file = match file {
            Some(file) => file,
            None => self.packs.file_to_write(pack)?,
        };
        self.sync_file(pack, &*file)?;
        pack.state.lock().set_synced(records);
        Ok(())
    }

    /// Syncs a growing pack before the commit.
    pub(super) fn write_out(&self, pack: &Pack) -> Result<(), StoreError> {
        self.sync_pack(pack)?;
        let end = pack.state.lock().end;
        self.drop_cache(pack, end);
        Ok(())
    }

    /// Drops the page cache for the first `len` bytes of a pack of data. A stream of
    /// blocks would displace pages that other programs need, and on virtual machines
    /// pages that were never used before cost several times as much as the copying.
    /// Nodes stay cached: they are read again soon.
    pub(super) fn drop_cache(&self, pack: &Pack, len: u64) {
        if pack.header.kind == PackKind::Data
            && let Ok(file) = self.packs.file(pack)
        {
            file.drop_cache(len);
        }
    }

    fn sync_file(&self, pack: &Pack, file: &dyn disk::DiskFile) -> Result<(), StoreError> {
        let mut result = file.sync().context("sync", &pack.path);
        if result.is_ok() && !pack.is_named.load(Ordering::SeqCst) {
            result = self.disk.sync_dir(self.packs.dir()).context("sync", self.packs.dir());
        }
        match &result {
            Ok(()) => pack.is_named.store(true, Ordering::SeqCst),
            Err(_) => self.fail(pack),
        }
        result
    }

    /// Takes a pack out of use after a failed sync, except for its durable records.
    fn fail(&self, pack: &Pack) {
        self.count_loss(|| {
            let mut state = pack.state.lock();
            state.has_failed = true;
            state.unsynced_file = None;
            pack.usable_records.store(state.synced_records, Ordering::SeqCst);
        });
        // After the pack: a caller that takes the new epoch sees that the pack has
        // failed.
        self.failed_syncs.fetch_add(1, Ordering::SeqCst);
    }

    /// Writes the footer of a pack to which nobody appends any more.
    pub(super) fn seal(&self, pack: &Pack) -> Result<(), StoreError> {
        let _one_at_a_time = pack.syncing.lock();
        let (footer, at, records, file) = {
            let state = pack.state.lock();
            let Some(entries) = &state.entries else { return Ok(()) };
            if state.has_failed {
                return Ok(());
            }
            // After the end of the file: a torn record stays in place.
            let at = state.file_len.max(HEADER_LEN);
            let footer = encode_footer(&pack.header, entries, at);
            (footer, at, state.records, state.unsynced_file.clone())
        };
        let file = match file {
            Some(file) => file,
            None => self.packs.file_to_write(pack)?,
        };
        // The records are synced before the footer is written: a footer that exists
        // after a power cut can be trusted.
        self.sync_file(pack, &*file)?;
        pack.state.lock().set_synced(records);
        let len = at + footer.len() as u64;
        file.write_at(&[&footer], at).context("write", &pack.path)?;
        if file.len().context("read", &pack.path)? > len {
            // A failed write has left bytes after the footer.
            file.truncate(len).context("cut", &pack.path)?;
        }
        self.sync_file(pack, &*file)?;
        self.drop_cache(pack, len);
        let mut state = pack.state.lock();
        state.entries = None;
        self.packs.set_file_len(&mut state, len);
        drop(state);
        self.reserve_file.create(&*self.disk);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use disk::sim::{EMFILE, FaultRule, Op, Power, SimDisk};
    use types::{Block, Codec};

    use super::*;
    use crate::{
        BlockRead as _, BlockWrite as _, PackStore, Root, Roots as _, StoreAdmin as _, StoreOptions,
    };

    fn open(disk: SimDisk) -> PackStore {
        let options = StoreOptions { disk_reserve: 0, background: false, ..Default::default() };
        PackStore::open_on(Arc::new(disk), Path::new("/store"), &options).unwrap().0
    }

    /// The file of a pack is open while it must be synced, so that this does not happen
    /// at present.
    #[test]
    fn a_pack_whose_sync_could_not_begin_is_synced_by_the_next_commit() {
        let disk = SimDisk::new();
        let store = open(disk.clone());
        let block = EncodedBlock::plain(Block::new(Codec::Raw, &b"block"[..]).unwrap());
        let epoch = store.write_epoch();
        store.put(std::slice::from_ref(&block)).unwrap();
        let pack = store.inner.packs.all().remove(0);
        assert!(pack.state.lock().unsynced_file.take().is_some());
        store.inner.packs.close_files();
        disk.add_fault(FaultRule::new(Op::Open, EMFILE));
        assert!(matches!(store.commit(epoch), Err(StoreError::Io { .. })));
        disk.clear_fault_rules();
        assert!(store.has(&block.cid()).unwrap());
        let root = Root { cid: block.cid(), partial: false };
        store.set_root("found", root, store.write_epoch()).unwrap();
        let after = open(disk.crash(Power::Dropped));
        assert_eq!(after.get(&block.cid()).unwrap().as_ref(), Some(block.payload()));
        assert_eq!(after.usage().unwrap().blocks, 1);
    }

    /// A block that another thread can find is one that its commit covers.
    #[test]
    fn a_block_is_counted_and_its_pack_is_dirty_before_it_is_visible() {
        let store = open(SimDisk::new());
        let block = EncodedBlock::plain(Block::new(Codec::Raw, &b"block"[..]).unwrap());
        let inner = &store.inner;
        std::thread::scope(|scope| {
            let blocked = inner.index.block_insertions();
            let put = scope.spawn(|| store.put(std::slice::from_ref(&block)));
            // The thread is about to make the block visible. Only a failure needs the
            // time.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while inner.appended.load(Ordering::SeqCst) == 0 {
                assert!(std::time::Instant::now() < deadline, "visible before it is counted");
                std::thread::yield_now();
            }
            assert_eq!(inner.dirty.lock().len(), 1);
            drop(blocked);
            put.join().unwrap().unwrap();
        });
        assert!(store.has(&block.cid()).unwrap());
    }
}
