//! Crash points: the same sequence of work on a store, with a crash or an error at
//! every single operation on the disk, and with every way in which a power cut can
//! leave unsynced changes. Blocks that were reported as durable must be present and
//! intact.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Acknowledged, Tree, assert_whole, mixed_tree, open, store_tree, tree, try_open};
use disk::sim::{Fault, Power, SimDisk};
use store::check::missing_blocks;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, PackStore, RecompressEnd, Roots as _,
    RootsRead as _, StoreAdmin as _, StoreError,
};

const POWERS: [Power; 6] = [
    Power::Kept,
    Power::Dropped,
    Power::Torn,
    Power::Reordered(1),
    Power::Reordered(2),
    Power::Reordered(3),
];

const FAULTS: [Fault; 4] = [
    Fault::Die,
    Fault::Fail(ErrorKind::Other),
    Fault::Fail(ErrorKind::StorageFull),
    Fault::FailForever(ErrorKind::Other),
];

/// Results that a store has reported during its life.
#[derive(Default)]
struct Life {
    acknowledged: Acknowledged,
    /// Every tree that was put, successfully or not, by name.
    tried: Vec<(String, Tree)>,
    /// Number of packs that were compressed.
    compressed: u64,
}

impl Life {
    fn put(&mut self, store: &Arc<PackStore>, name: &str, seeds: &[u64]) {
        self.put_tree(store, name, tree(seeds));
    }

    fn put_tree(&mut self, store: &Arc<PackStore>, name: &str, tree: Tree) {
        self.tried.push((name.to_owned(), tree.clone()));
        if store_tree(store, name, &tree).is_ok() {
            self.acknowledged.insert(name.to_owned(), tree);
        }
    }

    fn remove(&mut self, store: &PackStore, name: &str) {
        // The root may be gone even if this fails.
        self.acknowledged.remove(name);
        let _ = store.remove_root(name);
    }

    /// Puts, commits, seals, collects, rebuilds and restarts.
    fn live(&mut self, disk: &SimDisk) -> Result<(), StoreError> {
        let (store, _) = try_open(disk)?;
        self.put(&store, "a", &[1, 2, 3, 4, 5]);
        self.put(&store, "b", &[4, 5, 6, 7]);
        self.remove(&store, "a");
        let _ = store.gc(GcOptions::EVERYTHING);
        self.put(&store, "c", &[1, 8, 9]);
        let _ = store.rebuild_index();
        self.put(&store, "d", &[10]);
        self.remove(&store, "c");
        let _ = store.gc(GcOptions::default());
        self.assert_alive(&store, disk);
        drop(store);
        let (store, _) = try_open(disk)?;
        self.put(&store, "e", &[2, 11, 12]);
        Ok(())
    }

    /// Puts compressible blocks and compresses them: interrupted, one pack at a time,
    /// all packs, beside dead blocks, and after a restart.
    fn live_compressing(&mut self, disk: &SimDisk) -> Result<(), StoreError> {
        let (store, _) = try_open(disk)?;
        self.put_tree(&store, "a", mixed_tree(&[1, 2, 4, 6, 8]));
        self.put_tree(&store, "b", mixed_tree(&[6, 8, 10, 12, 3]));
        let asked = AtomicU64::new(0);
        let _ = store.recompress(u64::MAX, &|| asked.fetch_add(1, Ordering::Relaxed) > 0);
        self.compress(&store, 1);
        self.put_tree(&store, "c", mixed_tree(&[2, 14, 16, 5]));
        self.remove(&store, "a");
        self.compress(&store, u64::MAX);
        let _ = store.gc(GcOptions::EVERYTHING);
        self.assert_alive(&store, disk);
        drop(store);
        let (store, _) = try_open(disk)?;
        self.put_tree(&store, "e", mixed_tree(&[1, 4, 18, 20]));
        self.compress(&store, u64::MAX);
        self.assert_alive(&store, disk);
        Ok(())
    }

    fn compress(&mut self, store: &PackStore, budget: u64) {
        self.compressed += store.recompress(budget, &|| false).map_or(0, |r| r.rewritten_packs);
    }

    /// Live blocks must also be right in the same process, with or without a fault.
    fn assert_alive(&self, store: &PackStore, disk: &SimDisk) {
        for (name, tree) in &self.acknowledged {
            if !disk.is_dead() {
                assert_whole(store, tree, &format!("{name}, before the restart"));
            }
        }
    }
}

