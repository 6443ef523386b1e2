//! What the integration tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backup::{
    PATCH_PROTOCOL, RECEIPT_PROTOCOL, SNAPSHOTS_PROTOCOL, Snapshot, SnapshotRecord, SnapshotStore,
};
use net::{Access, BlockAnswer, BlockProvider, Keypair, Net, NetConfig, PeerId};
use store::{BlockStore, FileWriter, MemStore};
use types::{
    Block, Cid, Dataset, EncodedBlock, Entry, EntryKind, FolderId, Hash, ManifestHeader,
    ManifestStats, Metadata, RelPath, Segment, SegmentRef, SegmentWriter, SequenceNumber,
};

/// Long enough for a busy machine; only a failure takes it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Serves a store.
pub(crate) struct Provider(pub(crate) Arc<dyn BlockStore>);

impl BlockProvider for Provider {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let (mut answers, mut len) = (Vec::new(), 0);
        for cid in wanted {
            let answer = match self.0.get_encoded(cid) {
                Ok(Some(block)) => {
                    len += block.payload().len();
                    BlockAnswer::Block(block)
                }
                _ => BlockAnswer::Missing,
            };
            if len > budget && !answers.is_empty() {
                break;
            }
            answers.push(answer);
        }
        answers
    }
}

/// A node on loopback with a free port, which serves a store.
pub(crate) async fn node_with(store: Arc<dyn BlockStore>, access: Access) -> Net {
    node_as(Keypair::generate_secp256k1(), store, access).await
}

/// The same, with this key.
pub(crate) async fn node_as(key: Keypair, store: Arc<dyn BlockStore>, access: Access) -> Net {
    node_providing(key, Arc::new(Provider(store)), access).await
}

/// The same, with blocks from anywhere.
pub(crate) async fn node_providing(
    key: Keypair,
    provider: Arc<dyn BlockProvider>,
    access: Access,
) -> Net {
    let config = NetConfig {
        tcp: vec!["127.0.0.1:0".parse().unwrap()],
        protocols: vec![RECEIPT_PROTOCOL, SNAPSHOTS_PROTOCOL, PATCH_PROTOCOL],
        ..NetConfig::default()
    };
    Net::start(config, key, provider, access).await.unwrap()
}

/// A node on loopback that has no blocks.
pub(crate) async fn node() -> Net {
    node_with(Arc::new(MemStore::new()), Access::new()).await
}

/// Connects two nodes.
pub(crate) async fn connect(from: &Net, to: &Net) {
    let to = to.handle();
    from.handle().connect(to.peer_id(), to.listen_addrs(), PATIENCE).await.unwrap();
}

/// Waits until something is so.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Noise that is the same in every run.
pub(crate) fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Makes snapshots in a store, as a pull leaves them.
pub(crate) struct Maker {
    pub(crate) snapshots: SnapshotStore,
    pub(crate) key: Keypair,
}

impl Maker {
    pub(crate) fn new(store: Arc<dyn BlockStore>) -> Self {
        Self { snapshots: SnapshotStore::new(store), key: Keypair::generate_secp256k1() }
    }

    /// A snapshot of a folder with these files, which came at this second.
    pub(crate) fn snapshot(
        &self,
        folder: &str,
        sequence: u64,
        second: i64,
        files: &[(&str, Vec<u8>)],
        held: Option<&str>,
    ) -> Snapshot {
        let store = self.snapshots.store();
        let batch = self.snapshots.batch();
        let put = |block: Block| {
            let cid = block.cid();
            batch.put(&[EncodedBlock::plain(block)]).unwrap();
            cid
        };
        let mut pins = Vec::new();
        let (mut writer, mut segments) = (SegmentWriter::new(), Vec::new());
        let mut add = |segment: Segment| {
            segments.push(SegmentRef {
                first_path: segment.first_path,
                entries: segment.entries,
                bytes: segment.block.data().len() as u64,
                cid: put(segment.block),
            });
        };
        for (path, bytes) in files {
            let mut file = FileWriter::new(store.clone());
            file.write(bytes).unwrap();
            let file = file.finish().unwrap();
            let blake3 = Hash::of(bytes);
            let kind = EntryKind::File { cid: file.cid, size: file.size, blake3, is_sparse: false };
            pins.push(file.batch);
            let path = RelPath::new(*path).unwrap();
            let entry = Entry { path, kind, metadata: Metadata::default(), error: None };
            if let Some(segment) = writer.push(&entry) {
                add(segment);
            }
        }
        if let Some(segment) = writer.finish() {
            add(segment);
        }
        let root = Entry {
            path: RelPath::root(),
            kind: EntryKind::Dir,
            metadata: Metadata::default(),
            error: None,
        };
        let (folder, sequence): (FolderId, _) = (folder.parse().unwrap(), SequenceNumber(sequence));
        let source = self.key.public().to_peer_id();
        let header = ManifestHeader {
            folder_id: folder.clone(),
            folder_name: folder.to_string(),
            folder_path: "/x".into(),
            source_peer_id: source.to_string(),
            sequence_number: sequence,
            previous: None,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            root,
            stats: ManifestStats { total_files: files.len() as u64, ..ManifestStats::default() },
            held: held.map(str::to_owned),
            segments,
        };
        let header = header.encode().unwrap();
        let size = header.data().len() as u64;
        let dataset = Dataset {
            tree: put(header),
            size,
            filename: None,
            mimetype: Some(backup::MANIFEST_MIME.to_owned()),
        };
        let manifest = put(dataset.encode().unwrap());
        let record = SnapshotRecord {
            source,
            signature: manifest::sign(&self.key, &folder, sequence, &manifest).unwrap(),
            folder_name: folder.to_string(),
            folder,
            sequence,
            manifest,
            order: self.snapshots.next_order(),
            received_at: jiff::Timestamp::from_second(second).unwrap(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            files: files.len() as u64,
            dirs: 0,
            bytes: files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
            held: held.map(str::to_owned),
        };
        self.snapshots.commit(record, batch.epoch()).unwrap()
    }
}

/// Everything that a snapshot needs, its record included.
pub(crate) fn all_blocks(store: &dyn BlockStore, snapshot: &Snapshot) -> BTreeSet<Cid> {
    let (mut all, mut stack) = (BTreeSet::new(), vec![snapshot.cid]);
    while let Some(cid) = stack.pop() {
        if all.insert(cid) {
            let bytes = store.get(&cid).unwrap().unwrap();
            stack.extend(types::links(cid.codec(), &bytes).unwrap());
        }
    }
    all
}

/// The same store without some of its blocks.
pub(crate) fn without(store: &dyn BlockStore, holes: &BTreeSet<Cid>) -> Arc<MemStore> {
    let copy = Arc::new(MemStore::new());
    let mut all = BTreeSet::new();
    for (name, root) in store.roots("") {
        copy.set_root(&name, root, copy.epoch()).unwrap();
        let mut stack = vec![root.cid];
        while let Some(cid) = stack.pop() {
            if all.insert(cid) {
                let block = store.get_encoded(&cid).unwrap().unwrap();
                stack.extend(types::links(cid.codec(), &block.decode().unwrap()).unwrap());
                if !holes.contains(&cid) {
                    copy.put(&[block]).unwrap();
                }
            }
        }
    }
    copy
}
