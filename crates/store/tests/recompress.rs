//! Recompression: packs shrink, no block is lost, no pack is examined twice, and it
//! stops immediately when it is told to.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{
    Tree, assert_whole, chunk, files, mixed_tree, open, store_tree, text_chunk, tree, tree_of,
    write_and_remove,
};
use disk::sim::{Fault, Power, SimDisk};
use store::check::missing_blocks;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, PackStore, RecompressEnd, RecompressReport,
    StoreAdmin as _, StoreOptions,
};
use types::Encoding;

fn never() -> bool {
    false
}

fn all(store: &PackStore) -> RecompressReport {
    store.recompress(u64::MAX, &never).unwrap()
}

fn used(store: &PackStore) -> u64 {
    store.usage().unwrap().used_bytes
}

/// A store with files of text, of noise and of both, in many packs.
fn trees() -> Vec<(String, Tree)> {
    let text: Vec<_> = (0..20).map(|seed| text_chunk(seed, 700)).collect();
    let noise: Vec<_> = (100..120).map(|seed| chunk(seed, 700)).collect();
    let trees = [tree_of(text), tree_of(noise), mixed_tree(&[200, 201, 202, 203, 204])];
    ["text", "noise", "mixed"].map(str::to_owned).into_iter().zip(trees).collect()
}

fn filled() -> (SimDisk, Arc<PackStore>) {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    for (name, tree) in trees() {
        store_tree(&store, &name, &tree).unwrap();
    }
    (disk, store)
}

fn assert_all(store: &PackStore, context: &str) {
    for (name, tree) in trees() {
        assert_whole(store, &tree, &format!("{context}: {name}"));
    }
    assert_eq!(missing_blocks(store).unwrap(), [], "{context}");
    assert_eq!(store.index_differences().unwrap(), [] as [String; 0], "{context}");
}

/// Returns the pack in which a block is stored uncompressed.
fn pack_of(disk: &SimDisk, bytes: &[u8]) -> (PathBuf, usize) {
    let mut found = None;
    for path in files(disk, "/d-") {
        disk.damage(&path, |content| {
            if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
                found = Some((path.clone(), at));
            }
        });
    }
    found.unwrap()
}

#[test]
fn what_shrinks_is_written_anew_once_and_reads_back() {
    let (disk, store) = filled();
    let before = used(&store);
    let report = all(&store);
    assert_eq!((report.end, &report.damaged), (RecompressEnd::Done, &vec![]));
    assert!(report.rewritten_packs >= 4, "{report:?}");
    assert!(report.after_bytes < report.before_bytes / 2, "{report:?}");
    let gained = report.before_bytes - report.after_bytes;
    // Except for the footer of the pack that still grew.
    assert!((gained - 1000..=gained).contains(&(before - used(&store))), "{report:?}");
    assert_eq!(store.recompressed(), (report.before_bytes, report.after_bytes));
    let trees = trees();
    for (tree, encoding) in [(&trees[0], Encoding::Zstd), (&trees[1], Encoding::Plain)] {
        for block in tree.1.blocks.iter().filter(|block| block.len() == 700) {
            let found = store.get_encoded(&block.cid()).unwrap().unwrap();
            assert_eq!(found.encoding(), encoding);
        }
    }
    assert_all(&store, "compressed");
    assert_eq!(all(&store), RecompressReport::default(), "nothing is left to do");
    let blocks = store.usage().unwrap().blocks;
    assert_eq!(store.gc(GcOptions::EVERYTHING).unwrap().deleted_blocks, 0);
    assert_eq!(store.usage().unwrap().blocks, blocks, "each block is there once");
    drop(store);
    for power in [Power::Kept, Power::Dropped] {
        let (store, report) = open(&disk.crash(power));
        assert_eq!((report.damage, report.lost_packs), (vec![], vec![]));
        assert_all(&store, "opened again");
        assert_eq!(all(&store).rewritten_packs, 0);
    }
}

