//! The stores that the processes of a history opened. A store that outlives its history is a
//! leak: two components own each other.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use store::PackStore;

/// The process and the store of each of its lives.
type Stores = Vec<(&'static str, Weak<PackStore>)>;

thread_local! {
    static STORES: RefCell<Stores> = const { RefCell::new(Vec::new()) };
}

/// Begins a history on this thread.
pub(crate) fn start() {
    STORES.with_borrow_mut(Vec::clear);
}

/// Notes the store of a process.
pub(crate) fn note(process: &'static str, store: &Arc<PackStore>) {
    STORES.with_borrow_mut(|stores| stores.push((process, Arc::downgrade(store))));
}

/// Ends the history, and returns a message if a store of it is still in memory.
pub(crate) fn stop() -> Option<String> {
    let stores = STORES.take();
    let left: Vec<_> = stores
        .iter()
        .filter(|(_, store)| store.strong_count() > 0)
        .map(|(name, _)| *name)
        .collect();
    let (count, opened) = (left.len(), stores.len());
    let first = left.first()?;
    Some(format!(
        "{count} of {opened} stores are in memory after the history, the first of {first}"
    ))
}
