//! [`Sketch`]: a short description of a block by which a peer finds what another
//! block has in common with it.
//!
//! A source keeps no copy of a file as it was before a save, so it does not know
//! which bytes changed. The backup server has the old blocks. It cuts an old block
//! into pieces, as the chunker cuts files, and sends the first 6 bytes of the hash of
//! each piece: the sketch. The source cuts the new block in the same way. The pieces
//! that both blocks have are the base of the difference ([`types::delta`]).
//! Specified in `docs/formats/wire.md`.
//!
//! Nothing here is trusted: two pieces may have the same 6 bytes, a peer may lie, and
//! the old block may have changed since. The caller must check the result against the
//! name of the block.
//!
//! The method is that of rsync (A. Tridgell, "Efficient Algorithms for Sorting and
//! Synchronization", 1999), with content-defined cuts instead of a rolling search.
//! The work is therefore linear for all inputs.

use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;

use fastcdc::v2020::FastCDC;
use types::{Hash, MAX_BLOCK_LEN, delta};

/// Number of bytes of a piece's hash that are sent. If two blocks of four thousand
/// pieces are compared, different pieces have the same 6 bytes once in 10⁷ blocks. The
/// hash of the block then shows the mistake, and the client requests the complete
/// block.
pub(super) const PIECE_HASH_LEN: usize = 6;

/// Maximum number of pieces in a sketch: a block of [`MAX_BLOCK_LEN`], cut as finely as
/// possible.
pub(super) const PIECES_MAX: usize = MAX_BLOCK_LEN / 1024;

/// Allowed average lengths of pieces in bytes, as powers of two. The chunker supports
/// no average below 2⁸; the longest block is cut to an average of 2¹².
pub(super) const PIECE_LOGS: RangeInclusive<u8> = 8..=12;

/// Minimum length of a block for which a sketch is made, in bytes. A shorter block is
/// cheaper to send than to compare.
const BASE_LEN_MIN: usize = 1024;

type PieceHash = [u8; PIECE_HASH_LEN];

/// Hashes of the pieces of a block, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    piece_log: u8,
    pieces: Vec<PieceHash>,
}

impl Sketch {
    /// Returns the sketch of a block, or `None` if the block is shorter than 1 KiB or
    /// longer than [`MAX_BLOCK_LEN`].
    pub fn of(base: &[u8]) -> Option<Self> {
        if !(BASE_LEN_MIN..=MAX_BLOCK_LEN).contains(&base.len()) {
            return None;
        }
        // A change costs the piece around it; the sketch costs 6 bytes for each piece.
        // The sum is smallest if pieces are about twice the square root of the length.
        let half_log = base.len().next_power_of_two().ilog2() / 2;
        let piece_log =
            u8::try_from(half_log + 1).ok()?.clamp(*PIECE_LOGS.start(), *PIECE_LOGS.end());
        let pieces: Vec<_> = cut(base, piece_log).map(piece_hash).collect();
        (pieces.len() <= PIECES_MAX).then_some(Self { piece_log, pieces })
    }

    /// Makes a sketch from its wire form. The length of `pieces` is a multiple of
    /// [`PIECE_HASH_LEN`].
    pub(super) fn from_wire(piece_log: u8, pieces: &[u8]) -> Self {
        let hash = |bytes: &[u8]| {
            let mut hash = PieceHash::default();
            hash.copy_from_slice(bytes);
            hash
        };
        let pieces = pieces.chunks_exact(PIECE_HASH_LEN).map(hash).collect();
        Self { piece_log, pieces }
    }

    pub(super) fn piece_log(&self) -> u8 {
        self.piece_log
    }

    pub(super) fn pieces(&self) -> &[PieceHash] {
        &self.pieces
    }

    /// Returns the length of the hashes in memory and on the wire, in bytes.
    pub(super) fn size(&self) -> usize {
        self.pieces.len() * PIECE_HASH_LEN
    }

