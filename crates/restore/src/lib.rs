//! Restores a snapshot as a directory tree.
//!
//! Input: the CID of a manifest and a supplier of blocks. Output: files below a target
//! directory, created through [`fstree::TreeWriter`]. No running instance is needed:
//! the blocks may come from the store of a stopped instance, from a peer, or from
//! memory.
//!
//! * [`restore`] restores the tree, or parts of it.
//! * [`Blocks`] supplies blocks.
//! * [`Manifest`] reads a manifest segment by segment.
//!
//! **Invariants.** The supplier verifies every block against its CID, and the restore
//! verifies every file against the hash of its complete content. Nothing is written
//! outside the target (`fstree`). Existing entries stay unchanged unless overwriting is
//! requested. An error that concerns one entry is reported, and the restore continues.
//! Memory does not grow with the tree, except for its directories and hard links.

mod blocks;
mod engine;
mod file;
mod manifest;
mod options;
mod privileges;
mod protected;
mod report;
mod select;
mod target_root;

pub use blocks::{Blocks, BlocksError};
pub use fstree::OwnerPolicy;

pub use engine::restore;
pub use manifest::{Manifest, ManifestError, WriteError};
pub use options::{RestoreError, RestoreOptions};
pub use report::{LISTED_MAX, Progress, Report};
pub use select::Selection;
