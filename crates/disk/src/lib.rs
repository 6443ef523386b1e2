//! File operations behind a trait, so that tests can make them fail.
//!
//! Role: the lowest layer of everything that writes files of Archivist's own
//! (packs, indexes, lists, keys, the configuration). [`RealDisk`] is the file
//! system of this computer; `sim::SimDisk` (feature `testing`) is a disk in
//! memory that fails, fills up and loses power at any operation, `ObservedDisk` shows
//! each operation on another disk to an observer, and `ReadOnlyDisk` refuses every
//! change (both feature `testing`).
//!
//! [`write_atomic`] is the only way to write a small file as a whole. Packs and
//! indexes, which grow, use [`DiskFile`] directly and sync it themselves.
//!
//! [`read_state`] is the way to read a small file of state, and [`read_cache`] to
//! read one on which nothing depends.
//!
//! Absent: the files of users. Crate `fstree` reads and writes those.

mod aside;
mod atomic;
mod disk;
#[cfg(any(test, feature = "testing"))]
mod observed;
#[cfg(any(test, feature = "testing"))]
mod read_only;
mod real;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
mod state;

pub use aside::{ASIDE, Aside};
pub use atomic::{AtomicWrite, Existing, FileError, Permissions, Writers, read_file, write_atomic};
pub use disk::{Disk, DiskFile, Space};
#[cfg(any(test, feature = "testing"))]
pub use observed::{Call, ObservedDisk, Observer};
#[cfg(any(test, feature = "testing"))]
pub use read_only::{ReadOnly, ReadOnlyDisk};
pub use real::RealDisk;
pub use state::{Kept, Parsed, StateError, StateRead, read_cache, read_state};
