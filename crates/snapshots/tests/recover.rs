//! Recovery: snapshots and data items are found in the packs when the roots are gone; records that
//! are forged, damaged, doubled, incomplete, of a later version or removed on purpose are told
//! apart; nothing is set without a request.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::sim::{EACCES, EIO, FaultRule, SimDisk};
use jiff::Timestamp;
use net::Keypair;
use snapshots::{
    FoundState, RecoveryReport, Snapshot, SnapshotReader, SnapshotRecord, SnapshotStore,
    VerifyError, VerifyProgress, find_lost, last_order, recover, root_name,
};
use store::{
    BlockRead as _, BlockStore, BlockWrite as _, GcOptions, MemStore, NodeScan, PackStore,
    ReadOnlyPackStore, Root, Roots as _, RootsRead as _, StoreAdmin as _, StoreOptions,
};
use testkit::{Maker, filled, noise};
use tokio_util::sync::CancellationToken;
use types::{Block, BlockScheme, Cid, Codec, Dataset, EncodedBlock, SequenceNumber};

const DIR: &str = "/store";

fn open(disk: &SimDisk) -> Arc<PackStore> {
    let options = StoreOptions {
        disk_reserve: 0,
        pack_len: 1 << 20,
        background: false,
        ..StoreOptions::default()
    };
    Arc::new(PackStore::open_on(Arc::new(disk.clone()), Path::new(DIR), &options).unwrap().0)
}

fn files(disk: &SimDisk, part: &str) -> Vec<PathBuf> {
    let files = disk.files();
    files.into_iter().filter(|path| path.to_str().unwrap().contains(part)).collect()
}

fn find<S: BlockStore + NodeScan + 'static>(store: &Arc<S>) -> RecoveryReport {
    let snapshots = SnapshotStore::new(store.clone());
    let (progress, never) = (VerifyProgress::default(), CancellationToken::new());
    find_lost(&snapshots, &**store, Some(&store.pin()), &progress, &never).unwrap()
}

fn states(report: &RecoveryReport) -> Vec<(u64, FoundState)> {
    let state =
        |found: &snapshots::FoundSnapshot| (found.snapshot.record.order, found.state.clone());
    let mut states: Vec<_> = report.snapshots.iter().map(state).collect();
    states.sort_by_key(|(order, _)| *order);
    states
}

fn set_all_lost<S: BlockStore + NodeScan + 'static>(store: &Arc<S>) -> u64 {
    let snapshots = SnapshotStore::new(store.clone());
    let epoch = store.write_epoch();
    let report = find(store);
    let lost = report.snapshots.iter().filter(|found| found.state.is_lost());
    let items = report.items.iter().filter(|found| found.state.is_lost());
    recover(&snapshots, lost.map(|found| &found.snapshot), items.map(|found| found.cid), epoch)
        .unwrap()
}

/// Stores a data item without a root.
fn put_item(store: &dyn BlockStore, name: &str) -> Cid {
    let content = Block::new(Codec::Raw, noise(9, 500)).unwrap();
    let dataset = Dataset {
        tree: content.cid(),
        size: 500,
        filename: Some(name.to_owned()),
        mimetype: Some("text/plain".to_owned()),
    };
    let dataset = dataset.encode(&BlockScheme::plain()).unwrap();
    let cid = dataset.cid();
    store.put(&[EncodedBlock::plain(content), EncodedBlock::plain(dataset)]).unwrap();
    cid
}

/// Stores a record without a root.
fn put_record(store: &dyn BlockStore, record: &SnapshotRecord) -> Snapshot {
    let block = record.encode().unwrap();
    let cid = block.cid();
    store.put(&[EncodedBlock::plain(block)]).unwrap();
    Snapshot { id: snapshots::SnapshotId::of(&cid), cid, record: record.clone() }
}

