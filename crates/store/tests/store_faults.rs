//! Lives of a store with a single fault: a commit that cannot begin, a restart after a
//! failed sync, an index that cannot be rebuilt, roots on a full disk. Everything that
//! was acknowledged is there afterwards.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{assert_whole, chunk, open, store_tree, tree, tree_of};
use disk::sim::{ArmedFault, EIO, EMFILE, Fault, FaultRule, Op, Power, SimDisk};
use store::{
    Batch, BlockRead as _, BlockWrite as _, GcOptions, PackStore, Root, Roots as _, RootsRead as _,
    StoreAdmin as _, StoreError, StoreOptions,
};
use types::EncodedBlock;

fn root_of(block: &EncodedBlock) -> Root {
    Root { cid: block.cid(), partial: false }
}

/// Sets a root for a block that is in the store already, as a pull does that is tried
/// again.
fn set_root_of_found(store: &PackStore, name: &str, block: &EncodedBlock) {
    assert!(store.has(&block.cid()).unwrap(), "{name}");
    store.set_root(name, root_of(block), store.write_epoch()).unwrap();
}

fn assert_kept(disk: &SimDisk, name: &str, block: &EncodedBlock) {
    let (store, _) = open(&disk.crash(Power::Dropped));
    assert_eq!(store.root(name), Some(root_of(block)));
    let found = store.get(&block.cid()).unwrap();
    assert_eq!(found.as_ref(), Some(block.payload()), "acknowledged, and gone");
}

fn packs(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files.filter(|path| path.extension().is_some_and(|kind| kind == "pack")).collect()
}

/// A commit needs no descriptor: it succeeds, or a later one syncs the same packs.
#[test]
fn a_commit_while_nothing_can_be_opened_is_not_forgotten() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let many: Vec<_> = (0..300).map(|seed| chunk(seed, 2000)).collect();
    store.put(&many).unwrap();
    store.commit(store.write_epoch()).unwrap();
    let last = chunk(1000, 100);
    let epoch = store.write_epoch();
    store.put(std::slice::from_ref(&last)).unwrap();
    // A restore reads more packs than the store keeps open.
    assert!(packs(&disk).len() > 128);
    for block in &many {
        store.get(&block.cid()).unwrap().unwrap();
    }
    disk.add_fault(FaultRule::new(Op::Open, EMFILE));
    store.commit(epoch).unwrap();
    disk.clear_fault_rules();
    set_root_of_found(&store, "snapshot/x", &last);
    assert_kept(&disk, "snapshot/x", &last);
}

/// Puts a block, does not make it durable, and starts the process again. The computer
/// keeps running, so that the page cache still has the block.
fn restarted_with_unsynced(is_sync_failed: bool) -> (SimDisk, EncodedBlock) {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let first = chunk(1, 300);
    store.put(std::slice::from_ref(&first)).unwrap();
    store.set_root("first", root_of(&first), store.write_epoch()).unwrap();
    let block = chunk(2, 300);
    let epoch = store.write_epoch();
    store.put(std::slice::from_ref(&block)).unwrap();
    if is_sync_failed {
        disk.add_fault(FaultRule::new(Op::Sync, EIO).on(".pack").times(1));
        assert!(store.commit(epoch).is_err());
    }
    // A killed process runs no destructor.
    std::mem::forget(store);
    (disk.crash(Power::Kept), block)
}

/// The bytes of an unsealed pack are in the page cache, and may not be on the disk.
#[test]
fn a_restart_does_not_believe_the_page_cache() {
    for is_sync_failed in [false, true] {
        let (disk, block) = restarted_with_unsynced(is_sync_failed);
        let (store, _) = open(&disk);
        set_root_of_found(&store, "snapshot/x", &block);
        assert_kept(&disk, "snapshot/x", &block);
    }
}

