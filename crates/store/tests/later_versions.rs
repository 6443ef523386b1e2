//! Records that a later version of the program wrote: they are found, kept and copied,
//! never taken for damage, and a read names the reason.
//!
//! Each test changes the form of stored records (their codec, encoding, kind or flags)
//! to one that this version does not know. Changing the form back shows that nothing
//! was lost in between.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{Tree, assert_whole, open, store_tree, text_chunk, tree, tree_of, try_open};
use disk::sim::SimDisk;
use store::check::missing_blocks;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, OpenReport, PackStore, Roots as _, StoreAdmin as _,
    StoreError,
};
use types::{EncodedBlock, Encoding, Hash};

/// The offsets of codec, encoding, kind and flags in the header of a record.
const FORM: std::ops::Range<usize> = 4..8;

fn packs(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files();
    files.into_iter().filter(|path| path.to_str().unwrap().ends_with(".pack")).collect()
}

/// Returns the bytes of every record of the block, and its entry in the footer.
fn records(disk: &SimDisk, hash: &Hash) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for path in packs(disk) {
        disk.damage(&path, |bytes| {
            for at in record_offsets(bytes, hash) {
                let len = u32_at(bytes, at + 12) as usize;
                found.push(bytes[at..at + 56 + len].to_vec());
            }
        });
    }
    found
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn record_offsets(bytes: &[u8], hash: &Hash) -> Vec<usize> {
    let is_record = |at: &usize| {
        bytes[*at..].starts_with(b"BLK1") && bytes[at + 16..at + 48] == *hash.as_bytes()
    };
    (64..bytes.len().saturating_sub(56)).filter(is_record).collect()
}

/// Changes the form of every record of the block, in the record and in the footer.
fn set_form(disk: &SimDisk, hash: &Hash, change: impl Fn(&mut [u8])) {
    let mut changed = 0;
    for path in packs(disk) {
        disk.damage(&path, |bytes| {
            for at in record_offsets(bytes, hash) {
                change(&mut bytes[at + FORM.start..at + FORM.end]);
                let sum = crc32c::crc32c(&bytes[at..at + 52]).to_le_bytes();
                bytes[at + 52..at + 56].copy_from_slice(&sum);
                changed += 1;
            }
            set_form_in_footer(bytes, hash, &change);
        });
    }
    assert!(changed > 0, "no record of {hash}");
}

fn set_form_in_footer(bytes: &mut [u8], hash: &Hash, change: impl Fn(&mut [u8])) {
    let Some(trailer) = bytes.len().checked_sub(48) else { return };
    if !bytes[trailer..].starts_with(b"ARCHFOOT") {
        return;
    }
    let footer = u64::from_le_bytes(bytes[trailer + 24..trailer + 32].try_into().unwrap());
    let footer = footer as usize;
    for entry in bytes[footer..trailer].chunks_exact_mut(48) {
        if entry[..32] == *hash.as_bytes() {
            change(&mut entry[44..48]);
        }
    }
    let sum = crc32c::crc32c(&bytes[footer..trailer]).to_le_bytes();
    bytes[trailer + 36..trailer + 40].copy_from_slice(&sum);
    let sum = crc32c::crc32c(&bytes[trailer..trailer + 44]).to_le_bytes();
    bytes[trailer + 44..].copy_from_slice(&sum);
}

/// Removes the index, as the later version would have written another one.
fn drop_index(disk: &SimDisk) {
    let files = disk.files();
    for path in files.iter().filter(|path| path.to_str().unwrap().contains("/index/")) {
        disk.lose(path);
    }
}

/// A store with two files, of which "dead" has lost its root, and the open report
/// after the records of some blocks of "kept" were changed.
fn store_with(changes: &[(Hash, [u8; 4])], kept: &Tree) -> (SimDisk, Arc<PackStore>, OpenReport) {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    store_tree(&store, "dead", &tree(&[50, 51, 52, 53, 54, 55])).unwrap();
    store_tree(&store, "kept", kept).unwrap();
    store.remove_root("dead").unwrap();
    drop(store);
    for (hash, form) in changes {
        set_form(&disk, hash, |bytes| bytes.copy_from_slice(form));
    }
    drop_index(&disk);
    let (store, report) = open(&disk);
    (disk, store, report)
}

