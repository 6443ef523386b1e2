//! A snapshot becomes a directory tree again.
//!
//! Role: from a manifest's name and a source of blocks to files below a target
//! directory. It needs nothing that runs: the store of a machine that is off,
//! a peer, or the blocks in memory will do.
//!
//! * [`restore`]: makes the tree, or parts of it.
//! * [`Blocks`]: where blocks come from.
//! * [`Manifest`]: reads a manifest, segment by segment.
//!
//! Invariants: every block is checked against its name by whoever gives it,
//! and every file against the hash of the whole; nothing is written outside
//! the target (`fstree`); what is there already is left alone unless it is to
//! be overwritten; what went wrong with one entry is reported and stops
//! nothing but itself. Memory does not grow with the tree, but for its
//! directories and hard links.

mod blocks;
mod engine;
mod file;
mod manifest;
mod report;
mod select;

pub use blocks::{Blocks, BlocksError};
pub use engine::{RestoreError, RestoreOptions, restore};
pub use manifest::{Manifest, ManifestError, WriteError};
pub use report::{LISTED_MAX, Progress, Report};
pub use select::Selection;
