//! The daemon over a real network, on loopback: pulls, repeated pulls, refusals, and the cost of
//! stops and failures.

#![allow(clippy::unwrap_used, reason = "tests")]

mod server;

use std::collections::HashSet;
use std::sync::Arc;

use backup::SourceState;
use store::{BlockStore, MemStore};
use testkit::{
    Source, Tree, assert_holds, entries, file, noise, plain_net_as, segments, tree, until,
};

use self::server::{Backup, settings};

#[tokio::test]
async fn a_folder_is_pulled_and_then_only_what_has_changed() {
    let source = Source::start().await;
    let mut files = tree(3000, 2);
    let first = source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    let snapshot = backup.snapshot("docs", 1).await;
    assert_holds(&store, first, &files);
    let record = &snapshot.record;
    assert_eq!((record.files, record.dirs), (3002, 30));
    assert_eq!(record.bytes, files.values().map(|content| content.len() as u64).sum::<u64>());
    // No block was served twice.
    let served = source.served();
    assert_eq!(served.iter().collect::<HashSet<_>>().len(), served.len());
    // No partial root remains.
    assert_eq!(store.roots("pull/"), []);
    until(|| (source.receipts.lock().len() == 1).then_some(())).await;

    files.insert("d007/000712.txt".into(), b"something else".to_vec());
    let second = source.publish("docs", 2, &files);
    backup.snapshot("docs", 2).await;
    assert_holds(&store, second, &files);
    // The file and the dataset; the segment and the header arrive as patches.
    assert_eq!(source.served().len(), 2);
    until(|| (source.receipts.lock().len() == 2).then_some(())).await;
    let receipts = source.receipts.lock().clone();
    let [(_, before), (from, receipt)] = &receipts[..] else { panic!("two receipts") };
    assert_eq!(*from, backup.net.handle().peer_id());
    let confirmed = receipt.confirmation();
    assert_eq!((confirmed.sequence.0, confirmed.manifest_cid), (2, second));
    assert!(receipt.is_signed() && before.follows(None) && receipt.follows(Some(before)));
    let status = backup.source_in(SourceState::Idle).await;
    assert_eq!(status.errors, Vec::<String>::new());
    let folder = &status.folders[0];
    assert_eq!(folder.processed.as_ref().unwrap().sequence.0, 2);
    assert_eq!(backup.handle.totals().committed, 2);
    assert_eq!(backup.count(), 2);
    backup.stop().await;
}

#[tokio::test]
async fn encrypted_files_make_a_snapshot_suspicious_whatever_the_source_says() {
    let source = Source::start().await;
    let text = |number: usize| format!("letter {number}\n").repeat(99).into_bytes();
    let path = |number: usize| format!("letter{number:02}.txt");
    let mut files: Tree = (0..60).map(|number| (path(number), text(number))).collect();
    source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    assert_eq!(backup.snapshot("docs", 1).await.record.doubt(), None);
    for number in 0..30 {
        files.remove(&path(number));
        files.insert(format!("{}.locked", path(number)), noise(number, 900));
        source.publish("docs", number as u64 + 2, &files);
        let record = backup.snapshot("docs", number as u64 + 2).await.record;
        assert_eq!(record.held, None);
        assert_eq!(record.doubt().is_some(), number + 1 >= 16, "{number}");
    }
    // The owner of the backup server decides that this was intended.
    let newest = backup.snapshot("docs", 31).await;
    snapshots::SnapshotStore::new(store.clone()).confirm(&newest).unwrap();
    for number in 30..50 {
        files.remove(&path(number));
        files.insert(format!("{}.locked", path(number)), noise(number, 900));
        source.publish("docs", number as u64 + 2, &files);
        let record = backup.snapshot("docs", number as u64 + 2).await.record;
        assert_eq!(record.doubt().is_some(), number - 30 + 1 >= 16, "{number}");
    }
    backup.stop().await;
}

#[tokio::test]
async fn a_source_without_differences_is_backed_up_all_the_same() {
    let key = net::Keypair::generate_secp256k1();
    let source = Source::speaking(key, vec![protocols::RECEIPT_PROTOCOL]).await;
    let mut files = tree(3000, 0);
    source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    backup.snapshot("docs", 1).await;
    source.served();
    files.insert("d007/000712.txt".into(), b"something else".to_vec());
    let second = source.publish("docs", 2, &files);
    backup.snapshot("docs", 2).await;
    assert_holds(&store, second, &files);
    // The file, its segment, the header and the dataset.
    assert_eq!(source.served().len(), 4);
    backup.stop().await;
}

#[tokio::test]
async fn a_source_without_signed_receipts_is_backed_up_and_named() {
    let key = net::Keypair::generate_secp256k1();
    let source = Source::speaking(key, vec![protocols::PATCH_PROTOCOL]).await;
    let files = tree(3, 0);
    let manifest = source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    backup.snapshot("docs", 1).await;
    assert_holds(&store, manifest, &files);
    let status = backup.source_that(|source| !source.errors.is_empty()).await;
    assert!(status.errors[0].contains("without signed receipts"), "{status:?}");
    assert!(!status.folders[0].processed.as_ref().unwrap().is_confirmed);
    backup.stop().await;
}