#[test]
fn what_does_not_shrink_is_tried_once_also_over_a_restart() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let seeds: Vec<u64> = (0..30).collect();
    store_tree(&store, "noise", &tree(&seeds)).unwrap();
    let before = used(&store);
    let first = all(&store);
    assert!(first.tried_packs >= 4 && first.rewritten_packs == 0, "{first:?}");
    assert!(first.read_bytes > 0);
    assert_eq!(used(&store), before);
    assert_eq!(all(&store), RecompressReport::default());
    drop(store);
    let (store, _) = open(&disk);
    let again = all(&store);
    // Only the pack that still grows is examined again.
    assert!(again.tried_packs <= 1 && again.rewritten_packs == 0, "{again:?}");
    drop(store);
    // Without its list, or with an invalid one, all packs are examined again.
    for content in [None, Some(&b"\xff\x00not a list\n0\n"[..])] {
        match content {
            None => disk.lose(Path::new("/store/settled")),
            Some(content) => {
                disk.damage(Path::new("/store/settled"), |bytes| *bytes = content.to_vec());
            }
        }
        let (store, _) = open(&disk);
        let again = all(&store);
        assert_eq!((again.tried_packs, again.rewritten_packs), (first.tried_packs, 0));
        assert_whole(&store, &tree(&seeds), "tried again");
    }
}

#[test]
fn a_run_is_as_long_as_its_budget_and_the_next_goes_on() {
    let (_, store) = filled();
    let (mut runs, mut rewritten) = (0, 0);
    loop {
        let report = store.recompress(1, &never).unwrap();
        assert!(report.tried_packs <= 1 && report.rewritten_packs <= 1, "{report:?}");
        rewritten += report.rewritten_packs;
        runs += 1;
        assert_all(&store, &format!("after run {runs}"));
        if report.end == RecompressEnd::Done {
            break;
        }
        assert_eq!(report.end, RecompressEnd::Budget);
        assert!(runs < 100);
    }
    assert!(rewritten >= 4 && runs > rewritten, "{rewritten} packs in {runs} runs");
}

/// A stopped recompression leaves the store unchanged: the unfinished new pack is
/// removed, however often this happens, and the old pack is examined again.
#[test]
fn what_is_stopped_leaves_nothing_behind() {
    let disk = SimDisk::new();
    let options = StoreOptions {
        max_storage: None,
        disk_reserve: 0,
        // More blocks than one batch has.
        pack_len: 200_000,
        background: false,
    };
    let open = || PackStore::open_on(Arc::new(disk.clone()), Path::new("/store"), &options);
    let store = Arc::new(open().unwrap().0);
    let blocks: Vec<_> = (0..400).map(|seed| text_chunk(seed, 700)).collect();
    let text = tree_of(blocks);
    store_tree(&store, "text", &text).unwrap();
    let before = used(&store);
    for round in 0..30 {
        let (names, before) = (files(&disk, "/d-"), used(&store));
        let asked = AtomicU64::new(0);
        // Before the pack, and before each of its batches.
        let wanted = 1 + round % 4;
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= wanted;
        let report = store.recompress(u64::MAX, &stop).unwrap();
        assert_eq!((report.end, report.rewritten_packs), (RecompressEnd::Stopped, 0));
        assert_eq!((files(&disk, "/d-"), used(&store)), (names.clone(), before));
        // Blocks that are put in the meantime make the index merge.
        let other = chunk(1000 + round, 50);
        store.put(std::slice::from_ref(&other)).unwrap();
        store.commit(store.write_epoch()).unwrap();
        assert_whole(&store, &text, &format!("round {round}"));
    }
    let store = {
        drop(store);
        Arc::new(open().unwrap().0)
    };
    assert_whole(&store, &text, "opened again");
    let report = all(&store);
    assert!(report.rewritten_packs >= 1 && used(&store) < before / 3, "{report:?}");
    assert_whole(&store, &text, "compressed");
}

