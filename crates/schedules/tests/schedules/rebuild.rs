//! The index is rebuilt beside readers, a writer and a collection.

use disk::sim::{Power, SimDisk};
use shuttle::thread;
use store::check::missing_blocks;
use store::{BlockRead as _, BlockWrite as _, GcOptions, Roots as _, StoreAdmin as _};

use crate::common::{assert_whole, chunk, store_tree};
use crate::explore::{PACK_LEN, after_power_cut, assert_readable, explore, file, once, open};

/// Returns a disk with the root `kept`. Its blocks are between dead ones, so that a
/// collection moves them.
fn filled() -> SimDisk {
    once(|| {
        let disk = SimDisk::new();
        let store = open(&disk, PACK_LEN, false);
        store_tree(&store, "old", &file(&[1, 2, 3])).unwrap();
        store_tree(&store, "kept", &file(&[3, 4])).unwrap();
        store_tree(&store, "old", &file(&[5, 6])).unwrap();
        store.remove_root("old").unwrap();
        disk
    })
}

#[test]
fn no_block_seems_missing_while_the_index_is_rebuilt() {
    let filled = filled();
    explore(move || {
        let disk = filled.crash(Power::Kept);
        let store = open(&disk, PACK_LEN, false);
        let kept = file(&[3, 4]);
        let new = chunk(7, 150);
        let mut threads = Vec::new();
        let rebuilding = store.clone();
        threads.push(thread::spawn(move || rebuilding.rebuild_index().unwrap()));
        let collecting = store.clone();
        threads.push(thread::spawn(move || {
            collecting.gc(GcOptions::EVERYTHING).unwrap();
        }));
        let (reading, tree) = (store.clone(), kept.clone());
        threads.push(thread::spawn(move || {
            for block in &tree.blocks {
                assert!(reading.has(&block.cid()).unwrap(), "a block seems to be missing");
                assert_readable(&reading, block, "beside a rebuild");
            }
        }));
        let (writing, block) = (store.clone(), new.clone());
        let pin = store.pin();
        pin.add([new.cid()]);
        threads.push(thread::spawn(move || {
            let epoch = writing.write_epoch();
            writing.put(std::slice::from_ref(&block)).unwrap();
            assert_readable(&writing, &block, "put beside a rebuild");
            writing.commit(epoch).unwrap();
            assert_readable(&writing, &block, "committed beside a rebuild");
        }));
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(missing_blocks(&*store).unwrap(), []);
        assert_whole(&store, &kept, "at the end");
        assert_readable(&store, &new, "at the end");
        drop(pin);
        drop(store);
        let after = after_power_cut(&disk);
        assert_eq!(plain::check::missing_blocks(&after).unwrap(), []);
        assert!(plain::BlockRead::has(&after, &new.cid()).unwrap());
    });
}
