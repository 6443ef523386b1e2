//! A model test: after any sequence of puts, roots, pins, collections, restarts and
//! power cuts, the pack store has the content of the store in memory.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Tree, chunk, open, tree};
use disk::sim::{Power, SimDisk};
use proptest::prelude::*;
use store::check::missing_blocks;
use store::{
    Batch, BlockRead as _, BlockStore, BlockWrite as _, GcOptions, MemStore, PackStore, Pin, Root,
    Roots as _, RootsRead as _, StoreAdmin as _,
};

#[derive(Clone, Debug)]
enum Step {
    /// Store a file and name it.
    Name {
        name: u8,
        seeds: Vec<u64>,
    },
    RemoveRoot {
        name: u8,
    },
    /// Store a file without a name, and pin it.
    Pin {
        seeds: Vec<u64>,
    },
    /// Drop the oldest pin.
    Unpin,
    /// Store a block without a name or a pin.
    Loose {
        seed: u64,
    },
    Collect {
        everything: bool,
    },
    RebuildIndex,
    Restart,
    PowerCut {
        seed: u64,
    },
}

fn seeds() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..30_u64, 1..8)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, seeds()).prop_map(|(name, seeds)| Step::Name { name, seeds }),
        4 => (0..6_u8).prop_map(|name| Step::RemoveRoot { name }),
        2 => seeds().prop_map(|seeds| Step::Pin { seeds }),
        1 => Just(Step::Unpin),
        2 => (0..30_u64).prop_map(|seed| Step::Loose { seed }),
        4 => any::<bool>().prop_map(|everything| Step::Collect { everything }),
        1 => Just(Step::RebuildIndex),
        2 => Just(Step::Restart),
        2 => any::<u64>().prop_map(|seed| Step::PowerCut { seed }),
    ]
}

struct PinnedTree {
    root: types::Cid,
    _pins: [Pin; 2],
}

struct Both {
    disk: SimDisk,
    store: Arc<PackStore>,
    model: Arc<MemStore>,
    /// The pinned trees, oldest first.
    pinned: Vec<PinnedTree>,
    known: BTreeMap<types::Cid, types::EncodedBlock>,
}

impl Both {
    fn new() -> Self {
        let disk = SimDisk::new();
        let (store, _) = open(&disk);
        let model = Arc::new(MemStore::new());
        Self { disk, store, model, pinned: Vec::new(), known: BTreeMap::new() }
    }

    fn put(&mut self, tree: &Tree, name: Option<&str>) {
        for block in &tree.blocks {
            self.known.insert(block.cid(), block.clone());
        }
        let stores: [Arc<dyn BlockStore>; 2] = [self.store.clone(), self.model.clone()];
        for store in &stores {
            let batch = Batch::new(store.clone());
            batch.put(&tree.blocks).unwrap();
            if let Some(name) = name {
                batch.commit_root(&**store, name, Root { cid: tree.root, partial: false }).unwrap();
            }
        }
        if name.is_none() {
            let pins = stores.map(|store| {
                let pin = store.pin();
                pin.add([tree.root]);
                pin
            });
            self.pinned.push(PinnedTree { root: tree.root, _pins: pins });
            let epoch = self.store.write_epoch();
            self.store.commit(epoch).unwrap();
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Name { name, seeds } => self.put(&tree(seeds), Some(&format!("root/{name}"))),
            Step::RemoveRoot { name } => {
                let name = format!("root/{name}");
                let removed = self.store.remove_root(&name).unwrap();
                assert_eq!(removed, self.model.remove_root(&name).unwrap());
            }
            Step::Pin { seeds } => self.put(&tree(seeds), None),
            Step::Unpin => {
                if !self.pinned.is_empty() {
                    self.pinned.remove(0);
                }
            }
            Step::Loose { seed } => {
                let block = chunk(*seed, 500);
                self.known.insert(block.cid(), block.clone());
                self.store.put(std::slice::from_ref(&block)).unwrap();
                self.model.put(&[block]).unwrap();
            }
            Step::Collect { everything } => {
                let options =
                    if *everything { GcOptions::EVERYTHING } else { GcOptions::default() };
                self.store.gc(options).unwrap();
                self.model.gc(options).unwrap();
                if *everything {
                    for cid in self.known.keys() {
                        let alive = self.model.has(cid).unwrap();
                        assert_eq!(self.store.has(cid).unwrap(), alive, "{cid}");
                    }
                }
            }
            Step::RebuildIndex => self.store.rebuild_index().unwrap(),
            Step::Restart => {
                self.pinned.clear();
                let disk = self.disk.crash(Power::Kept);
                self.store = open(&disk).0;
                self.disk = disk;
            }
            Step::PowerCut { seed } => {
                self.pinned.clear();
                let power = match seed % 3 {
                    0 => Power::Dropped,
                    1 => Power::Torn,
                    _ => Power::Reordered(*seed),
                };
                let disk = self.disk.crash(power);
                self.store = open(&disk).0;
                self.disk = disk;
            }
        }
    }

    /// Checks that the blocks that the model needs are present, and that all present
    /// blocks are right.
    fn compare(&self) {
        assert_eq!(self.store.roots(""), self.model.roots(""));
        // After a collection, a copy of the model has only the needed blocks.
        let needed = MemStore::new();
        for cid in self.known.keys() {
            if let Some(block) = self.model.get_encoded(cid).unwrap() {
                needed.put(&[block]).unwrap();
            }
        }
        for (name, root) in self.model.roots("") {
            needed.set_root(&name, root, needed.write_epoch()).unwrap();
        }
        let pin = needed.pin();
        pin.add(self.pinned.iter().map(|tree| tree.root));
        needed.gc(GcOptions::EVERYTHING).unwrap();
        for (cid, block) in &self.known {
            let found = self.store.get(cid).unwrap();
            if let Some(bytes) = &found {
                assert_eq!(*bytes, block.decode().unwrap());
            }
            assert!(found.is_some() || !needed.has(cid).unwrap(), "{cid} is needed and missing");
            assert_eq!(found.is_some(), self.store.has(cid).unwrap());
        }
        assert_eq!(missing_blocks(&*self.store).unwrap(), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_pack_store_is_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let mut both = Both::new();
        for step in &steps {
            both.take(step);
            both.compare();
        }
    }
}
