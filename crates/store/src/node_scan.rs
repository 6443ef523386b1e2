//! Reads every node of a store, whether or not a root leads to it: the way to find
//! what the roots no longer name.

use std::ops::ControlFlow;

use bytes::Bytes;
use types::Cid;

use crate::error::StoreError;

/// Maximum number of faults that are described.
const FAULTS_MAX: usize = 100;

/// A store whose nodes can be listed.
pub trait NodeScan {
    /// Calls `each` with every DAG-CBOR block, until it breaks. A block that is
    /// stored twice may be passed twice. No collection runs meanwhile. Blocks the
    /// thread, and reads all metadata of the store.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError`] if the scan cannot start. A pack or a record that cannot
    /// be read is not an error: the scan continues, and the report describes it.
    fn scan_nodes(
        &self,
        each: &mut dyn FnMut(Cid, Bytes) -> ControlFlow<()>,
    ) -> Result<NodeScanReport, StoreError>;

    /// Returns the number of reads of blocks that the disk has failed and that the store
    /// has reported as damage, because its readers continue with other blocks.
    fn failed_reads(&self) -> u64 {
        0
    }

    /// Reports whether a root of the block was removed on purpose and not set again.
    /// A store that has lost its notes about removals returns false.
    fn was_removed(&self, cid: &Cid) -> bool;
}

/// Result of [`NodeScan::scan_nodes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeScanReport {
    /// Number of nodes that were read.
    pub nodes: u64,
    /// Length of these nodes in bytes.
    pub read_bytes: u64,
    /// Number of records that a newer version of the program wrote.
    pub newer: u64,
    /// Packs and records that the disk could not deliver. They may be intact, and
    /// readable at another time.
    pub unreadable: Faults,
    /// Records that are damaged or lost.
    pub damaged: Faults,
}

impl NodeScanReport {
    /// Reports whether every node was read that the store has.
    pub fn is_complete(&self) -> bool {
        self.newer == 0 && self.unreadable.count == 0 && self.damaged.count == 0
    }
}

/// Faults that were found during a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Number of faults.
    pub count: u64,
    /// Descriptions of the first ones, at most 100.
    pub descriptions: Vec<String>,
}

impl Faults {
    pub(crate) fn add(&mut self, description: String) {
        self.count += 1;
        if self.descriptions.len() < FAULTS_MAX {
            self.descriptions.push(description);
        }
    }
}