#[test]
fn snapshots_and_items_come_back_when_the_logs_of_roots_are_gone() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let (maker, _) = filled(store.clone());
    let item = put_item(&*store, "letter.txt");
    let root = Root { cid: item, partial: false };
    store.set_root(&format!("data/{item}"), root, store.write_epoch()).unwrap();
    let before = maker.snapshots.list().unwrap();
    let roots = store.roots("");
    assert_eq!(states(&find(&store)), [1, 2, 3].map(|order| (order, FoundState::Known)));
    drop((maker, store));
    for log in files(&disk, "/roots/") {
        disk.lose(&log);
    }

    let store = open(&disk);
    assert!(store.roots_incomplete());
    assert_eq!(store.roots(""), []);
    let report = find(&store);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(states(&report), [1, 2, 3].map(|order| (order, FoundState::Complete)));
    assert_eq!(report.lost(), (3, 1));
    let [found] = &report.items[..] else { panic!("{report:?}") };
    assert_eq!((found.cid, found.dataset.filename.as_deref()), (item, Some("letter.txt")));
    assert_eq!((report.unusable, report.manifests), (vec![], vec![]));
    assert_eq!(store.roots(""), [], "the search sets nothing");
    assert_eq!(last_order(&*store), 3);

    assert_eq!(set_all_lost(&store), 4);
    assert_eq!(store.roots(""), roots);
    let snapshots = SnapshotStore::new(store.clone());
    assert_eq!(snapshots.list().unwrap(), before);
    assert_eq!(set_all_lost(&store), 0, "everything is known");
    // With all roots, the owner can accept them, and nothing is lost.
    let accept = GcOptions { accept_roots: true, ..GcOptions::EVERYTHING };
    assert_eq!(store.gc(accept).unwrap().deleted_blocks, 0);
    let never = CancellationToken::new();
    let verified = snapshots::verify(&snapshots, true, &VerifyProgress::default(), &never);
    assert!(verified.unwrap().is_ok());
}

#[test]
fn the_numbers_of_recovered_snapshots_are_not_given_again() {
    let store = Arc::new(MemStore::new());
    let (maker, _) = filled(store.clone());
    let copy = without_roots(&store, &BTreeSet::new());
    drop(maker);
    let snapshots = SnapshotStore::new(copy.clone());
    let report = find(&copy);
    let found = report.snapshots.iter().map(|found| &found.snapshot);
    recover(&snapshots, found, [], copy.write_epoch()).unwrap();
    assert_eq!(snapshots.next_order(), 4);
}

/// Returns a copy of all blocks but these, without roots.
fn without_roots(store: &MemStore, holes: &BTreeSet<Cid>) -> Arc<MemStore> {
    let copy = testkit::without(store, holes);
    let bare = Arc::new(MemStore::new());
    let mut stack: Vec<Cid> = copy.roots("").into_iter().map(|(_, root)| root.cid).collect();
    while let Some(cid) = stack.pop() {
        if bare.has(&cid).unwrap() {
            continue;
        }
        // Links of a missing node are followed in the original.
        let block = store.get_encoded(&cid).unwrap().unwrap();
        stack.extend(types::links(cid.codec(), &block.decode().unwrap()).unwrap());
        if copy.has(&cid).unwrap() {
            bare.put(&[block]).unwrap();
        }
    }
    bare
}

#[test]
fn an_incomplete_snapshot_is_reported_and_not_set() {
    let store = Arc::new(MemStore::new());
    let (_, [first, second, _]) = filled(store.clone());
    let of_second = testkit::all_blocks(&*store, &second);
    let shared = testkit::all_blocks(&*store, &first);
    let only_second = of_second.difference(&shared).filter(|cid| **cid != second.cid);
    for hole in only_second {
        let copy = without_roots(&store, &[*hole].into());
        let report = find(&copy);
        let state = &states(&report)[1].1;
        let FoundState::Incomplete { blocks: 1, reason, was_removed: false } = state else {
            panic!("without {hole}: {state:?}")
        };
        assert!(reason.contains(&hole.to_string()) && reason.contains("missing"), "{reason}");
        assert_eq!((report.lost(), report.incomplete()), ((2, 0), 1));
        assert_eq!(set_all_lost(&copy), 2);
    }
}