/// On a full disk that copies on write, nothing can be written in place. Then the store
/// believes the disk, not the page cache.
#[test]
fn a_restart_that_cannot_write_reads_the_disk() {
    for is_sync_failed in [false, true] {
        let (disk, block) = restarted_with_unsynced(is_sync_failed);
        disk.add_fault(FaultRule::new(Op::Write, ErrorKind::StorageFull).on(".pack"));
        let (store, _) = open(&disk);
        disk.clear_fault_rules();
        assert!(store.root("first").is_some());
        let epoch = store.write_epoch();
        store.put(std::slice::from_ref(&block)).unwrap();
        store.set_root("snapshot/x", root_of(&block), epoch).unwrap();
        assert_kept(&disk, "snapshot/x", &block);
        assert_kept(&disk, "first", &chunk(1, 300));
    }
}

/// A store with several packs, sealed and open, and an index on the disk.
fn filled() -> (SimDisk, Arc<PackStore>) {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    for seed in 0..5 {
        store_tree(&store, &format!("tree/{seed}"), &tree(&[seed, seed + 1, seed + 2])).unwrap();
    }
    (disk, store)
}

fn assert_all(store: &PackStore, context: &str) {
    for seed in 0..5 {
        assert_whole(store, &tree(&[seed, seed + 1, seed + 2]), context);
    }
}

/// A rebuild that fails at any step makes no block look missing, and a collection
/// meanwhile deletes nothing that is needed.
#[test]
fn an_index_that_cannot_be_rebuilt_stays_in_use() {
    let fails_at = |at: u64, is_read: bool| {
        let (disk, store) = filled();
        // An upload in progress: its blocks may be missing, so that a collection would
        // not notice that they look missing.
        let partial = tree(&[50, 51]);
        store.put(&partial.blocks).unwrap();
        let root = Root { cid: partial.root, partial: true };
        store.set_root("upload", root, store.write_epoch()).unwrap();
        drop(store);
        let (store, _) = open(&disk);
        let armed = if is_read {
            disk.add_fault(FaultRule::reads(EIO).after(at).times(1))
        } else {
            disk.set_fault(disk.operations() + at, Fault::Fail(ErrorKind::Other));
            ArmedFault::default()
        };
        let rebuilt = store.rebuild_index();
        disk.clear_fault();
        disk.clear_fault_rules();
        let context = format!("fault at {at}, {armed:?}");
        assert!(rebuilt.is_err() || armed.failures() == 0, "{context}");
        assert_all(&store, &context);
        store.gc(GcOptions::EVERYTHING).unwrap();
        assert_all(&store, &context);
        assert_whole(&store, &partial, &context);
        store.rebuild_index().unwrap();
        assert_all(&store, &context);
        drop(store);
        let (store, report) = open(&disk);
        assert!(!report.index_rebuilt && report.damage.is_empty(), "{context}: {report:?}");
        assert_all(&store, &context);
        rebuilt.is_err()
    };
    for is_read in [false, true] {
        let failures = (0..).take_while(|at| fails_at(*at, is_read)).count();
        assert!(failures > 4, "only {failures} steps");
    }
}

/// A block that a batch found present is damaged before the batch ends.
#[test]
fn a_batch_whose_blocks_were_lost_meanwhile_gets_no_root() {
    let (disk, store) = filled();
    let wanted = tree(&[0, 1, 2]);
    let other = tree(&[4, 5, 6]);
    let damage = |block: &EncodedBlock| {
        for path in packs(&disk) {
            disk.damage(&path, |bytes| {
                let payload = block.payload();
                let at = bytes.windows(payload.len()).position(|found| found == payload);
                if let Some(at) = at {
                    bytes[at] ^= 1;
                }
            });
        }
        assert!(matches!(store.get(&block.cid()), Err(StoreError::Damaged { .. })));
    };
    let batch = |tree: &common::Tree| {
        let batch = Batch::new(store.clone());
        batch.put(&tree.blocks).unwrap();
        batch
    };
    let commit = |batch: Batch, partial: bool| {
        batch.commit_root(&*store, "new", Root { cid: wanted.root, partial })
    };
    // The loss of another block is no reason to store everything again.
    let first = batch(&wanted);
    damage(&other.blocks[2]);
    commit(first, false).unwrap();
    store.remove_root("new").unwrap();
    for partial in [false, true] {
        let second = batch(&wanted);
        damage(&wanted.blocks[usize::from(partial)]);
        assert!(matches!(commit(second, partial), Err(StoreError::LostWrites)));
        assert_eq!(store.root("new"), None);
    }
    // Stored again, it succeeds.
    commit(batch(&wanted), false).unwrap();
    assert_whole(&store, &wanted, "stored again");
}

