//! Stores a directory tree as a snapshot, without a watcher and a network.

#![allow(dead_code, unreachable_pub, reason = "not every test uses all of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use fstree::{FoundKind, Owners, SourceTree, TreeReader as _, WalkItem, WalkOptions};
use restore::Blocks;
use store::{BlockRead, BlockStore, FileWriter};
use types::{
    Cid, Dataset, EncodedBlock, Entry, EntryKind, Hash, ManifestHeader, ManifestStats, Metadata,
    RelPath, SegmentRef, SegmentWriter, SequenceNumber,
};

/// Stores a tree and returns its manifest.
pub fn capture(store: &Arc<dyn BlockStore>, dir: &Path) -> Cid {
    let root = SourceTree::open(dir).unwrap();
    let owners = Owners::system();
    let mut entries = Vec::new();
    let walk = root.walk(&RelPath::root(), WalkOptions::default(), |_, _| fstree::Visit::Descend);
    for item in walk.unwrap() {
        let WalkItem::Entry(found) = item else { panic!("{item:?}") };
        let xattrs = root.xattrs(&found).unwrap().xattrs;
        let metadata = found.metadata(&owners, xattrs);
        let kind = match found.kind {
            FoundKind::File { is_sparse, .. } => file(store, &root, &found.path, is_sparse),
            _ => found.entry_kind().unwrap(),
        };
        entries.push(Entry { path: found.path, kind, metadata, error: None });
    }
    let found = root.examine(&RelPath::root()).unwrap().unwrap();
    let xattrs = root.xattrs(&found).unwrap().xattrs;
    manifest(store, found.metadata(&owners, xattrs), &entries)
}

fn file(
    store: &Arc<dyn BlockStore>,
    root: &SourceTree,
    path: &RelPath,
    is_sparse: bool,
) -> EntryKind {
    let mut open = root.open_file(path).unwrap();
    let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = open.file.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        writer.write(&buffer[..read]).unwrap();
    }
    let written = writer.finish().unwrap();
    let blake3 = Hash::from_bytes(*hasher.finalize().as_bytes());
    EntryKind::File { cid: written.cid, size: written.size, blake3, is_sparse }
}

/// Stores a manifest of these entries.
pub fn manifest(store: &Arc<dyn BlockStore>, root: Metadata, entries: &[Entry]) -> Cid {
    let mut writer = SegmentWriter::new(types::BlockScheme::plain());
    let mut segments = Vec::new();
    let ended: Vec<_> = entries.iter().filter_map(|entry| writer.push(entry)).collect();
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
    let header = ManifestHeader {
        folder_id: "test".parse().unwrap(),
        folder_name: "Test".into(),
        folder_path: "/test".into(),
        source_peer_id: "16Uiu2HAm".into(),
        sequence_number: SequenceNumber::FIRST,
        previous: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
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
    let size = block.data().len() as u64;
    let dataset = Dataset { tree: block.cid(), size, filename: None, mimetype: None };
    let node = dataset.encode(&types::BlockScheme::plain()).unwrap();
    let cid = node.cid();
    store.put(&[EncodedBlock::plain(block), EncodedBlock::plain(node)]).unwrap();
    cid
}

/// Returns the supplier for the blocks of a store.
pub fn blocks(store: &Arc<dyn BlockStore>) -> Arc<dyn Blocks> {
    let store: Arc<dyn BlockRead> = store.clone();
    Arc::new(store)
}
