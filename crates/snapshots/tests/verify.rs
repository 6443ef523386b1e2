//! Verification finds every kind of damage, and names the snapshots and paths that need the block.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use snapshots::{SnapshotStore, VerifyError, VerifyProgress, VerifyReport, verify};
use store::{
    BlockRead as _, BlockWrite as _, Call, FaultyStore, FileWriter, MemStore, PackStore, Root,
    Roots as _, StoreAdmin as _, StoreError, StoreOptions,
};
use testkit::{all_blocks, filled, noise, without};
use tokio_util::sync::CancellationToken;
use types::{Block, Cid, Codec, Dataset, EncodedBlock, FileNode, FileNodeBuilder, NodeChild};

fn check(snapshots: &SnapshotStore, full: bool) -> VerifyReport {
    verify(snapshots, full, &VerifyProgress::default(), &CancellationToken::new()).unwrap()
}

#[test]
fn what_is_whole_is_looked_at_once() {
    let store = Arc::new(MemStore::new());
    let (maker, all) = filled(store.clone());
    let blocks = store.usage().unwrap().blocks;
    for full in [false, true] {
        let report = check(&maker.snapshots, full);
        assert!(report.is_ok(), "{report:?}");
        assert_eq!((report.snapshots, report.blocks), (3, blocks));
        assert_eq!(report.read_bytes > 3_000_000, full);
    }
    assert!(check(&SnapshotStore::new(Arc::new(MemStore::new())), true).is_ok());
    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = verify(&maker.snapshots, true, &VerifyProgress::default(), &stop);
    assert!(matches!(stopped, Err(VerifyError::Stopped)));
    assert_eq!(all.len(), 3);
}

#[test]
fn each_missing_block_is_named_with_all_that_it_concerns() {
    let store = Arc::new(MemStore::new());
    let (_, all) = filled(store.clone());
    let of: Vec<BTreeSet<Cid>> = all.iter().map(|one| all_blocks(&*store, one)).collect();
    let blocks: BTreeSet<Cid> = of.iter().flatten().copied().collect();
    assert!(blocks.len() > 15, "{}", blocks.len());
    for cid in blocks {
        let holes = without(&*store, &BTreeSet::from([cid]));
        let snapshots = SnapshotStore::new(holes);
        let concerned: BTreeSet<_> = all
            .iter()
            .zip(&of)
            .filter(|(_, of)| of.contains(&cid))
            .map(|(one, _)| one)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|one| one.id.clone())
            .collect();
        for full in [false, true] {
            let report = check(&snapshots, full);
            assert!(!report.is_ok(), "{cid}");
            if all.iter().any(|one| one.cid == cid) {
                // Without the record, the snapshot is damaged as a whole.
                assert_eq!((report.damaged.len(), report.problems.len()), (1, 0));
                continue;
            }
            assert_eq!(report.problems.len(), 1, "{report:?}");
            let problem = &report.problems[0];
            assert_eq!((problem.cid, &problem.snapshots), (cid, &concerned));
            assert_eq!(report.broken.len(), concerned.len());
            assert_eq!(problem.reason, "the block is missing");
            if cid.codec() == Codec::Raw {
                let paths: Vec<_> = problem.paths.iter().map(String::as_str).collect();
                let known: [&[&str]; 3] = [&["a.txt"], &["big", "copy of big"], &["song"]];
                assert!(known.contains(&&paths[..]), "{paths:?}");
            }
        }
    }
}

