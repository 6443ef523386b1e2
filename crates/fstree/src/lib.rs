//! Directory trees: reading one with all its metadata, and making it again.
//!
//! Role: everything that looks at a user's files on a source, and everything
//! that makes files where a snapshot is restored. Which entries are wanted,
//! what changed and where content comes from is decided elsewhere.
//!
//! * [`SourceTree`], [`Walk`]: what is there, in the order of paths.
//! * [`SourceTree::open_file`], [`SourceTree::xattrs`]: what is in it.
//! * [`DestTree`], [`FileSink`]: making it again.
//! * [`compare`]: whether two trees are the same.
//!
//! **Invariants.** No link is followed below a root or a target, in no part of
//! a path, whatever others do to the tree meanwhile (`beneath.rs`). Nothing is
//! opened for reading but directories and regular files. What goes wrong with
//! one entry is reported with its path and stops nothing.
//!
//! What is absent: the network, the store, any decision.

mod beneath;
mod compare;
mod content;
mod dest;
mod error;
mod found;
mod frames;
mod names;
mod owners;
mod root;
mod stat;
mod walk;
mod xattrs;

pub use beneath::Resolution;
pub use compare::{CompareOptions, Difference, Unlike, compare};
pub use dest::{
    Attribute, DestOptions, DestTree, FileContent, FileSink, How, Made, MakeFile, NotSet,
    OwnerPolicy, SameFile, WriteOut, is_temp_name,
};
pub use error::{DestError, ReadError, Retry, RootError};
pub use found::{Found, FoundKind, Kind};
pub use owners::Owners;
pub use root::{OpenFile, SourceTree};
pub use stat::{Identity, Stamp};
pub use walk::{Visit, Walk, WalkItem, WalkOptions};
pub use xattrs::{XATTRS_LEN_MAX, XattrsRead};
