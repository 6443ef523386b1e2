//! The store in memory: states the semantics of a store in the fewest words. The
//! tests compare the pack store with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use types::{Cid, Codec, EncodedBlock, Hash, links};

use crate::block_store::{
    BlockRead, BlockWrite, GcOptions, GcReport, Roots, RootsRead, StoreAdmin, Usage, WriteEpoch,
};
use crate::error::{Limit, StoreError};
use crate::node_scan::{NodeScan, NodeScanReport};
use crate::pins::{Pin, Pins};
use crate::root_log::{Root, check_name};
use crate::sync::Mutex;

/// A store in memory. Its content is lost when it is dropped.
#[derive(Debug, Default)]
pub struct MemStore {
    state: Mutex<State>,
    pins: Pins,
    max_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<Hash, EncodedBlock>,
    roots: BTreeMap<String, Root>,
    /// The blocks whose roots were removed.
    removed: HashSet<Hash>,
}

impl State {
    fn used(&self) -> u64 {
        self.blocks.values().map(|block| block.payload().len() as u64).sum()
    }

    /// Adds `from` to `reached`, and every block that it leads to.
    fn reach(&self, from: Cid, reached: &mut HashSet<Cid>) {
        let mut stack = vec![from];
        while let Some(cid) = stack.pop() {
            if !reached.insert(cid) {
                continue;
            }
            let Some(block) = self.blocks.get(cid.hash()) else { continue };
            if let Ok(Ok(links)) = block.decode().map(|bytes| links(cid.codec(), &bytes)) {
                stack.extend(links);
            }
        }
    }
}

impl MemStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty store for at most `max_bytes` bytes of payload.
    pub fn with_limit(max_bytes: u64) -> Self {
        Self { max_bytes: Some(max_bytes), ..Self::default() }
    }
}

impl BlockRead for MemStore {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        Ok(self.state.lock().blocks.get(cid.hash()).cloned())
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.state.lock().blocks.contains_key(cid.hash()))
    }

    fn len_of(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.state.lock().blocks.get(cid.hash()).map(|block| u64::from(block.len())))
    }

    fn loss_counter(&self) -> u64 {
        0
    }
}

impl NodeScan for MemStore {
    fn scan_nodes(
        &self,
        each: &mut dyn FnMut(Cid, Bytes) -> ControlFlow<()>,
    ) -> Result<NodeScanReport, StoreError> {
        let blocks: Vec<_> = self.state.lock().blocks.values().cloned().collect();
        let mut report = NodeScanReport::default();
        for block in blocks.iter().filter(|block| block.cid().codec() == Codec::DagCbor) {
            let bytes = block.decode()?;
            report.nodes += 1;
            report.read_bytes += bytes.len() as u64;
            if each(block.cid(), bytes).is_break() {
                break;
            }
        }
        Ok(report)
    }

    fn was_removed(&self, cid: &Cid) -> bool {
        self.state.lock().removed.contains(cid.hash())
    }
}

impl BlockWrite for MemStore {
    fn write_epoch(&self) -> WriteEpoch {
        WriteEpoch { failed_syncs: 0, first_pack: 0 }
    }

    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        for block in blocks {
            let needed = block.payload().len() as u64;
            if self.max_bytes.is_some_and(|max| state.used() + needed > max) {
                return Err(StoreError::Full { limit: Limit::Quota, needed });
            }
            state.blocks.entry(*block.cid().hash()).or_insert_with(|| block.clone());
        }
        Ok(())
    }

    fn commit(&self, _: WriteEpoch) -> Result<(), StoreError> {
        Ok(())
    }

    fn pin(&self) -> Pin {
        self.pins.add()
    }
}

impl RootsRead for MemStore {
    fn root(&self, name: &str) -> Option<Root> {
        self.state.lock().roots.get(name).copied()
    }

    fn roots(&self, prefix: &str) -> Vec<(String, Root)> {
        let state = self.state.lock();
        let roots = state.roots.iter().filter(|(name, _)| name.starts_with(prefix));
        roots.map(|(name, root)| (name.clone(), *root)).collect()
    }
}

impl Roots for MemStore {
    fn set_root(&self, name: &str, root: Root, _: WriteEpoch) -> Result<(), StoreError> {
        check_name(name)?;
        let mut state = self.state.lock();
        state.roots.insert(name.to_owned(), root);
        state.removed.remove(root.cid.hash());
        Ok(())
    }

    fn remove_root(&self, name: &str) -> Result<bool, StoreError> {
        let mut state = self.state.lock();
        let root = state.roots.remove(name);
        state.removed.extend(root.filter(|root| !root.partial).map(|root| *root.cid.hash()));
        Ok(root.is_some())
    }
}

impl StoreAdmin for MemStore {
    fn gc(&self, _: GcOptions) -> Result<GcReport, StoreError> {
        let mut state = self.state.lock();
        let mut reached = HashSet::new();
        let pinned = self.pins.snapshot();
        for cid in state.roots.values().map(|root| root.cid).chain(pinned) {
            state.reach(cid, &mut reached);
        }
        let alive: HashSet<_> = reached.iter().map(|cid| *cid.hash()).collect();
        let before = (state.blocks.len() as u64, state.used());
        state.blocks.retain(|hash, _| alive.contains(hash));
        state.removed.retain(|hash| alive.contains(hash));
        let live_blocks = state.blocks.len() as u64;
        Ok(GcReport {
            live_blocks,
            deleted_blocks: before.0 - live_blocks,
            freed_bytes: before.1 - state.used(),
            ..GcReport::default()
        })
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        let state = self.state.lock();
        let used_bytes = state.used();
        Ok(Usage {
            blocks: state.blocks.len() as u64,
            used_bytes,
            max_bytes: self.max_bytes,
            available_bytes: self.max_bytes.unwrap_or(u64::MAX).saturating_sub(used_bytes),
        })
    }

    fn reached_bytes(&self, prefixes: &[String]) -> Result<u64, StoreError> {
        let state = self.state.lock();
        let mut reached = HashSet::new();
        for (name, root) in &state.roots {
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                state.reach(root.cid, &mut reached);
            }
        }
        let hashes: HashSet<_> = reached.iter().map(|cid| *cid.hash()).collect();
        let found = hashes.iter().filter_map(|hash| state.blocks.get(hash));
        Ok(found.map(|block| block.payload().len() as u64).sum())
    }
}
