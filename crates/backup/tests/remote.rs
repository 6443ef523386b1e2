//! A source lists its snapshots on a backup server and fetches their blocks, on loopback.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::sync::Arc;

use backup::list_offered;
use net::{Access, BlockAnswer, BlockProvider, Keypair, PeerId, Purposes};
use parking_lot::Mutex;
use protocols::{
    RemoteBlocks, RemoteBlocksError, RemoteError, SNAPSHOTS_PROTOCOL, SessionPool, list_remote,
    serve_snapshots,
};
use snapshots::{Signs, SnapshotRecord, SnapshotStore, SnapshotTree};
use store::{BlockStore, BlockWrite as _, MemStore};
use testkit::{
    Maker, PATIENCE, Provider, connect, node_as, node_providing, node_with, noise, until,
};
use tokio_util::sync::CancellationToken;
use types::{Block, Cid, Codec, EncodedBlock, EntryKind, FileNode, SequenceNumber};

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
        signs: Signs::default(),
    };
    let snapshot = snapshots.commit(record, store.write_epoch()).unwrap();
    let access = Access::new();
    access.set(peer, Purposes::RESTORE | Purposes::BLOCKS);
    let b = node_with(store, access.clone()).await;
    let a = node_as(key, Arc::new(MemStore::new()), Access::new()).await;
    let inbound = b.accept(&SNAPSHOTS_PROTOCOL).unwrap();
    let list = access.clone();
    let allowed = move |peer: &net::PeerId| list.allows(peer, Purposes::RESTORE);
    tokio::spawn(serve_snapshots(inbound, allowed, list_offered(snapshots)));
    connect(&a, &b).await;
    let (handle, at) = (a.handle(), b.handle().peer_id());
    let listing = list_remote(&handle, at, None).await.unwrap();
    assert_eq!(listing.snapshots.len(), 1);
    assert_eq!(listing.snapshots[0].id, snapshot.id.to_string());
    access.remove(peer);
    assert!(matches!(list_remote(&handle, at, None).await, Err(RemoteError::NotAllowed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_come_in_order_from_several_threads_and_what_is_missing_is_told() {
    let store = Arc::new(MemStore::new());
    let blocks: Vec<EncodedBlock> = (0..60_usize)
        .map(|n| {
            let block = Block::new(Codec::Raw, noise(n, 1000 * n)).unwrap();
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
    assert!(remote.read(&[]).await.unwrap().is_empty());
    // The peer is no longer allowed; its open stream ends soon.
    access.replace([]);
    let deadline = std::time::Instant::now() + PATIENCE;
    let ended = loop {
        if let Err(error) = of(&remote).await.unwrap() {
            break error;
        }
        assert!(std::time::Instant::now() < deadline, "the blocks never fail");
    };
    assert!(matches!(ended, RemoteBlocksError::Peer(_)), "{ended}");
    stop.cancel();
    assert!(matches!(of(&remote).await.unwrap(), Err(RemoteBlocksError::Stopped)));
}

/// Serves a store and records the requested blocks.
#[derive(Clone)]
struct Noting {
    store: Arc<dyn BlockStore>,
    asked: Arc<Mutex<Vec<Cid>>>,
}

impl BlockProvider for Noting {
    fn read(&self, peer: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let answers = Provider(self.store.clone()).read(peer, wanted, budget);
        self.asked.lock().extend(&wanted[..answers.len()]);
        answers
    }
}

/// Reads a file like a restore: nodes one by one, chunks in groups.
fn read_file(remote: &RemoteBlocks, cid: Cid, into: &mut Vec<u8>) {
    let bytes = remote.get(&[cid]).unwrap().remove(0).unwrap();
    if cid.codec() == Codec::Raw {
        into.extend_from_slice(&bytes);
        return;
    }
    let node = FileNode::decode(&bytes).unwrap();
    let children: Vec<Cid> = node.children().iter().map(|child| child.cid).collect();
    for group in children.chunk_by(|a, b| a.codec() == Codec::Raw && b.codec() == Codec::Raw) {
        if group[0].codec() == Codec::Raw {
            for piece in group.chunks(32) {
                for chunk in remote.get(piece).unwrap() {
                    into.extend_from_slice(&chunk.unwrap());
                }
            }
        } else {
            group.iter().for_each(|child| read_file(remote, *child, into));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_next_is_fetched_ahead_and_only_once() {
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let maker = Maker::new(store.clone());
    let big = noise(1, 30_000_000);
    let files: Vec<(String, Vec<u8>)> = (0..300)
        .map(|n| (format!("{n:04}"), noise(1000 + n, 1000 + 50 * n)))
        .chain([("big".to_owned(), big.clone()), ("copy".to_owned(), big.clone())])
        .collect();
    let files: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    let snapshot = maker.snapshot("docs", 1, 1000, &files, None);
    let access = Access::new();
    let key = Keypair::generate_secp256k1();
    access.set(key.public().to_peer_id(), Purposes::BLOCKS);
    let asked: Arc<Mutex<Vec<Cid>>> = Arc::default();
    let noting = Noting { store: store.clone(), asked: asked.clone() };
    let b = node_providing(Keypair::generate_secp256k1(), Arc::new(noting), access).await;
    let a = node_as(key, Arc::new(MemStore::new()), Access::new()).await;
    connect(&a, &b).await;
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Handle::current();
    let pool = SessionPool::new(a.handle());
    let remote = RemoteBlocks::new(pool, b.handle().peer_id(), runtime, stop);

    // After the root of a file, its chunks are prefetched up to a window.
    let tree = SnapshotTree::open(store.clone(), snapshot.record.manifest).unwrap();
    let entry = tree.lookup(&types::RelPath::new("big").unwrap()).unwrap().unwrap();
    let EntryKind::File { cid: root, .. } = entry.kind else { panic!("no file") };
    let ask = remote.clone();
    tokio::task::spawn_blocking(move || ask.get(&[root]).unwrap()).await.unwrap();
    until(|| (asked.lock().len() > 3).then_some(())).await;
    let root_node = FileNode::decode(&store.get(&root).unwrap().unwrap()).unwrap();
    assert!(asked.lock().len() < root_node.children().len());

    // The complete file, read like a restore from several threads.
    let reading = remote.clone();
    let manifest = snapshot.record.manifest;
    let wanted: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    tokio::task::spawn_blocking(move || {
        let one = |cid: Cid| reading.get(&[cid]).unwrap().remove(0).unwrap();
        let dataset = types::Dataset::decode(&one(manifest)).unwrap();
        let header = types::ManifestHeader::decode(&one(dataset.tree)).unwrap();
        let mut cids = Vec::new();
        for segment in &header.segments {
            types::decode_segment(&one(segment.cid), |entry| {
                if let EntryKind::File { cid, .. } = entry.kind {
                    cids.push(cid);
                }
                std::ops::ControlFlow::<()>::Continue(())
            })
            .unwrap();
        }
        assert_eq!(cids.len(), wanted.len());
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(cid) = cids.get(at) else { return };
                        let mut got = Vec::new();
                        read_file(&reading, *cid, &mut got);
                        assert!(got == wanted[at], "file {at}");
                    }
                });
            }
        });
    })
    .await
    .unwrap();
    // No chunk of the big file is requested more often than it is read, and the small files once.
    let mut counts = std::collections::HashMap::new();
    for cid in asked.lock().iter() {
        *counts.entry(*cid).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| *count <= 4), "{:?}", counts.values().max());
    let total: usize = counts.values().sum();
    let chunks = root_node.children().len();
    assert!(total <= 300 + 3 * chunks + 100, "{total} of {chunks}");
}