    /// Returns the difference between `block` and the block with this sketch, or
    /// `None` if they have no piece in common.
    ///
    /// The result has one bit for each piece of the sketch, the first in the lowest bit
    /// of the first byte. The bit is set if `block` has the piece too. The rest is the
    /// [`delta::diff`] of `block` to the pieces with a set bit.
    ///
    /// # Errors
    ///
    /// Returns the error of zstd if memory runs out.
    pub(super) fn diff(&self, block: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut theirs: HashMap<&PieceHash, usize> = HashMap::with_capacity(self.pieces.len());
        for (at, piece) in self.pieces.iter().enumerate() {
            theirs.entry(piece).or_insert(at);
        }
        let mut shared: Vec<Option<&[u8]>> = vec![None; self.pieces.len()];
        for piece in cut(block, self.piece_log) {
            if let Some(at) = theirs.get(&piece_hash(piece)) {
                shared[*at] = Some(piece);
            }
        }
        let mut bytes = vec![0_u8; shared.len().div_ceil(8)];
        let mut prefix = Vec::with_capacity(block.len());
        for (at, piece) in shared.iter().enumerate() {
            if let Some(piece) = piece {
                bytes[at / 8] |= 1 << (at % 8);
                prefix.extend_from_slice(piece);
            }
        }
        if prefix.is_empty() {
            return Ok(None);
        }
        bytes.extend(delta::diff(&prefix, block, delta::LEVEL_FAST)?);
        Ok(Some(bytes))
    }

    /// Reverses [`Sketch::diff`]. `base` is the block with this sketch. The result is
    /// unverified.
    ///
    /// # Errors
    ///
    /// Returns an error if `patch` is malformed, or if `base` has another number of
    /// pieces than this sketch.
    pub(super) fn apply(&self, base: &[u8], patch: &[u8]) -> io::Result<Vec<u8>> {
        let invalid = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
        let len = self.pieces.len().div_ceil(8);
        let (bits, delta) =
            patch.split_at_checked(len).ok_or_else(|| invalid("the patch is too short"))?;
        let mut prefix = Vec::with_capacity(base.len());
        let mut count = 0;
        for (at, piece) in cut(base, self.piece_log).enumerate() {
            count += 1;
            if bits.get(at / 8).is_some_and(|bits| bits >> (at % 8) & 1 == 1) {
                prefix.extend_from_slice(piece);
            }
        }
        if count != self.pieces.len() {
            return Err(invalid("the base of the patch has changed"));
        }
        delta::apply(&prefix, delta)
    }
}

/// Cuts bytes into pieces with an average length of 2^`piece_log` bytes, a quarter of it
/// at least and four times as much at most, with the algorithm of the chunker.
fn cut(bytes: &[u8], piece_log: u8) -> impl Iterator<Item = &[u8]> {
    let average = 1_usize << piece_log;
    FastCDC::new(bytes, average / 4, average, average * 4)
        .map(|piece| &bytes[piece.offset..piece.offset + piece.length])
}

