//! What a block is made of, in few bytes; and another block as its difference
//! to that.
//!
//! A source keeps no copy of what a file was before it was saved, so it cannot
//! tell what has changed in it; the backup server has both that and time. So
//! the asker cuts what it has into pieces, as the chunker cuts files, and says
//! the first bytes of each piece's hash. Who answers cuts the block in the same
//! way: the pieces that both have are the base of a difference
//! ([`types::delta`]).
//!
//! Pure. Nothing here is trusted: two pieces may have the same six bytes, a peer
//! may lie, what is here may have changed. What comes out has to be checked
//! against the name of the block.
//!
//! After A. Tridgell, "Efficient Algorithms for Sorting and Synchronization",
//! 1999, with cuts by content in the place of a rolling search, so that the
//! work is linear whatever the bytes.

use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;

use fastcdc::v2020::FastCDC;
use types::{Hash, MAX_BLOCK_LEN, delta};

/// What is said of a piece: in a block of four thousand pieces compared with
/// another, one pair in 10⁷ blocks is taken for equal and is not; the block's
/// own hash tells, and it is asked for whole.
pub(super) const PIECE_HASH_LEN: usize = 6;

/// Pieces of a sketch: a block of [`MAX_BLOCK_LEN`], cut as finely as can be.
pub(super) const PIECES_MAX: usize = MAX_BLOCK_LEN / 1024;

/// What pieces are aimed at, in bytes, as a power of two: the chunker takes no
/// less than 2⁸, and the longest block is not cut finer than 2¹².
pub(super) const PIECE_LOGS: RangeInclusive<u8> = 8..=12;

/// What is shorter is sooner sent than compared.
const BASE_LEN_MIN: usize = 1024;

type PieceHash = [u8; PIECE_HASH_LEN];

/// The pieces of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    piece_log: u8,
    pieces: Vec<PieceHash>,
}

impl Sketch {
    /// That of a block; `None` where it is not worth having.
    pub fn of(base: &[u8]) -> Option<Self> {
        if !(BASE_LEN_MIN..=MAX_BLOCK_LEN).contains(&base.len()) {
            return None;
        }
        // A change costs the piece around it, and the sketch each piece: their
        // sum is least about here.
        let half_log = base.len().next_power_of_two().ilog2() / 2;
        let piece_log =
            u8::try_from(half_log + 1).ok()?.clamp(*PIECE_LOGS.start(), *PIECE_LOGS.end());
        let pieces: Vec<_> = cut(base, piece_log).map(name).collect();
        (pieces.len() <= PIECES_MAX).then_some(Self { piece_log, pieces })
    }

    /// As it came: `pieces` is a whole number of hashes.
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

    /// What it takes in memory and on the wire, in bytes.
    pub(super) fn size(&self) -> usize {
        self.pieces.len() * PIECE_HASH_LEN
    }

    /// `block` as the difference to what this is the sketch of: one bit a piece,
    /// the first in the lowest bit of the first byte, and the difference to those
    /// whose bit is set. `None` where they have nothing in common.
    ///
    /// # Errors
    ///
    /// Those of zstd, which are out of memory.
    pub(super) fn diff(&self, block: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut theirs: HashMap<&PieceHash, usize> = HashMap::with_capacity(self.pieces.len());
        for (at, piece) in self.pieces.iter().enumerate() {
            theirs.entry(piece).or_insert(at);
        }
        let mut shared: Vec<Option<&[u8]>> = vec![None; self.pieces.len()];
        for piece in cut(block, self.piece_log) {
            if let Some(at) = theirs.get(&name(piece)) {
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

    /// What [`Sketch::diff`] was given, from `base`, which this is the sketch of.
    ///
    /// # Errors
    ///
    /// What is no difference, or one to something else, as far as that shows.
    pub(super) fn apply(&self, base: &[u8], patch: &[u8]) -> io::Result<Vec<u8>> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let len = self.pieces.len().div_ceil(8);
        let (bits, delta) = patch.split_at_checked(len).ok_or_else(|| invalid("it is cut off"))?;
        let mut prefix = Vec::with_capacity(base.len());
        let mut count = 0;
        for (at, piece) in cut(base, self.piece_log).enumerate() {
            count += 1;
            if bits.get(at / 8).is_some_and(|bits| bits >> (at % 8) & 1 == 1) {
                prefix.extend_from_slice(piece);
            }
        }
        if count != self.pieces.len() {
            return Err(invalid("what it is the difference to has changed"));
        }
        delta::apply(&prefix, delta)
    }
}

/// The pieces of some bytes, as the chunker would cut them if chunks were of
/// this length: a quarter of it at least, and four times at most.
fn cut(bytes: &[u8], piece_log: u8) -> impl Iterator<Item = &[u8]> {
    let aim = 1_usize << piece_log;
    FastCDC::new(bytes, aim / 4, aim, aim * 4)
        .map(|piece| &bytes[piece.offset..piece.offset + piece.length])
}

fn name(piece: &[u8]) -> PieceHash {
    let mut name = PieceHash::default();
    name.copy_from_slice(&Hash::of(piece).as_bytes()[..PIECE_HASH_LEN]);
    name
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

    /// The length of the sketch, and that of the difference.
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
        // Were a cut to move, peers of two versions would find nothing in common.
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
}
