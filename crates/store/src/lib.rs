//! The block store: everything that Archivist keeps, kept so that it is there
//! and right when it is wanted.
//!
//! Role: the only code that writes blocks. [`BlockStore`] is what a store does;
//! [`MemStore`] does it in memory, [`PackStore`] on disk, and [`FaultyStore`]
//! wraps either and fails on demand.
//!
//! The flow of a write: bytes → [`chunk`](Chunker) → block → pack → index, then
//! one sync for many, then the root that names it.

mod atomic_file;
mod block_store;
mod disk;
mod error;
mod hash_index;
mod mem_store;
mod pack;
mod pack_store;
mod pins;
mod root_log;
mod run;
#[cfg(any(test, feature = "testing"))]
pub mod sim;

pub use block_store::{
    Batch, BlockStore, Epoch, GcOptions, GcReport, Problem, Usage, VerifyDepth, VerifyReport,
};
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::{Limit, Retry, StoreError};
pub use mem_store::MemStore;
pub use pack_store::{OpenReport, PackStore, StoreOptions};
pub use pins::Pin;
pub use root_log::{MAX_ROOT_NAME_LEN, Root};
