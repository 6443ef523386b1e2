//! A store that fails at any call: the result is no snapshot or a complete one, and the next
//! attempt continues.

#![allow(clippy::unwrap_used, reason = "tests")]

mod hand;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use disk::sim::{Fault, Power, SimDisk};
use pull::{ManifestJob, ManifestPullError, PullError, StorageBudget};
use snapshots::SnapshotStore;
use store::check::missing_blocks;
use store::{
    BlockStore, Call, FaultyStore, GcOptions, Limit, MemStore, PackStore, RootsRead as _,
    StoreError, StoreOptions,
};
use testkit::{Source, Tree, assert_holds, file, file_entry, noise, put, tree, until};
use types::{FileNodeBuilder, MAX_TREE_DEPTH, NodeChild};

use self::hand::*;

#[tokio::test]
async fn whatever_call_fails_there_is_no_snapshot_or_a_complete_one() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let mut files = tree(30, 1);
    source.publish("docs", 1, &files);
    let first = offer(&source, "docs");
    files.insert("d000/000003.txt".into(), b"changed".to_vec());
    files.insert("large-2".into(), noise(77, 2_000_000));
    let manifest = source.publish("docs", 2, &files);
    let second = offer(&source, "docs");
    let calls = [Call::Put, Call::Commit, Call::Get, Call::Has, Call::SetRoot, Call::RemoveRoot];
    let errors: [fn() -> StoreError; 3] = [
        || StoreError::Injected("a fault"),
        || StoreError::LostWrites,
        || StoreError::Full { limit: Limit::Disk, needed: 1 },
    ];
    let mut faults = 0;
    for (call, error) in calls.into_iter().flat_map(|call| errors.map(|error| (call, error))) {
        // Every call of a rare kind, and every seventh of a frequent kind.
        let step = if call == Call::Has { 7 } else { 1 };
        for nth in (0..).step_by(step) {
            let inner = Arc::new(MemStore::new());
            let faulty = Arc::new(FaultyStore::new(inner.clone()));
            let store: Arc<dyn BlockStore> = faulty.clone();
            let puller = hand.puller(store.clone());
            pull(&puller, &source, &first).await.unwrap();
            faulty.fail(call, nth, error);
            let result = pull(&puller, &source, &second).await;
            let (is_failed, plain) = (result.is_err(), inner.clone() as Arc<dyn BlockStore>);
            let committed = SnapshotStore::new(plain.clone()).list().unwrap().snapshots.len();
            assert_eq!(committed, if is_failed { 1 } else { 2 }, "{call:?} {nth}");
            assert_eq!(missing_blocks(&*plain).unwrap(), [], "{call:?} {nth}");
            faults += usize::from(is_failed);
            // In half of the cases a collection deletes all unprotected blocks.
            if nth % 2 == 0 {
                plain.gc(GcOptions::EVERYTHING).unwrap();
            }
            // The next attempt runs in the same process or in another one.
            let puller = if nth % 3 == 0 { hand.puller(plain.clone()) } else { puller };
            faulty.fail(Call::Commit, u64::MAX, error);
            if is_failed {
                pull(&puller, &source, &second).await.unwrap();
            }
            assert_holds(&plain, manifest, &files);
            assert_eq!(plain.roots("snapshot/").len(), 2);
            if !is_failed && nth > 0 {
                break;
            }
            if !is_failed && call != Call::RemoveRoot && call != Call::Commit {
                break;
            }
        }
    }
    assert!(faults > 30, "{faults}");
    drop(hand.net);
}

/// Opens a store, once the last batch of an aborted pull has released it.
async fn open(dir: &Path) -> Arc<dyn BlockStore> {
    let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
    let opened = || match PackStore::open(dir, &options) {
        Ok((store, _)) => Some(Arc::new(store) as Arc<dyn BlockStore>),
        Err(StoreError::Locked(_)) => None,
        Err(error) => panic!("{error}"),
    };
    until(opened).await
}

