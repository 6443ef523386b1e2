//! Repair fetches the blocks that a verification found missing.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::collections::BTreeSet;
use std::sync::Arc;

use net::{Access, BlockAnswer, BlockProvider, Purposes};
use protocols::SessionPool;
use pull::{PullProgress, Puller, heal, repair};
use snapshots::{SnapshotStore, VerifyProgress, VerifyReport, verify};
use store::{
    BlockRead as _, BlockWrite as _, FileWriter, MemStore, Root, Roots as _, StoreAdmin as _,
};
use testkit::{all_blocks, connect, filled, node, node_providing, node_with, without};
use tokio_util::sync::CancellationToken;
use types::{Block, Cid, Codec, Dataset, EncodedBlock, FileNode};

fn check(snapshots: &SnapshotStore) -> VerifyReport {
    verify(snapshots, true, &VerifyProgress::default(), &CancellationToken::new()).unwrap()
}

#[tokio::test]
async fn what_a_peer_has_is_brought_back() {
    let store = Arc::new(MemStore::new());
    let (_, all) = filled(store.clone());
    let holes: BTreeSet<Cid> = all.iter().flat_map(|one| all_blocks(&*store, one)).collect();
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
        let puller = |_: Option<&net::PeerId>| {
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
    let nobody = |_: Option<&net::PeerId>| {
        Puller::new(broken.clone(), pool.clone(), Vec::new(), Arc::new(PullProgress::default()))
    };
    let report = repair(&snapshots, &report, nobody).await.unwrap();
    assert_eq!(
        (report.repaired, report.missing.as_slice(), report.failed.len()),
        (0, &[song][..], 1)
    );
}

#[tokio::test]
async fn data_items_are_brought_back_as_well() {
    let store = Arc::new(MemStore::new());
    let content = testkit::noise(7, 3_000_000);
    let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
    writer.write(&content).unwrap();
    let file = writer.finish().unwrap();
    let dataset = Dataset { tree: file.cid, size: file.size, filename: None, mimetype: None };
    let dataset = EncodedBlock::plain(dataset.encode(&types::BlockScheme::plain()).unwrap());
    store.put(std::slice::from_ref(&dataset)).unwrap();
    let root = Root { cid: dataset.cid(), partial: false };
    store.set_root("data/item", root, store.write_epoch()).unwrap();
    let file_node = FileNode::decode(&store.get(&file.cid).unwrap().unwrap()).unwrap();
    let chunk = file_node.children()[1].cid;

    let b = node().await;
    let access = Access::new();
    access.set(b.handle().peer_id(), Purposes::BLOCKS);
    let a = node_with(store.clone(), access).await;
    connect(&b, &a).await;
    let (pool, peer) = (SessionPool::new(b.handle()), a.handle().peer_id());
    for holes in [vec![dataset.cid()], vec![file.cid], vec![chunk], vec![file.cid, chunk]] {
        let broken = without(&*store, &holes.iter().copied().collect());
        let snapshots = SnapshotStore::new(broken.clone());
        let puller = |_: Option<&net::PeerId>| {
            Puller::new(broken.clone(), pool.clone(), vec![peer], Arc::new(PullProgress::default()))
        };
        let report = repair(&snapshots, &check(&snapshots), puller).await.unwrap();
        assert_eq!((report.repaired, report.failed.len()), (1, 0), "{report:?}");
        assert!(check(&snapshots).is_ok(), "{holes:?}");
    }
}

/// Answers every request with the bytes of another block, or of none.
struct Liar(EncodedBlock);

impl BlockProvider for Liar {
    fn read(&self, _: &net::PeerId, wanted: &[Cid], _: usize) -> Vec<BlockAnswer> {
        wanted.iter().map(|_| BlockAnswer::Block(self.0.clone())).collect()
    }
}

#[tokio::test]
async fn single_blocks_are_healed_and_wrong_bytes_are_refused() {
    let store = Arc::new(MemStore::new());
    let (_, all) = filled(store.clone());
    let blocks: BTreeSet<Cid> = all.iter().flat_map(|one| all_blocks(&*store, one)).collect();
    let b = node().await;
    let access = || {
        let access = Access::new();
        access.set(b.handle().peer_id(), Purposes::BLOCKS);
        access
    };
    let wrong = EncodedBlock::plain(Block::new(Codec::Raw, testkit::noise(99, 500)).unwrap());
    let key = net::Keypair::generate_secp256k1();
    let liar = node_providing(key, Arc::new(Liar(wrong.clone())), access()).await;
    let good = node_with(store.clone(), access()).await;
    connect(&b, &liar).await;
    connect(&b, &good).await;
    let peer = |node: &net::Net| node.handle().peer_id();
    let nobody = net::Keypair::generate_secp256k1().public().to_peer_id();
    let (pool, stop) = (SessionPool::new(b.handle()), CancellationToken::new());
    for hole in blocks {
        let broken = without(&*store, &BTreeSet::from([hole]));
        let before = broken.usage().unwrap().blocks;
        // The liar is refused, and nothing of it is stored.
        let peers = [nobody, peer(&liar)];
        let report = heal(broken.clone(), &pool, &peers, vec![hole], &stop).await.unwrap();
        assert_eq!((report.healed.len(), report.missing.as_slice()), (0, &[hole][..]));
        assert_eq!((report.failed.len(), report.answered.len()), (2, 0), "{report:?}");
        assert_eq!(broken.usage().unwrap().blocks, before);
        let peers = [peer(&liar), peer(&good)];
        let report = heal(broken.clone(), &pool, &peers, vec![hole], &stop).await.unwrap();
        assert_eq!(report.healed, [(hole, Some(peer(&good)))]);
        assert_eq!((report.missing.len(), report.below.len()), (0, 0));
        assert_eq!(broken.get(&hole).unwrap(), store.get(&hole).unwrap());
        // A second attempt finds it.
        let report = heal(broken, &pool, &[], vec![hole], &stop).await.unwrap();
        assert_eq!(report.healed, [(hole, None)]);
    }
    // A node whose children are missing, too: they are reported, one level deep.
    let holes = all_blocks(&*store, &all[2]);
    let broken = without(&*store, &holes);
    let (mut open, mut rounds) = (vec![all[2].cid], 0);
    while !open.is_empty() {
        let report = heal(broken.clone(), &pool, &[peer(&good)], open, &stop).await.unwrap();
        open = report.below;
        rounds += 1;
    }
    assert!(rounds > 3, "{rounds}");
    assert_eq!(all_blocks(&*broken, &all[2]), holes);
}