#[test]
fn data_items_are_looked_through_as_well() {
    let store = Arc::new(MemStore::new());
    filled(store.clone());
    let content = noise(50, 3_000_000);
    let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
    writer.write(&content).unwrap();
    let file = writer.finish().unwrap();
    let dataset = Dataset { tree: file.cid, size: file.size, filename: None, mimetype: None };
    let dataset = EncodedBlock::plain(dataset.encode(&types::BlockScheme::plain()).unwrap());
    let small = EncodedBlock::plain(Block::new(Codec::Raw, noise(51, 10)).unwrap());
    store.put(&[dataset.clone(), small.clone()]).unwrap();
    let nowhere = Cid::of(Codec::DagCbor, b"nowhere");
    let roots = [
        ("data/dataset", dataset.cid(), false),
        ("data/file", file.cid, false),
        ("data/small", small.cid(), false),
        // Not complete yet.
        ("data/partial", nowhere, true),
    ];
    for (name, cid, partial) in roots {
        store.set_root(name, Root { cid, partial }, store.write_epoch()).unwrap();
    }
    for full in [false, true] {
        let report = check(&SnapshotStore::new(store.clone()), full);
        assert!(report.is_ok(), "{report:?}");
        assert_eq!((report.snapshots, report.items), (3, 3));
    }
    store.remove_root("data/partial").unwrap();
    let chunk = FileNode::decode(&store.get(&file.cid).unwrap().unwrap()).unwrap().children()[0];
    for (hole, concerned) in [
        (dataset.cid(), &["data/dataset"][..]),
        (file.cid, &["data/dataset", "data/file"]),
        (chunk.cid, &["data/dataset", "data/file"]),
        (small.cid(), &["data/small"]),
    ] {
        let holes = SnapshotStore::new(without(&*store, &BTreeSet::from([hole])));
        for full in [false, true] {
            let report = check(&holes, full);
            assert!(!report.is_ok() && report.broken.is_empty(), "{report:?}");
            assert_eq!(report.broken_items.iter().collect::<Vec<_>>(), concerned);
            assert_eq!(report.problems.len(), 1);
            assert_eq!(report.problems[0].cid, hole);
            assert_eq!(report.problems[0].paths, report.broken_items);
        }
    }
}

#[test]
fn a_tree_that_names_what_is_bad_again_and_again_is_walked_once() {
    let store = Arc::new(MemStore::new());
    let missing = Cid::of(Codec::Raw, b"missing");
    let mut top = NodeChild { cid: missing, len: 7 };
    for _ in 0..6 {
        let (mut builder, mut nodes) =
            (FileNodeBuilder::new(types::BlockScheme::plain()), Vec::new());
        let mut emit = |block: Block| {
            nodes.push(EncodedBlock::plain(block));
            Ok::<_, std::convert::Infallible>(())
        };
        for _ in 0..16 {
            builder.push(top, &mut emit).unwrap();
        }
        let cid = builder.finish(&mut emit).unwrap().unwrap();
        store.put(&nodes).unwrap();
        top = NodeChild { cid, len: top.len * 16 };
    }
    let root = Root { cid: top.cid, partial: false };
    store.set_root("data/bad", root, store.write_epoch()).unwrap();
    let faulty = Arc::new(FaultyStore::new(store));
    for full in [false, true] {
        let before = faulty.calls();
        let report = check(&SnapshotStore::new(faulty.clone()), full);
        assert_eq!((report.problems.len(), report.problems[0].cid), (1, missing));
        let calls = faulty.calls() - before;
        assert!(calls < 100, "{calls} calls");
    }
}

#[test]
fn a_disk_that_fails_once_is_a_problem_and_not_the_end() {
    let store = Arc::new(MemStore::new());
    filled(store.clone());
    for full in [false, true] {
        for (call, others) in [(Call::Get, true), (Call::Has, !full)] {
            let mut found = 0;
            for nth in 0.. {
                let faulty = Arc::new(FaultyStore::new(store.clone()));
                let snapshots = SnapshotStore::new(faulty.clone());
                snapshots.list().unwrap();
                faulty.fail(call, nth, || StoreError::Injected("on purpose"));
                let report = check(&snapshots, full);
                assert_eq!(report.snapshots, 3);
                if report.is_ok() {
                    break;
                }
                assert_eq!(report.problems.len(), 1, "{report:?}");
                assert!(report.problems[0].reason.contains("on purpose"));
                found += 1;
            }
            assert_eq!(found > 5, others, "{call:?} {full} {found}");
        }
    }
}

fn open(dir: &Path) -> Arc<PackStore> {
    let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
    Arc::new(PackStore::open(dir, &options).unwrap().0)
}