#[tokio::test]
async fn a_pull_that_is_cut_off_anywhere_goes_on_after_the_store_is_opened_again() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let files = tree(300, 2);
    let manifest = source.publish("docs", 1, &files);
    let offer = offer(&source, "docs");
    let dir = tempfile::tempdir().unwrap();
    for left in [0, 1, 2, 3, 10, 50, 100] {
        let store = open(dir.path()).await;
        *source.served.left.lock() = Some(left);
        let puller = hand.puller(store.clone());
        let pulling = puller.pull(job(&source, &offer));
        tokio::pin!(pulling);
        tokio::select! {
            result = &mut pulling => assert!(result.is_ok(), "{result:?}"),
            () = until(|| (*source.served.left.lock() == Some(0)).then_some(())) => {}
        }
        // The pull is dropped, with its session.
        hand.pool.forget(source.peer());
        *source.served.left.lock() = None;
        let snapshots = SnapshotStore::new(store.clone()).list().unwrap().snapshots.len();
        assert_eq!(snapshots, 0);
        assert_eq!(missing_blocks(&*store).unwrap(), []);
    }
    let store = open(dir.path()).await;
    pull(&hand.puller(store.clone()), &source, &offer).await.unwrap();
    assert_holds(&store, manifest, &files);
}

#[tokio::test]
async fn collecting_while_it_pulls_takes_nothing_that_is_needed() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let puller = hand.puller(store.clone());
    let is_done = Arc::new(AtomicBool::new(false));
    let collecting = {
        let (store, is_done) = (store.clone(), is_done.clone());
        std::thread::spawn(move || {
            let mut rounds = 0;
            while !is_done.load(Ordering::SeqCst) {
                store.gc(GcOptions::EVERYTHING).unwrap();
                rounds += 1;
            }
            rounds
        })
    };
    let mut files = tree(2000, 1);
    for sequence in 1..=8 {
        // Files are added, changed, removed and added again.
        let number = sequence * 31 % 2000;
        files.insert(format!("d{:03}/{number:06}.txt", number / 100), noise(sequence, 500));
        files.insert("coming and going".into(), noise(sequence % 2, 1000));
        let manifest = source.publish("docs", sequence as u64, &files);
        let offer = offer(&source, "docs");
        let snapshot = pull(&puller, &source, &offer).await.unwrap();
        assert_holds(&store, manifest, &files);
        // Only the newest snapshot stays; the cache must forget the others.
        let snapshots = SnapshotStore::new(store.clone());
        for old in snapshots.list().unwrap().snapshots {
            if old.cid != snapshot.cid {
                snapshots.remove(&old).unwrap();
            }
        }
    }
    is_done.store(true, Ordering::SeqCst);
    assert!(collecting.join().unwrap() > 3);
}

#[tokio::test]
async fn a_snapshot_whose_blocks_are_gone_is_not_built_upon() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let mut files = tree(200, 0);
    source.publish("docs", 1, &files);
    let first = offer(&source, "docs");
    files.insert("new".into(), b"new".to_vec());
    let manifest = source.publish("docs", 2, &files);
    let second = offer(&source, "docs");
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let puller = hand.puller(store.clone());
    let snapshot = pull(&puller, &source, &first).await.unwrap();
    // Another component removes the newest snapshot.
    SnapshotStore::new(store.clone()).remove(&snapshot).unwrap();
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_eq!(store.usage().unwrap().blocks, 0);
    pull(&puller, &source, &second).await.unwrap();
    assert_holds(&store, manifest, &files);
}

#[tokio::test]
async fn an_older_partial_pull_is_kept_until_the_newer_one_has_its_own() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let puller = hand.puller(store.clone());
    let mut files = tree(200, 0);
    let lost = file(&source.served.store, b"lost");
    files.insert("lost".into(), b"lost".to_vec());
    source.served.missing.lock().insert(lost);
    source.publish("docs", 1, &files);
    let first = offer(&source, "docs");
    let error = pull(&puller, &source, &first).await.unwrap_err();
    assert!(matches!(error, ManifestPullError::Missing { count: 1, .. }), "{error}");
    assert_eq!(source.served().len(), 200 + 3);
    // Not even the header of the newer manifest is available: nothing is lost.
    files.remove("lost");
    let second = source.publish("docs", 2, &files);
    let offer = offer(&source, "docs");
    source.served.missing.lock().insert(second);
    pull(&puller, &source, &offer).await.unwrap_err();
    store.gc(GcOptions::EVERYTHING).unwrap();
    source.served.missing.lock().clear();
    pull(&puller, &source, &offer).await.unwrap();
    assert_holds(&store, second, &files);
    assert_eq!(source.served().len(), 3, "the dataset, the header, one segment");
}

