//! The packs that recompression skips, because nothing in them would shrink.
//!
//! The list survives a restart. It is a cache: without it, the packs are examined
//! again. It names a pack by its random bytes, which no other pack has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::packs::Pack;
use crate::sync::Mutex;
use disk::{AtomicWrite, Disk, Parsed, read_cache, write_atomic};

/// Maximum length of the list in bytes: about 500,000 packs, or 64 TB of full ones.
const MAX_LEN: u64 = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct RecompressSkiplist {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packs: BTreeSet<u128>,
    is_changed: bool,
    /// Packs without a footer: their numbers, and the number of their records
    /// when they were examined.
    open: BTreeMap<u32, u32>,
}

fn name(pack: &Pack) -> u128 {
    u128::from_be_bytes(pack.header.uuid)
}

impl RecompressSkiplist {
    /// Reads the list. A list that cannot be used is kept under another name.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let consequence = "recompression examines the packs again";
        let packs = read_cache(&*disk, &path, MAX_LEN, consequence, parse).unwrap_or_default();
        Self { disk, path, state: Mutex::new(State { packs, ..State::default() }) }
    }

    /// Reports whether a pack is known to have nothing to compress.
    pub(super) fn contains(&self, pack: &Pack) -> bool {
        let records = pack.records();
        let state = self.state.lock();
        state.packs.contains(&name(pack)) || state.open.get(&pack.number()) == Some(&records)
    }

    /// Adds a pack. A pack that is not sealed is skipped only until it grows.
    pub(super) fn add(&self, pack: &Pack) {
        let (is_sealed, records) = (pack.is_sealed(), pack.records());
        let mut state = self.state.lock();
        if is_sealed {
            state.is_changed |= state.packs.insert(name(pack));
        } else {
            state.open.insert(pack.number(), records);
        }
    }

    /// Saves the list if it has changed. Packs that are not in `packs` no longer
    /// exist and are left out.
    pub(super) fn save(&self, packs: &[Arc<Pack>]) {
        let text = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.is_changed) {
                return;
            }
            let existing: BTreeSet<u128> = packs.iter().map(|pack| name(pack)).collect();
            state.packs.retain(|name| existing.contains(name));
            encode(&state.packs)
        };
        let options = AtomicWrite::PRIVATE;
        if let Err(error) = write_atomic(&*self.disk, &self.path, text.as_bytes(), &options) {
            // The list stays in memory; after a restart the packs are examined
            // again.
            tracing::debug!(%error, "cannot save the list of packs that need no compression");
        }
    }
}

fn encode(packs: &BTreeSet<u128>) -> String {
    packs.iter().map(|name| format!("{name:032x}\n")).collect()
}

fn parse(bytes: &[u8]) -> Parsed<BTreeSet<u128>> {
    let name = |line: &str| {
        (line.len() == 32).then_some(())?;
        u128::from_str_radix(line, 16).ok()
    };
    Parsed::of_lines(bytes, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_skiplist() {
        fuzzing::target!(&[encode(&BTreeSet::from([7, u128::MAX]))], |bytes: &[u8]| {
            let found = parse(bytes).usable().unwrap_or_default();
            assert_eq!(parse(encode(&found).as_bytes()), Parsed::Valid(found));
        });
    }
}