#[tokio::test]
async fn a_pull_goes_on_after_a_stop_in_the_middle() {
    let source = Source::start().await;
    let files = tree(2500, 4);
    *source.served.left.lock() = Some(1200);
    let manifest = source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    until(|| (*source.served.left.lock() == Some(0)).then_some(())).await;
    let status = backup.source_in(SourceState::Pulling).await;
    let pull = &status.pulls[0];
    assert_eq!((pull.sequence.0, pull.manifest_cid), (1, manifest));
    until(|| {
        let numbers = backup.handle.sources()[0].pulls.first()?.numbers;
        assert!(numbers.bytes_done <= numbers.bytes_total);
        (numbers.files_total == 2504 && numbers.bytes_done > 0).then_some(())
    })
    .await;
    backup.stop().await;
    assert_eq!(store.roots("snapshot/"), []);
    assert_eq!(store.roots("pull/").len(), 1);
    // A collection deletes none of it.
    let before = store.usage().unwrap().blocks;
    store.gc(store::GcOptions::EVERYTHING).unwrap();
    assert_eq!(store.usage().unwrap().blocks, before);
    source.served();
    let had: HashSet<_> =
        segments_and_files(&source, &files).into_iter().filter(|c| store.has(c).unwrap()).collect();
    assert!(had.len() > 500, "{}", had.len());
    // The aborted stream may still be answered.
    *source.served.noted.lock() = None;
    *source.served.left.lock() = None;
    let backup = Backup::start(store.clone(), &[&source]).await;
    backup.snapshot("docs", 1).await;
    assert_holds(&store, manifest, &files);
    let served = source.served();
    assert_eq!(served.iter().filter(|cid| had.contains(cid)).count(), 0);
    assert_eq!(served.iter().collect::<HashSet<_>>().len(), served.len());
    backup.stop().await;
}

/// Returns all blocks below the manifest of a folder.
fn segments_and_files(source: &Source, files: &Tree) -> Vec<types::Cid> {
    let entries = entries(&source.served.store, files);
    let segments = segments(&entries).into_iter().map(|segment| segment.block.cid());
    let files = entries.iter().filter_map(|entry| match entry.kind {
        types::EntryKind::File { cid, .. } => Some(cid),
        _ => None,
    });
    segments.chain(files).collect()
}

#[tokio::test]
async fn what_was_pulled_of_a_superseded_manifest_is_kept() {
    let source = Source::start().await;
    let mut files = tree(9000, 0);
    *source.served.left.lock() = Some(1200);
    source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    until(|| (*source.served.left.lock() == Some(0)).then_some(())).await;
    backup.source_that(|source| source.pulls.iter().any(|p| p.numbers.bytes_done > 0)).await;
    files.insert("d001/000107.txt".into(), b"newer".to_vec());
    let second = source.publish("docs", 2, &files);
    backup
        .source_that(|source| {
            let offered = source.folders.first().and_then(|folder| folder.offered_sequence);
            offered.is_some_and(|sequence| sequence.0 == 2)
        })
        .await;
    *source.served.left.lock() = None;
    backup.snapshot("docs", 2).await;
    assert_holds(&store, second, &files);
    assert_eq!(backup.count(), 1, "the older one was never complete");
    let served = source.served();
    // Blocks that were in flight when the pull was stopped may have been served again.
    let twice = served.len() - served.iter().collect::<HashSet<_>>().len();
    assert!(twice <= 64, "{twice} blocks came twice");
    assert_eq!(store.roots("pull/"), []);
    backup.stop().await;
}

#[tokio::test]
async fn a_file_that_changed_is_waited_for_and_one_that_is_missing_is_told_of() {
    let source = Source::start().await;
    let mut files = tree(50, 1);
    let victim = file(&source.served.store, &files["d000/000007.txt"]);
    source.served.changed.lock().insert(victim);
    source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    let status = backup.source_that(|source| !source.errors.is_empty()).await;
    assert!(status.errors[0].contains("changed"), "{status:?}");
    assert_eq!(backup.count(), 0);
    files.insert("d000/000007.txt".into(), b"as it is now".to_vec());
    let second = source.publish("docs", 2, &files);
    backup.snapshot("docs", 2).await;
    assert_holds(&store, second, &files);
    let status = backup.source_in(SourceState::Idle).await;
    assert_eq!((status.errors.len(), backup.count()), (0, 1));
    // A failure of the source, and shown as such; the snapshots stay.
    let lost = file(&source.served.store, b"lost");
    source.served.missing.lock().insert(lost);
    files.insert("lost".into(), b"lost".to_vec());
    let third = source.publish("docs", 3, &files);
    let status = backup.source_that(|source| !source.errors.is_empty()).await;
    assert!(status.errors[0].contains(&lost.to_string()), "{status:?}");
    assert_eq!(status.folders[0].failures, 1);
    assert_eq!(backup.count(), 1);
    source.served.missing.lock().clear();
    backup.handle.poll_now();
    backup.snapshot("docs", 3).await;
    assert_holds(&store, third, &files);
    backup.stop().await;
}

