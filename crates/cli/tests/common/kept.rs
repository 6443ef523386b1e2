//! Writes snapshots directly into the store of a home, without a network.

use std::path::Path;
use std::sync::Arc;

use net::Keypair;
use protocols::{Confirmation, Receipt};
use snapshots::{Signs, SnapshotRecord, SnapshotStore};
use store::{BlockStore, FileWriter, PackStore, StoreError, StoreOptions};
use types::{
    Cid, Dataset, EncodedBlock, Entry, EntryKind, Hash, ManifestHeader, ManifestStats, Metadata,
    RelPath, SegmentRef, SegmentWriter, SequenceNumber,
};

pub const PEER: &str = "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY";

/// Returns the key of [`PEER`]: its secret bytes are all 7.
fn key() -> Keypair {
    let encoded = [&[0x08, 0x02, 0x12, 0x20][..], &[7; 32]].concat();
    let key = Keypair::from_protobuf_encoding(&encoded).unwrap();
    assert_eq!(key.public().to_peer_id().to_string(), PEER);
    key
}

/// The entry at a path.
pub enum Thing {
    File(Vec<u8>),
    Dir,
    Link(&'static str),
}

/// Opens the store of a home. No other process can open it meanwhile.
pub fn open(home: &Path) -> Arc<dyn BlockStore> {
    let options = StoreOptions { disk_reserve: 0, background: false, ..StoreOptions::default() };
    let mut opened = None;
    // A program that another test starts at this moment shares the lock between its fork and its
    // exec.
    super::eventually("the store is free", || {
        match PackStore::open(&home.join("data/store"), &options) {
            Err(StoreError::Locked(_)) => false,
            result => {
                opened = Some(result.unwrap().0);
                true
            }
        }
    });
    Arc::new(opened.unwrap())
}

/// Commits a snapshot of a folder with these entries, sorted by path, received at this time.
pub fn commit(
    home: &Path,
    folder: &str,
    sequence: u64,
    received_at: &str,
    things: &[(&[u8], Thing)],
) -> snapshots::Snapshot {
    commit_held(home, folder, sequence, received_at, things, None)
}

/// Same as [`commit`]; the source may have a reason to doubt the snapshot.
pub fn commit_held(
    home: &Path,
    folder: &str,
    sequence: u64,
    received_at: &str,
    things: &[(&[u8], Thing)],
    held: Option<&str>,
) -> snapshots::Snapshot {
    let store = open(home);
    let epoch = store.write_epoch();
    let entries: Vec<Entry> =
        things.iter().map(|(path, thing)| entry(&store, path, thing)).collect();
    let (cid, header) = put_manifest(&store, folder, sequence, &entries);
    let snapshots = SnapshotStore::new(store);
    let record = SnapshotRecord {
        source: PEER.parse().unwrap(),
        folder: folder.parse().unwrap(),
        folder_name: header.folder_name,
        sequence: SequenceNumber(sequence),
        manifest: cid,
        signature: manifest::sign(&key(), &header.folder_id, header.sequence_number, &cid).unwrap(),
        order: snapshots.next_order(),
        received_at: received_at.parse().unwrap(),
        created_at: received_at.parse().unwrap(),
        files: header.stats.total_files,
        dirs: header.stats.total_dirs,
        bytes: header.stats.total_size_bytes,
        held: held.map(str::to_owned),
        signs: Signs::default(),
    };
    snapshots.commit(record, epoch).unwrap()
}

/// Stores a receipt for a snapshot that `commit` has made, as the source has accepted it.
pub fn confirm(home: &Path, snapshot: &snapshots::Snapshot) {
    let own = net::identity::load_or_create(&home.join("data/identity.key")).unwrap();
    let record = &snapshot.record;
    let receipt = Receipt {
        number: 1,
        previous: None,
        backup_server: own.public().to_peer_id(),
        source: record.source,
        confirmation: Confirmation {
            folder_id: record.folder.clone(),
            sequence: record.sequence,
            manifest_cid: record.manifest,
            manifest_signature: record.signature.clone(),
            received_at: record.received_at,
        },
    };
    let accepted = receipt.sign(&own).unwrap().encode();
    let chain = serde_json::json!({ "version": 1, "accepted": accepted, "pending": null });
    let dir = home.join("data/issued-receipts");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{}.{}.json", record.source, record.folder));
    std::fs::write(path, chain.to_string()).unwrap();
}

fn entry(store: &Arc<dyn BlockStore>, path: &[u8], thing: &Thing) -> Entry {
    let (kind, mode) = match thing {
        Thing::Dir => (EntryKind::Dir, 0o755),
        Thing::Link(target) => (EntryKind::Symlink { target: target.as_bytes().to_vec() }, 0o777),
        Thing::File(bytes) => {
            let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
            writer.write(bytes).unwrap();
            let written = writer.finish().unwrap();
            let blake3 = Hash::of(bytes);
            let kind =
                EntryKind::File { cid: written.cid, size: written.size, blake3, is_sparse: false };
            (kind, 0o640)
        }
    };
    let metadata = Metadata { mode, mtime_ns: 1_700_000_000_123_456_789, ..Metadata::default() };
    Entry { path: RelPath::new(path).unwrap(), kind, metadata, error: None }
}

fn put_manifest(
    store: &Arc<dyn BlockStore>,
    folder: &str,
    sequence: u64,
    entries: &[Entry],
) -> (Cid, ManifestHeader) {
    let mut writer = SegmentWriter::new(types::BlockScheme::plain());
    let ended: Vec<_> = entries.iter().filter_map(|entry| writer.push(entry)).collect();
    let mut segments = Vec::new();
    for segment in ended.into_iter().chain(writer.finish()) {
        segments.push(SegmentRef {
            first_path: segment.first_path,
            cid: segment.block.cid(),
            entries: segment.entries,
            bytes: segment.block.data().len() as u64,
        });
        store.put(&[EncodedBlock::compress(segment.block, 1)]).unwrap();
    }
    let dirs = entries.iter().filter(|entry| entry.kind == EntryKind::Dir).count() as u64;
    let sizes = entries.iter().map(|entry| match entry.kind {
        EntryKind::File { size, .. } => size,
        _ => 0,
    });
    let root = Metadata { mode: 0o700, mtime_ns: 5, ..Metadata::default() };
    let header = ManifestHeader {
        folder_id: folder.parse().unwrap(),
        folder_name: format!("The {folder}"),
        folder_path: format!("/home/me/{folder}"),
        source_peer_id: PEER.into(),
        sequence_number: SequenceNumber(sequence),
        previous: None,
        created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
        root: Entry { path: RelPath::root(), kind: EntryKind::Dir, metadata: root, error: None },
        stats: ManifestStats {
            total_files: entries.len() as u64 - dirs,
            total_dirs: dirs,
            total_size_bytes: sizes.sum(),
            deleted_files: 0,
        },
        held: None,
        segments,
    };
    let block = header.encode(&types::BlockScheme::plain()).unwrap();
    let dataset = Dataset {
        tree: block.cid(),
        size: block.data().len() as u64,
        filename: None,
        mimetype: Some(types::MANIFEST_MIME.into()),
    };
    let node = dataset.encode(&types::BlockScheme::plain()).unwrap();
    let cid = node.cid();
    store.put(&[EncodedBlock::plain(block), EncodedBlock::plain(node)]).unwrap();
    (cid, header)
}