/// The index knows records of a pack that was cut to its header, or that has the mark
/// of an emptied one.
#[test]
fn a_pack_that_lost_its_records_is_reported() {
    let cut = |len: usize| move |bytes: &mut Vec<u8>| bytes.truncate(len);
    let mark = |bytes: &mut Vec<u8>| bytes[..8].copy_from_slice(b"ARCHGONE");
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: [(&str, Damage); 4] = [
        ("was cut to 64 bytes", Box::new(cut(64))),
        ("was cut to 10 bytes", Box::new(cut(10))),
        ("was cut to 0 bytes", Box::new(cut(0))),
        ("was emptied", Box::new(mark)),
    ];
    for (text, damage) in damages {
        let (disk, store) = filled();
        drop(store);
        let path = packs(&disk).remove(0);
        disk.damage(&path, &damage);
        let (store, report) = open(&disk);
        assert_eq!(report.damage.len(), 1, "{report:?}");
        assert!(report.damage[0].contains(text), "{report:?}");
        assert!(report.damage[0].contains(path.to_str().unwrap()), "{report:?}");
        assert_eq!(
            disk.files().contains(&path.with_extension("pack.damaged")),
            !text.contains("emptied")
        );
        // The blocks are missing, and nothing that needs them is collected.
        let missing = store::check::missing_blocks(&*store).unwrap();
        assert!(!missing.is_empty());
        for seed in 0..5 {
            let tree = tree(&[seed, seed + 1, seed + 2]);
            store_tree(&store, &format!("tree/{seed}"), &tree).unwrap();
        }
        assert_all(&store, text);
        drop(store);
        assert!(open(&disk).1.damage.is_empty(), "it is reported once");
    }
}

/// Space is freed by removing roots, so that this works however many there are.
#[test]
fn every_root_of_a_full_disk_can_be_removed() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let block = chunk(1, 300);
    let epoch = store.write_epoch();
    store.put(std::slice::from_ref(&block)).unwrap();
    for n in 0..1500 {
        store.set_root(&format!("snapshot/{n:04}"), root_of(&block), epoch).unwrap();
    }
    disk.set_capacity(Some(disk.used()));
    for n in 0..1499 {
        let removed = store.remove_root(&format!("snapshot/{n:04}"));
        assert!(removed.is_ok_and(|existed| existed), "removal {n}");
    }
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_kept(&disk, "snapshot/1499", &block);
}