/// Checks that every acknowledged tree is present, that every root is complete, and
/// that the store keeps working.
fn check(disk: &SimDisk, life: &Life, context: &str) {
    let (store, report) = open(disk);
    assert!(!report.roots_incomplete, "{context}");
    // Nothing that was only not written yet is reported as lost.
    let is_full = context.contains("StorageFull");
    let lost = |damage: &String| {
        damage.contains("was cut")
            || damage.contains("records are lost")
            || (damage.contains("was emptied") && !is_full)
    };
    assert!(
        !report.damage.iter().any(lost) && report.lost_packs.is_empty(),
        "{context}: {report:?}"
    );
    for (name, tree) in &life.acknowledged {
        assert_eq!(store.root(name).map(|root| root.cid), Some(tree.root), "{context}: {name}");
    }
    for (name, root) in store.roots("") {
        let known = life.tried.iter().find(|(n, tree)| *n == name && tree.root == root.cid);
        let (_, tree) = known.unwrap_or_else(|| panic!("{context}: {name} came from nowhere"));
        assert_whole(&store, tree, &format!("{context}: {name}"));
    }
    assert_eq!(missing_blocks(&*store).unwrap(), [], "{context}");
    if !context.contains("Reordered") {
        assert_eq!(store.index_differences().unwrap(), [] as [String; 0], "{context}");
    }
    store_tree(&store, "after", &tree(&[20, 21, 1])).unwrap();
    let report = store.recompress(u64::MAX, &|| false).unwrap();
    assert_eq!((report.end, report.damaged), (RecompressEnd::Done, vec![]), "{context}");
    store.gc(GcOptions::EVERYTHING).unwrap();
    for (name, tree) in &life.acknowledged {
        assert_whole(&store, tree, &format!("{context}: {name}, after a collection"));
    }
    assert_whole(&store, &tree(&[20, 21, 1]), context);
    assert_eq!(store.index_differences().unwrap(), [] as [String; 0], "{context}");
}

type Live = fn(&mut Life, &SimDisk) -> Result<(), StoreError>;

fn enumerate(fault: Fault) {
    for (live, compressed) in [(Life::live as Live, 0), (Life::live_compressing, 4)] {
        enumerate_life(fault, live, compressed);
    }
}

fn enumerate_life(fault: Fault, live: Live, compressed: u64) {
    let mut points = 0;
    loop {
        let disk = SimDisk::new();
        disk.set_fault(points, fault);
        let mut life = Life::default();
        let result = live(&mut life, &disk);
        let happened = disk.operations() > points;
        disk.clear_fault();
        for power in POWERS {
            let context = format!("{fault:?} at operation {points}, then {power:?}");
            let image = disk.crash(power);
            check(&image, &life, &context);
            if power == Power::Kept {
                // The process died, then the power failed.
                check(&disk.crash(Power::Kept).crash(Power::Dropped), &life, &context);
            }
        }
        if !happened {
            result.unwrap();
            assert_eq!(life.acknowledged.len(), 3, "the whole life was lived");
            assert!(life.compressed >= compressed, "{} packs compressed", life.compressed);
            break;
        }
        points += 1;
    }
    println!("{fault:?}: {points} points");
    assert!(points > 100, "only {points} operations: the life has become too short");
}

#[test]
fn death_at_every_operation() {
    enumerate(FAULTS[0]);
}

#[test]
fn an_io_error_at_every_operation() {
    enumerate(FAULTS[1]);
}

#[test]
fn a_full_disk_at_every_operation() {
    enumerate(FAULTS[2]);
}

#[test]
fn a_disk_that_fails_for_good_at_every_operation() {
    enumerate(FAULTS[3]);
}

/// A power cut while a store is opened again after a power cut.
#[test]
fn death_at_every_operation_of_a_recovery() {
    let disk = SimDisk::new();
    let mut life = Life::default();
    let (store, _) = open(&disk);
    life.put(&store, "a", &[1, 2, 3, 4, 5]);
    life.put(&store, "b", &[4, 5, 6, 7]);
    let first = [Power::Kept, Power::Torn, Power::Reordered(5), Power::Reordered(6)];
    for first in first {
        for at in 0.. {
            let image = disk.crash(first);
            image.set_fault(at, Fault::Die);
            let died = try_open(&image).is_err();
            for second in POWERS {
                check(
                    &image.crash(second),
                    &life,
                    &format!("{first:?}, death at {at} of the recovery, {second:?}"),
                );
            }
            if !died && image.operations() <= at {
                break;
            }
        }
    }
}

/// A sync that fails once: the blocks that it covered are not trusted.
#[test]
fn what_a_failed_sync_was_to_write_is_absent_and_can_be_put_again() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    store_tree(&store, "a", &tree(&[1, 2])).unwrap();
    let new = tree(&[30]);
    let epoch = store.write_epoch();
    store.put(&new.blocks).unwrap();
    disk.set_fault(disk.operations(), Fault::Fail(ErrorKind::Other));
    assert!(store.commit(epoch).is_err());
    // The same holds for later commits with the same epoch.
    assert!(matches!(store.commit(epoch), Err(StoreError::LostWrites)));
    assert!(!store.has(&new.root).unwrap());
    assert_whole(&store, &tree(&[1, 2]), "what was durable before");
    store_tree(&store, "new", &new).unwrap();
    let (store, _) = open(&disk.crash(Power::Dropped));
    assert_whole(&store, &new, "put again");
}
