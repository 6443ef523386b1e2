//! A scrub finds every damaged record and every lost pack, and takes an I/O error for
//! an I/O error.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{assert_whole, filled, open, trees};
use disk::Disk as _;
use disk::sim::{EIO, FaultRule, Op, SimDisk};
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, PackStore, Roots as _, ScrubEnd, ScrubReport,
    StoreAdmin as _, StoreError,
};
use types::Cid;

fn packs(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files.filter(|path| path.extension().is_some_and(|end| end == "pack")).collect()
}

fn scrub_all(store: &PackStore) -> Vec<ScrubReport> {
    let packs = store.packs();
    packs.iter().map(|pack| store.scrub(pack.id, &mut |_| true).unwrap()).collect()
}

fn put_again(store: &PackStore) {
    for (_, tree) in trees() {
        let epoch = store.write_epoch();
        store.put(&tree.blocks).unwrap();
        store.commit(epoch).unwrap();
        assert_whole(store, &tree, "put again");
    }
}

fn absent(store: &PackStore) -> BTreeSet<Cid> {
    let blocks = trees().into_iter().flat_map(|(_, tree)| tree.blocks);
    blocks.map(|block| block.cid()).filter(|cid| !store.has(cid).unwrap()).collect()
}

#[test]
fn a_good_store_is_read_completely() {
    let (store, _) = open(&filled());
    let reports = scrub_all(&store);
    let blocks: u64 = reports.iter().map(|report| report.blocks).sum();
    assert_eq!(blocks, store.usage().unwrap().blocks);
    let bytes: u64 = reports.iter().map(|report| report.bytes).sum();
    assert!(bytes > 5_000, "{bytes}");
    for report in reports {
        let ScrubReport { blocks, bytes, .. } = report;
        assert_eq!(report, ScrubReport { blocks, bytes, ..ScrubReport::default() });
    }
    assert_eq!(store.damaged_blocks().unwrap(), []);
    assert_eq!(store.take_losses(), store::Losses::default());
}

#[test]
fn every_flipped_bit_of_a_record_is_found_and_the_block_can_be_put_again() {
    for number in 0..packs(&filled()).len() {
        let path = &packs(&filled())[number];
        let len = {
            let disk = filled();
            usize::try_from(disk.open(path).unwrap().len().unwrap()).unwrap()
        };
        for at in (64..len).step_by(37) {
            let disk = filled();
            // The damage happens while the store is open.
            let (store, _) = open(&disk);
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            store.on_loss(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            });
            disk.damage(path, |bytes| bytes[at] ^= 1 << (at % 8));
            let reports = scrub_all(&store);
            let damaged: Vec<_> = reports.iter().flat_map(|report| &report.damaged).collect();
            let is_footer = reports.iter().any(|report| report.is_footer_damaged);
            assert!(damaged.len() == 1 || is_footer, "{at} of {len}: {reports:?}");
            if let Some(block) = damaged.first() {
                assert_eq!(&block.pack, path);
                let left = store.damaged_blocks().unwrap();
                // A block with another copy needs no repair.
                let absent = absent(&store);
                assert_eq!(left.len(), absent.len());
                assert_eq!(absent.first().copied().unwrap_or(block.cid), block.cid);
                assert!(store.take_losses().is_damage_found);
                assert_eq!(calls.load(Ordering::SeqCst), 1);
                // It is reported once.
                let again = scrub_all(&store);
                assert!(again.iter().all(|report| report.damaged.is_empty()));
            }
            put_again(&store);
            assert_eq!(store.damaged_blocks().unwrap(), []);
        }
    }
}

#[test]
fn records_that_are_lost_with_the_end_of_a_pack_are_absent_afterwards() {
    let all = filled();
    for path in packs(&all) {
        let disk = filled();
        let (store, _) = open(&disk);
        disk.damage(&path, |bytes| bytes.truncate(bytes.len() / 2));
        let reports = scrub_all(&store);
        let found = reports.iter().any(|r| r.has_lost_records || !r.damaged.is_empty());
        assert!(found, "{}: {reports:?}", path.display());
        let losses = store.take_losses();
        assert!(losses.is_damage_found || losses.packs == [path]);
        assert_ne!(absent(&store), BTreeSet::new());
        put_again(&store);
    }
}

