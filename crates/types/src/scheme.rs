//! The scheme of blocks: how a source cuts, names and encodes its content.
//!
//! [`BlockScheme`] is constructed once, where a source or an upload is set up,
//! and passed to all code that makes blocks. Today every scheme is plain. A
//! scheme with keys, for folders that their source encrypts, can take its place
//! without a change to the code that uses it: the block that is stored is the
//! sealed one, and its CID is the hash of the sealed bytes.
//!
//! Checking a received block against its CID needs no scheme
//! ([`Block::verify`], [`EncodedBlock::verify`]): a backup server has no key.

use bytes::Bytes;

use crate::{Block, BlockError, Cid, Codec, EncodedBlock, Hash, RelPath, cut};

/// Level of zstd for nodes. They are mostly digests: a higher level gains
/// nothing.
const NODE_LEVEL: i32 = 1;
/// Level of zstd for the parts of a manifest. They are JSON that repeats
/// itself: this level halves it several times.
const MANIFEST_LEVEL: i32 = 3;

/// A path starts a new segment if these bits of its hash are zero: one path in
/// 1,024.
const SEGMENT_CUT_MASK: u64 = 0x3ff;

/// Cuts, names and encodes the content of a source. See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockScheme {
    kind: Kind,
}

/// The kinds of schemes. Each method chooses once per block or cut, so that the
/// loops over bytes stay free of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The block is the content, its name the BLAKE3 hash of the content.
    Plain,
}

impl BlockScheme {
    /// Creates the scheme without keys.
    pub const fn plain() -> Self {
        Self { kind: Kind::Plain }
    }

    /// Returns the length of the first chunk of `bytes`, which must be the rest
    /// of a file or at least [`crate::CHUNK_LEN_MAX`] bytes.
    pub fn cut_point(&self, bytes: &[u8]) -> usize {
        match self.kind {
            Kind::Plain => cut::cut_point(bytes),
        }
    }

    /// Returns the name of the block that [`BlockScheme::block`] makes of
    /// `content`.
    pub fn name(&self, codec: Codec, content: &[u8]) -> Cid {
        match self.kind {
            Kind::Plain => Cid::of(codec, content),
        }
    }

    /// Makes the block that stores `content`: a chunk, a node or a part of a
    /// manifest.
    ///
    /// # Errors
    ///
    /// Returns [`BlockError::TooLong`] if the block would be longer than
    /// [`crate::MAX_BLOCK_LEN`].
    pub fn block(&self, codec: Codec, content: impl Into<Bytes>) -> Result<Block, BlockError> {
        match self.kind {
            Kind::Plain => Block::new(codec, content),
        }
    }

    /// Returns the form in which a block of [`BlockScheme::block`] is stored and
    /// sent. File nodes, datasets and parts of manifests are compressed. Chunks
    /// stay uncompressed here: they are compressed on slow links, and later by the
    /// store of each instance when the instance is idle.
    pub fn encode(&self, block: Block) -> EncodedBlock {
        match self.kind {
            Kind::Plain => match block.cid().codec() {
                Codec::Raw => EncodedBlock::plain(block),
                Codec::DagCbor => EncodedBlock::compress(block, NODE_LEVEL),
                Codec::Json => EncodedBlock::compress(block, MANIFEST_LEVEL),
            },
        }
    }

    /// Reports whether a new segment of a manifest starts with this path,
    /// whatever precedes it. The hash of the path decides; about 1 path in 1,000
    /// starts a segment.
    pub fn starts_segment(&self, path: &RelPath) -> bool {
        match self.kind {
            Kind::Plain => Hash::of(path.as_bytes()).prefix() & SEGMENT_CUT_MASK == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encoding;

    #[test]
    fn a_plain_block_is_its_content() {
        let scheme = BlockScheme::plain();
        let text = "all work and no play ".repeat(1000);
        for codec in [Codec::Raw, Codec::DagCbor, Codec::Json] {
            let block = scheme.block(codec, text.clone()).unwrap();
            assert_eq!(
                block,
                Block::verify(Cid::of(codec, text.as_bytes()), text.clone()).unwrap()
            );
            assert_eq!(block.cid(), scheme.name(codec, text.as_bytes()));
            let encoded = scheme.encode(block.clone());
            assert_eq!(encoded.decode().unwrap(), block.data());
            let is_plain = encoded.encoding() == Encoding::Plain;
            assert_eq!(is_plain, codec == Codec::Raw);
        }
    }

    #[test]
    fn one_path_in_a_thousand_starts_a_segment() {
        let scheme = BlockScheme::plain();
        let starts = |n: &u32| scheme.starts_segment(&RelPath::new(format!("d/{n}")).unwrap());
        let count = (0..100_000).filter(starts).count();
        assert!((60..140).contains(&count), "{count}");
    }
}
