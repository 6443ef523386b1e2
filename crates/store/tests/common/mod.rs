//! Helpers of the tests of the store.

#![allow(dead_code, reason = "not every test uses all of it")]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::Disk as _;
use disk::sim::SimDisk;
use store::{
    Batch, BlockRead as _, OpenReport, PackStore, Root, Roots as _, StoreError, StoreOptions,
};
use types::{Block, BlockScheme, Cid, Codec, EncodedBlock, FileNodeBuilder, NodeChild};

pub const DIR: &str = "/store";

/// Options with small packs, no thread and no reserve: everything happens in the
/// caller.
pub fn options() -> StoreOptions {
    StoreOptions { max_storage: None, disk_reserve: 0, pack_len: 3000, background: false }
}

pub fn try_open(disk: &SimDisk) -> Result<(Arc<PackStore>, OpenReport), StoreError> {
    let (store, report) = PackStore::open_on(Arc::new(disk.clone()), Path::new(DIR), &options())?;
    Ok((Arc::new(store), report))
}

pub fn open(disk: &SimDisk) -> (Arc<PackStore>, OpenReport) {
    try_open(disk).unwrap()
}

/// The blocks of a file of several chunks, the root last.
#[derive(Clone, Debug)]
pub struct Tree {
    pub root: Cid,
    pub blocks: Vec<EncodedBlock>,
}

/// Returns bytes that depend on the seed and do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 32);
    let mut counter = 0_u64;
    while bytes.len() < len {
        let mut input = seed.to_le_bytes().to_vec();
        input.extend_from_slice(&counter.to_le_bytes());
        bytes.extend_from_slice(types::Hash::of(&input).as_bytes());
        counter += 1;
    }
    bytes.truncate(len);
    bytes
}

pub fn chunk(seed: u64, len: usize) -> EncodedBlock {
    EncodedBlock::plain(Block::new(Codec::Raw, noise(seed, len)).unwrap())
}

/// Returns bytes that depend on the seed and compress well.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let line = format!("line of the text with the number {seed}\n");
    line.bytes().cycle().take(len).collect()
}

pub fn text_chunk(seed: u64, len: usize) -> EncodedBlock {
    EncodedBlock::plain(Block::new(Codec::Raw, text(seed, len)).unwrap())
}

/// Returns the file whose chunks are made from the seeds.
pub fn tree(seeds: &[u64]) -> Tree {
    tree_of(seeds.iter().map(|seed| chunk(*seed, 200 + (*seed as usize * 97) % 900)).collect())
}

/// Returns the file whose chunks are made from the seeds: compressible text for even
/// seeds, noise for odd ones.
pub fn mixed_tree(seeds: &[u64]) -> Tree {
    let chunk = |seed: &u64| match seed % 2 {
        0 => text_chunk(*seed, 600 + (*seed as usize * 97) % 900),
        _ => chunk(*seed, 100 + (*seed as usize * 97) % 300),
    };
    tree_of(seeds.iter().map(chunk).collect())
}

/// Returns the file with these chunks.
pub fn tree_of(mut blocks: Vec<EncodedBlock>) -> Tree {
    let mut builder = FileNodeBuilder::new(BlockScheme::plain());
    let mut nodes = Vec::new();
    let mut emit = |block: Block| {
        nodes.push(EncodedBlock::compress(block, 1));
        Ok::<_, Infallible>(())
    };
    for block in &blocks {
        let child = NodeChild { cid: block.cid(), len: u64::from(block.len()) };
        builder.push(child, &mut emit).unwrap();
    }
    let root = builder.finish(&mut emit).unwrap().unwrap();
    blocks.append(&mut nodes);
    Tree { root, blocks }
}

/// Stores a tree and sets a root for it.
pub fn store_tree(store: &Arc<PackStore>, name: &str, tree: &Tree) -> Result<(), StoreError> {
    let batch = Batch::new(store.clone());
    for pair in tree.blocks.chunks(2) {
        batch.put(pair)?;
    }
    batch.commit_root(&**store, name, Root { cid: tree.root, partial: false })
}

/// Returns trees that share some chunks, with the names of their roots.
pub fn trees() -> Vec<(String, Tree)> {
    let seeds: [&[u64]; 4] = [&[1, 2, 3, 4, 5], &[4, 5, 6, 7], &[8], &[9, 10, 11, 1]];
    seeds.iter().zip('a'..).map(|(seeds, name)| (name.to_string(), tree(seeds))).collect()
}

/// Returns a disk with the store of [`trees`]: several sealed packs, two open ones, and
/// an index on disk.
pub fn filled() -> SimDisk {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    for (name, tree) in trees() {
        store_tree(&store, &name, &tree).unwrap();
    }
    disk
}

/// The work of one of several concurrent writers: stores trees under five names,
/// checks that each is complete, and removes every third root. The seeds of the trees,
/// `width` of `seeds`, overlap, so that writers find blocks of each other and blocks
/// that are just being collected.
pub fn write_and_remove(
    store: &Arc<PackStore>,
    writer: u64,
    rounds: u64,
    (width, seeds): (u64, u64),
    tree: fn(&[u64]) -> Tree,
) {
    for round in 0..rounds {
        let chosen: Vec<u64> = (0..width).map(|n| (round * 7 + n * 3 + writer) % seeds).collect();
        let tree = tree(&chosen);
        let name = format!("{writer}/{}", round % 5);
        store_tree(store, &name, &tree).unwrap();
        assert_whole(store, &tree, &name);
        if round % 3 == 0 {
            store.remove_root(&name).unwrap();
        }
    }
}

/// Asserts that every block of a tree reads back as it was put.
pub fn assert_whole(store: &PackStore, tree: &Tree, context: &str) {
    for block in &tree.blocks {
        let found = store.get(&block.cid());
        match found {
            Ok(Some(bytes)) => assert_eq!(bytes, block.decode().unwrap(), "{context}"),
            other => panic!("{context}: block {} is {other:?}", block.cid()),
        }
    }
}

/// The acknowledged trees, by the name of their roots.
pub type Acknowledged = BTreeMap<String, Tree>;

/// Returns the files whose path contains `part`, in the order of paths.
pub fn files(disk: &SimDisk, part: &str) -> Vec<PathBuf> {
    let files = disk.files();
    files.into_iter().filter(|path| path.to_str().unwrap().contains(part)).collect()
}

/// Returns the length of a file in bytes.
pub fn len(disk: &SimDisk, path: &Path) -> usize {
    disk.open(path).unwrap().len().unwrap() as usize
}
