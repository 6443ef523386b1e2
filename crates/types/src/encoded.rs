//! [`EncodedBlock`]: a block in the form in which it is stored and sent, either
//! plain or compressed with zstd.
//!
//! A receiver stores the payload as it arrived and compresses nothing. The
//! constructor that takes a payload from elsewhere decompresses and hashes it
//! once.

use std::cell::RefCell;
use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::{Block, BlockError, Cid, Codec, Hash, MAX_BLOCK_LEN};

/// Encoding of the bytes of a block in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// The bytes without compression.
    Plain = 0,
    /// One zstd frame (RFC 8878).
    Zstd = 1,
}

impl Encoding {
    /// Returns the byte that stands for the encoding in packs and on the wire.
    pub const fn tag(self) -> u8 {
        self as u8
    }

    /// Returns the encoding for the byte that [`Encoding::tag`] returns, or
    /// `None` if there is none.
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Payload of a block that has been verified: it decodes to the bytes that the
/// name stands for.
///
/// Cloning is cheap: clones share the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBlock {
    cid: Cid,
    encoding: Encoding,
    len: u32,
    payload: Bytes,
}

/// Reasons for which a payload is not the block that it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum EncodedError {
    /// The decoded bytes have another hash, or the declared length exceeds
    /// [`MAX_BLOCK_LEN`].
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The payload is not a zstd frame, or it decompresses to more bytes than
    /// declared.
    #[error("cannot decompress the payload of block {cid}")]
    Unpack {
        /// Claimed name of the block.
        cid: Cid,
        /// Error of zstd.
        #[source]
        source: io::Error,
    },
    /// The decoded bytes have another length than declared.
    #[error("the payload of block {cid} declares {declared} bytes but contains {found}")]
    Length {
        /// Claimed name of the block.
        cid: Cid,
        /// Declared length in bytes.
        declared: u32,
        /// Actual length in bytes.
        found: usize,
    },
}

