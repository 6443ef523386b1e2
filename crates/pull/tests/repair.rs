//! Repair fetches the blocks that a verification found missing.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::collections::BTreeSet;
use std::sync::Arc;

use net::{Access, Purposes};
use protocols::SessionPool;
use pull::{PullProgress, Puller, repair};
use snapshots::{SnapshotStore, VerifyProgress, VerifyReport, verify};
use store::MemStore;
use testkit::{all_blocks, connect, filled, node, node_with, without};
use tokio_util::sync::CancellationToken;
use types::{Cid, Codec};

fn check(snapshots: &SnapshotStore) -> VerifyReport {
    verify(snapshots, true, &VerifyProgress::default(), &CancellationToken::new()).unwrap()
}

#[tokio::test]
async fn what_a_peer_has_is_brought_back() {
    let store = Arc::new(MemStore::new());
    let (_, all) = filled(store.clone());
    let records: BTreeSet<Cid> = all.iter().map(|one| one.cid).collect();
    let holes: BTreeSet<Cid> = all
        .iter()
        .flat_map(|one| all_blocks(&*store, one))
        .filter(|cid| !records.contains(cid))
        .collect();
    // The peer no longer has all blocks: the song is missing.
    let song = all_blocks(&*store, &all[2]).into_iter().find(|c| c.codec() == Codec::Raw).unwrap();
    let b = node().await;
    let access = Access::new();
    access.set(b.handle().peer_id(), Purposes::BLOCKS);
    let a = node_with(without(&*store, &BTreeSet::from([song])), access).await;
    connect(&b, &a).await;
    let pool = SessionPool::new(b.handle());
    let peer = a.handle().peer_id();
    // Each missing block alone, and all together.
    let mut cases: Vec<BTreeSet<Cid>> = holes.iter().map(|cid| BTreeSet::from([*cid])).collect();
    cases.push(holes);
    for holes in cases {
        let broken = without(&*store, &holes);
        let snapshots = SnapshotStore::new(broken.clone());
        let puller = |_: &net::PeerId| {
            Puller::new(broken.clone(), pool.clone(), vec![peer], Arc::new(PullProgress::default()))
        };
        // A missing header hides the missing blocks below it: repair and verify again, until
        // nothing more is fetched.
        let mut last = check(&snapshots);
        let mut repaired = 0;
        loop {
            let report = repair(&snapshots, &last, puller).await.unwrap();
            assert!(report.failed.is_empty(), "{report:?}");
            repaired += report.repaired;
            last = check(&snapshots);
            if report.repaired == 0 || last.is_ok() {
                break;
            }
        }
        if holes.contains(&song) {
            let left: Vec<_> = last.problems.iter().map(|problem| problem.cid).collect();
            assert_eq!(left, [song]);
        } else {
            assert!(last.is_ok(), "{last:?}");
            assert_eq!(repaired, 1);
        }
    }
    // Without peers, the report has the error.
    let broken = without(&*store, &BTreeSet::from([song]));
    let snapshots = SnapshotStore::new(broken.clone());
    let report = check(&snapshots);
    let nobody = |_: &net::PeerId| {
        Puller::new(broken.clone(), pool.clone(), Vec::new(), Arc::new(PullProgress::default()))
    };
    let report = repair(&snapshots, &report, nobody).await.unwrap();
    assert_eq!(
        (report.repaired, report.missing.as_slice(), report.failed.len()),
        (0, &[song][..], 1)
    );
}
