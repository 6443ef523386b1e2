//! The damage matrix: delete, truncate, flip × pack, footer, index, catalog, root
//! log, all other files. Blocks outside the damage are present; damaged blocks are
//! named and can be put again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, assert_whole, files, filled, len, open, store_tree, tree, trees, try_open};
use disk::sim::{EACCES, EIO, EMFILE, FaultRule, SimDisk};
use store::check::missing_blocks;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, PackStore, ReadOnlyPackStore, Root, Roots as _,
    RootsRead as _, StoreAdmin as _, StoreError,
};
use types::EncodedBlock;

/// Checks that every block is right or missing, never wrong; that the check names
/// exactly the missing blocks; and that putting them again repairs the store.
fn check_honest(disk: &SimDisk, context: &str) {
    let (store, _) = open(disk);
    for round in ["found", "remembered"] {
        for (_, tree) in trees() {
            for block in &tree.blocks {
                match store.get(&block.cid()) {
                    Ok(Some(bytes)) => assert_eq!(bytes, block.decode().unwrap(), "{context}"),
                    Ok(None) => {}
                    Err(StoreError::Damaged { hash, .. }) => {
                        assert_eq!(hash, *block.cid().hash(), "{context}, {round}");
                        assert!(!store.has(&block.cid()).unwrap(), "{context}: quarantined");
                    }
                    Err(error) => panic!("{context}: {error}"),
                }
            }
        }
    }
    let missing = missing_blocks(&*store).unwrap();
    for (name, tree) in trees() {
        let lacks = tree.blocks.iter().any(|block| !store.has(&block.cid()).unwrap());
        let named = missing.iter().any(|block| block.roots.contains(&name));
        // A missing node hides the blocks below it: then the node is named.
        assert_eq!(lacks, named, "{context}: {name} in {missing:?}");
    }
    if !missing.is_empty() {
        // Nothing is deleted while the needed blocks are not known, unless only
        // data is missing, which has no links.
        let _ = store.gc(GcOptions::EVERYTHING);
    }
    for (_, tree) in trees() {
        let epoch = store.write_epoch();
        store.put(&tree.blocks).unwrap();
        store.commit(epoch).unwrap();
        assert_whole(&store, &tree, context);
    }
    assert_eq!(missing_blocks(&*store).unwrap(), [], "{context}");
    assert_eq!(store.index_differences().unwrap(), [] as [String; 0], "{context}");
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_eq!(store.index_differences().unwrap(), [] as [String; 0], "{context}");
    drop(store);
    let (store, _) = open(disk);
    for (_, tree) in trees() {
        assert_whole(&store, &tree, &format!("{context}, healed, opened again"));
    }
}

#[test]
fn flips_in_packs() {
    let count = files(&filled(), "packs").len();
    assert!(count >= 4, "{count} packs");
    for number in 0..count {
        let disk = filled();
        let path = &files(&disk, "packs")[number];
        // All of the header and the footer, and a sample of the records.
        let len = len(&disk, path);
        let edges = (0..140.min(len)).chain(len.saturating_sub(200)..len);
        for at in edges.chain((140..len.saturating_sub(200)).step_by(29)) {
            let disk = filled();
            disk.damage(path, |bytes| bytes[at] ^= 1 << (at % 8));
            check_honest(&disk, &format!("flip at {at} of {len} in {}", path.display()));
        }
    }
}

#[test]
fn truncated_packs() {
    for number in 0..files(&filled(), "packs").len() {
        let path = &files(&filled(), "packs")[number];
        let len = len(&filled(), path);
        for keep in (0..len).step_by(61).chain([1, 63, 64, 65, len - 1]) {
            let disk = filled();
            disk.damage(path, |bytes| bytes.truncate(keep));
            check_honest(&disk, &format!("{} cut to {keep} of {len}", path.display()));
        }
    }
}

#[test]
fn lost_packs_are_noticed() {
    for number in 0..files(&filled(), "packs").len() {
        let disk = filled();
        disk.lose(&files(&disk, "packs")[number]);
        let (store, report) = open(&disk);
        assert_eq!(report.lost_packs.len(), 1);
        drop(store);
        check_honest(&disk, "a lost pack");
    }
}

#[test]
fn a_pack_lost_under_a_running_store() {
    let disk = filled();
    let (store, _) = open(&disk);
    for path in files(&disk, "packs") {
        disk.lose(&path);
    }
    for (_, tree) in trees() {
        for block in &tree.blocks {
            assert!(matches!(store.get(&block.cid()), Ok(None | Some(_))));
        }
        let epoch = store.write_epoch();
        store.put(&tree.blocks).unwrap();
        store.commit(epoch).unwrap();
    }
}

