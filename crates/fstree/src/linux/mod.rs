//! Linux: `openat2`, `O_PATH`, `/proc/self/fd` and `statx`, called through rustix.
//!
//! Everything below a root is reached from open descriptors, never by a path from
//! `/`. `beneath` resolves paths, `open` opens what a descriptor refers to, `stat`
//! examines it; `source` and `dest` implement the two traits with these.

mod acl;
mod beneath;
mod dest;
mod error;
mod ground;
mod mounts;
mod names;
mod open;
mod source;
mod stat;
mod xattrs;

pub use dest::DestTree;
pub use mounts::{Mount, mounts_below};
pub use source::SourceTree;

/// Kind of a read: the argument of the faults of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The metadata of an entry.
    Examine,
    /// The content of a file.
    Open,
    /// The names in a directory.
    List,
}

/// A directory, open with `O_PATH`. inotify watches it by its name below
/// `/proc/self/fd`.
pub type DirHandle = rustix::fd::OwnedFd;