#[test]
fn a_pack_that_vanishes_while_its_file_is_open_is_noticed() {
    let disk = filled();
    let (store, _) = open(&disk);
    for (_, tree) in trees() {
        assert_whole(&store, &tree, "every pack is open now");
    }
    let path = packs(&disk).remove(0);
    disk.lose(&path);
    let ends: Vec<_> = scrub_all(&store).iter().map(|report| report.end).collect();
    assert_eq!(ends.iter().filter(|end| **end == ScrubEnd::Lost).count(), 1, "{ends:?}");
    assert_eq!(store.take_losses().packs, [path]);
    assert_ne!(absent(&store), BTreeSet::new());
    assert!(scrub_all(&store).iter().all(|report| report.end == ScrubEnd::Complete));
    put_again(&store);
}

#[test]
fn it_stops_on_request_and_leaves_packs_alone_that_are_gone() {
    let disk = filled();
    let (store, _) = open(&disk);
    let pack = store.packs()[0].id;
    let report = store.scrub(pack, &mut |_| false).unwrap();
    assert_eq!(report.end, ScrubEnd::Stopped);
    // A collection empties the pack while it is read.
    for (name, _) in trees() {
        store.remove_root(&name).unwrap();
    }
    for pack in store.packs() {
        let report = store.scrub(pack.id, &mut |_| {
            store.gc(GcOptions::EVERYTHING).unwrap();
            true
        });
        let report = report.unwrap();
        assert!(matches!(report.end, ScrubEnd::Gone | ScrubEnd::Complete), "{report:?}");
        assert_eq!(report.damaged, []);
    }
    assert_eq!(store.scrub(pack, &mut |_| true).unwrap().end, ScrubEnd::Gone);
    assert_eq!(store.take_losses(), store::Losses::default());
}

#[test]
fn a_restart_confuses_no_damaged_record_with_a_good_one() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    // One open pack, which is walked when the store is opened again.
    let chunks: Vec<_> = (1..4).map(|seed| common::chunk(seed, 300)).collect();
    let epoch = store.write_epoch();
    store.put(&chunks).unwrap();
    store.commit(epoch).unwrap();
    let path = packs(&disk).remove(0);
    disk.damage(&path, |bytes| bytes[64 + 56 + 10] ^= 1);
    assert!(matches!(store.get(&chunks[0].cid()), Err(StoreError::Damaged { .. })));
    drop(store);
    let (store, _) = open(&disk);
    let has: Vec<bool> = chunks.iter().map(|chunk| store.has(&chunk.cid()).unwrap()).collect();
    assert_eq!(has, [false, true, true]);
    assert!(store.get(&chunks[1].cid()).unwrap().is_some());
    assert_eq!(store.damaged_blocks().unwrap(), []);
}

#[test]
fn an_io_error_is_reported_and_damages_nothing_until_the_block_is_set_aside() {
    let disk = filled();
    let (store, _) = open(&disk);
    // The first record of the first pack of data.
    let path = packs(&disk).remove(0);
    let bad = FaultRule::new(Op::Read, EIO).on(path.to_str().unwrap()).bytes(64..65);
    disk.add_fault(bad.clone());
    let reports = scrub_all(&store);
    let unreadable: Vec<_> = reports.iter().flat_map(|report| &report.unreadable).collect();
    assert_eq!(unreadable.len(), 1, "{reports:?}");
    let cid = unreadable[0].cid;
    assert_eq!(unreadable[0].pack, path);
    // Readers get the error, and the block stays.
    assert!(matches!(store.get(&cid), Err(StoreError::Io { .. })));
    assert_eq!(store.take_losses(), store::Losses::default());
    assert_eq!(absent(&store), BTreeSet::new());
    // A collection leaves the pack alone, and frees the others.
    for name in ["b", "c", "d"] {
        store.remove_root(name).unwrap();
    }
    let collected = store.gc(GcOptions::EVERYTHING).unwrap();
    assert!(collected.deleted_blocks > 0, "{collected:?}");
    assert!(store.has(&cid).unwrap() && disk.files().contains(&path));
    // The disk as a whole fails: that is no reason to give the block up.
    disk.add_fault(bad.clone().bytes(0..65));
    assert!(matches!(store.set_aside_unreadable(&cid), Err(StoreError::Io { .. })));
    // The error disappears.
    disk.clear_fault_rules();
    assert!(!store.set_aside_unreadable(&cid).unwrap());
    assert!(store.get(&cid).unwrap().is_some());
    assert!(scrub_all(&store).iter().all(|report| report.unreadable.is_empty()));
    // It stays.
    disk.add_fault(bad);
    assert!(store.set_aside_unreadable(&cid).unwrap());
    assert!(absent(&store).contains(&cid));
    assert_eq!(store.damaged_blocks().unwrap()[0].cid, cid);
    put_again(&store);
    assert!(scrub_all(&store).iter().all(|report| report.unreadable.is_empty()));
}
