//! Two writers commit beside a reader.

use disk::sim::SimDisk;
use shuttle::thread;
use store::{BlockWrite as _, PackStore};
use types::EncodedBlock;

use crate::common::chunk;
use crate::explore::{assert_durable, assert_readable, explore, open, wait_for};

fn write(store: &PackStore, disk: &SimDisk, blocks: &[EncodedBlock], context: &str) {
    let epoch = store.write_epoch();
    for block in blocks {
        store.put(std::slice::from_ref(block)).unwrap();
        assert_readable(store, block, context);
    }
    store.commit(epoch).unwrap();
    assert_durable(disk, blocks, context);
    for block in blocks {
        assert_readable(store, block, context);
    }
}

/// A commit makes every block durable that was put before, by anyone: those of the writer,
/// those that it found present because the other writer had put them, and those that a
/// reader has found.
fn commits(background: bool) {
    // Two blocks fill a pack.
    explore(move || {
        let disk = SimDisk::new();
        let store = open(&disk, 300, background);
        let [shared, first, second] = [1, 2, 3].map(|seed| chunk(seed, 150));
        let writers = [("first", first), ("second", second)].map(|(name, own)| {
            let (store, disk) = (store.clone(), disk.clone());
            let blocks = [shared.clone(), own];
            thread::spawn(move || write(&store, &disk, &blocks, name))
        });
        let reader = {
            let (store, disk) = (store.clone(), disk.clone());
            let shared = shared.clone();
            thread::spawn(move || {
                let epoch = store.write_epoch();
                wait_for(&store, &shared);
                store.commit(epoch).unwrap();
                assert_durable(&disk, std::slice::from_ref(&shared), "found by a reader");
                assert_readable(&store, &shared, "found by a reader");
            })
        };
        for writer in writers {
            writer.join().unwrap();
        }
        reader.join().unwrap();
        assert!(store.packs().len() >= 2, "a pack became full");
    });
}

#[test]
fn a_committed_block_is_durable_and_readable() {
    commits(false);
}

#[test]
fn a_committed_block_is_durable_while_another_thread_seals_its_pack() {
    commits(true);
}
