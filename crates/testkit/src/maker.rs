//! Writes snapshots directly into a store, and copies stores without some blocks.

use std::collections::BTreeSet;
use std::sync::Arc;

use net::Keypair;
use snapshots::{Signs, Snapshot, SnapshotRecord, SnapshotStore};
use store::{Batch, BlockStore, BlockWrite as _, FileWriter, MemStore, Roots as _};
use types::{
    Block, BlockScheme, Cid, Dataset, EncodedBlock, Entry, EntryKind, FolderId, Hash,
    MANIFEST_MIME, ManifestHeader, ManifestStats, Metadata, RelPath, Segment, SegmentRef,
    SegmentWriter, SequenceNumber,
};

use crate::nodes::noise;

/// Creates snapshots in a store, in the form in which a pull commits them.
pub struct Maker {
    pub snapshots: SnapshotStore,
    pub key: Keypair,
}

impl Maker {
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        Self { snapshots: SnapshotStore::new(store), key: Keypair::generate_secp256k1() }
    }

    /// Creates a snapshot of a folder with these files, received at this second.
    pub fn snapshot(
        &self,
        folder: &str,
        sequence: u64,
        second: i64,
        files: &[(&str, Vec<u8>)],
        held: Option<&str>,
    ) -> Snapshot {
        let batch = self.snapshots.batch();
        let (segments, _pins) = put_files(self.snapshots.store(), &batch, files);
        let (folder, sequence): (FolderId, _) = (folder.parse().unwrap(), SequenceNumber(sequence));
        let source = self.key.public().to_peer_id();
        let manifest = put_manifest(
            &batch,
            &ManifestHeader {
                folder_id: folder.clone(),
                folder_name: folder.to_string(),
                folder_path: "/x".into(),
                source_peer_id: source.to_string(),
                sequence_number: sequence,
                previous: None,
                created_at: jiff::Timestamp::UNIX_EPOCH,
                root: Entry {
                    path: RelPath::root(),
                    kind: EntryKind::Dir,
                    metadata: Metadata::default(),
                    error: None,
                },
                stats: ManifestStats {
                    total_files: files.len() as u64,
                    ..ManifestStats::default()
                },
                held: held.map(str::to_owned),
                segments,
            },
        );
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
            signs: Signs::default(),
        };
        self.snapshots.commit(record, batch.epoch()).unwrap()
    }
}

fn put(batch: &Batch, block: Block) -> Cid {
    let cid = block.cid();
    batch.put(&[EncodedBlock::plain(block)]).unwrap();
    cid
}

/// Stores files and the segments of their entries. The files stay pinned by the returned batches.
fn put_files(
    store: &Arc<dyn BlockStore>,
    batch: &Batch,
    files: &[(&str, Vec<u8>)],
) -> (Vec<SegmentRef>, Vec<Batch>) {
    let mut pins = Vec::new();
    let mut writer = SegmentWriter::new(BlockScheme::plain());
    let mut segments = Vec::new();
    let mut add = |segment: Segment| {
        segments.push(SegmentRef {
            first_path: segment.first_path,
            entries: segment.entries,
            bytes: segment.block.data().len() as u64,
            cid: put(batch, segment.block),
        });
    };
    for (path, bytes) in files {
        let mut file = FileWriter::new(store.clone(), BlockScheme::plain());
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
    (segments, pins)
}

/// Stores a header and its dataset, and returns the CID of the manifest.
fn put_manifest(batch: &Batch, header: &ManifestHeader) -> Cid {
    let header = header.encode(&BlockScheme::plain()).unwrap();
    let size = header.data().len() as u64;
    let mimetype = Some(MANIFEST_MIME.to_owned());
    let dataset = Dataset { tree: put(batch, header), size, filename: None, mimetype };
    put(batch, dataset.encode(&BlockScheme::plain()).unwrap())
}

/// Returns all blocks that a snapshot needs, including its record.
pub fn all_blocks(store: &dyn BlockStore, snapshot: &Snapshot) -> BTreeSet<Cid> {
    let (mut all, mut stack) = (BTreeSet::new(), vec![snapshot.cid]);
    while let Some(cid) = stack.pop() {
        if all.insert(cid) {
            let bytes = store.get(&cid).unwrap().unwrap();
            stack.extend(types::links(cid.codec(), &bytes).unwrap());
        }
    }
    all
}

/// Returns a copy of a store without some of its blocks.
pub fn without(store: &dyn BlockStore, holes: &BTreeSet<Cid>) -> Arc<MemStore> {
    let copy = Arc::new(MemStore::new());
    let mut all = BTreeSet::new();
    for (name, root) in store.roots("") {
        copy.set_root(&name, root, copy.write_epoch()).unwrap();
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

/// Fills a store with two snapshots of a folder that differ in one file, and one of another
/// folder.
pub fn filled(store: Arc<dyn BlockStore>) -> (Maker, [Snapshot; 3]) {
    let maker = Maker::new(store);
    let big = noise(1, 3_000_000);
    let shared = [("a.txt", noise(2, 100)), ("big", big.clone()), ("copy of big", big)];
    let first = maker.snapshot("docs", 1, 1000, &shared, None);
    let mut changed = shared.to_vec();
    changed[0].1 = noise(3, 200);
    let second = maker.snapshot("docs", 2, 2000, &changed, None);
    let music = maker.snapshot("music", 5, 3000, &[("song", noise(4, 5000))], None);
    (maker, [first, second, music])
}
