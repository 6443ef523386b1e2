//! Pins: keep blocks alive that no root leads to yet.
//!
//! Pins are in memory only. The blocks of work that was in progress when a
//! process died are garbage, unless the work has set a partial root.

use std::collections::BTreeMap;
use std::sync::Arc;

use types::Cid;

use crate::sync::Mutex;

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By number: a collection walks over them in this order.
    pins: BTreeMap<u64, Vec<Cid>>,
}

/// All pins of a store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(Arc<Mutex<Table>>);

/// Keeps blocks alive, with all that they refer to, until it is dropped; see
/// [`crate::BlockWrite::pin`].
#[derive(Debug)]
pub struct Pin {
    id: u64,
    pins: Pins,
}

impl Pins {
    pub(crate) fn add(&self) -> Pin {
        let mut table = self.0.lock();
        let id = table.next;
        table.next += 1;
        table.pins.insert(id, Vec::new());
        Pin { id, pins: self.clone() }
    }

    /// Returns all blocks that are pinned now.
    pub(crate) fn snapshot(&self) -> Vec<Cid> {
        self.0.lock().pins.values().flatten().copied().collect()
    }
}

impl Pin {
    /// Adds blocks to the pin.
    pub fn add(&self, cids: impl IntoIterator<Item = Cid>) {
        let mut table = self.pins.0.lock();
        table.pins.entry(self.id).or_default().extend(cids);
    }

    /// Replaces the pinned blocks. Used when a node has been put that leads to
    /// the blocks pinned before.
    pub fn replace(&self, cids: impl IntoIterator<Item = Cid>) {
        let cids = cids.into_iter().collect();
        self.pins.0.lock().pins.insert(self.id, cids);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.0.lock().pins.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use types::Codec;

    use super::*;

    #[test]
    fn a_pin_holds_until_it_is_dropped() {
        let pins = Pins::default();
        let [a, b] = [b"a", b"b"].map(|bytes| Cid::of(Codec::Raw, bytes));
        let first = pins.add();
        first.add([a]);
        let second = pins.add();
        second.add([a]);
        second.replace([b]);
        drop(first);
        assert_eq!(pins.snapshot(), [b]);
        drop(second);
        assert_eq!(pins.snapshot(), []);
    }
}