fn piece_hash(piece: &[u8]) -> PieceHash {
    let mut hash = PieceHash::default();
    hash.copy_from_slice(&Hash::of(piece).as_bytes()[..PIECE_HASH_LEN]);
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(label: &str, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Returns the length of the sketch and that of the difference.
    fn cost(base: &[u8], block: &[u8]) -> (usize, usize) {
        let sketch = Sketch::of(base).unwrap();
        let patch = sketch.diff(block).unwrap().unwrap();
        assert_eq!(sketch.apply(base, &patch).unwrap(), block);
        (sketch.size(), patch.len())
    }

    #[test]
    fn a_change_costs_the_pieces_around_it() {
        for (len, sketch_max, patch_max) in [
            (9_000, 400, 900),
            (64 << 10, 1_200, 2_000),
            (256 << 10, 2_300, 4_000),
            (1 << 20, 4_600, 8_000),
            ((4 << 20) - 64, 9_200, 16_000),
        ] {
            let base = noise("base", len);
            let mut edited = base.clone();
            edited[len / 2] ^= 1;
            let longer = [&base[..len / 3], b"more", &base[len / 3..]].concat();
            let shorter = [&base[..len / 3], &base[len / 3 + 5..]].concat();
            for block in [&edited, &longer, &shorter] {
                let (sketch, patch) = cost(&base, block);
                assert!(sketch <= sketch_max && patch <= patch_max, "{len}: {sketch}, {patch}");
            }
        }
    }

    #[test]
    fn what_has_nothing_in_common_has_no_difference() {
        let sketch = Sketch::of(&noise("base", 100_000)).unwrap();
        assert_eq!(sketch.diff(&noise("other", 100_000)).unwrap(), None);
        assert_eq!(sketch.diff(b"").unwrap(), None);
        assert_eq!(Sketch::of(b"short"), None);
        assert_eq!(Sketch::of(&vec![0; MAX_BLOCK_LEN + 1]), None);
    }

    #[test]
    fn no_block_has_more_pieces_than_may_be() {
        for len in [BASE_LEN_MIN, 4097, (64 << 10) + 1, (1 << 20) + 1, MAX_BLOCK_LEN] {
            for bytes in [vec![0; len], noise("any", len), b"ab".repeat(len / 2)] {
                let sketch = Sketch::of(&bytes).unwrap();
                assert!(PIECE_LOGS.contains(&sketch.piece_log()));
                assert!((1..=PIECES_MAX).contains(&sketch.pieces().len()));
            }
        }
    }

    #[test]
    fn the_pieces_are_those_of_the_page() {
        // If the cuts moved, peers of different versions would find nothing in common.
        let sketch = Sketch::of(&noise("golden", 4096)).unwrap();
        let lens: Vec<usize> = cut(&noise("golden", 4096), 8).map(<[u8]>::len).collect();
        assert_eq!(sketch.piece_log(), 8);
        assert_eq!(lens, GOLDEN_LENS);
        assert_eq!(sketch.pieces()[0], GOLDEN_FIRST);
    }

    const GOLDEN_LENS: [usize; 14] =
        [323, 104, 608, 203, 223, 298, 272, 334, 113, 529, 264, 401, 331, 93];
    const GOLDEN_FIRST: PieceHash = [251, 202, 71, 244, 236, 103];

    #[test]
    fn another_base_and_every_cut_are_errors_or_other_bytes() {
        let base = noise("base", 20_000);
        let block = [&base[..10_000], b"edited", &base[10_006..]].concat();
        let sketch = Sketch::of(&base).unwrap();
        let patch = sketch.diff(&block).unwrap().unwrap();
        for len in 0..patch.len() {
            assert!(sketch.apply(&base, &patch[..len]).is_err(), "{len}");
        }
        for other in [noise("other", 20_000), base[1..].to_vec(), Vec::new()] {
            let applied = sketch.apply(&other, &patch);
            assert!(applied.is_err() || applied.is_ok_and(|bytes| bytes != block));
        }
    }

    proptest! {
        #[test]
        fn any_block_comes_back_and_garbage_never_panics(
            base in prop::collection::vec(0_u8..4, 1024..6000),
            block in prop::collection::vec(0_u8..4, 0..3000),
            at in any::<prop::sample::Index>(),
            garbage in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let sketch = Sketch::of(&base).unwrap();
            // A part of the base is in the block.
            let block = [&block[..], &base[at.index(base.len())..]].concat();
            if let Some(patch) = sketch.diff(&block).unwrap() {
                prop_assert_eq!(sketch.apply(&base, &patch).unwrap(), block);
            }
            let _ = sketch.apply(&base, &garbage);
            let read = Sketch::from_wire(8, &garbage[..garbage.len() / 6 * 6]);
            let _ = read.diff(&base);
            let _ = read.apply(&base, &garbage);
        }
    }

    #[test]
    fn fuzz_sketch() {
        let base = noise("base", 9_000);
        let block = [&base[..4_000], b"changed", &base[4_000..]].concat();
        let sketch = Sketch::of(&base).unwrap();
        let patch = sketch.diff(&block).unwrap().unwrap();
        let wire: Vec<u8> = sketch.pieces().iter().flatten().copied().collect();
        fuzzing::target!(&[patch, wire], |bytes: &[u8]| {
            if let Ok(block) = sketch.apply(&base, bytes) {
                assert!(block.len() <= MAX_BLOCK_LEN);
            }
            // A peer may send any pieces.
            let whole = bytes.len() / PIECE_HASH_LEN * PIECE_HASH_LEN;
            let theirs = Sketch::from_wire(sketch.piece_log(), &bytes[..whole]);
            if let Some(patch) = theirs.diff(&block).unwrap() {
                assert!(patch.len() > theirs.pieces().len().div_ceil(8));
            }
        });
    }
}