fn packs(dir: &Path) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(dir.join("packs")).unwrap();
    all.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_flipped_bit_on_the_disk_is_found_by_reading_all() {
    use std::os::unix::fs::FileExt as _;

    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (maker, all) = filled(store.clone());
    let snapshots = maker.snapshots;
    assert!(check(&snapshots, true).is_ok());
    let chunk = all_blocks(&*store, &all[2]).into_iter().find(|c| c.codec() == Codec::Raw);
    let bytes = store.get(&chunk.unwrap()).unwrap().unwrap();
    let mut flipped = 0;
    for path in packs(dir.path()) {
        let pack = std::fs::read(&path).unwrap();
        let found = pack.windows(64).position(|window| window == &bytes[1000..1064]);
        if let Some(at) = found {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[pack[at] ^ 1], at as u64).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    assert!(check(&snapshots, false).is_ok());
    let report = check(&snapshots, true);
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(report.problems[0].paths.contains("song"));
    assert_eq!(report.problems[0].snapshots, BTreeSet::from([all[2].id.clone()]));
    // From now on the store reports the block as missing.
    assert_eq!(check(&snapshots, false).problems.len(), 1);
}

#[test]
fn a_pack_that_is_gone_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    filled(open(dir.path()));
    for path in packs(dir.path()) {
        std::fs::remove_file(path).unwrap();
    }
    let report = check(&SnapshotStore::new(open(dir.path())), false);
    assert!(!report.is_ok());
    assert_eq!(report.damaged.len() + report.broken.len(), 3);
}

/// A prune removes snapshots and items, and a collection their blocks, at any moment of a
/// verification. Nothing that remains is damaged, so nothing is reported.
#[test]
fn what_is_removed_while_it_is_checked_is_not_broken() {
    for call in [Call::Get, Call::Has] {
        let mut moments = 0;
        for nth in (0..).step_by(3) {
            let store = Arc::new(MemStore::new());
            let (maker, all) = filled(store.clone());
            let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
            writer.write(&noise(500, 600_000)).unwrap();
            let file = writer.finish().unwrap();
            let item = Root { cid: file.cid, partial: false };
            file.batch.commit_root(&*store, "data/item", item).unwrap();
            let faulty = Arc::new(FaultyStore::new(store.clone()));
            let snapshots = SnapshotStore::new(faulty.clone());
            let has_pruned = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let (pruning, pruned) = (maker.snapshots.clone(), has_pruned.clone());
            let removed: Vec<_> = all[..2].to_vec();
            let prune = move || {
                for snapshot in &removed {
                    pruning.remove(snapshot).unwrap();
                }
                pruning.store().remove_root("data/item").unwrap();
                let report = pruning.store().gc(store::GcOptions::EVERYTHING).unwrap();
                assert!(report.deleted_blocks > 0);
                pruned.store(true, std::sync::atomic::Ordering::SeqCst);
            };
            faulty.before(call, nth, Box::new(prune));
            let report = check(&snapshots, call == Call::Get);
            if !has_pruned.load(std::sync::atomic::Ordering::SeqCst) {
                break;
            }
            moments += 1;
            assert!(report.is_ok(), "{call:?} {nth}: {report:?}");
            assert!(report.problems.is_empty() && !report.is_cut_short, "{report:?}");
        }
        assert!(moments > 3, "{call:?}: {moments} moments");
    }
}

/// Damage that a removed snapshot shared with another one is still reported.
#[test]
fn damage_is_reported_although_one_of_its_snapshots_is_removed() {
    let store = Arc::new(MemStore::new());
    let (_, all) = filled(store.clone());
    let of: Vec<BTreeSet<Cid>> = all.iter().map(|one| all_blocks(&*store, one)).collect();
    let shared: BTreeSet<Cid> = of[0].intersection(&of[1]).copied().collect();
    let cid = *shared.iter().find(|cid| cid.codec() == Codec::Raw).unwrap();
    let holes = without(&*store, &BTreeSet::from([cid]));
    let faulty = Arc::new(FaultyStore::new(holes.clone()));
    let snapshots = SnapshotStore::new(faulty.clone());
    let first = all[0].clone();
    let pruning = SnapshotStore::new(holes);
    faulty.before(Call::Get, 3, Box::new(move || assert!(pruning.remove(&first).unwrap())));
    let report = check(&snapshots, true);
    assert!(report.broken.contains(&all[1].cid) && !report.broken.contains(&all[0].cid));
    let problem = report.problems.iter().find(|problem| problem.cid == cid).unwrap();
    assert!(!problem.snapshots.contains(&all[0].id) && problem.snapshots.contains(&all[1].id));
}
