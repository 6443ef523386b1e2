//! Read faults: the same life of a store, in which each single open, read, length or
//! list fails once, with each error that says nothing about the content of a file.
//! Nothing acknowledged is lost, nothing looks missing, and after the fault everything
//! is there.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{Acknowledged, DIR, Tree, assert_whole, mixed_tree, open, store_tree, tree, try_open};
use disk::sim::{DiskError, EACCES, EIO, EMFILE, FaultRule, Power, SimDisk};
use store::check::missing_blocks;
use store::{
    BlockRead as _, GcOptions, OpenReport, PackStore, ReadOnlyPackStore, Roots as _,
    RootsRead as _, StoreAdmin as _, StoreError,
};

/// A store whose operations may fail once, and the results that it has reported.
struct Life {
    disk: SimDisk,
    acknowledged: Acknowledged,
    tried: Vec<(String, Tree)>,
    context: String,
    /// Number of calls that have failed.
    failures: u64,
}

impl Life {
    fn expect_io<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(
                StoreError::Io { .. }
                | StoreError::RootsUnreadable { .. }
                | StoreError::CatalogUnreadable { .. }
                | StoreError::IndexUnreadable { .. },
            ) => {
                self.failures += 1;
                None
            }
            Err(error) => panic!("{}: {error:?}", self.context),
        }
    }

    /// Opens the store, at the second attempt if the fault is in the first.
    fn open(&mut self) -> Arc<PackStore> {
        let result = try_open(&self.disk);
        let (store, report) = match self.expect_io(result) {
            Some(opened) => opened,
            None => open(&self.disk),
        };
        self.check_report(&report);
        store
    }

    /// A fault of a read is no damage.
    fn check_report(&self, report: &OpenReport) {
        assert!(!report.roots_incomplete, "{}: {report:?}", self.context);
        assert!(report.damage.is_empty() && report.lost_packs.is_empty(), "{}", self.context);
    }

    fn put(&mut self, store: &Arc<PackStore>, name: &str, tree: Tree) {
        self.tried.push((name.to_owned(), tree.clone()));
        let stored = store_tree(store, name, &tree);
        if self.expect_io(stored).is_some() {
            self.acknowledged.insert(name.to_owned(), tree);
        }
    }

    fn remove(&mut self, store: &PackStore, name: &str) {
        // The root may be gone even if this fails.
        self.acknowledged.remove(name);
        let removed = store.remove_root(name);
        self.expect_io(removed);
    }

    /// Every acknowledged block is present. A read may fail, and never returns `None`.
    fn read_all(&mut self, store: &PackStore) {
        for (name, tree) in self.acknowledged.clone() {
            for block in &tree.blocks {
                let found = self.expect_io(store.has(&block.cid()));
                assert_ne!(found, Some(false), "{}: {name}", self.context);
                if let Some(bytes) = self.expect_io(store.get(&block.cid())) {
                    assert_eq!(bytes, Some(block.decode().unwrap()), "{}: {name}", self.context);
                }
            }
        }
    }

    /// Opens, puts, commits, reads, collects, recompresses, rebuilds the index, and
    /// starts again.
    fn live(&mut self) {
        let store = self.open();
        self.put(&store, "a", mixed_tree(&[1, 2, 4, 6, 8]));
        self.put(&store, "b", tree(&[4, 5, 6, 7]));
        self.read_all(&store);
        self.remove(&store, "a");
        let collected = store.gc(GcOptions::EVERYTHING);
        self.expect_io(collected);
        self.put(&store, "c", mixed_tree(&[2, 4, 6, 10]));
        let recompressed = store.recompress(u64::MAX, &|| false);
        self.expect_io(recompressed);
        self.read_all(&store);
        drop(store);
        let store = self.open();
        self.put(&store, "d", tree(&[1, 8, 9]));
        let rebuilt = store.rebuild_index();
        self.expect_io(rebuilt);
        self.read_all(&store);
        self.remove(&store, "c");
        // A killed process: the packs have no footers, the index is behind.
        std::mem::forget(store);
        self.disk = self.disk.restart();
        let store = self.open();
        self.put(&store, "e", tree(&[2, 11, 12]));
        let collected = store.gc(GcOptions::default());
        self.expect_io(collected);
        self.read_all(&store);
    }

    /// Checks the store after the fault.
    fn check(&self) {
        for power in [Power::Kept, Power::Dropped] {
            let context = format!("{}, then {power:?}", self.context);
            let disk = self.disk.crash(power);
            let (store, report) = open(&disk);
            self.check_report(&report);
            for (name, tree) in &self.acknowledged {
                assert_eq!(store.root(name).map(|root| root.cid), Some(tree.root), "{context}");
            }
            for (name, root) in store.roots("") {
                let known = self.tried.iter().find(|(n, tree)| *n == name && tree.root == root.cid);
                let (_, tree) = known.unwrap_or_else(|| panic!("{context}: {name} is unknown"));
                assert_whole(&store, tree, &context);
            }
            assert_eq!(missing_blocks(&*store).unwrap(), [], "{context}");
            assert_eq!(store.index_differences().unwrap(), [] as [String; 0], "{context}");
            store.gc(GcOptions::EVERYTHING).unwrap();
            for (name, tree) in &self.acknowledged {
                assert_whole(&store, tree, &format!("{context}: {name}, after a collection"));
            }
        }
    }
}

