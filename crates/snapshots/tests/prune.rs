//! Pruning removes the snapshots that no rule keeps, and no others, even if it is interrupted.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use config::{Age, Keep};
use disk::sim::SimDisk;
use jiff::Timestamp;
use snapshots::{
    PruneOptions, PruneReport, PruneSuspension, Reason, SnapshotError, SnapshotStore, Suspension,
    VerifyProgress, prune, root_name, verify,
};
use store::{
    BlockRead as _, BlockStore, BlockWrite as _, Call, FaultyStore, GcOptions, MemStore, PackStore,
    Root, Roots as _, StoreAdmin as _, StoreError, StoreOptions,
};
use testkit::{Maker, noise, without};
use tokio_util::sync::CancellationToken;
use types::{Block, Codec, EncodedBlock};

const KEEP: Keep = Keep { within: Age::ZERO, last: 2, hourly: 0, daily: 0, weekly: 0, monthly: 0 };

fn options() -> PruneOptions {
    PruneOptions {
        dry_run: false,
        always_collect: false,
        accept_roots: false,
        stop: CancellationToken::new(),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(10_000).unwrap()
}

fn run(snapshots: &SnapshotStore) -> PruneReport {
    prune(snapshots, &KEEP, now(), &options()).unwrap()
}

fn sequences(snapshots: &SnapshotStore) -> Vec<(String, u64)> {
    let listing = snapshots.list().unwrap();
    let all = listing.snapshots.into_iter();
    all.map(|one| (one.record.folder.to_string(), one.record.sequence.0)).collect()
}

fn is_whole(snapshots: &SnapshotStore) -> bool {
    let stop = CancellationToken::new();
    verify(snapshots, true, &VerifyProgress::default(), &stop).unwrap().is_ok()
}

/// Creates five snapshots of a folder, each with a file of its own, and one of another folder.
fn filled(store: Arc<dyn BlockStore>) -> Maker {
    let maker = Maker::new(store);
    for sequence in 1..=5 {
        let own = noise(usize::try_from(sequence).unwrap(), 400_000);
        let files = [("own", own), ("shared", noise(99, 500_000))];
        let second = 1000 * i64::try_from(sequence).unwrap();
        maker.snapshot("docs", sequence, second, &files, None);
    }
    maker.snapshot("music", 1, 500, &[("song", noise(77, 1000))], None);
    maker
}

#[test]
fn old_snapshots_go_with_their_blocks_and_what_is_shared_stays() {
    let store = Arc::new(MemStore::new());
    let maker = filled(store.clone());
    let before = store.usage().unwrap().used_bytes;
    // A dry run.
    let dry_run = PruneOptions { dry_run: true, ..options() };
    let report = prune(&maker.snapshots, &KEEP, now(), &dry_run).unwrap();
    assert!(report.dry_run && report.collected.is_none());
    assert_eq!((report.kept.len(), report.removed.len()), (3, 3));
    assert_eq!(sequences(&maker.snapshots).len(), 6);
    assert_eq!(store.usage().unwrap().used_bytes, before);
    // A real run.
    let done = run(&maker.snapshots);
    assert_eq!(done.removed, report.removed);
    assert_eq!(done.kept, report.kept);
    assert_eq!(done.kept[0].reasons, [Reason::Last]);
    assert_eq!(done.kept[1].reasons, [Reason::Newest, Reason::Last]);
    assert!(done.suspended.is_empty());
    assert!(done.collected.unwrap().freed_bytes > 1_000_000);
    let left = sequences(&maker.snapshots);
    assert_eq!(left, [("docs".into(), 4), ("docs".into(), 5), ("music".into(), 1)]);
    assert!(is_whole(&maker.snapshots));
    // A second run has nothing to remove, so it does not collect either.
    let again = run(&maker.snapshots);
    assert!(again.removed.is_empty() && again.collected.is_none());
}

#[test]
fn a_prune_that_ends_anywhere_leaves_whole_snapshots_and_goes_on() {
    for nth in 0..4 {
        let store = Arc::new(MemStore::new());
        filled(store.clone());
        let faulty = Arc::new(FaultyStore::new(store.clone()));
        let snapshots = SnapshotStore::new(faulty.clone());
        faulty.fail(Call::RemoveRoot, nth, || StoreError::Injected("remove"));
        let report = prune(&snapshots, &KEEP, now(), &options()).unwrap();
        if nth == 3 {
            assert_eq!((report.removed.len(), report.kept.len()), (3, 3));
            assert!(report.not_removed.is_none());
            break;
        }
        let removed = usize::try_from(nth).unwrap();
        assert_eq!((report.removed.len(), report.kept.len()), (removed, 6 - removed));
        let (snapshot, error) = report.not_removed.unwrap();
        assert!(matches!(error, SnapshotError::Store(StoreError::Injected(_))));
        assert_eq!(snapshot.record.sequence.0, nth + 1);
        // The blocks of the removed snapshots are collected although a removal has failed.
        let freed = report.collected.unwrap().freed_bytes;
        assert_eq!(freed > 0, nth > 0, "{freed} bytes freed after {nth} removals");
        assert_eq!(sequences(&snapshots).len(), 6 - removed);
        // As after a crash: only the store is known.
        let snapshots = SnapshotStore::new(store.clone());
        assert!(is_whole(&snapshots));
        run(&snapshots);
        assert_eq!(sequences(&snapshots).len(), 3);
        assert!(is_whole(&snapshots));
    }
}

#[test]
fn what_a_crash_before_the_collection_left_is_collected_when_asked() {
    let store = Arc::new(MemStore::new());
    let maker = filled(store.clone());
    let oldest = maker.snapshots.list().unwrap().snapshots.remove(0);
    maker.snapshots.remove(&oldest).unwrap();
    let keep_all = Keep { within: Age::ZERO, last: 100, ..KEEP };
    let all = PruneOptions { always_collect: true, ..options() };
    let report = prune(&maker.snapshots, &keep_all, now(), &all).unwrap();
    assert!(report.removed.is_empty());
    assert!(report.collected.unwrap().freed_bytes > 300_000);
    assert!(is_whole(&maker.snapshots));
}

#[test]
fn where_roots_were_lost_it_collects_when_what_is_known_is_accepted() {
    let disk = SimDisk::new();
    let open = || {
        let options =
            StoreOptions { disk_reserve: 0, background: false, ..StoreOptions::default() };
        PackStore::open_on(Arc::new(disk.clone()), Path::new("/store"), &options).unwrap()
    };
    let (store, _) = open();
    let maker = filled(Arc::new(store));
    drop(maker);
    // The last root in both logs is damaged: that of the only snapshot of "music".
    for path in disk.files().iter().filter(|path| path.starts_with("/store/roots")) {
        disk.damage(path, |bytes| {
            let at = bytes.windows(7).rposition(|window| window == b"/music/").unwrap();
            bytes[at] ^= 1;
        });
    }
    for _ in 0..2 {
        let (store, opened) = open();
        assert!(opened.roots_incomplete);
        let snapshots = SnapshotStore::new(Arc::new(store));
        assert!(is_whole(&snapshots), "the known snapshots are complete");
        let report = run(&snapshots);
        assert!(matches!(report.not_collected, None | Some(StoreError::NotCollected(_))));
        assert!(report.collected.is_none());
    }
    let accepting = PruneOptions { accept_roots: true, ..options() };
    let (store, _) = open();
    let snapshots = SnapshotStore::new(Arc::new(store));
    let dry_run = PruneOptions { dry_run: true, ..accepting.clone() };
    prune(&snapshots, &KEEP, now(), &dry_run).unwrap();
    assert!(run(&snapshots).removed.is_empty(), "a dry run accepts nothing");
    let report = prune(&snapshots, &KEEP, now(), &accepting).unwrap();
    assert!(report.collected.unwrap().deleted_blocks > 0);
    assert_eq!(sequences(&snapshots), [("docs".into(), 4), ("docs".into(), 5)]);
    assert!(is_whole(&snapshots));
    drop(snapshots);
    assert!(!open().1.roots_incomplete);
}

#[test]
fn the_last_snapshot_before_suspicious_ones_stays() {
    let maker = filled(Arc::new(MemStore::new()));
    for sequence in 6..9 {
        let second = 1000 * sequence as i64;
        let files = [("ransom", noise(5, 10))];
        maker.snapshot("docs", sequence, second, &files, Some("all was rewritten"));
    }
    assert!(run(&maker.snapshots).suspended.is_empty());
    let mut docs = sequences(&maker.snapshots);
    docs.retain(|(folder, _)| folder == "docs");
    assert_eq!(docs.iter().map(|(_, sequence)| *sequence).collect::<Vec<_>>(), [5, 6, 7, 8]);
}

#[test]
fn in_doubt_nothing_goes() {
    let suspensions = |report: &PruneReport| {
        let suspended = report.suspended.iter();
        suspended.map(|one| (one.folder.to_string(), one.suspension)).collect::<Vec<_>>()
    };
    // A record cannot be read.
    let store = Arc::new(MemStore::new());
    let maker = filled(store.clone());
    let lost = maker.snapshots.list().unwrap().snapshots[1].clone();
    let snapshots = SnapshotStore::new(without(&*store, &BTreeSet::from([lost.cid])));
    let report = run(&snapshots);
    assert!(report.removed.is_empty());
    assert_eq!(suspensions(&report), [("docs".into(), PruneSuspension::Damaged)]);
    assert_eq!(report.damaged.len(), 1);
    let name = root_name(&lost.record.source, &lost.record.folder, lost.record.order);
    assert!(snapshots.store().root(&name).is_some());
    // The clock is wrong, or no rule is set.
    for (second, keep, suspension) in [
        (0, KEEP, Suspension::ClockBehind),
        (4_000_000_000, KEEP, Suspension::ClockAhead),
        (10_000, Keep { within: Age::ZERO, last: 0, ..KEEP }, Suspension::NoRule),
    ] {
        let maker = filled(Arc::new(MemStore::new()));
        let now = Timestamp::from_second(second).unwrap();
        let report = prune(&maker.snapshots, &keep, now, &options()).unwrap();
        assert!(report.removed.is_empty());
        assert!(
            suspensions(&report).contains(&("docs".into(), PruneSuspension::Retention(suspension)))
        );
        assert_eq!(sequences(&maker.snapshots).len(), 6);
    }
}

#[test]
fn a_stopped_prune_removes_nothing_more() {
    let store = Arc::new(MemStore::new());
    let maker = filled(store.clone());
    let options = options();
    options.stop.cancel();
    let report = prune(&maker.snapshots, &KEEP, now(), &options).unwrap();
    assert!(report.is_stopped && report.removed.is_empty() && report.collected.is_none());
    assert_eq!((report.kept.len(), sequences(&maker.snapshots).len()), (6, 6));
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert!(is_whole(&maker.snapshots));
}

/// A snapshot that a later version has committed: its record has another version, and its manifest
/// is a sealed node. It is kept, reported, and never taken for damage.
#[test]
fn a_snapshot_of_a_later_version_is_kept_and_stops_the_rules_of_its_folder() {
    let store = Arc::new(MemStore::new());
    let maker = filled(store.clone());
    let last = maker.snapshots.list().unwrap().snapshots.remove(4);
    let put = |bytes: Vec<u8>| {
        let block = Block::new(Codec::DagCbor, bytes).unwrap();
        store.put(&[EncodedBlock::plain(block.clone())]).unwrap();
        block.cid()
    };
    let chunk = Block::new(Codec::Raw, noise(7, 100)).unwrap();
    store.put(&[EncodedBlock::plain(chunk.clone())]).unwrap();
    // {"box": h'01', "links": [chunk], "sealed": 1}
    let link = [&[0xd8, 0x2a, 0x58, 37, 0][..], &chunk.cid().to_bytes()].concat();
    let sealed = [&b"\xa3cbox\x41\x01elinks\x81"[..], &link, &b"fsealed\x01"[..]].concat();
    let sealed = put(sealed);
    let mut record = last.record.encode().unwrap().into_data().to_vec();
    let old = last.record.manifest.to_bytes();
    let at = record.windows(old.len()).position(|window| window == old).unwrap();
    record[at..at + old.len()].copy_from_slice(&sealed.to_bytes());
    let at = record.windows(9).position(|window| window == b"hsnapshot").unwrap();
    record[at + 9] = 9;
    let newer = put(record);
    let name = root_name(&last.record.source, &last.record.folder, 99);
    let root = Root { cid: newer, partial: false };
    store.set_root(&name, root, store.write_epoch()).unwrap();
    let item = format!("data/{sealed}");
    store.set_root(&item, Root { cid: sealed, partial: false }, store.write_epoch()).unwrap();

    let listing = maker.snapshots.list().unwrap();
    let [unread] = &listing.damaged[..] else { panic!("{listing:?}") };
    assert!(unread.is_newer && unread.reason.contains("newer version"), "{unread:?}");
    let report = run(&maker.snapshots);
    assert_eq!(report.removed, []);
    let [folder] = &report.suspended[..] else { panic!("{report:?}") };
    assert_eq!(folder.suspension, PruneSuspension::Newer);
    store.gc(GcOptions::EVERYTHING).unwrap();
    for cid in [newer, sealed, chunk.cid()] {
        assert!(store.has(&cid).unwrap(), "its links are followed");
    }
    let stop = CancellationToken::new();
    let verified = verify(&maker.snapshots, true, &VerifyProgress::default(), &stop).unwrap();
    assert!(verified.is_ok(), "{verified:?}");
    assert_eq!(verified.newer, [item, name].into());
}