#[tokio::test]
async fn sources_come_and_go_while_it_runs() {
    let [one, two] = [Source::start().await, Source::start().await];
    one.publish("docs", 1, &tree(20, 0));
    two.publish("music", 1, &tree(10, 1));
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&one]).await;
    backup.snapshot("docs", 1).await;
    assert_eq!(backup.count(), 1);
    two.allow(backup.net.handle().peer_id());
    let both = settings(&[one.config("source-0"), two.config("two")]);
    backup.settings.send(both.clone()).unwrap();
    backup.snapshot("music", 1).await;
    // Disabled: nothing is pulled, and the status shows it.
    backup.settings.send(backup::BackupSettings { enabled: false, ..both.clone() }).unwrap();
    backup.source_in(SourceState::Disabled).await;
    assert!(!backup.handle.poll_now_source("two"));
    one.publish("docs", 2, &tree(21, 0));
    assert!(matches!(backup.handle.accept("two").await, Err(backup::AcceptError::NotRunning)));
    backup.settings.send(both).unwrap();
    backup.snapshot("docs", 2).await;
    // One source is removed; its snapshots stay.
    backup.settings.send(settings(&[two.config("renamed")])).unwrap();
    let names = until(|| {
        let sources = backup.handle.sources();
        let names: Vec<_> = sources.iter().map(|source| source.name.clone()).collect();
        (names.len() == 1).then_some(names)
    });
    assert_eq!(names.await, ["renamed"]);
    assert_eq!(backup.count(), 3);
    assert!(matches!(
        backup.handle.accept("two").await,
        Err(backup::AcceptError::NoSource(name)) if name == "two"
    ));
    two.publish("music", 2, &tree(11, 1));
    backup.snapshot("music", 2).await;
    backup.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_not_allowed_there_says_so_and_goes_on_once_it_is() {
    let source = Source::start().await;
    source.publish("docs", 1, &tree(5, 0));
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let key = net::Keypair::generate_secp256k1();
    let net = plain_net_as(key.clone()).await;
    let peer = net.handle().peer_id();
    let settings = settings(&[source.config("a")]);
    let backup = Backup::with(store, net, key, settings, tempfile::tempdir().unwrap()).await;
    let status = backup.source_that(|source| !source.errors.is_empty()).await;
    assert!(status.errors[0].contains("may not fetch blocks"), "{status:?}");
    source.allow(peer);
    backup.handle.poll_now();
    backup.snapshot("docs", 1).await;
    backup.stop().await;
}

#[tokio::test]
async fn a_full_store_keeps_what_it_has() {
    let source = Source::start().await;
    let mut files = tree(100, 0);
    let first = source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::with_limit(300_000));
    let backup = Backup::start(store.clone(), &[&source]).await;
    backup.snapshot("docs", 1).await;
    let small = files.clone();
    files.insert("huge".into(), noise(9, 900_000));
    source.publish("docs", 2, &files);
    let status = backup.source_that(|source| !source.errors.is_empty()).await;
    assert!(status.errors[0].contains("max_storage"), "{status:?}");
    assert_holds(&store, first, &small);
    assert_eq!(backup.count(), 1);
    backup.stop().await;
}

#[tokio::test]
async fn the_state_file_is_for_people_and_needed_by_nobody() {
    let source = Source::start().await;
    let files = tree(30, 0);
    source.publish("docs", 1, &files);
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let mut dir = tempfile::tempdir().unwrap();
    let key = net::Keypair::generate_secp256k1();
    for garbage in ["", "{\"version\": 99", "\u{0}\u{1}", "[]"] {
        let path = dir.path().join(backup::STATE_FILE_NAME);
        std::fs::write(&path, garbage).unwrap();
        let net = plain_net_as(key.clone()).await;
        source.allow(net.handle().peer_id());
        let settings = settings(&[source.config("desktop")]);
        let backup = Backup::with(store.clone(), net, key.clone(), settings, dir).await;
        backup.snapshot("docs", 1).await;
        backup.source_in(SourceState::Idle).await;
        let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).ok()?).ok();
        let state = until(|| {
            let state = read()?;
            let folder = &state["sources"][0]["folders"][0];
            (folder["processed"]["sequence"] == 1).then_some(state)
        });
        let state = state.await;
        assert_eq!(state["version"], 1);
        assert_eq!(state["totals"]["snapshots"], 1);
        assert_eq!(state["sources"][0]["peer_id"], source.peer().to_string());
        assert_eq!(state["sources"][0]["state"], "idle");
        assert!(state["sources"][0]["last_poll"].is_string());
        // The file may be removed at any time.
        std::fs::remove_file(&path).unwrap();
        dir = backup.stop().await;
        assert!(read().is_some(), "it is written at the end");
    }
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [backup::STATE_FILE_NAME, "issued-receipts"], "nothing else is left behind");
}