#[test]
fn a_snapshot_that_was_removed_is_not_lost() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let (maker, [first, _, _]) = filled(store.clone());
    let item = put_item(&*store, "deleted.txt");
    let root = Root { cid: item, partial: false };
    store.set_root(&format!("data/{item}"), root, store.write_epoch()).unwrap();
    store.remove_root(&format!("data/{item}")).unwrap();
    maker.snapshots.remove(&first).unwrap();
    drop((maker, store));
    // The notes about removals survive the logs of roots.
    for lost in [false, true] {
        if lost {
            for log in files(&disk, "/roots/") {
                disk.lose(&log);
            }
        }
        let store = open(&disk);
        let report = find(&store);
        assert_eq!(report.items[0].state, FoundState::Removed);
        let other = if lost { FoundState::Complete } else { FoundState::Known };
        let expected = [(1, FoundState::Removed), (2, other.clone()), (3, other)];
        assert_eq!(states(&report), expected);
        assert_eq!(report.lost(), if lost { (2, 0) } else { (0, 0) });
        drop(store);
    }
    // The owner can take it back, and it is an ordinary snapshot again.
    let store = open(&disk);
    let snapshots = SnapshotStore::new(store.clone());
    assert_eq!(recover(&snapshots, [&first], [], store.write_epoch()).unwrap(), 1);
    assert_eq!(states(&find(&store))[0], (1, FoundState::Known));
    maker_removes_and_collects(&store, &first);
}

/// After a collection, neither the record nor the note about its removal is left.
fn maker_removes_and_collects(store: &Arc<PackStore>, snapshot: &Snapshot) {
    let snapshots = SnapshotStore::new(store.clone());
    snapshots.remove(snapshot).unwrap();
    assert!(store.was_removed(&snapshot.cid));
    set_all_lost(store);
    store.gc(GcOptions { accept_roots: true, ..GcOptions::EVERYTHING }).unwrap();
    assert!(!store.was_removed(&snapshot.cid));
    assert!(find(store).snapshots.iter().all(|found| found.state == FoundState::Known));
}

#[test]
fn forged_and_foreign_records_are_named_and_never_set() {
    let store = Arc::new(MemStore::new());
    let (maker, [first, second, _]) = filled(store.clone());
    let source = maker.key.public().to_peer_id();
    let key = Keypair::generate_secp256k1();
    let record = &first.record;
    let signed_by = |key: &Keypair, sequence: SequenceNumber, manifest: &Cid| {
        manifest::sign(key, &record.folder, sequence, manifest).unwrap()
    };
    let forged = [
        // Another key; another number; another manifest; another folder; another source.
        SnapshotRecord {
            signature: signed_by(&key, record.sequence, &record.manifest),
            ..record.clone()
        },
        SnapshotRecord { sequence: SequenceNumber(9), ..record.clone() },
        SnapshotRecord { manifest: second.record.manifest, ..record.clone() },
        SnapshotRecord { folder: "music".parse().unwrap(), ..record.clone() },
        SnapshotRecord { source: key.public().to_peer_id(), ..record.clone() },
    ];
    assert_eq!(source, record.source);
    let mut all: BTreeSet<Cid> =
        forged.iter().map(|record| put_record(&*store, record).cid).collect();
    // A version with signs that has none, a later version, an impossible number, and a node that only looks like a record.
    let mut put = |find: &[u8], replace: &[u8]| {
        let bytes = record.encode().unwrap().into_data();
        let at = bytes.windows(find.len()).position(|window| window == find).unwrap();
        let bytes = [&bytes[..at], replace, &bytes[at + find.len()..]].concat();
        let block = Block::new(Codec::DagCbor, bytes).unwrap();
        all.insert(block.cid());
        store.put(&[EncodedBlock::plain(block)]).unwrap();
    };
    put(b"hsnapshot\x01", b"hsnapshot\x02");
    put(b"hsnapshot\x01", b"hsnapshot\x09");
    put(b"eorder\x01", b"eorder\x1b\xff\xff\xff\xff\xff\xff\xff\xff");
    put(b"eorder\x01", b"eordex\x01");

    let report = find(&store);
    assert_eq!(states(&report), [1, 2, 3].map(|order| (order, FoundState::Known)));
    let unusable: BTreeSet<Cid> = report.unusable.iter().map(|record| record.cid).collect();
    assert_eq!(unusable, all);
    let reasons: Vec<&str> = report.unusable.iter().map(|record| record.reason.as_str()).collect();
    assert_eq!(reasons.iter().filter(|reason| reason.contains("the signature is not")).count(), 5);
    assert_eq!(reasons.iter().filter(|reason| reason.contains("newer version")).count(), 1);
    assert_eq!(last_order(&*store), 3);
    assert_eq!(set_all_lost(&store), 0);
}

