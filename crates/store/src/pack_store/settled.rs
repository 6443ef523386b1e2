//! The packs in which there is nothing to compress any more: each is looked
//! at once, also over a restart.
//!
//! The list is a cache of what was found: without it, the packs are looked at
//! again. It names a pack by its random bytes, which no other pack has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::packs::Pack;
use disk::{AtomicWrite, Disk, read_file, write_atomic};

/// Some 500,000 packs: 64 TB of full ones.
const MAX_LEN: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Settled {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packs: BTreeSet<u128>,
    is_changed: bool,
    /// Packs that have no footer yet: their numbers, and their records when
    /// they were looked at.
    open: BTreeMap<u32, u32>,
}

fn name(pack: &Pack) -> u128 {
    u128::from_be_bytes(pack.header.uuid)
}

impl Settled {
    /// Reads the list; what cannot be read of it is looked at again.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let bytes = read_file(&*disk, &path, MAX_LEN).unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        let whole = text.lines().filter(|line| line.len() == 32);
        let packs = whole.filter_map(|line| u128::from_str_radix(line, 16).ok()).collect();
        Self { disk, path, state: Mutex::new(State { packs, ..State::default() }) }
    }

    /// Whether there is nothing to do in a pack, as far as is known.
    pub(super) fn contains(&self, pack: &Pack) -> bool {
        let records = pack.records();
        let state = self.state.lock();
        state.packs.contains(&name(pack)) || state.open.get(&pack.number()) == Some(&records)
    }

    /// Adds a pack that was looked at, or made so. One that still grows counts
    /// only until it has grown.
    pub(super) fn add(&self, pack: &Pack) {
        let (is_sealed, records) = (pack.is_sealed(), pack.records());
        let mut state = self.state.lock();
        if is_sealed {
            state.is_changed |= state.packs.insert(name(pack));
        } else {
            state.open.insert(pack.number(), records);
        }
    }

    /// Saves the list, where it has changed, with those of `packs` alone: the
    /// others are gone.
    pub(super) fn save(&self, packs: &[Arc<Pack>]) {
        let text = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.is_changed) {
                return;
            }
            let there: BTreeSet<u128> = packs.iter().map(|pack| name(pack)).collect();
            state.packs.retain(|name| there.contains(name));
            state.packs.iter().map(|name| format!("{name:032x}\n")).collect::<String>()
        };
        let options = AtomicWrite::PRIVATE;
        if let Err(error) = write_atomic(&*self.disk, &self.path, text.as_bytes(), &options) {
            // It holds in memory; after a restart the packs are looked at again.
            tracing::debug!(%error, "could not save the list of packs that were looked at");
        }
    }
}
