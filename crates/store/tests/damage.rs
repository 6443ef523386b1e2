//! The damage matrix: delete, truncate, flip × pack, footer, index, catalog, root
//! log, all other files. Blocks outside the damage are present; damaged blocks are
//! named and can be put again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, assert_whole, filled, open, store_tree, tree, trees, try_open};
use disk::Disk as _;
use disk::sim::{EACCES, EIO, EMFILE, FaultRule, Op, SimDisk};
use store::check::missing_blocks;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, NodeScan, NodeScanReport, OpenReport, PackStore,
    ReadOnlyPackStore, Root, Roots as _, RootsRead as _, StoreAdmin as _, StoreError,
};
use types::EncodedBlock;

fn files(disk: &SimDisk, part: &str) -> Vec<PathBuf> {
    let files = disk.files();
    files.into_iter().filter(|path| path.to_str().unwrap().contains(part)).collect()
}

fn len(disk: &SimDisk, path: &Path) -> usize {
    usize::try_from(disk.open(path).unwrap().len().unwrap()).unwrap()
}

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

/// A store that is too small for an index on disk, or whose index was removed, notices a
/// pack that was lost, cut or renamed, at each start until a collection has succeeded.
#[test]
fn a_lost_pack_is_noticed_without_an_index() {
    type Lose<'a> = &'a dyn Fn(&SimDisk, &Path);
    let losses: [(&str, Lose<'_>); 3] = [
        ("lost", &|disk, path| disk.lose(path)),
        ("cut", &|disk, path| disk.damage(path, |bytes| bytes.truncate(10))),
        ("renamed", &|disk, path| disk.rename(path, &path.with_extension("moved")).unwrap()),
    ];
    for (what, lose) in losses {
        for number in 0..files(&filled(), "/packs/").len() {
            let disk = filled();
            for path in files(&disk, "/index/") {
                disk.lose(&path);
            }
            let pack = files(&disk, "/packs/").remove(number);
            lose(&disk, &pack);
            let is_node = pack.to_str().unwrap().contains("/m-");
            let context = format!("{what}: {}", pack.display());
            let read = ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR));
            let (reader, report) = read.unwrap();
            // The file that was cut is still there for a reader.
            assert!(what == "cut" || report.lost_packs.len() == 1, "{context}: {report:?}");
            assert!(!scan(&reader).is_complete(), "{context}");
            drop(reader);
            for _ in 0..2 {
                let (store, report) = open(&disk);
                assert_eq!(report.lost_packs.len(), 1, "{context}");
                let scanned = scan(&*store);
                assert!(!scanned.is_complete(), "{context}");
                assert!(scanned.damaged.descriptions[0].contains("missing"), "{scanned:?}");
            }
            let (store, _) = open(&disk);
            if is_node {
                assert!(store.gc(GcOptions::EVERYTHING).is_err(), "{context}");
            }
            for (_, tree) in trees() {
                let epoch = store.write_epoch();
                store.put(&tree.blocks).unwrap();
                store.commit(epoch).unwrap();
            }
            drop(store);
            let (store, report) = open(&disk);
            assert_eq!(report.lost_packs.len(), 1, "{context}");
            store.gc(GcOptions::EVERYTHING).unwrap();
            assert!(scan(&*store).is_complete(), "{context}");
            drop(store);
            assert_eq!(open(&disk).1.lost_packs, [] as [PathBuf; 0], "{context}");
        }
    }
}

/// A pack that has lost its last records is reported at each start, until a collection
/// has succeeded. Records that are stored afterwards do not hide that, and the loss is not
/// forgotten together with the index.
#[test]
fn lost_records_are_noticed_until_a_collection_has_succeeded() {
    let packs = files(&filled(), "/packs/").len();
    for number in 0..packs {
        let disk = filled();
        let path = files(&disk, "/packs/").remove(number);
        let is_node = path.to_str().unwrap().contains("/m-");
        // Cuts off the footer, if there is one, and at least one record.
        let len = len(&disk, &path);
        disk.damage(&path, |bytes| bytes.truncate(len / 2));
        let context = format!("{} of {packs} cut to {} of {len}", path.display(), len / 2);
        let read = ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR));
        let (reader, report) = read.unwrap();
        assert!(has_loss(&report), "{context}: {report:?}");
        assert_eq!(scan(&reader).is_complete(), !is_node, "{context}");
        drop(reader);
        for round in 0..3 {
            let (store, report) = open(&disk);
            assert!(has_loss(&report), "{context}, {round}: {report:?}");
            assert_eq!(scan(&*store).is_complete(), !is_node, "{context}, {round}");
            store_tree(&store, &format!("new {round}"), &tree(&[30 + round, 40 + round])).unwrap();
            drop(store);
            for path in files(&disk, "/index/") {
                disk.lose(&path);
            }
        }
        let (store, _) = open(&disk);
        for (_, tree) in trees() {
            let epoch = store.write_epoch();
            store.put(&tree.blocks).unwrap();
            store.commit(epoch).unwrap();
        }
        store.gc(GcOptions::EVERYTHING).unwrap();
        assert!(scan(&*store).is_complete(), "{context}");
        drop(store);
        let (_, report) = open(&disk);
        assert!(!has_loss(&report), "{context}: {report:?}");
    }
}