#[test]
fn a_damaged_block_is_told_once_and_its_pack_stays() {
    let (disk, store) = filled();
    let trees = trees();
    let hit = &trees[0].1.blocks[5];
    let (path, at) = pack_of(&disk, hit.payload());
    disk.damage(&path, |content| content[at + 100] ^= 1);
    let report = all(&store);
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(report.rewritten_packs >= 3, "the others are not kept from it: {report:?}");
    assert!(disk.files().contains(&path));
    assert!(!store.has(&hit.cid()).unwrap());
    assert_eq!(all(&store), RecompressReport::default());
    for (name, tree) in &trees {
        for block in tree.blocks.iter().filter(|block| block.cid() != hit.cid()) {
            assert_eq!(store.get(&block.cid()).unwrap(), Some(block.decode().unwrap()), "{name}");
        }
    }
    let blocks: usize = trees.iter().map(|(_, tree)| tree.blocks.len()).sum();
    assert_eq!(store.usage().unwrap().blocks, blocks as u64, "no copies are left behind");
    drop(store);
    let (store, _) = open(&disk);
    assert_eq!(all(&store).damaged, Vec::<String>::new(), "remembered");
    store.put(std::slice::from_ref(hit)).unwrap();
    store.commit(store.write_epoch()).unwrap();
    assert_all(&store, "put again");
}

/// While a pack is moved, a record that was already moved is found damaged: its copy
/// is the only one left, and is not discarded with the others.
#[test]
fn a_copy_that_became_the_only_one_is_not_given_up() {
    let disk = SimDisk::new();
    let options =
        StoreOptions { max_storage: None, disk_reserve: 0, pack_len: 100_000, background: false };
    let opened = PackStore::open_on(Arc::new(disk.clone()), Path::new("/store"), &options);
    let store = Arc::new(opened.unwrap().0);
    let text = tree_of((0..150).map(|seed| text_chunk(seed, 700)).collect());
    store_tree(&store, "text", &text).unwrap();
    let other = chunk(1, 50_000);
    store.put(std::slice::from_ref(&other)).unwrap();
    let (path, at) = pack_of(&disk, other.payload());
    let asked = AtomicU64::new(0);
    let stop = || {
        if asked.fetch_add(1, Ordering::Relaxed) < 2 {
            return false;
        }
        // Damage is found somewhere: it cannot be distinguished from damage to a
        // record that was just moved.
        disk.damage(&path, |content| content[at] ^= 1);
        assert!(store.get(&other.cid()).is_err());
        true
    };
    let blocks = store.usage().unwrap().blocks;
    let report = store.recompress(u64::MAX, &stop).unwrap();
    assert_eq!((report.end, report.rewritten_packs), (RecompressEnd::Stopped, 0));
    assert!(store.usage().unwrap().blocks > blocks, "the copies stay");
    assert_whole(&store, &text, "with copies");
    // They exist twice until they are collected.
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_whole(&store, &text, "collected");
    assert_eq!(store.usage().unwrap().blocks, text.blocks.len() as u64);
}

#[test]
fn a_full_disk_ends_it_and_everything_is_as_it_was() {
    let (disk, store) = filled();
    let (names, before) = (files(&disk, "/d-"), used(&store));
    disk.set_capacity(Some(disk.used() + 1000));
    let report = all(&store);
    assert_eq!((report.end, report.rewritten_packs), (RecompressEnd::Full, 0), "{report:?}");
    assert_eq!((files(&disk, "/d-"), used(&store)), (names, before));
    assert_all(&store, "on the full disk");
    // With space for one pack beside the others, all packs are rewritten.
    disk.set_capacity(Some(disk.used() + 10_000));
    let report = all(&store);
    assert_eq!(report.end, RecompressEnd::Done);
    assert!(report.rewritten_packs >= 4 && used(&store) < before, "{report:?}");
    assert_all(&store, "with room");
}

