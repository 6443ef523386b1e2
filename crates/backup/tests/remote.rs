//! A looks at its snapshots on B, and fetches their blocks, on loopback.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod common;

use std::sync::Arc;

use backup::{
    RemoteBlocks, RemoteBlocksError, RemoteError, SNAPSHOTS_PROTOCOL, Selector, SessionPool,
    SnapshotRecord, SnapshotStore, find_remote, list_remote, serve_snapshots,
};
use common::{connect, node_as, node_with};
use net::{Access, Keypair, Purposes};
use store::{BlockStore, MemStore};
use tokio_util::sync::CancellationToken;
use types::{Block, Cid, Codec, EncodedBlock, SequenceNumber};

#[tokio::test]
async fn a_source_sees_and_fetches_its_own() {
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let snapshots = SnapshotStore::new(store.clone());
    let key = Keypair::generate_secp256k1();
    let peer = key.public().to_peer_id();
    let (folder, sequence) = ("docs".parse().unwrap(), SequenceNumber(7));
    let manifest = Cid::of(Codec::DagCbor, b"manifest");
    let record = SnapshotRecord {
        source: peer,
        signature: manifest::sign(&key, &folder, sequence, &manifest).unwrap(),
        folder,
        folder_name: "Documents".into(),
        sequence,
        manifest,
        order: snapshots.next_order(),
        received_at: "2026-11-22T10:30:05Z".parse().unwrap(),
        created_at: "2026-11-22T10:30:00Z".parse().unwrap(),
        files: 1,
        dirs: 0,
        bytes: 5,
        held: None,
    };
    let snapshot = snapshots.commit(record, store.epoch()).unwrap();
    let access = Access::new();
    access.set(peer, Purposes::RESTORE | Purposes::BLOCKS);
    let b = node_with(store, access.clone()).await;
    let a = node_as(key, Arc::new(MemStore::new()), Access::new()).await;
    let inbound = b.accept(&SNAPSHOTS_PROTOCOL).unwrap();
    let list = access.clone();
    let allowed = move |peer: &net::PeerId| list.allows(peer, Purposes::RESTORE);
    tokio::spawn(serve_snapshots(inbound, allowed, snapshots));
    connect(&a, &b).await;
    let (handle, at) = (a.handle(), b.handle().peer_id());
    let listing = list_remote(&handle, at, None).await.unwrap();
    assert_eq!(listing.snapshots.len(), 1);
    assert_eq!(listing.snapshots[0].id, snapshot.id.to_string());
    let selector = Selector { sequence: Some(sequence), ..Selector::default() };
    let found = find_remote(&handle, at, &selector).await.unwrap();
    assert_eq!(found, listing.snapshots[0]);
    let selector = Selector { sequence: Some(SequenceNumber(8)), ..Selector::default() };
    assert!(matches!(find_remote(&handle, at, &selector).await, Err(RemoteError::None)));
    access.remove(peer);
    assert!(matches!(list_remote(&handle, at, None).await, Err(RemoteError::NotAllowed)));
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_come_in_order_from_several_threads_and_what_is_missing_is_told() {
    let store = Arc::new(MemStore::new());
    let blocks: Vec<EncodedBlock> = (0..60_u8)
        .map(|n| {
            let block = Block::new(Codec::Raw, noise(n, 1000 * usize::from(n))).unwrap();
            if n % 2 == 0 { EncodedBlock::plain(block) } else { EncodedBlock::compress(block, 3) }
        })
        .collect();
    store.put(&blocks).unwrap();
    let key = Keypair::generate_secp256k1();
    let access = Access::new();
    access.set(key.public().to_peer_id(), Purposes::BLOCKS);
    let b = node_with(store, access.clone()).await;
    let a = node_as(key, Arc::new(MemStore::new()), Access::new()).await;
    connect(&a, &b).await;
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Handle::current();
    let pool = SessionPool::new(a.handle());
    let remote = RemoteBlocks::new(pool, b.handle().peer_id(), runtime, stop.clone());
    let missing = Cid::of(Codec::Raw, b"nobody has it");
    let asking: Vec<_> = (0..8)
        .map(|thread: usize| {
            let (remote, blocks) = (remote.clone(), blocks.clone());
            tokio::task::spawn_blocking(move || {
                for round in 0..5 {
                    let mut wanted: Vec<Cid> =
                        blocks.iter().skip(thread + round).map(EncodedBlock::cid).collect();
                    wanted.insert(3, missing);
                    wanted.push(wanted[0]);
                    let got = remote.get(&wanted).unwrap();
                    assert_eq!(got.len(), wanted.len());
                    for (cid, bytes) in wanted.iter().zip(got) {
                        match bytes {
                            Some(bytes) => assert_eq!(Cid::of(Codec::Raw, &bytes), *cid),
                            None => assert_eq!(*cid, missing),
                        }
                    }
                }
            })
        })
        .collect();
    for task in asking {
        task.await.unwrap();
    }
    let one = blocks[9].cid();
    let of = |remote: &RemoteBlocks| {
        let remote = remote.clone();
        tokio::task::spawn_blocking(move || remote.get(&[one]))
    };
    assert!(remote.get(&[]).unwrap().is_empty());
    // It is not allowed any more.
    access.replace([]);
    assert!(matches!(of(&remote).await.unwrap(), Err(RemoteBlocksError::Peer(_))));
    stop.cancel();
    assert!(matches!(of(&remote).await.unwrap(), Err(RemoteBlocksError::Stopped)));
}
