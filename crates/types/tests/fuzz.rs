//! Fuzz targets of all parsers of the crate: no bytes make them panic, and a parsed value
//! is written in the form from which it can be parsed again.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;
use std::ops::ControlFlow;

use bytes::Bytes;
use types::{
    Block, BlockScheme, Cid, Codec, Dataset, EncodedBlock, Encoding, Entry, EntryKind, FileNode,
    FileNodeBuilder, Hash, MAX_BLOCK_LEN, ManifestHeader, ManifestStats, Metadata, NodeChild,
    RelPath, SegmentRef, SegmentWriter, SequenceNumber, TreeCheck, decode_segment, delta, links,
};

fn raw(text: &str) -> Cid {
    Cid::of(Codec::Raw, text.as_bytes())
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let metadata = Metadata {
        mode: 0o644,
        mtime_ns: -1_700_000_000_123_456_789,
        user: Some("anna".into()),
        xattrs: [(b"user.note".to_vec(), vec![0, 0xff])].into(),
        hard_link: Some(7),
        ..Metadata::default()
    };
    Entry { path: RelPath::new(path).unwrap(), kind, metadata, error: None }
}

fn entries() -> Vec<Entry> {
    let file = EntryKind::File {
        cid: raw("content"),
        size: 7,
        blake3: Hash::of(b"content"),
        is_sparse: true,
    };
    let mut unreadable = entry("d/x", file.clone());
    unreadable.error = Some("permission denied".into());
    vec![
        entry("d", EntryKind::Dir),
        entry("d/a", file),
        entry("d/l", EntryKind::Symlink { target: b"../\xff".to_vec() }),
        unreadable,
    ]
}

fn segment() -> types::Segment {
    let mut writer = SegmentWriter::new(BlockScheme::plain());
    for entry in entries() {
        assert!(writer.push(&entry).is_none(), "one segment");
    }
    writer.finish().unwrap()
}

fn header() -> ManifestHeader {
    let segment = segment();
    ManifestHeader {
        folder_id: "docs".parse().unwrap(),
        folder_name: "Documents".into(),
        folder_path: "/home/me/Documents".into(),
        source_peer_id: "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY".into(),
        sequence_number: SequenceNumber(7),
        previous: Some(raw("previous")),
        created_at: "2026-11-22T10:30:00Z".parse().unwrap(),
        root: entry("", EntryKind::Dir),
        stats: ManifestStats {
            deleted_files: 1,
            total_dirs: 1,
            total_files: 3,
            total_size_bytes: 14,
        },
        held: Some("many files were deleted".into()),
        segments: vec![SegmentRef {
            first_path: segment.first_path.clone(),
            cid: segment.block.cid(),
            entries: segment.entries,
            bytes: segment.block.data().len() as u64,
        }],
    }
}

fn file_node() -> Vec<u8> {
    let mut nodes = Vec::new();
    let mut builder = FileNodeBuilder::new(BlockScheme::plain());
    let mut keep = |block: Block| {
        nodes.push(block.data().to_vec());
        Ok::<(), Infallible>(())
    };
    for text in ["one", "two", "three"] {
        let chunk = NodeChild { cid: raw(text), len: text.len() as u64 };
        builder.push(chunk, &mut keep).unwrap();
    }
    builder.finish(&mut keep).unwrap();
    nodes.remove(0)
}

fn dataset() -> Dataset {
    Dataset {
        tree: raw("tree"),
        size: 4,
        filename: Some("a \"b\".txt".into()),
        mimetype: Some("text/plain".into()),
    }
}

#[test]
fn fuzz_manifest_header() {
    let example = header().to_json();
    assert_eq!(ManifestHeader::decode(&example).unwrap(), header());
    fuzzing::target!(&[example], |bytes: &[u8]| {
        if let Ok(header) = ManifestHeader::decode(bytes) {
            assert_eq!(ManifestHeader::decode(&header.to_json()).unwrap(), header);
        }
    });
}

#[test]
fn fuzz_segment() {
    fuzzing::target!(&[segment().block.data().to_vec()], |bytes: &[u8]| {
        let (mut check, mut is_tree) = (TreeCheck::new(), true);
        let mut last: Option<RelPath> = None;
        let _ = decode_segment(bytes, |entry| {
            is_tree = is_tree && check.next(&entry).is_ok();
            if is_tree {
                assert!(last.as_ref().is_none_or(|last| *last < entry.path));
                last = Some(entry.path);
            }
            ControlFlow::<()>::Continue(())
        });
        let _ = links(Codec::Json, bytes);
    });
}

