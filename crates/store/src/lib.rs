//! The block store: packs, index, roots, garbage collection, blocks in place.
//!
//! Role: the only code that stores blocks. [`BlockRead`], [`BlockWrite`],
//! [`Roots`] and [`StoreAdmin`] are the parts of a store ([`BlockStore`]).
//! [`PackStore`] implements them on disk and [`MemStore`] in memory;
//! [`ReadOnlyPackStore`] reads a store on disk without changing a byte of it;
//! `FaultyStore` (feature `testing`) wraps either and fails on demand.
//! [`InPlaceStore`] serves blocks from the user's own files instead.
//!
//! The flow of a write: bytes → chunk ([`types::Chunker`]) → block → pack →
//! index, then one sync for many blocks, then the root that leads to them.
//! [`FileWriter`] does this for a file, [`FileReader`] reads it back.
//!
//! Absent: the meaning of blocks (snapshots, manifests) and the network.

// Crate `schedules` compiles this file, too. The unit tests run here only.
#![cfg(not(all(test, shuttle)))]

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
mod in_place_catalog;
mod lookup;
mod mem_store;
mod node_scan;
mod pack;
mod pack_store;
mod pins;
mod record;
mod root_log;
mod run;
mod scrub_dates;
mod sync;

pub use batch::Batch;
pub use block_store::{
    BlockRead, BlockStore, BlockWrite, GcOptions, GcReport, Roots, RootsRead, StoreAdmin,
    StoreRead, Usage, WriteEpoch,
};
pub use error::{Limit, StoreError};
#[cfg(any(test, feature = "testing"))]
pub use faulty_store::{Action, Call, FaultyStore, MakeError};
pub use file_reader::{Content, FileReader, content_of, is_complete, resolve};
pub use file_writer::{FileWriter, WrittenFile};
pub use in_place::{
    FileId, FileTable, InPlaceAnswer, InPlaceChunk, InPlaceRead, InPlaceStore, open_regular,
    will_need,
};
pub use lookup::{get_required, get_sound};
pub use mem_store::MemStore;
pub use node_scan::{Faults, NodeScan, NodeScanReport};
pub use pack_store::{
    FaultyBlock, Losses, OpenReport, PackStore, ReadOnlyPackStore, RecompressEnd, RecompressReport,
    ScrubEnd, ScrubReport, StoreOptions,
};
pub use pins::Pin;
pub use root_log::{MAX_ROOT_NAME_LEN, Root};
pub use scrub_dates::{NextScrub, PackId, PackLen, ScrubDates, ScrubSummary};
