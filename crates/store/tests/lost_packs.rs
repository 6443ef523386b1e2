//! Packs that were lost, cut or doubled, and the catalog that lists them: what the store reports,
//! until when, and what it refuses.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, assert_whole, files, filled, len, open, store_tree, tree, trees, try_open};
use disk::Disk as _;
use disk::sim::{EACCES, EIO, EMFILE, FaultRule, Op, SimDisk};
use store::{
    BlockWrite as _, GcOptions, NodeScan, NodeScanReport, OpenReport, ReadOnlyPackStore,
    StoreAdmin as _, StoreError,
};

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