/// A pack with a failed sync must not be used any more and cannot be closed: the
/// others are rewritten nevertheless, and this one is not examined again and again.
#[test]
fn a_pack_that_has_failed_is_left_alone() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    store.put(&[text_chunk(1, 700), text_chunk(2, 700)]).unwrap();
    store.commit(store.write_epoch()).unwrap();
    store.put(&[text_chunk(3, 700)]).unwrap();
    disk.set_fault(disk.operations(), Fault::Fail(ErrorKind::Other));
    assert!(store.commit(store.write_epoch()).is_err());
    disk.clear_fault();
    let later: Vec<_> = (10..20).map(|seed| text_chunk(seed, 700)).collect();
    for block in &later {
        store.put(std::slice::from_ref(block)).unwrap();
    }
    store.commit(store.write_epoch()).unwrap();
    let mut rewritten = 0;
    for run in 0.. {
        assert!(run < 20, "the recompression does not end");
        let report = store.recompress(1, &never).unwrap();
        assert_eq!(report.damaged, Vec::<String>::new());
        rewritten += report.rewritten_packs;
        if report.end == RecompressEnd::Done {
            break;
        }
    }
    assert!(rewritten >= 2, "{rewritten}");
    for block in [text_chunk(1, 700), text_chunk(2, 700)].iter().chain(&later) {
        assert_eq!(store.get(&block.cid()).unwrap().as_ref(), Some(block.payload()));
    }
    assert!(!store.has(&text_chunk(3, 700).cid()).unwrap());
}

#[test]
fn a_quota_that_is_reached_does_not_keep_it_from_making_room() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let text = tree_of((0..40).map(|seed| text_chunk(seed, 700)).collect());
    store_tree(&store, "text", &text).unwrap();
    store.set_limits(Some(used(&store)), 0);
    assert!(store.put(&[chunk(1, 500)]).is_err());
    assert!(all(&store).rewritten_packs > 4);
    store.put(&[chunk(1, 500)]).unwrap();
    assert_whole(&store, &text, "within the quota");
}

/// A pack that still grows is closed for recompression when it is no longer small,
/// and not before.
#[test]
fn a_pack_that_still_grows_waits_until_it_is_not_small() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    store.put(&[text_chunk(1, 200)]).unwrap();
    assert_eq!(all(&store), RecompressReport::default());
    store.put(&[text_chunk(2, 500)]).unwrap();
    assert_eq!(all(&store).rewritten_packs, 1);
    store.put(&[text_chunk(3, 100)]).unwrap();
    for (seed, len) in [(1, 200), (2, 500), (3, 100)] {
        let block = text_chunk(seed, len);
        assert_eq!(store.get(&block.cid()).unwrap().as_ref(), Some(block.payload()));
    }
}

#[test]
fn it_takes_nothing_from_those_who_read_write_and_collect() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { disk_reserve: 0, pack_len: 30_000, ..StoreOptions::default() };
    let store = Arc::new(PackStore::open(dir.path(), &options).unwrap().0);
    let is_done = AtomicBool::new(false);
    let (rewritten, stopped) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u64)
            .map(|writer| {
                let store = store.clone();
                scope.spawn(move || write_and_remove(&store, writer, 120, (8, 60), mixed_tree))
            })
            .collect();
        scope.spawn(|| {
            for round in 0_u64.. {
                if is_done.load(Ordering::SeqCst) {
                    return;
                }
                let asked = AtomicU64::new(0);
                let stop = || asked.fetch_add(1, Ordering::Relaxed) > round % 5;
                let report = store.recompress(u64::MAX, &stop).unwrap();
                assert_eq!(report.damaged, Vec::<String>::new());
                rewritten.fetch_add(report.rewritten_packs, Ordering::SeqCst);
                if report.end == RecompressEnd::Stopped {
                    stopped.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                store.gc(GcOptions::EVERYTHING).unwrap();
            }
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_done.store(true, Ordering::SeqCst);
        for result in results {
            result.unwrap();
        }
    });
    assert!(rewritten.load(Ordering::SeqCst) > 3, "{rewritten:?} packs, stopped {stopped:?}");
    assert_eq!(missing_blocks(&*store).unwrap(), []);
    drop(store);
    let (store, report) = PackStore::open(dir.path(), &options).unwrap();
    assert_eq!((report.damage, report.lost_packs), (vec![], vec![]));
    assert_eq!(missing_blocks(&store).unwrap(), []);
    assert_eq!(store.index_differences().unwrap(), [] as [String; 0]);
}