fn assert_newer(store: &PackStore, block: &EncodedBlock) {
    assert!(store.has(&block.cid()).unwrap(), "the block is present");
    let error = store.get(&block.cid()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
    assert!(error.to_string().contains("newer version of this program"), "{error}");
}

#[test]
fn a_collection_copies_records_of_later_versions_and_keeps_their_blocks() {
    let kept = tree(&[1, 2, 3, 4]);
    let [kind, flags, encoding, codec] = [0, 1, 2, 3].map(|n| *kept.blocks[n].cid().hash());
    let node = *kept.root.hash();
    let root = kept.blocks.last().unwrap();
    // A kind of the node is unknown, but its links can be read. Unknown encodings and
    // codecs of chunks have no links.
    let changes = [
        (kind, [0, 0, 7, 0]),
        (flags, [0, 0, 0, 0x80]),
        (encoding, [0, 9, 0, 0]),
        (codec, [200, 0, 0, 0]),
        (node, [1, root.encoding().tag(), 1, 0]),
    ];
    let before_tags: Vec<[u8; 4]> = kept
        .blocks
        .iter()
        .map(|block| [block.cid().codec().tag(), block.encoding().tag(), 0, 0])
        .collect();
    let (disk, store, report) = store_with(&changes, &kept);
    assert_eq!((report.damage, report.lost_packs), (vec![], vec![]));
    let before: Vec<_> = changes.iter().map(|(hash, _)| records(&disk, hash)).collect();
    for block in &kept.blocks {
        assert_newer(&store, block);
    }

    let collected = store.gc(GcOptions::EVERYTHING).unwrap();
    assert!(collected.deleted_blocks >= 7, "{collected:?}");
    assert!(collected.rewritten_bytes > 0, "{collected:?}");
    assert_eq!(collected.damaged, [] as [String; 0]);
    assert_eq!(collected.live_blocks, kept.blocks.len() as u64);
    let after: Vec<_> = changes.iter().map(|(hash, _)| records(&disk, hash)).collect();
    assert_eq!(after, before, "byte for byte");
    drop(store);

    let (store, report) = open(&disk);
    assert_eq!((report.damage, report.index_rebuilt), (vec![], false));
    for block in &kept.blocks {
        assert_newer(&store, block);
    }
    drop(store);
    // The footers of the new packs have the forms, too.
    drop_index(&disk);
    let (store, report) = open(&disk);
    assert_eq!((report.damage, report.index_rebuilt), (vec![], true));
    for block in &kept.blocks {
        assert_newer(&store, block);
    }
    drop(store);

    // The later version reads them as before, with the index of this version.
    for (block, form) in kept.blocks.iter().zip(before_tags) {
        set_form(&disk, block.cid().hash(), |bytes| bytes.copy_from_slice(&form));
    }
    let (store, _) = open(&disk);
    assert_whole(&store, &kept, "the later version");
    assert_eq!(missing_blocks(&*store).unwrap(), []);
}

#[test]
fn nothing_is_collected_if_the_links_of_a_needed_block_are_unknown() {
    let kept = tree(&[1, 2, 3, 4]);
    for partial in [false, true] {
        let (disk, store, _) = store_with(&[(*kept.root.hash(), [1, 9, 0, 0])], &kept);
        if partial {
            let root = store::Root { cid: kept.root, partial };
            store.set_root("kept", root, store.write_epoch()).unwrap();
        }
        let error = store.gc(GcOptions::EVERYTHING).unwrap_err();
        assert!(matches!(error, StoreError::NotCollected(_)), "{error:?}");
        assert!(error.to_string().contains("newer version of this program"), "{error}");
        drop(store);
        let form = kept.blocks.last().unwrap().encoding().tag();
        set_form(&disk, kept.root.hash(), |bytes| bytes.copy_from_slice(&[1, form, 0, 0]));
        assert_whole(&open(&disk).0, &kept, "nothing was deleted");
    }
}

#[test]
fn a_record_of_a_later_version_that_no_root_needs_is_collected() {
    let kept = tree(&[1]);
    let dead = *tree(&[50, 51, 52, 53, 54, 55]).blocks[2].cid().hash();
    let (disk, store, _) = store_with(&[(dead, [0, 0, 7, 0])], &kept);
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_eq!(records(&disk, &dead), [] as [Vec<u8>; 0]);
    assert_whole(&store, &kept, "kept");
}

#[test]
fn recompression_copies_records_of_later_versions() {
    let kept = tree_of((0..20).map(|seed| text_chunk(seed, 700)).collect());
    let newer = *kept.blocks[3].cid().hash();
    let (disk, store, _) = store_with(&[(newer, [0, 0, 7, 0])], &kept);
    let before = records(&disk, &newer);
    let report = store.recompress(u64::MAX, &|| false).unwrap();
    assert!(report.rewritten_packs > 0, "{report:?}");
    assert_eq!(report.damaged, [] as [String; 0]);
    assert_eq!(records(&disk, &newer), before, "byte for byte");
    let other = store.get_encoded(&kept.blocks[4].cid()).unwrap().unwrap();
    assert_eq!(other.encoding(), Encoding::Zstd);
    drop(store);
    set_form(&disk, &newer, |bytes| bytes.copy_from_slice(&[0; 4]));
    assert_whole(&open(&disk).0, &kept, "the later version");
}

#[test]
fn damage_of_a_record_of_a_later_version_is_found() {
    let kept = tree(&[1, 2, 3, 4]);
    let hash = *kept.blocks[0].cid().hash();
    let (disk, store, _) = store_with(&[(hash, [0, 0, 7, 0])], &kept);
    for path in packs(&disk) {
        disk.damage(&path, |bytes| {
            for at in record_offsets(bytes, &hash) {
                bytes[at + 60] ^= 1;
            }
        });
    }
    let error = store.get(&kept.blocks[0].cid()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    store.put(&[kept.blocks[0].clone()]).unwrap();
    assert_eq!(
        store.get(&kept.blocks[0].cid()).unwrap().unwrap(),
        kept.blocks[0].decode().unwrap()
    );
}

/// A store that this version must not touch is refused, and unchanged.
#[test]
fn a_store_of_a_later_version_is_refused() {
    let refused = |path_part: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let (disk, store, _) = store_with(&[], &tree(&[1, 2, 3, 4]));
        drop(store);
        for path in disk.files().iter().filter(|path| path.to_str().unwrap().contains(path_part)) {
            disk.damage(path, change);
        }
        let content = || {
            let mut all = Vec::new();
            for path in disk.files() {
                if !path.to_str().unwrap().ends_with("/lock") {
                    disk.damage(&path, |bytes| all.push((path.clone(), bytes.clone())));
                }
            }
            all
        };
        let before = content();
        let error = try_open(&disk).unwrap_err();
        assert!(matches!(error, StoreError::Unusable { .. }), "{path_part}: {error:?}");
        assert!(error.to_string().contains("newer version"), "{path_part}: {error}");
        assert_eq!(content(), before, "{path_part}: nothing was changed");
    };
    let set_header = |at: usize, value: u8| {
        move |bytes: &mut Vec<u8>| {
            bytes[at] = value;
            let sum = crc32c::crc32c(&bytes[..60]).to_le_bytes();
            bytes[60..64].copy_from_slice(&sum);
        }
    };
    refused("/format", &|bytes| *bytes = b"archivist store 2\n".to_vec());
    refused("/packs/d-", &set_header(8, 2));
    refused("/packs/m-", &set_header(9, 2));
    refused("/packs/m-", &set_header(10, 1));
    for log in ["/roots/a.log", "/roots/b.log", "/roots/"] {
        refused(log, &|bytes| {
            bytes[8] = 2;
            let sum = crc32c::crc32c(&bytes[..28]).to_le_bytes();
            bytes[28..32].copy_from_slice(&sum);
        });
    }
}
