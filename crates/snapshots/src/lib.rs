//! The snapshots in a store: their records, contents, retention and verification.
//!
//! A snapshot is a small record ([`SnapshotRecord`]) and the root that names it. Setting the root
//! is the commit: by then every block is in a synced pack. Nothing else says that a snapshot
//! exists, so nothing can disagree.
//!
//! * [`SnapshotReader`]: lists snapshots, also in a store that is open for reading only;
//!   [`SnapshotStore`] also commits and removes them.
//! * [`SnapshotTree`]: reads the entries of a snapshot.
//! * [`decide`]: the retention rules, without I/O; [`prune`] applies them.
//! * [`Signs`]: the signs of ransomware up to a snapshot.
//! * [`Removal`]: removing a snapshot by hand.
//! * [`find_lost`]: finds snapshots in the packs that no root names; [`recover`] sets their roots.
//! * [`verify`]: checks that every block of every snapshot can be read.

mod prune;
mod record;
mod recover;
mod removed;
mod retention;
mod signs;
mod snapshot_id;
mod snapshot_reader;
mod snapshot_store;
mod snapshot_tree;
mod verify;

pub use prune::{
    PruneDecision, PruneOptions, PruneReport, PruneSuspension, SuspendedFolder, prune,
};
pub use record::{RecordError, SnapshotRecord};
pub use recover::{
    FoundItem, FoundSnapshot, FoundState, RecoveryReport, UnusableRecord, find_lost, last_order,
    recover,
};
pub use removed::{Removal, RemoveError, locked_until};
pub use retention::{Candidate, Decision, Reason, RetentionPlan, Suspension, decide};
pub use signs::Signs;
pub use snapshot_id::{SnapshotId, SnapshotIdError};
pub use snapshot_reader::{
    DamagedSnapshot, Listing, Snapshot, SnapshotError, SnapshotReader, root_name, source_prefix,
};
pub use snapshot_store::SnapshotStore;
pub use snapshot_tree::{Depth, SnapshotTree, TreeError, header_of};
pub use verify::{VerifyError, VerifyProblem, VerifyProgress, VerifyReport, verify};
