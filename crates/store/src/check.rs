//! Checks that every block is readable that a root leads to; for tests.
//!
//! The product's verification is in the crates above: it knows snapshots, names
//! files, and repairs.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use types::{Cid, links};

use crate::block_store::{BlockRead, StoreRead};
use crate::error::StoreError;

/// A block that a root needs and that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingBlock {
    /// The block.
    pub cid: Cid,
    /// The reason why it cannot be read.
    pub reason: String,
    /// Names of the roots that need it.
    pub roots: Vec<String>,
}

/// Reads every block below every root that is not partial, and returns the
/// blocks that are missing or damaged, sorted by name. Blocks below a missing
/// node are not known and not listed.
///
/// # Errors
///
/// Returns the errors of [`BlockRead::get`], except [`StoreError::Damaged`].
pub fn missing_blocks(store: &(impl StoreRead + ?Sized)) -> Result<Vec<MissingBlock>, StoreError> {
    // The links of each block, or the reason why it cannot be read.
    let mut read: HashMap<Cid, Result<Vec<Cid>, String>> = HashMap::new();
    let mut missing: BTreeMap<Cid, MissingBlock> = BTreeMap::new();
    for (name, root) in store.roots("").into_iter().filter(|(_, root)| !root.partial) {
        let mut reached = HashSet::new();
        let mut stack = vec![root.cid];
        while let Some(cid) = stack.pop() {
            if !reached.insert(cid) {
                continue;
            }
            let links = match read.entry(cid) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(links_of(store, &cid)?),
            };
            match links {
                Ok(links) => stack.extend(links.iter()),
                Err(reason) => {
                    let new = || MissingBlock { cid, reason: reason.clone(), roots: Vec::new() };
                    missing.entry(cid).or_insert_with(new).roots.push(name.clone());
                }
            }
        }
    }
    Ok(missing.into_values().collect())
}

/// Returns the links of a block, or the reason why it cannot be read.
fn links_of(
    store: &(impl BlockRead + ?Sized),
    cid: &Cid,
) -> Result<Result<Vec<Cid>, String>, StoreError> {
    match store.get(cid) {
        Ok(Some(bytes)) => Ok(links(cid.codec(), &bytes).map_err(|error| error.to_string())),
        Ok(None) => Ok(Err("the block is missing".to_owned())),
        Err(error @ StoreError::Damaged { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}
