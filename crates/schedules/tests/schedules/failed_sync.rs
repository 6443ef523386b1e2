//! A sync fails beside a second committer.

use disk::sim::{EIO, FaultRule, Op, SimDisk};
use shuttle::thread;
use store::{BlockWrite as _, PackStore, Root, Roots as _, StoreError};
use types::EncodedBlock;

use crate::common::chunk;
use crate::explore::{assert_durable, assert_readable, explore, open, wait_for};

/// Number of attempts of a writer: a failed sync costs both writers at most one, each.
const ATTEMPTS: usize = 4;

/// Length of a pack that two blocks fill, so that it is synced before the commit.
const TWO_BLOCKS: u64 = 300;
/// Length of a pack that no test fills.
const NOT_FULL: u64 = 3000;

/// Stores and commits blocks until that succeeds.
fn write(store: &PackStore, disk: &SimDisk, blocks: &[EncodedBlock], context: &str) {
    for _ in 0..ATTEMPTS {
        let epoch = store.write_epoch();
        let written = blocks
            .iter()
            .try_for_each(|block| store.put(std::slice::from_ref(block)))
            .and_then(|()| store.commit(epoch));
        match written {
            Ok(()) => {
                assert_durable(disk, blocks, context);
                blocks.iter().for_each(|block| assert_readable(store, block, context));
                return;
            }
            Err(StoreError::Io { .. } | StoreError::LostWrites) => {}
            Err(error) => panic!("{context}: {error}"),
        }
    }
    panic!("{context}: one failed sync fails more than {ATTEMPTS} commits");
}

/// One sync fails, and two writers and a thread that sets a root for a block that it has
/// found commit meanwhile. After a commit that succeeds, the blocks are durable.
fn fails(pack_len: u64, background: bool, op: Op, after: u64) {
    explore(move || {
        let disk = SimDisk::new();
        let store = open(&disk, pack_len, background);
        disk.add_fault(FaultRule::new(op, EIO).on("/packs").after(after).times(1));
        let [shared, first, second] = [1, 2, 3].map(|seed| chunk(seed, 150));
        let mut threads = Vec::new();
        for (name, own) in [("first", first), ("second", second)] {
            let (store, disk, shared) = (store.clone(), disk.clone(), shared.clone());
            threads.push(thread::spawn(move || write(&store, &disk, &[shared, own], name)));
        }
        let (setting, on) = (store.clone(), disk.clone());
        threads.push(thread::spawn(move || {
            let epoch = setting.write_epoch();
            wait_for(&setting, &shared);
            let root = Root { cid: shared.cid(), partial: false };
            if setting.set_root("found", root, epoch).is_ok() {
                assert_durable(&on, std::slice::from_ref(&shared), "found by another thread");
            }
        }));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_commit_that_succeeds_beside_the_first_failed_sync_is_durable() {
    fails(NOT_FULL, false, Op::Sync, 0);
}

#[test]
fn a_commit_that_succeeds_beside_a_later_failed_sync_is_durable() {
    fails(TWO_BLOCKS, true, Op::Sync, 1);
}

#[test]
fn a_commit_that_succeeds_beside_a_failed_sync_of_names_is_durable() {
    fails(NOT_FULL, false, Op::SyncDir, 0);
}
