//! [`Chunker`]: cuts a file into chunks at the cut points of a [`BlockScheme`].

use bytes::{Bytes, BytesMut};

use crate::BlockScheme;
use crate::cut::CHUNK_LEN_MAX;

/// Cuts a stream of bytes, in memory that does not grow with the stream.
///
/// `store::FileWriter` uses it, for uploads. The scanner in `sync` has the bytes
/// in a buffer of its own and calls [`BlockScheme::cut_point`] directly.
#[derive(Debug)]
pub struct Chunker {
    scheme: BlockScheme,
    buffer: BytesMut,
}

impl Chunker {
    /// Starts at the beginning of a file.
    pub fn new(scheme: BlockScheme) -> Self {
        Self { scheme, buffer: BytesMut::new() }
    }

    /// Adds the next bytes of the file. Complete chunks go to `emit`.
    ///
    /// # Errors
    ///
    /// Returns the error of `emit`. The chunker must not be used after that.
    pub fn push<E>(
        &mut self,
        mut bytes: &[u8],
        mut emit: impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            // The buffer stays little longer than the longest chunk.
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_LEN_MAX));
            self.buffer.extend_from_slice(now);
            bytes = later;
            // A cut is certain once the longest possible chunk is known.
            while self.buffer.len() >= CHUNK_LEN_MAX {
                emit(self.cut())?;
            }
        }
        Ok(())
    }

    /// Ends the file: cuts the rest. An empty file has no chunk.
    ///
    /// # Errors
    ///
    /// Returns the error of `emit`.
    pub fn finish<E>(mut self, mut emit: impl FnMut(Bytes) -> Result<(), E>) -> Result<(), E> {
        while !self.buffer.is_empty() {
            emit(self.cut())?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Bytes {
        let len = self.scheme.cut_point(&self.buffer);
        self.buffer.split_to(len).freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::cut::CHUNK_LEN_MIN;

    /// Returns reproducible bytes: BLAKE3 of a label, extended to `len` bytes.
    fn stream(label: &str, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn chunks(bytes: &[u8], step: usize) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        let mut emit = |chunk| {
            chunks.push(chunk);
            Ok::<_, Infallible>(())
        };
        let mut chunker = Chunker::new(BlockScheme::plain());
        for piece in bytes.chunks(step) {
            chunker.push(piece, &mut emit).unwrap();
        }
        chunker.finish(&mut emit).unwrap();
        chunks
    }

    fn lengths(bytes: &[u8]) -> Vec<usize> {
        chunks(bytes, 1 << 16).iter().map(Bytes::len).collect()
    }

    #[test]
    fn golden_cut_points() {
        let golden: &[(&str, usize, &[usize])] = &[
            (
                "archivist golden 1",
                3_000_000,
                &[
                    492_280, 91_238, 214_026, 273_065, 330_184, 87_713, 298_058, 149_669, 348_404,
                    327_381, 249_787, 138_195,
                ],
            ),
            (
                "archivist golden 2",
                2_500_000,
                &[281_909, 318_064, 274_862, 478_516, 411_019, 546_868, 188_762],
            ),
        ];
        for (label, len, expected) in golden {
            assert_eq!(lengths(&stream(label, *len)), *expected, "{label}");
        }
        assert_eq!(lengths(&vec![0; 2_500_000]), [CHUNK_LEN_MAX, CHUNK_LEN_MAX, 402_848]);
        let text = b"The quick brown fox jumps over the lazy dog.\n".repeat(50_000);
        assert_eq!(lengths(&text), [CHUNK_LEN_MAX, CHUNK_LEN_MAX, 152_848]);
        assert_eq!(lengths(&stream("small", CHUNK_LEN_MIN)), [CHUNK_LEN_MIN]);
        assert_eq!(lengths(b"x"), [1]);
        assert_eq!(lengths(b""), [] as [usize; 0]);
    }

    #[test]
    fn an_insertion_changes_the_chunks_around_it_alone() {
        let before = stream("insertion", 20_000_000);
        let mut after = before.clone();
        after.splice(7_000_000..7_000_000, *b"inserted");
        let old: std::collections::HashSet<_> = chunks(&before, 1 << 20).into_iter().collect();
        let new = chunks(&after, 1 << 20).into_iter().filter(|chunk| !old.contains(chunk)).count();
        assert!(new <= 3, "{new} of {} chunks are new", old.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

        #[test]
        fn chunks_are_the_file_however_it_is_pushed(
            len in 0..4_000_000_usize,
            step in 1..3_000_000_usize,
            label in "[a-z]{1,8}",
        ) {
            let bytes = stream(&label, len);
            let chunks = chunks(&bytes, step);
            prop_assert_eq!(&chunks.concat(), &bytes);
            prop_assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), lengths(&bytes));
            let (last, others) = chunks.split_last().map_or((0, &[][..]), |(l, o)| (l.len(), o));
            prop_assert!(others.iter().all(|c| (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&c.len())));
            prop_assert!(last <= CHUNK_LEN_MAX);
        }
    }
}