#[tokio::test]
async fn what_was_done_is_not_done_again() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let puller = hand.puller(store.clone());
    let files = tree(20, 0);
    source.publish("docs", 1, &files);
    let offer = offer(&source, "docs");
    let snapshot = pull(&puller, &source, &offer).await.unwrap();
    source.served();
    // As after an attempt that was aborted after its commit.
    assert_eq!(pull(&puller, &source, &offer).await.unwrap(), snapshot);
    assert_eq!(pull(&hand.puller(store.clone()), &source, &offer).await.unwrap(), snapshot);
    assert_eq!((store.roots("").len(), source.served().len()), (1, 0));
}

#[tokio::test]
async fn segments_that_were_checked_and_not_pulled_are_not_taken_for_complete() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let puller = hand.puller(store.clone());
    let mut files = tree(3000, 0);
    source.publish("docs", 1, &files);
    let first = offer(&source, "docs");
    // All files are missing, but the segments are stored.
    *source.served.missing.lock() =
        files.values().map(|content| file(&source.served.store, content)).collect();
    for _ in 0..2 {
        let error = pull(&puller, &source, &first).await.unwrap_err();
        assert!(matches!(error, ManifestPullError::Missing { .. }), "{error}");
    }
    files.insert("z".into(), b"new".to_vec());
    let manifest = source.publish("docs", 2, &files);
    let second = offer(&source, "docs");
    let error = pull(&puller, &source, &second).await.unwrap_err();
    assert!(matches!(error, ManifestPullError::Missing { .. }), "{error}");
    assert_eq!(store.roots("snapshot/"), []);
    source.served.missing.lock().clear();
    pull(&puller, &source, &second).await.unwrap();
    assert_holds(&store, manifest, &files);
}

/// Opens a store on a simulated disk.
fn simulated(disk: &SimDisk) -> Arc<dyn BlockStore> {
    let options = StoreOptions { disk_reserve: 0, background: false, ..StoreOptions::default() };
    let opened = PackStore::open_on(Arc::new(disk.clone()), Path::new("/store"), &options);
    Arc::new(opened.unwrap().0)
}

#[tokio::test]
async fn what_a_failed_sync_took_of_an_unfinished_pull_is_pulled_again() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let disk = SimDisk::new();
    let store = simulated(&disk);
    let puller = hand.puller(store.clone());
    // More files than one group; one of the last is missing.
    let files = tree(5500, 0);
    let manifest = source.publish("docs", 1, &files);
    let offer = offer(&source, "docs");
    let (_, last) = files.last_key_value().unwrap();
    source.served.missing.lock().insert(file(&source.served.store, last));
    let error = pull(&puller, &source, &offer).await.unwrap_err();
    assert!(matches!(error, ManifestPullError::Missing { count: 1, .. }), "{error}");
    assert!(source.served().len() > 5000);
    // None of the blocks was durable. A sync for another caller fails.
    let epoch = store.write_epoch();
    let theirs = types::Block::new(types::Codec::Raw, b"theirs".to_vec()).unwrap();
    store.put(&[types::EncodedBlock::plain(theirs)]).unwrap();
    disk.set_fault(disk.operations(), Fault::Fail(std::io::ErrorKind::Other));
    store.commit(epoch).unwrap_err();
    source.served.missing.lock().clear();
    pull(&puller, &source, &offer).await.unwrap();
    assert_holds(&store, manifest, &files);
    let after = simulated(&disk.crash(Power::Dropped));
    assert_holds(&after, manifest, &files);
}

/// Flips a bit in every copy of these bytes in the packs.
fn rot(disk: &SimDisk, content: &[u8]) {
    for path in disk.files().iter().filter(|path| path.to_string_lossy().ends_with(".pack")) {
        disk.damage(path, |bytes| {
            if let Some(at) = bytes.windows(content.len()).position(|window| window == content) {
                bytes[at] ^= 1;
            }
        });
    }
}

