//! A collection runs beside writers that find dead blocks, and while roots come and go.

use disk::sim::{Power, SimDisk};
use plain::RootsRead as _;
use shuttle::thread;
use store::check::missing_blocks;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, PackStore, Root, Roots as _, StoreAdmin as _,
};

use crate::common::{Tree, assert_whole, store_tree};
use crate::explore::{PACK_LEN, after_power_cut, assert_durable, explore, file, once, open};

/// Returns a disk with blocks that only a removed root led to, and with the root `moved`.
fn filled() -> SimDisk {
    once(|| {
        let disk = SimDisk::new();
        let store = open(&disk, PACK_LEN, false);
        store_tree(&store, "old", &file(&[1, 2, 3, 4])).unwrap();
        store_tree(&store, "moved", &file(&[4, 5])).unwrap();
        store.remove_root("old").unwrap();
        disk
    })
}

/// Stores the blocks of a file that are missing, as a pull does.
fn pull(store: &PackStore, name: &str, file: &Tree) {
    let (epoch, pin) = (store.write_epoch(), store.pin());
    for block in &file.blocks {
        pin.add([block.cid()]);
        if !store.has(&block.cid()).unwrap() {
            store.put(std::slice::from_ref(block)).unwrap();
        }
    }
    store.set_root(name, Root { cid: file.root, partial: false }, epoch).unwrap();
}

fn collects(background: bool) {
    let filled = filled();
    explore(move || {
        let disk = filled.crash(Power::Kept);
        let store = open(&disk, PACK_LEN, background);
        let [found, moved, pulled] = [&[2, 3][..], &[4, 5], &[1, 6]].map(file);
        let mut threads = Vec::new();
        let collecting = store.clone();
        threads.push(thread::spawn(move || {
            collecting.gc(GcOptions::EVERYTHING).unwrap();
        }));
        let (writing, on, tree) = (store.clone(), disk.clone(), found.clone());
        threads.push(thread::spawn(move || {
            store_tree(&writing, "found", &tree).unwrap();
            assert_whole(&writing, &tree, "found again");
            assert_durable(&on, &tree.blocks, "found again");
        }));
        let (moving, on, tree) = (store.clone(), disk.clone(), moved.clone());
        threads.push(thread::spawn(move || {
            let root = Root { cid: tree.root, partial: false };
            moving.set_root("moved here", root, moving.write_epoch()).unwrap();
            moving.remove_root("moved").unwrap();
            assert_whole(&moving, &tree, "moved");
            assert_durable(&on, &tree.blocks, "moved");
        }));
        let (pulling, tree) = (store.clone(), pulled.clone());
        threads.push(thread::spawn(move || {
            pull(&pulling, "pulled", &tree);
            assert_whole(&pulling, &tree, "pulled");
        }));
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(missing_blocks(&*store).unwrap(), []);
        for tree in [&found, &moved, &pulled] {
            assert_whole(&store, tree, "at the end");
        }
        drop(store);
        let after = after_power_cut(&disk);
        let names: Vec<_> = after.roots("").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["found", "moved here", "pulled"]);
        assert_eq!(plain::check::missing_blocks(&after).unwrap(), []);
    });
}

#[test]
fn a_collection_removes_nothing_that_a_root_reaches() {
    collects(false);
}

#[test]
fn a_collection_removes_nothing_while_another_thread_seals_packs() {
    collects(true);
}
