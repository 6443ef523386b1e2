//! The daemon over a real network, on loopback: what it pulls, what it does
//! not pull again, what it refuses, and what a stop or a failure costs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod source;

use std::collections::HashSet;
use std::sync::Arc;

use backup::SourceState;
use store::{BlockStore, MemStore};

use self::source::*;

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
    // Nothing came twice.
    let served = source.served();
    assert_eq!(served.iter().collect::<HashSet<_>>().len(), served.len());
    // No partial root is left behind.
    assert_eq!(store.roots("pull/"), []);
    until(|| (source.receipts.lock().len() == 1).then_some(())).await;

    files.insert("d007/000712.txt".into(), b"something else".to_vec());
    let second = source.publish("docs", 2, &files);
    backup.snapshot("docs", 2).await;
    assert_holds(&store, second, &files);
    // The file, its segment, the header and the dataset.
    assert_eq!(source.served().len(), 4);
    until(|| (source.receipts.lock().len() == 2).then_some(())).await;
    let (from, receipt) = source.receipts.lock()[1].clone();
    assert_eq!(from, backup.net.handle().peer_id());
    assert_eq!((receipt.sequence.0, receipt.manifest_cid), (2, second));
    let status = backup.source_in(SourceState::Idle).await;
    assert_eq!(status.errors, Vec::<String>::new());
    let folder = &status.folders[0];
    assert_eq!(folder.processed.as_ref().unwrap().sequence.0, 2);
    assert_eq!(backup.handle.totals().committed, 2);
    assert_eq!(backup.count(), 2);
    backup.stop().await;
}