#[tokio::test]
async fn what_is_lost_while_it_is_pulled_is_in_no_snapshot() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let disk = SimDisk::new();
    let store = simulated(&disk);
    let puller = hand.puller(store.clone());
    let files = tree(5500, 0);
    let manifest = source.publish("docs", 1, &files);
    let offer = offer(&source, "docs");
    // The first files were fetched and checked; then one of them is damaged, and another component
    // finds the damage.
    *source.served.left.lock() = Some(5200);
    let pulling = {
        let (puller, job) = (puller.clone(), job(&source, &offer));
        tokio::spawn(async move { puller.pull(job).await })
    };
    until(|| (*source.served.left.lock() == Some(0)).then_some(())).await;
    let (_, first) = files.iter().find(|(path, _)| !path.ends_with('/')).unwrap();
    rot(&disk, first);
    let rotten = file(&source.served.store, first);
    assert!(matches!(store.get(&rotten), Err(StoreError::Damaged { .. })));
    *source.served.left.lock() = None;
    let result = pulling.await.unwrap();
    assert!(matches!(result, Err(ManifestPullError::Lost)), "{result:?}");
    assert_eq!(store.roots("snapshot/"), []);
    pull(&puller, &source, &offer).await.unwrap();
    assert_holds(&store, manifest, &files);
}

#[tokio::test]
async fn damage_that_is_found_is_mended_by_the_next_manifest() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let disk = SimDisk::new();
    let store = simulated(&disk);
    let puller = hand.puller(store.clone());
    let mut files = tree(3000, 0);
    source.publish("docs", 1, &files);
    pull(&puller, &source, &offer(&source, "docs")).await.unwrap();
    // A block of the first segment is damaged; a verification finds it.
    let (_, first) = files.iter().find(|(path, _)| !path.ends_with('/')).unwrap();
    let rotten = file(&source.served.store, first);
    rot(&disk, first);
    let missing = missing_blocks(&*store).unwrap();
    assert_eq!(missing.iter().map(|block| block.cid).collect::<Vec<_>>(), [rotten]);
    // Only the last segment changes.
    files.insert("z".into(), b"new".to_vec());
    let manifest = source.publish("docs", 2, &files);
    source.served();
    pull(&puller, &source, &offer(&source, "docs")).await.unwrap();
    assert!(source.served().contains(&rotten));
    assert_holds(&store, manifest, &files);
}

#[tokio::test]
async fn a_commit_that_outlives_its_attempt_takes_nothing_from_the_next() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let inner = Arc::new(MemStore::new());
    let faulty = Arc::new(FaultyStore::new(inner.clone()));
    let store: Arc<dyn BlockStore> = faulty.clone();
    let puller = hand.puller(store.clone());
    let files = tree(20, 0);
    let first = source.publish("docs", 1, &files);
    let old = offer(&source, "docs");
    // The first root is that of the pull, the second that of the snapshot. The attempt is aborted
    // at that call.
    let (reached, is_reached) = std::sync::mpsc::channel();
    let (release, is_released) = std::sync::mpsc::channel::<()>();
    let hold = move || {
        reached.send(()).unwrap();
        let _ = is_released.recv();
    };
    faulty.before(Call::SetRoot, 1, Box::new(hold));
    let pulling = {
        let (puller, job) = (puller.clone(), job(&source, &old));
        tokio::spawn(async move { puller.pull(job).await })
    };
    until(|| is_reached.try_recv().ok()).await;
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    // The next attempt, with only new content, has a root of its own; then a collection runs.
    let others = Tree::from([("new".into(), noise(5, 40))]);
    let second = source.publish("docs", 2, &others);
    let new = offer(&source, "docs");
    *source.served.left.lock() = Some(3);
    let pulling = {
        let (puller, job) = (puller.clone(), job(&source, &new));
        tokio::spawn(async move { puller.pull(job).await })
    };
    let root_of_pull = || inner.roots("pull/").pop().map(|(_, root)| root.cid);
    until(|| (root_of_pull() == Some(second)).then_some(())).await;
    store.gc(GcOptions::EVERYTHING).unwrap();
    let committed = {
        let inner = inner.clone();
        move || inner.roots("snapshot/").len()
    };
    let at_first_removal = Arc::new(AtomicUsize::new(0));
    let note = {
        let (committed, at) = (committed.clone(), at_first_removal.clone());
        move || at.store(committed(), Ordering::SeqCst)
    };
    faulty.before(Call::RemoveRoot, 0, Box::new(note));
    release.send(()).unwrap();
    until(|| (committed() == 1).then_some(())).await;
    *source.served.left.lock() = None;
    pulling.await.unwrap().unwrap();
    assert_eq!(at_first_removal.load(Ordering::SeqCst), 2, "the next one's root was removed");
    let store: Arc<dyn BlockStore> = inner.clone();
    assert_holds(&store, first, &files);
    assert_holds(&store, second, &others);
    assert_eq!(inner.roots("pull/"), []);
}