#[test]
fn fuzz_entry() {
    let examples: Vec<_> = entries().iter().map(Entry::to_json).collect();
    fuzzing::target!(&examples, |bytes: &[u8]| {
        if let Ok(entry) = Entry::from_json(bytes) {
            let text = entry.to_json();
            assert!(!text.contains('\n'));
            assert_eq!(Entry::from_json(text.as_bytes()).unwrap(), entry);
        }
    });
}

#[test]
fn fuzz_dataset() {
    let scheme = BlockScheme::plain();
    let example = dataset().encode(&scheme).unwrap().data().to_vec();
    fuzzing::target!(&[example], |bytes: &[u8]| {
        if let Ok(dataset) = Dataset::decode(bytes) {
            let again = dataset.encode(&BlockScheme::plain()).unwrap();
            assert_eq!(Dataset::decode(again.data()).unwrap(), dataset);
            // The collection keeps what a reader follows.
            assert!(links(Codec::DagCbor, bytes).unwrap().contains(&dataset.tree));
        }
    });
}

#[test]
fn fuzz_file_node() {
    fuzzing::target!(&[file_node()], |bytes: &[u8]| {
        if let Ok(node) = FileNode::decode(bytes) {
            let sum: u64 = node.children().iter().map(|child| child.len).sum();
            assert_eq!(sum, node.size());
            let followed = links(Codec::DagCbor, bytes).unwrap();
            assert!(node.children().iter().all(|child| followed.contains(&child.cid)));
        }
    });
}

#[test]
fn fuzz_links() {
    let dataset = dataset().encode(&BlockScheme::plain()).unwrap().data().to_vec();
    fuzzing::target!(&[dataset, file_node(), header().to_json()], |bytes: &[u8]| {
        for codec in [Codec::Raw, Codec::DagCbor, Codec::Json] {
            let _ = links(codec, bytes);
        }
    });
}

#[test]
fn fuzz_names() {
    let examples = [raw("a").to_string().into_bytes(), raw("a").to_bytes(), b"d/e f/\xff".to_vec()];
    fuzzing::target!(&examples, |bytes: &[u8]| {
        if let Ok(cid) = Cid::from_bytes(bytes) {
            assert_eq!(cid.to_bytes(), bytes, "a CID has one form");
        }
        let text = String::from_utf8_lossy(bytes);
        if let Ok(cid) = text.parse::<Cid>() {
            assert_eq!(cid.to_string().parse::<Cid>().unwrap(), cid);
        }
        let _ = text.parse::<types::FolderId>();
        if let Ok(path) = RelPath::new(bytes) {
            let is_below = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
            assert!(path == RelPath::root() || bytes.split(|byte| *byte == b'/').all(is_below));
        }
    });
}

#[test]
fn fuzz_encoded_block() {
    let plain = Block::new(Codec::Raw, vec![b'a'; 3000]).unwrap();
    let cid = plain.cid();
    let packed = EncodedBlock::compress(plain, 3);
    assert_eq!(packed.encoding(), Encoding::Zstd);
    fuzzing::target!(&[packed.payload().to_vec()], |bytes: &[u8]| {
        let payload = Bytes::copy_from_slice(bytes);
        for len in [3000, u32::MAX] {
            if let Ok(block) = EncodedBlock::verify(cid, Encoding::Zstd, len, payload.clone()) {
                assert_eq!(block.decode().unwrap(), vec![b'a'; 3000]);
            }
        }
    });
}

#[test]
fn fuzz_difference() {
    let base = Bytes::from((0..5000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    let prefix = delta::prefix(std::slice::from_ref(&base)).unwrap();
    let mut new = base.to_vec();
    new.splice(700..900, *b"changed");
    let patch = delta::diff(&prefix, &new, 3).unwrap();
    fuzzing::target!(&[patch], |bytes: &[u8]| {
        if let Ok(block) = delta::apply(&prefix, bytes) {
            assert!(block.len() <= MAX_BLOCK_LEN);
        }
    });
}
