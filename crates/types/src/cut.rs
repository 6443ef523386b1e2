//! Cut points of chunks: FastCDC (2020), normalised.
//!
//! A cut point depends only on the content around it, so a change in a file
//! changes the chunks that it touches and no others. The parameters and the
//! gear table are part of the format (`docs/formats/block.md`): if a cut point
//! moved, every user would send everything again. The crate is pinned to an
//! exact version, and the golden vectors in `chunker.rs` must never change.
//!
//! Source: W. Xia et al., "The Design of Fast Content-Defined Chunking for
//! Data Deduplication Based Storage Systems", IEEE TPDS 31(9), 2020.

use fastcdc::v2020::FastCDC;

/// Minimum length of a chunk in bytes; only the last chunk of a file may be
/// shorter. A file of at most this length is one chunk.
pub const CHUNK_LEN_MIN: usize = 64 << 10;
/// Target length of a chunk in bytes. The real average is 1.2 times as long.
pub const CHUNK_LEN_AVG: usize = 256 << 10;
/// Maximum length of a chunk in bytes.
pub const CHUNK_LEN_MAX: usize = 1 << 20;

/// Returns the length of the first chunk of `bytes`, which must be the rest of a
/// file or at least as long as the longest chunk.
pub(crate) fn cut_point(bytes: &[u8]) -> usize {
    let window = &bytes[..bytes.len().min(CHUNK_LEN_MAX)];
    FastCDC::new(window, CHUNK_LEN_MIN, CHUNK_LEN_AVG, CHUNK_LEN_MAX)
        .next()
        .map_or(window.len(), |chunk| chunk.length)
}