#[test]
fn any_damage_of_the_index_costs_nothing() {
    for part in ["index/catalog", ".run"] {
        for path in files(&filled(), part) {
            let len = len(&filled(), &path);
            for at in (0..len).step_by(17) {
                let disk = filled();
                disk.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8));
                let (store, _) = open(&disk);
                for (name, tree) in trees() {
                    assert_whole(&store, &tree, &format!("{name}, flip at {at} of {part}"));
                }
            }
            for keep in [0, 1, len / 2, len - 1] {
                let disk = filled();
                disk.damage(&path, |bytes| bytes.truncate(keep));
                let (store, report) = open(&disk);
                assert!(report.index_rebuilt, "{part} cut to {keep}");
                for (name, tree) in trees() {
                    assert_whole(&store, &tree, &name);
                }
            }
            let disk = filled();
            disk.lose(&path);
            let (store, report) = open(&disk);
            assert!(report.index_rebuilt);
            for (name, tree) in trees() {
                assert_whole(&store, &tree, &name);
            }
        }
    }
}

#[test]
fn damage_of_one_root_log_costs_nothing() {
    for path in files(&filled(), "roots/") {
        for at in (0..600).step_by(7) {
            let disk = filled();
            disk.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            let (store, report) = open(&disk);
            assert!(!report.roots_incomplete);
            assert_eq!(store.roots("").len(), 4, "flip at {at}");
        }
        let disk = filled();
        disk.lose(&path);
        let (store, report) = open(&disk);
        assert!(report.roots_repaired);
        assert_eq!(store.roots("").len(), 4);
    }
}

#[test]
fn with_both_root_logs_gone_nothing_is_collected() {
    let disk = filled();
    for path in files(&disk, "roots/") {
        disk.lose(&path);
    }
    let (store, report) = open(&disk);
    assert!(report.roots_incomplete);
    assert!(matches!(store.gc(GcOptions::EVERYTHING), Err(StoreError::NotCollected(_))));
    for (name, tree) in trees() {
        assert_whole(&store, &tree, &name);
    }
    // The user accepts the remaining roots.
    for (name, tree) in trees() {
        store_tree(&store, &name, &tree).unwrap();
    }
    // This fails while a known root leads to a missing block.
    let accepting = GcOptions { accept_roots: true, ..GcOptions::EVERYTHING };
    let nowhere = Root { cid: tree(&[99]).root, partial: false };
    store.set_root("broken", nowhere, store.write_epoch()).unwrap();
    assert!(matches!(store.gc(accepting), Err(StoreError::NotCollected(_))));
    drop(store);
    let (store, report) = open(&disk);
    assert!(report.roots_incomplete, "a restart does not mend it");
    assert!(matches!(store.gc(GcOptions::EVERYTHING), Err(StoreError::NotCollected(_))));
    store.remove_root("broken").unwrap();
    store_tree(&store, "lost", &tree(&[70, 71])).unwrap();
    store.remove_root("lost").unwrap();
    assert_eq!(store.gc(accepting).unwrap().deleted_blocks, 3);
    for (name, tree) in trees() {
        assert_whole(&store, &tree, &name);
    }
    drop(store);
    let (store, report) = open(&disk);
    assert!(!report.roots_incomplete);
    store.gc(GcOptions::EVERYTHING).unwrap();
}

#[test]
fn other_files_that_are_damaged_or_lost_do_not_stop_the_store() {
    for name in ["/store/format", "/store/quarantine", "/store/lock"] {
        for keep in [None, Some(0), Some(3)] {
            let disk = filled();
            let path = Path::new(name);
            if !disk.files().contains(&path.to_owned()) {
                continue;
            }
            match keep {
                None => disk.lose(path),
                Some(keep) => disk.damage(path, |bytes| bytes.truncate(keep)),
            }
            let (store, _) = open(&disk);
            for (name, tree) in trees() {
                assert_whole(&store, &tree, &name);
            }
        }
    }
}

#[test]
fn the_list_of_damaged_blocks_is_never_taken_for_empty() {
    let disk = filled();
    let block = trees()[0].1.blocks[0].clone();
    let flipped = files(&disk, ".pack").into_iter().filter(|path| flip(&disk, path, &block));
    assert!(flipped.count() > 0);
    let list = Path::new("/store/quarantine");
    let content = |path| disk::read_file(&disk, path, 1000).unwrap();
    let (store, _) = open(&disk);
    assert!(store.get(&block.cid()).is_err());
    drop(store);
    let listed = content(list);
    assert!(!listed.is_empty());
    for error in [EIO, EACCES, EMFILE] {
        disk.add_fault(FaultRule::reads(error).on("/quarantine"));
        let refused = try_open(&disk).unwrap_err();
        assert!(matches!(refused, StoreError::Io { .. }), "{refused}");
        // A reader verifies each record.
        let (reader, report) =
            ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
        assert!(report.damage[0].contains("is not used: cannot"), "{:?}", report.damage);
        assert!(reader.get(&block.cid()).is_err());
        disk.clear_fault_rules();
    }
    assert_eq!(content(list), listed);
    // A line that is damaged is kept in a copy; the other lines are used.
    let damaged = [&listed[..], b"garbage\n"].concat();
    disk.damage(list, |bytes| *bytes = damaged.clone());
    for is_reported in [true, false] {
        let (store, report) = open(&disk);
        assert_eq!(report.damage.iter().any(|text| text.contains("damaged-1")), is_reported);
        assert!(!store.has(&block.cid()).unwrap());
    }
    assert_eq!(content(list), listed);
    assert_eq!(content(Path::new("/store/quarantine.damaged-1")), damaged);
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let disk = filled();
    disk.damage("/store/format".as_ref(), |bytes| *bytes = b"archivist store 2\n".to_vec());
    let before: Vec<_> = disk.files();
    let error = common::try_open(&disk).unwrap_err();
    assert!(error.to_string().contains("newer"), "{error}");
    assert_eq!(disk.files(), before);
}

