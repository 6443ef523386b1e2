//! Writers, readers, removals and collections at the same time, on a real disk.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{store_tree, tree, write_and_remove};
use store::check::missing_blocks;
use store::{GcOptions, PackStore, RootsRead as _, StoreAdmin as _, StoreOptions};

#[test]
fn the_collector_takes_nothing_from_those_who_write() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { disk_reserve: 0, pack_len: 20_000, ..StoreOptions::default() };
    let store = Arc::new(PackStore::open(dir.path(), &options).unwrap().0);
    let is_done = AtomicBool::new(false);
    let collections = AtomicU64::new(0);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let store = store.clone();
                scope.spawn(move || write_and_remove(&store, writer, 150, (5, 40), tree))
            })
            .collect();
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                store.gc(GcOptions::EVERYTHING).unwrap();
                collections.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                // The blocks of a root that was removed in the meantime may have been
                // collected.
                for block in missing_blocks(&*store).unwrap() {
                    for name in &block.roots {
                        assert!(
                            store.root(name).is_none_or(|root| {
                                store::is_complete(&*store, root.cid).unwrap()
                                    || store.root(name) != Some(root)
                            }),
                            "{name} needs {block:?}"
                        );
                    }
                }
            }
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_done.store(true, Ordering::SeqCst);
        for result in results {
            result.unwrap();
        }
    });
    assert!(collections.load(Ordering::SeqCst) > 3);
    drop(store);
    let (store, report) = PackStore::open(dir.path(), &options).unwrap();
    assert_eq!((report.damage, report.lost_packs), (vec![], vec![]));
    assert_eq!(missing_blocks(&store).unwrap(), []);
}

#[test]
fn many_commits_share_few_syncs_and_one_process_owns_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
    let store = Arc::new(PackStore::open(dir.path(), &options).unwrap().0);
    let second = PackStore::open(dir.path(), &options).unwrap_err();
    assert!(matches!(second, store::StoreError::Locked(_)), "{second}");
    thread::scope(|scope| {
        for writer in 0..8_u64 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..20 {
                    let tree = tree(&[1000 + writer * 100 + round]);
                    store_tree(&store, &format!("{writer}/{round}"), &tree).unwrap();
                }
            });
        }
    });
    assert_eq!(store.roots("").len(), 160);
    drop(store);
    PackStore::open(dir.path(), &options).unwrap();
}