#[tokio::test]
async fn a_file_that_could_not_be_restored_is_in_no_snapshot() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let served = &source.served.store;
    let chunks: Vec<_> = (0..3).map(|n| noise(n, 100 + n)).collect();
    let cids: Vec<_> = chunks.iter().map(|bytes| file(served, bytes)).collect();
    let child = |cid, len| NodeChild { cid, len };
    let node = |children: [NodeChild; 2]| {
        let (mut builder, mut nodes) =
            (FileNodeBuilder::new(types::BlockScheme::plain()), Vec::new());
        let mut emit = |block: types::Block| {
            nodes.push(block);
            Ok::<_, std::convert::Infallible>(())
        };
        children.into_iter().for_each(|child| builder.push(child, &mut emit).unwrap());
        let cid = builder.finish(&mut emit).unwrap().unwrap();
        for block in nodes {
            put(served, block);
        }
        child(cid, children.iter().map(|child| child.len).sum())
    };
    let good = node([child(cids[0], 100), child(cids[1], 101)]);
    // A tree of the maximum depth, and a deeper one.
    let mut trees = vec![good];
    for _ in 0..MAX_TREE_DEPTH {
        let below = *trees.last().unwrap();
        trees.push(node([child(cids[2], 102), below]));
    }
    let (deep, too_deep) = (trees[MAX_TREE_DEPTH - 1], trees[MAX_TREE_DEPTH]);
    let entry = |path: &str, file: NodeChild| {
        let mut entry = file_entry(path, file.cid, b"");
        if let types::EntryKind::File { size, .. } = &mut entry.kind {
            *size = file.len;
        }
        entry
    };
    let bad = [
        ("a chunk", vec![entry("a", child(cids[0], 99))]),
        ("a chunk in a node", vec![entry("a", node([child(cids[0], 100), child(cids[1], 99)]))]),
        ("a node", vec![entry("a", child(good.cid, good.len + 1))]),
        ("the second mention", vec![entry("a", good), entry("b", child(good.cid, 7))]),
        ("the depth", vec![entry("a", too_deep)]),
        ("the depth of the second mention", vec![entry("a", deep), entry("b", too_deep)]),
    ];
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let puller = hand.puller(store.clone());
    for (number, (what, entries)) in bad.iter().enumerate() {
        let manifest = source.manifest("docs", number as u64 + 1, entries);
        source.show("docs", number as u64 + 1, manifest);
        let error = pull(&puller, &source, &offer(&source, "docs")).await.unwrap_err();
        assert!(matches!(error, ManifestPullError::NotFile { .. }), "{what}: {error}");
        assert!(error.is_bad_manifest());
        assert_eq!(store.roots("snapshot/"), [], "{what}");
    }
    let entries = [entry("a", good), entry("b", deep), entry("c", child(cids[2], 102))];
    let manifest = source.manifest("docs", 99, &entries);
    source.show("docs", 99, manifest);
    pull(&puller, &source, &offer(&source, "docs")).await.unwrap();
}

#[tokio::test]
async fn a_pull_ends_at_the_quota_of_its_source_and_goes_on_when_there_is_room() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    source.publish("docs", 1, &tree(10, 4));
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let snapshots = SnapshotStore::new(store.clone());
    let puller = hand.puller(store.clone());
    let offer = offer(&source, "docs");
    let used = || pull::measure_source(&snapshots, &source.peer()).unwrap();
    let pull_within = async |limit: u64| {
        let budget = Arc::new(StorageBudget::new(limit));
        budget.set_measured(0, used());
        let result =
            puller.pull(ManifestJob { budget: Some(budget), ..job(&source, &offer) }).await;
        result.map(drop)
    };
    for limit in [0, 5_000_000, 5_000_000] {
        let refused = pull_within(limit).await;
        let is_refused = matches!(refused, Err(ManifestPullError::Pull(PullError::OverQuota)));
        assert!(is_refused, "{limit}: {refused:?}");
        assert!(used() <= limit, "{limit}: {}", used());
        assert_eq!(snapshots.count(), 0);
    }
    pull_within(20_000_000).await.unwrap();
    assert!(used() > 12_000_000 && snapshots.count() == 1, "{}", used());
}