thread_local! {
    // A context has tables of about 100 KiB to several MiB, so each thread keeps
    // one instead of making one for each block.
    static UNPACK: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// Decompresses one zstd frame with a content of at most `len` bytes.
fn unpack(payload: &[u8], len: usize) -> io::Result<Vec<u8>> {
    UNPACK.with_borrow_mut(|slot| {
        let unpacker = match slot {
            Some(unpacker) => unpacker,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        unpacker.decompress(payload, len)
    })
}

/// Maximum number of unused compression contexts that are kept for the next
/// block. More threads than this rarely compress at the same time.
const PACKERS_KEPT: usize = 2;

/// Compression context with its output buffer. Making both for each block would
/// cost as much as compressing a short block.
struct Packer {
    context: zstd::bulk::Compressor<'static>,
    out: Vec<u8>,
}

static PACKERS: Mutex<Vec<Packer>> = Mutex::new(Vec::new());

/// Compresses `bytes` to one zstd frame. The result uses no spare capacity.
fn pack(bytes: &[u8], level: i32) -> io::Result<Bytes> {
    let kept = || PACKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let free = kept().pop();
    let mut packer = match free {
        Some(packer) => packer,
        None => Packer { context: zstd::bulk::Compressor::new(level)?, out: Vec::new() },
    };
    packer.context.set_compression_level(level)?;
    packer.out.clear();
    packer.out.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
    packer.context.compress_to_buffer(bytes, &mut packer.out)?;
    let packed = Bytes::copy_from_slice(&packer.out);
    let mut kept = kept();
    if kept.len() < PACKERS_KEPT {
        kept.push(packer);
    }
    Ok(packed)
}

impl EncodedBlock {
    /// Verifies that `payload` decodes to exactly `len` bytes with the hash in
    /// `cid`.
    ///
    /// Allocates at most [`MAX_BLOCK_LEN`] bytes, whatever `len` declares.
    ///
    /// # Errors
    ///
    /// Returns [`EncodedError::Unpack`] if the payload cannot be decompressed,
    /// [`EncodedError::Length`] if the length differs from `len`, and
    /// [`EncodedError::Block`] if the hash differs or `len` exceeds
    /// [`MAX_BLOCK_LEN`].
    pub fn verify(
        cid: Cid,
        encoding: Encoding,
        len: u32,
        payload: Bytes,
    ) -> Result<Self, EncodedError> {
        let declared = len as usize;
        if declared > MAX_BLOCK_LEN {
            return Err(BlockError::TooLong(declared).into());
        }
        let check = |bytes: &[u8]| {
            if bytes.len() != declared {
                return Err(EncodedError::Length { cid, declared: len, found: bytes.len() });
            }
            let found = Hash::of(bytes);
            if found != *cid.hash() {
                return Err(BlockError::Mismatch { wanted: cid, found }.into());
            }
            Ok(())
        };
        match encoding {
            Encoding::Plain => check(&payload)?,
            Encoding::Zstd => {
                let bytes = unpack(&payload, declared)
                    .map_err(|source| EncodedError::Unpack { cid, source })?;
                check(&bytes)?;
            }
        }
        Ok(Self { cid, encoding, len, payload })
    }

    /// Wraps a block without compression.
    #[expect(clippy::cast_possible_truncation, reason = "a block is at most 4 MiB")]
    pub fn plain(block: Block) -> Self {
        Self {
            cid: block.cid(),
            encoding: Encoding::Plain,
            len: block.data().len() as u32,
            payload: block.into_data(),
        }
    }

    /// Compresses a block with zstd at `level`. The result is plain if
    /// compression saves less than 5 %.
    pub fn compress(block: Block, level: i32) -> Self {
        Self::plain(block).packed(level)
    }

    /// Compresses the payload with zstd at `level` if it is plain and
    /// compression saves at least 5 %; otherwise returns the block unchanged.
    #[must_use]
    pub fn packed(self, level: i32) -> Self {
        if self.encoding != Encoding::Plain {
            return self;
        }
        let Ok(packed) = pack(&self.payload, level) else {
            return self;
        };
        if packed.len() > self.payload.len() / 20 * 19 {
            return self;
        }
        Self { encoding: Encoding::Zstd, payload: packed, ..self }
    }

    /// Decodes the payload and returns the bytes of the block.
    ///
    /// # Errors
    ///
    /// Returns [`EncodedError::Unpack`] if memory runs out. The payload itself
    /// has been verified.
    pub fn decode(&self) -> Result<Bytes, EncodedError> {
        match self.encoding {
            Encoding::Plain => Ok(self.payload.clone()),
            Encoding::Zstd => unpack(&self.payload, self.len as usize)
                .map(Bytes::from)
                .map_err(|source| EncodedError::Unpack { cid: self.cid, source }),
        }
    }

    /// Returns the same bytes as a block with `codec`. The store keeps a block once
    /// for each hash, so it may find the bytes under another codec than requested.
    #[must_use]
    pub fn read_as(self, codec: Codec) -> Self {
        Self { cid: Cid::new(codec, *self.cid.hash()), ..self }
    }

    /// Returns the name of the block.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Returns the encoding of the payload.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Returns the length of the decoded bytes.
    #[expect(clippy::len_without_is_empty, reason = "the empty block is like any other")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns the bytes that are stored and sent.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Block {
        Block::new(Codec::Raw, "all work and no play ".repeat(1000).into_bytes()).unwrap()
    }

    #[test]
    fn what_shrinks_is_packed_and_what_does_not_is_not() {
        let packed = EncodedBlock::compress(text(), 1);
        assert_eq!(packed.encoding(), Encoding::Zstd);
        assert!(packed.payload().len() < 1000);
        assert_eq!(packed.decode().unwrap(), text().data());

        let noise: Vec<u8> =
            (0..4096_u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        let noise = Block::new(Codec::Raw, noise).unwrap();
        let plain = EncodedBlock::compress(noise.clone(), 1);
        assert_eq!(plain.encoding(), Encoding::Plain);
        assert_eq!(plain.decode().unwrap(), noise.data());
    }

    /// A context that has packed other blocks, at other levels, packs as a new
    /// one does; few are kept.
    #[test]
    fn contexts_are_used_again() {
        let pack_all = || {
            for (len, level) in [(1000, 1), (21, 6), (900_000, 6), (400, 19), (300_000, 3)] {
                let bytes: Vec<u8> = text().data().iter().copied().cycle().take(len).collect();
                let fresh = zstd::bulk::compress(&bytes, level).unwrap();
                assert_eq!(pack(&bytes, level).unwrap(), fresh);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..20).for_each(|_| pack_all()));
            }
        });
        assert!(PACKERS.lock().unwrap().len() <= PACKERS_KEPT);
    }

    #[test]
    fn a_payload_is_taken_only_for_what_it_is() {
        let packed = EncodedBlock::compress(text(), 1);
        let (cid, len) = (packed.cid(), packed.len());
        let verify = |cid, encoding, len, payload: &[u8]| {
            EncodedBlock::verify(cid, encoding, len, Bytes::copy_from_slice(payload))
        };
        assert_eq!(verify(cid, Encoding::Zstd, len, packed.payload()).unwrap(), packed);
        let other = Cid::of(Codec::Raw, b"other");
        assert!(matches!(
            verify(other, Encoding::Zstd, len, packed.payload()),
            Err(EncodedError::Block(BlockError::Mismatch { .. }))
        ));
        // Declared shorter: a bomb stops at what it declares.
        assert!(verify(cid, Encoding::Zstd, 10, packed.payload()).is_err());
        assert!(matches!(
            verify(cid, Encoding::Zstd, len + 1, packed.payload()),
            Err(EncodedError::Length { .. })
        ));
        assert!(matches!(
            verify(cid, Encoding::Zstd, u32::MAX, packed.payload()),
            Err(EncodedError::Block(BlockError::TooLong(_)))
        ));
        assert!(matches!(
            verify(cid, Encoding::Zstd, len, b"no frame"),
            Err(EncodedError::Unpack { .. })
        ));
        for cut in 0..packed.payload().len() {
            assert!(verify(cid, Encoding::Zstd, len, &packed.payload()[..cut]).is_err());
        }
    }
}
