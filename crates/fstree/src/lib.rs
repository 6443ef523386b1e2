//! Reads directory trees with all their metadata, and creates them again.
//!
//! Role: all access to the user's files. The scanner of the source reads trees
//! through [`TreeReader`]; a restore creates trees through [`TreeWriter`]. Other
//! crates decide which entries to read or create, what has changed and where the
//! content comes from.
//!
//! * [`SourceTree`] implements [`TreeReader`]: it walks a tree in the order of
//!   paths, examines single entries and opens files.
//! * [`DestTree`] implements [`TreeWriter`]: it creates a tree.
//! * [`compare`] finds the differences between two trees.
//!
//! The two types are those of the platform for which the program is built. The
//! only implementation today is the module `linux`; another platform is another
//! module with the same two types (`docs/decisions/0009-platforms.md`).
//!
//! **Invariants.** No link is followed below the root of a tree, in no component
//! of a path, even if other processes change the tree at the same time. Only
//! directories and regular files are opened for reading. An error that concerns
//! one entry is reported with its path and does not stop the operation.
//!
//! Absent on purpose: the network, the block store, any decision.

mod compare;
mod dest;
mod entry;
mod error;
mod ground;
mod owners;
mod resolution;
#[cfg(feature = "sim")]
pub mod sim;
mod source;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as platform;

#[cfg(not(target_os = "linux"))]
compile_error!("fstree has no implementation for this platform; add a module like `linux`");

pub use compare::{CompareOptions, Difference, DifferenceKind, compare};
pub use dest::{
    Attribute, CreateFile, CreatedEntry, DestOptions, FileContent, FileWriter, NotSet, OwnerPolicy,
    TreeWriter, WriteOut, is_temp_name,
};
pub use entry::{FileKind, FoundEntry, FoundKind, Identity, Stamp};
pub use error::{DestError, ReadError, RootError};
pub use ground::{Ground, GroundKind};
pub use owners::{OwnerNumbers, Owners};
pub use platform::{DestTree, DirHandle, Mount, SourceTree, mounts_below};
pub use resolution::Resolution;
pub use source::{
    MountId, MountPoint, OpenFile, TreeReader, Visit, WalkItem, WalkOptions, XATTRS_LEN_MAX,
    XattrsRead,
};
