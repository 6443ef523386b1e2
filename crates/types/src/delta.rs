//! Encodes a block as its difference to other blocks (the bases).
//!
//! The difference, or patch, is one zstd frame (RFC 8878) that is compressed with
//! the concatenated bases as its raw prefix, like `zstd --patch-from`. Both sides
//! must have the bases. The wire form is specified in `docs/formats/wire.md`.
//!
//! [`apply`] does not verify its result: the caller must check it against the
//! name of the block.

use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use zstd::zstd_safe::CParameter;

use crate::MAX_BLOCK_LEN;

/// Maximum total length of the bases of one block in bytes. A block is at most
/// as long, which bounds the distance of matches.
pub const BASES_LEN_MAX: usize = MAX_BLOCK_LEN;

/// Largest window of a frame, as a power of two: the bases and the block.
const WINDOW_LOG_MAX: u32 = 23;
/// Smallest window that is requested, as a power of two.
const WINDOW_LOG_MIN: u32 = 17;

/// From this length of bases and block on, as a power of two, the tables of a
/// level do not cover all positions, and long-distance matching is switched on.
const FAR_LOG: u32 = 20;

/// zstd level for blocks that differ from their base in a few runs of bytes:
/// the chunks of files that the block protocol (crate `net`) sends as patches.
/// Needs 0.9 ms for 300 kB; level 6 needs 6.7 ms and saves nothing.
pub const LEVEL_FAST: i32 = 3;
/// zstd level for text in which each line differs by a few bytes: the parts of
/// manifests that the patch protocol (crate `protocols`) sends. Level 3 gives
/// patches that are 1.5 times as long; level 15 saves a sixth more but needs
/// tables of 37 MB (`docs/performance.md`).
pub const LEVEL_SMALL: i32 = 6;

/// Concatenates the bases in their order. Returns `None` if they are longer than
/// [`BASES_LEN_MAX`].
pub fn prefix(bases: &[Bytes]) -> Option<Vec<u8>> {
    let len: usize = bases.iter().map(Bytes::len).sum();
    (len <= BASES_LEN_MAX).then(|| bases.concat())
}

/// Returns the patch that turns `prefix` into `block`. `level` is [`LEVEL_FAST`]
/// or [`LEVEL_SMALL`].
///
/// # Errors
///
/// Returns the error of zstd if memory runs out.
pub fn diff(prefix: &[u8], block: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let reach = (prefix.len() + block.len()).max(1).next_power_of_two().ilog2();
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), level, prefix)?;
    let window = reach.clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
    encoder.set_parameter(CParameter::WindowLog(window))?;
    encoder.long_distance_matching(reach >= FAR_LOG)?;
    encoder.set_pledged_src_size(Some(block.len() as u64))?;
    encoder.write_all(block)?;
    encoder.finish()
}

/// Applies `patch` to `prefix` and returns the result, which is at most
/// [`MAX_BLOCK_LEN`] bytes long but otherwise unverified.
///
/// # Errors
///
/// Returns an error if `patch` is not a zstd frame, needs a window of more than
/// 8 MiB, or decompresses to more than [`MAX_BLOCK_LEN`] bytes.
pub fn apply(prefix: &[u8], patch: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(patch, prefix)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut block = Vec::new();
    let read = decoder.take(MAX_BLOCK_LEN as u64 + 1).read_to_end(&mut block)?;
    if read > MAX_BLOCK_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the patched block is too long"));
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_the_bases_hold_costs_nothing() {
        let base = noise(200_000);
        let mut block = base.clone();
        block[100_000] ^= 1;
        let patch = diff(&base, &block, LEVEL_SMALL).unwrap();
        assert!(patch.len() < 200, "{}", patch.len());
        assert_eq!(apply(&base, &patch).unwrap(), block);
        // Content that moved by four megabytes is found, too, among zeros or noise.
        let zeros = [base.clone(), vec![7; BASES_LEN_MAX - base.len()]].concat();
        let noise = noise(BASES_LEN_MAX);
        for (base, level) in [(&zeros, LEVEL_SMALL), (&noise, LEVEL_SMALL), (&noise, LEVEL_FAST)] {
            let patch = diff(base, &block, level).unwrap();
            assert!(patch.len() < 10_000, "{level}: {}", patch.len());
            assert_eq!(apply(base, &patch).unwrap(), block);
        }
    }

    #[test]
    fn a_bomb_ends_at_the_length_of_a_block() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(apply(b"", &bomb).is_err());
        let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        wide.set_parameter(CParameter::WindowLog(27)).unwrap();
        wide.write_all(b"short").unwrap();
        let wide = wide.finish().unwrap();
        assert!(apply(b"", &wide).is_err(), "a window of 128 MiB");
    }

    #[test]
    fn another_base_gives_other_bytes_or_an_error_and_a_cut_gives_an_error() {
        let (base, block) = (noise(5000), [noise(5000), b"more".to_vec()].concat());
        let patch = diff(&base, &block, LEVEL_SMALL).unwrap();
        let other = apply(&vec![0; 5000], &patch);
        assert!(other.is_err() || other.is_ok_and(|bytes| bytes != block));
        for len in 1..patch.len() {
            assert!(apply(&base, &patch[..len]).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_block_comes_back_and_garbage_never_panics(
            base in prop::collection::vec(any::<u8>(), 0..300),
            block in prop::collection::vec(any::<u8>(), 0..300),
            garbage in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let patch = diff(&base, &block, LEVEL_SMALL).unwrap();
            prop_assert_eq!(apply(&base, &patch).unwrap(), block);
            let _ = apply(&base, &garbage);
            let _ = apply(&base, &[&[0x28, 0xb5, 0x2f, 0xfd][..], &garbage].concat());
        }
    }
}
