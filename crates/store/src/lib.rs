//! The block store: everything that Archivist keeps, kept so that it is there
//! and right when it is wanted.
//!
//! Role: the only code that writes blocks. [`BlockStore`] is what a store does;
//! [`MemStore`] does it in memory, [`PackStore`] on disk, and `FaultyStore`
//! (feature `testing`) wraps either and fails on demand.
//!
//! The flow of a write: bytes → chunk ([`Chunker`]) → block → pack → index, then
//! one sync for many, then the root that names it.

mod batch;
mod block_store;
mod bytes_at;
#[cfg(any(test, feature = "testing"))]
pub mod check;
mod error;
#[cfg(any(test, feature = "testing"))]
mod faulty_store;
mod file_reader;
mod file_writer;
mod hash_index;
mod in_place;
mod lookup;
mod mem_store;
mod pack;
mod pack_store;
mod pins;
mod root_log;
mod run;

pub use batch::Batch;
pub use block_store::{
    BlockRead, BlockStore, BlockWrite, GcOptions, GcReport, Roots, StoreAdmin, Usage, WriteEpoch,
};
pub use error::{Limit, Retry, StoreError};
#[cfg(any(test, feature = "testing"))]
pub use faulty_store::{Action, Call, FaultyStore, MakeError};
pub use file_reader::{Content, FileReader, content_of, is_complete, resolve};
pub use file_writer::{FileWriter, WrittenFile};
pub use in_place::{
    FileId, FileTable, InPlaceAnswer, InPlaceChunk, InPlaceRead, InPlaceStore, Stamp, open_regular,
    will_need,
};
pub use lookup::{get_required, get_sound};
pub use mem_store::MemStore;
pub use pack_store::{OpenReport, PackStore, RecompressEnd, RecompressReport, StoreOptions};
pub use pins::Pin;
pub use root_log::{MAX_ROOT_NAME_LEN, Root};