#[test]
fn of_two_records_of_one_manifest_one_is_recovered() {
    let store = Arc::new(MemStore::new());
    let (_, [first, second, _]) = filled(store.clone());
    let later = Timestamp::from_second(9999).unwrap();
    let again = |snapshot: &Snapshot, order: u64| SnapshotRecord {
        order,
        received_at: later,
        ..snapshot.record.clone()
    };
    // The root of the first is known. The commits of the others have failed, or their roots are
    // lost.
    let twice = put_record(&*store, &again(&first, 7));
    assert_eq!(states(&find(&store))[3], (7, FoundState::Duplicate(first.id.clone())));
    let copy = without_roots(&store, &BTreeSet::new());
    for record in [&twice.record, &again(&second, 8)] {
        put_record(&*copy, record);
    }
    let report = find(&copy);
    let states: Vec<bool> = states(&report).iter().map(|(_, state)| state.is_lost()).collect();
    assert_eq!(states, [false, false, true, true, true], "{report:?}");
    assert_eq!(set_all_lost(&copy), 3);
}

/// After a loss of roots, a backup server may have given the number of a snapshot again. The
/// older one is listed again, before the later one, and is an ordinary snapshot.
#[test]
fn a_snapshot_whose_number_another_one_has_is_recovered_too() {
    let store = Arc::new(MemStore::new());
    let maker = Maker::new(store.clone());
    let old = maker.snapshot("docs", 1, 1000, &[("a", noise(1, 100))], None);
    // The roots were lost, and the backup server has given the number again.
    let copy = without_roots(&store, &BTreeSet::new());
    let new = Maker { snapshots: SnapshotStore::new(copy.clone()), key: maker.key };
    let new = new.snapshot("docs", 2, 2000, &[("a", noise(2, 100))], None);
    assert_eq!(old.record.order, new.record.order);
    // Without any root, both are recovered as well.
    let both = Arc::new(MemStore::new());
    for (from, snapshot) in [(&store, &old), (&copy, &new)] {
        for cid in testkit::all_blocks(&**from, snapshot) {
            both.put(&[from.get_encoded(&cid).unwrap().unwrap()]).unwrap();
        }
    }
    for (store, lost) in [(copy, 1), (both, 2)] {
        let report = find(&store);
        let state = |cid| {
            let mut found = report.snapshots.iter();
            found.find(|found| found.snapshot.cid == cid).unwrap().state.clone()
        };
        assert_eq!(state(old.cid), FoundState::Conflict(new.id.clone()));
        let is_known = state(new.cid) == FoundState::Known;
        assert!(is_known || state(new.cid) == FoundState::Complete);
        assert_eq!(report.lost(), (lost, 0));
        assert_eq!(set_all_lost(&store), lost as u64);
        assert_eq!(set_all_lost(&store), 0, "everything is known");
        let snapshots = SnapshotStore::new(store.clone());
        let listing = snapshots.list().unwrap();
        assert_eq!(
            (&listing.snapshots, &listing.damaged),
            (&vec![old.clone(), new.clone()], &vec![])
        );
        let newest = snapshots.newest(&new.record.source, &new.record.folder).unwrap();
        assert_eq!(newest.as_ref(), Some(&new));
        let first = root_name(&new.record.source, &new.record.folder, 1);
        assert_eq!(store.root(&first).unwrap().cid, new.cid);
        assert_eq!(snapshots.next_order(), 2);
        // A collection keeps its blocks.
        store.gc(GcOptions::EVERYTHING).unwrap();
        let never = CancellationToken::new();
        let verified = snapshots::verify(&snapshots, true, &VerifyProgress::default(), &never);
        assert_eq!(verified.map(|report| (report.snapshots, report.is_ok())).unwrap(), (2, true));
        // The retention removes the older one alone.
        let keep = config::Keep {
            within: config::Age::ZERO,
            last: 1,
            hourly: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
        };
        let options = snapshots::PruneOptions {
            dry_run: false,
            always_collect: true,
            accept_roots: false,
            stop: never,
        };
        let now = Timestamp::from_second(3000).unwrap();
        let pruned = snapshots::prune(&snapshots, &keep, now, &options).unwrap();
        assert_eq!((pruned.removed.len(), pruned.kept.len()), (1, 1), "{pruned:?}");
        assert_eq!(snapshots.list().unwrap().snapshots, std::slice::from_ref(&new));
        assert!(!store.has(&old.cid).unwrap());
    }
}