/// After a failed change, the roots need space for new logs: that of the reserve file.
#[test]
fn a_root_is_removed_from_a_full_disk_after_a_failed_change() {
    let disk = SimDisk::new();
    // The reserve file is as long as a pack.
    let options = StoreOptions { pack_len: 300_000, ..common::options() };
    let open_store = |disk: &SimDisk| {
        PackStore::open_on(Arc::new(disk.clone()), Path::new(common::DIR), &options).unwrap()
    };
    let store = Arc::new(open_store(&disk).0);
    let trees: Vec<_> =
        (0..5).map(|n| tree_of((0..4).map(|m| chunk(n * 10 + m, 40_000)).collect())).collect();
    for (number, tree) in trees.iter().enumerate() {
        store_tree(&store, &format!("tree/{number}"), tree).unwrap();
    }
    assert!(disk.files().contains(&Path::new("/store/ballast").to_owned()));
    disk.set_capacity(Some(disk.used()));
    disk.add_fault(FaultRule::new(Op::Sync, EIO).on("b.log").times(1));
    assert!(store.remove_root("tree/0").is_err());
    assert!(store.remove_root("tree/0").unwrap());
    let report = store.gc(GcOptions::EVERYTHING).unwrap();
    assert!(report.freed_bytes > 100_000, "{report:?}");
    let (store, report) = open_store(&disk.crash(Power::Dropped));
    assert!(!report.roots_incomplete);
    assert_eq!(store.roots("").len(), 4);
    for tree in &trees[1..] {
        assert_whole(&store, tree, "kept");
    }
}

/// A collection that cannot write the catalog removes nothing, and the next one does.
#[test]
fn a_collection_that_cannot_write_the_catalog_is_repeated() {
    let (disk, store) = filled();
    let used = store.used_bytes();
    for seed in 0..4 {
        store.remove_root(&format!("tree/{seed}")).unwrap();
    }
    disk.add_fault(FaultRule::new(Op::Sync, EIO).on("catalog").times(1));
    assert!(store.gc(GcOptions::EVERYTHING).is_err());
    assert!(store.used_bytes() >= used, "no pack was removed, and none is forgotten");
    assert!(store.gc(GcOptions::EVERYTHING).unwrap().freed_bytes > 0);
    assert!(store.used_bytes() < used);
    assert_whole(&store, &tree(&[4, 5, 6]), "kept");
    let lengths = |disk: &SimDisk| -> u64 {
        let files = packs(disk).into_iter();
        files.map(|path| disk::read_file(disk, &path, 1 << 20).unwrap().len() as u64).sum()
    };
    assert_eq!(lengths(&disk), store.used_bytes(), "no file is left behind");
    drop(store);
    let (store, report) = open(&disk);
    assert!(report.damage.is_empty() && report.lost_packs.is_empty(), "{report:?}");
    assert_whole(&store, &tree(&[4, 5, 6]), "kept");
}

/// A root that could not be set does not come back after its blocks were collected.
#[test]
fn a_root_that_could_not_be_set_does_not_come_back_without_its_blocks() {
    let (disk, store) = filled();
    let new = tree(&[70, 71]);
    disk.add_fault(FaultRule::new(Op::Sync, EIO).on("b.log").times(1));
    assert!(store_tree(&store, "new", &new).is_err());
    assert!(store.gc(GcOptions::EVERYTHING).unwrap().deleted_blocks > 0);
    for power in [Power::Kept, Power::Dropped] {
        let (store, _) = open(&disk.crash(power));
        assert_eq!(store.root("new"), None, "{power:?}");
        store.gc(GcOptions::EVERYTHING).unwrap();
        assert_all(&store, "kept");
    }
}

/// Both copies of the roots are unreadable: the store is not opened, and forgets
/// nothing.
#[test]
fn a_store_whose_roots_cannot_be_read_is_not_opened() {
    let (disk, store) = filled();
    drop(store);
    let files = disk.files();
    disk.add_fault(FaultRule::reads(EIO).on("/roots/"));
    let error = common::try_open(&disk).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. } | StoreError::RootsUnreadable { .. }));
    disk.clear_fault_rules();
    disk.add_fault(FaultRule::new(Op::Open, EMFILE).on(".log"));
    let error = common::try_open(&disk).unwrap_err().to_string();
    assert!(error.contains("/store/roots/a.log"), "{error}");
    disk.clear_fault_rules();
    assert_eq!(disk.files(), files);
    let (store, report) = open(&disk);
    assert_eq!((store.roots("").len(), report.roots_incomplete), (5, false));
    assert_all(&store, "readable again");
}