/// Returns the offset of the payload of a block in these bytes.
fn position(bytes: &[u8], block: &EncodedBlock) -> Option<usize> {
    bytes.windows(block.payload().len()).position(|window| window == block.payload())
}

fn flip(disk: &SimDisk, path: &Path, block: &EncodedBlock) -> bool {
    let mut at = None;
    disk.damage(path, |bytes| {
        at = position(bytes, block);
        if let Some(at) = at {
            bytes[at + block.payload().len() / 2] ^= 1;
        }
    });
    at.is_some()
}

fn the_good_copy_survives(block: &EncodedBlock) {
    // Two copies: the pack with the first is unreadable while the second is put,
    // so that the store knows both.
    let disk = filled();
    let fill = |store: &Arc<PackStore>, seeds: std::ops::Range<u64>| {
        for seed in seeds {
            store_tree(store, &format!("filler-{seed}"), &tree(&[seed, seed + 1])).unwrap();
        }
    };
    // Damage in sealed packs is found only by a read.
    let (store, _) = open(&disk);
    fill(&store, 40..60);
    drop(store);
    let flipped: Vec<_> =
        files(&disk, ".pack").into_iter().filter(|path| flip(&disk, path, block)).collect();
    let first = &flipped[0];
    let (store, _) = open(&disk);
    assert!(store.get(&block.cid()).is_err());
    let epoch = store.write_epoch();
    store.put(std::slice::from_ref(block)).unwrap();
    store.commit(epoch).unwrap();
    fill(&store, 60..80);
    drop(store);
    // The flip is undone and the list of damaged blocks is lost, so there are two
    // good copies. Then the copy that the store prefers is damaged.
    let middle = block.payload().len() / 2;
    let mut damaged = block.payload().to_vec();
    damaged[middle] ^= 1;
    disk.damage(first, |bytes| {
        let at = bytes.windows(damaged.len()).position(|window| window == damaged).unwrap();
        bytes[at + middle] ^= 1;
    });
    disk.lose("/store/quarantine".as_ref());
    let mut hits = 0;
    for victim in files(&disk, ".pack") {
        let image = disk.crash(disk::sim::Power::Kept);
        let hit = flip(&image, &victim, block);
        hits += usize::from(hit);
        let (store, _) = open(&image);
        let _ = store.gc(GcOptions::EVERYTHING);
        let _ = store.gc(GcOptions::EVERYTHING);
        let found = store.get_encoded(&block.cid()).unwrap();
        let found = found.as_ref().map(EncodedBlock::payload);
        assert_eq!(found, Some(block.payload()), "hit: {hit}, {}", victim.display());
        assert_eq!(missing_blocks(&*store).unwrap(), [], "{}", victim.display());
    }
    assert_eq!(hits, 2, "there were two copies");
}

#[test]
fn the_good_copy_of_a_block_survives_the_collector() {
    the_good_copy_survives(&trees()[0].1.blocks[0]);
}

#[test]
fn the_good_copy_of_a_node_survives_the_collector() {
    // Marking reads nodes, and so finds the damage in the copy that it has marked.
    the_good_copy_survives(trees()[0].1.blocks.last().unwrap());
}

/// The footer and one record of a pack are damaged: the remaining records have other
/// numbers than before, which a collection must not use.
#[test]
fn a_pack_without_a_footer_and_a_record_keeps_the_rest() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let blocks: Vec<_> = (0..5).map(|seed| common::chunk(seed, 700)).collect();
    store.put(&blocks).unwrap();
    let kept = &blocks[3];
    let root = Root { cid: kept.cid(), partial: false };
    store.set_root("kept", root, store.write_epoch()).unwrap();
    let pack = files(&disk, "/d-").remove(0);
    disk.damage(&pack, |bytes| {
        let record = bytes.windows(700).position(|found| found == blocks[1].payload()).unwrap();
        bytes[record] ^= 1;
        // The flip is in the entries, which are checked when they are read.
        let at = bytes.len() - 48 - 20;
        bytes[at] ^= 1;
    });
    for _ in 0..2 {
        let report = store.gc(GcOptions::EVERYTHING).unwrap();
        assert_eq!(store.get(&kept.cid()).unwrap().as_ref(), Some(kept.payload()));
        assert!(report.damaged.iter().any(|text| text.contains("records are lost")), "{report:?}");
        let report = store.recompress(u64::MAX, &|| false).unwrap();
        assert_eq!(report.rewritten_packs, 0);
    }
}