/// Bytes that cannot be read hide records, and their numbers must not be given again.
#[test]
fn numbers_of_records_that_cannot_be_read_are_not_given_again() {
    let disk = SimDisk::new();
    drop(filled(open(&disk)));
    for log in files(&disk, "/roots/") {
        disk.lose(&log);
    }
    let mut failed_reads = 0;
    for at in 0.. {
        let store = open(&disk);
        let armed = disk.add_fault(FaultRule::reads(EIO).on("/packs/m-").after(at).times(1));
        let last = last_order(&*store);
        disk.clear_fault_rules();
        if armed.failures() == 0 {
            assert_eq!(last, 3);
            break;
        }
        failed_reads += 1;
        let snapshots = SnapshotStore::new(store);
        snapshots.use_order(last);
        assert!(snapshots.next_order() > 3, "read {at}: {last}");
    }
    assert!(failed_reads > 3, "{failed_reads}");
    // A pack that is lost.
    disk.lose(&files(&disk, "/packs/m-")[0]);
    assert!(last_order(&*open(&disk)) > 3);
}

/// A source can put any number into a record among its blocks. A number that no backup server
/// gives does not change the numbers of new snapshots.
#[test]
fn an_invented_number_does_not_exhaust_the_numbers() {
    let store = Arc::new(MemStore::new());
    let (maker, [first, _, _]) = filled(store.clone());
    let record = SnapshotRecord { order: 1_000_000_000_000, ..first.record };
    let invented = put_record(&*store, &record);
    assert_eq!(last_order(&*store), 3);
    recover(&maker.snapshots, [&invented], [], store.write_epoch()).unwrap();
    assert_eq!(maker.snapshots.next_order(), 4);
    assert_eq!(SnapshotStore::new(store).next_order(), 4);
}

#[test]
fn a_manifest_without_a_record_is_listed() {
    let store = Arc::new(MemStore::new());
    let (_, [first, _, _]) = filled(store.clone());
    let copy = without_roots(&store, &[first.cid].into());
    let report = find(&copy);
    assert_eq!(report.manifests, [first.record.manifest]);
    assert_eq!(report.lost(), (2, 0));
    // A manifest that is being pulled has a root.
    let root = Root { cid: first.record.manifest, partial: true };
    copy.set_root("pull/x/docs", root, copy.write_epoch()).unwrap();
    assert_eq!(find(&copy).manifests, []);
}