/// A file of the index that cannot be read is not rebuilt: it may be intact.
#[test]
fn an_unreadable_file_of_the_index_stops_the_opening_and_stays() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    store_tree(&store, "a", &mixed_tree(&[1, 2, 4])).unwrap();
    drop(store);
    let is_run = |path: &std::path::Path| path.extension().is_some_and(|ext| ext == "run");
    let runs = || disk.files().into_iter().filter(|path| is_run(path)).collect::<Vec<_>>();
    let before = runs();
    assert!(!before.is_empty());
    for error in [EACCES, EIO, EMFILE] {
        // The opening, the length, and each read of the file.
        for after in 0.. {
            let rule = disk.add_fault(FaultRule::reads(error).on(".run").after(after).times(1));
            let opened = try_open(&disk);
            disk.clear_fault_rules();
            if rule.failures() == 0 {
                assert!(after > 2, "{after}");
                break;
            }
            match opened {
                Err(StoreError::IndexUnreadable { path, .. }) => assert!(is_run(&path)),
                Err(other) => panic!("{error:?} after {after}: {other}"),
                Ok(_) => panic!("{error:?} after {after}: opened"),
            }
            assert_eq!(runs(), before);
            // A reader does without the file.
            disk.add_fault(FaultRule::reads(error).on(".run").after(after));
            let (reader, _) =
                ReadOnlyPackStore::open_on(Arc::new(disk.clone()), DIR.as_ref()).unwrap();
            for block in &mixed_tree(&[1, 2, 4]).blocks {
                assert!(reader.has(&block.cid()).unwrap());
            }
            disk.clear_fault_rules();
        }
    }
    let (_, report) = open(&disk);
    assert!(!report.index_rebuilt && report.damage.is_empty(), "{report:?}");
}

fn enumerate(error: DiskError) {
    let (mut points, mut failures) = (0, 0);
    loop {
        let disk = SimDisk::new();
        let armed = disk.add_fault(FaultRule::reads(error).after(points).times(1));
        let mut life = Life {
            disk,
            acknowledged: Acknowledged::new(),
            tried: Vec::new(),
            context: format!("{error:?} at read {points}"),
            failures: 0,
        };
        life.live();
        life.check();
        failures += life.failures;
        if armed.failures() == 0 {
            assert_eq!(life.failures, 0);
            assert_eq!(life.acknowledged.len(), 3, "the complete life was lived");
            break;
        }
        points += 1;
    }
    println!("{error:?}: {points} points, {failures} failed calls");
    assert!(points > 100, "only {points} reads: the life has become too short");
    assert!(failures > 50, "only {failures} calls failed: the faults have no effect");
}

#[test]
fn an_io_error_at_every_read() {
    enumerate(EIO);
}

#[test]
fn a_refused_permission_at_every_read() {
    enumerate(EACCES);
}

#[test]
fn no_descriptor_at_every_read() {
    enumerate(EMFILE);
}