fn has_loss(report: &OpenReport) -> bool {
    let is_loss =
        |damage: &String| damage.contains("records are lost") || damage.contains("was cut");
    report.damage.iter().any(is_loss)
}

fn scan(store: &impl NodeScan) -> NodeScanReport {
    store.scan_nodes(&mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// A catalog that cannot be read is not an absent one: it lists the packs, so nothing
/// replaces it, and no pack is removed because it seems unknown.
#[test]
fn a_catalog_that_cannot_be_read_is_never_replaced() {
    const CATALOG: &str = "/index/catalog";
    let newer = |disk: &SimDisk| {
        disk.damage(&files(disk, CATALOG)[0], |bytes| {
            bytes[8] = 2;
            let end = bytes.len() - 4;
            let sum = crc32c::crc32c(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&sum);
        });
    };
    type Spoil<'a> = &'a dyn Fn(&SimDisk);
    let spoils: [(&str, Spoil<'_>); 5] = [
        ("EIO", &|disk| drop(disk.add_fault(FaultRule::reads(EIO).on(CATALOG)))),
        ("EACCES", &|disk| drop(disk.add_fault(FaultRule::reads(EACCES).on(CATALOG)))),
        ("EMFILE", &|disk| drop(disk.add_fault(FaultRule::new(Op::Open, EMFILE).on(CATALOG)))),
        ("too long", &|disk| {
            disk.damage(&files(disk, CATALOG)[0], |bytes| bytes.resize((64 << 20) + 1, 0));
        }),
        ("a later version", &newer),
    ];
    for (what, spoil) in spoils {
        let disk = filled();
        let pack = files(&disk, "/packs/m-").remove(0);
        disk.damage(&pack, |bytes| bytes.truncate(10));
        spoil(&disk);
        let content = |disk: &SimDisk| {
            disk.clear_fault_rules();
            files(disk, "/store/").iter().map(|path| (path.clone(), len(disk, path))).collect()
        };
        let error = try_open(&disk).map(|_| ()).unwrap_err();
        let is_newer = what == "a later version";
        match &error {
            StoreError::Unusable { .. } if is_newer => {}
            StoreError::CatalogUnreadable { .. } if !is_newer => {}
            error => panic!("{what}: {error}"),
        }
        assert!(error.to_string().contains("catalog"), "{error}");
        // A reader does without the catalog, and says so.
        let read = ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR));
        match read {
            Ok((_, report)) => {
                assert!(!is_newer);
                assert!(report.damage.iter().any(|damage| damage.contains("catalog")), "{what}");
            }
            Err(error) => assert!(is_newer, "{what}: {error}"),
        }
        let before: Vec<(PathBuf, usize)> = content(&disk);
        assert!(before.iter().any(|(path, len)| *path == pack && *len == 10), "{what}");
    }
    // When it can be read again, it names the pack that was cut.
    let disk = filled();
    let pack = files(&disk, "/packs/m-").remove(0);
    disk.damage(&pack, |bytes| bytes.truncate(10));
    disk.add_fault(FaultRule::reads(EIO).on(CATALOG).times(1));
    assert!(try_open(&disk).is_err());
    let (_, report) = open(&disk);
    assert!(report.damage.iter().any(|damage| damage.contains("was cut")), "{report:?}");
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

/// A part of another store, or of an older copy, was copied into the store: a pack with the number
/// of a pack that exists. Neither hides the other.
#[test]
fn two_packs_with_one_number_are_refused_and_stay() {
    let other = SimDisk::new();
    let (store, _) = open(&other);
    let nodes: Vec<_> = tree(&[77, 78]).blocks.into_iter().rev().take(1).collect();
    store.put(&nodes).unwrap();
    store.commit(store.write_epoch()).unwrap();
    drop(store);
    let path = Path::new(DIR).join("packs/m-00000001.pack");
    let foreign = disk::read_file(&other, &path, 1 << 20).unwrap();

    let disk = filled();
    assert!(files(&disk, "d-00000001.pack").len() == 1);
    disk.create(&path).unwrap().write_at(&[&foreign], 0).unwrap();
    let error = try_open(&disk).unwrap_err().to_string();
    let reader = || ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR));
    let error_of_reader = reader().map(drop).unwrap_err().to_string();
    for error in [error, error_of_reader] {
        assert!(error.contains("m-00000001.pack") && error.contains("d-00000001.pack"), "{error}");
    }
    // A crash may leave an emptied pack beside the next one.
    disk.damage(&path, |bytes| bytes.truncate(64));
    reader().unwrap();
    disk.damage(&path, |bytes| *bytes = foreign.clone());
    disk.lose(&path);
    let (store, report) = open(&disk);
    assert!(report.damage.is_empty(), "{report:?}");
    for (name, tree) in trees() {
        assert_whole(&store, &tree, &name);
    }
}