/// An I/O error is never "nothing found": with every read failing in turn, a snapshot is either
/// found or the result is partial, and nothing is taken for damaged or missing.
#[test]
fn reads_that_fail_make_the_result_partial() {
    let disk = SimDisk::new();
    drop(filled(open(&disk)));
    for log in files(&disk, "/roots/") {
        disk.lose(&log);
    }
    drop(open(&disk));
    let mut failed_reads = 0;
    for at in 0.. {
        let store = open(&disk);
        let armed = disk.add_fault(FaultRule::reads(EIO).on("/packs/").after(at).times(1));
        let report = find(&store);
        if armed.failures() == 0 {
            assert_eq!((report.lost(), report.is_complete()), ((3, 0), true));
            break;
        }
        failed_reads += 1;
        assert!(!report.is_complete(), "read {at}: {report:?}");
        assert_eq!((report.scan.damaged.count, report.unusable.len()), (0, 0), "read {at}");
        for (order, state) in states(&report) {
            let is_honest = matches!(&state, FoundState::Complete)
                || matches!(&state, FoundState::Unreadable(reason) if !reason.is_empty());
            assert!(is_honest, "read {at}: {order} is {state:?}");
        }
        disk.clear_fault_rules();
        drop(store);
        assert_eq!(find(&open(&disk)).lost(), (3, 0), "after read {at}");
    }
    assert!(failed_reads > 10, "{failed_reads}");
}

/// The same for a store that is open for reading only.
#[test]
fn reads_that_fail_make_a_search_without_writing_partial() {
    let disk = SimDisk::new();
    drop(filled(open(&disk)));
    for log in files(&disk, "/roots/") {
        disk.lose(&log);
    }
    let search = |at: u64| {
        let (store, _) =
            ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
        let store = Arc::new(store);
        let armed = disk.add_fault(FaultRule::reads(EIO).on("/packs/").after(at).times(1));
        let snapshots = SnapshotReader::new(store.clone());
        let (progress, never) = (VerifyProgress::default(), CancellationToken::new());
        let report = find_lost(&snapshots, &*store, None, &progress, &never).unwrap();
        disk.clear_fault_rules();
        (report, armed.failures() > 0)
    };
    let before = disk.operations();
    let mut failed_reads = 0;
    loop {
        let (report, has_failed) = search(failed_reads);
        if !has_failed {
            assert_eq!((report.lost(), report.is_complete()), ((3, 0), true));
            break;
        }
        failed_reads += 1;
        assert!(!report.is_complete(), "read {failed_reads}: {report:?}");
        assert_eq!((report.scan.damaged.count, report.unusable.len()), (0, 0));
    }
    assert!(failed_reads > 10, "{failed_reads}");
    assert_eq!(disk.operations(), before, "nothing was written");
}

#[test]
fn packs_that_cannot_be_opened_make_the_result_partial() {
    let disk = SimDisk::new();
    drop(filled(open(&disk)));
    let store = open(&disk);
    disk.add_fault(FaultRule::reads(EACCES).on("/packs/m-"));
    let report = find(&store);
    assert!(!report.is_complete());
    assert!(report.scan.unreadable.count > 0, "{report:?}");
    assert!(report.snapshots.is_empty() && report.scan.damaged.count == 0, "{report:?}");
}

#[test]
fn a_damaged_record_is_reported_and_hides_no_other() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let (maker, [first, _, _]) = filled(store.clone());
    drop((maker, store));
    let record = first.record.encode().unwrap();
    for pack in files(&disk, "/packs/m-") {
        disk.damage(&pack, |bytes| {
            let at = bytes.windows(record.data().len()).position(|window| window == record.data());
            if let Some(at) = at {
                bytes[at + 40] ^= 1;
            }
        });
    }
    for log in files(&disk, "/roots/") {
        disk.lose(&log);
    }
    let report = find(&open(&disk));
    // The open pack was walked: its damaged record is a gap there.
    assert_eq!(states(&report), [2, 3].map(|order| (order, FoundState::Complete)));
    assert_eq!(report.manifests, [first.record.manifest]);
}

#[test]
fn a_search_can_be_stopped() {
    let store = Arc::new(MemStore::new());
    let _ = filled(store.clone());
    let (snapshots, stop) = (SnapshotStore::new(store.clone()), CancellationToken::new());
    stop.cancel();
    let found = find_lost(&snapshots, &*store, None, &VerifyProgress::default(), &stop);
    assert!(matches!(found, Err(VerifyError::Stopped)));
}
