//! A block as it is stored and as it travels: compressed where that pays.
//!
//! The payload that came over the wire is the payload that goes to disk, so a
//! receiver compresses nothing. It has been unpacked and hashed once, which is
//! what makes it an [`EncodedBlock`].

use std::cell::RefCell;
use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::{Block, BlockError, Cid, Codec, Hash, MAX_BLOCK_LEN};

/// How a payload holds the bytes of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// The bytes themselves.
    Plain = 0,
    /// One zstd frame (RFC 8878).
    Zstd = 1,
}

impl Encoding {
    /// The one-byte form in packs and on the wire.
    pub const fn tag(self) -> u8 {
        self as u8
    }

    /// The encoding of a one-byte form.
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A payload that was checked: it unpacks to the bytes that its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBlock {
    cid: Cid,
    encoding: Encoding,
    len: u32,
    payload: Bytes,
}

/// Why a payload is not the block that it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum EncodedError {
    /// It unpacks to other bytes, or to too many.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// It does not unpack.
    #[error("the payload of block {cid} does not unpack")]
    Unpack {
        /// The block that it claims to be.
        cid: Cid,
        /// What zstd said.
        #[source]
        source: io::Error,
    },
    /// It unpacks to fewer or more bytes than it declares.
    #[error("the payload of block {cid} declares {declared} bytes and has {found}")]
    Length {
        /// The block that it claims to be.
        cid: Cid,
        /// What was declared.
        declared: u32,
        /// What was found.
        found: usize,
    },
}

thread_local! {
    // A context is some 100 KiB to several MiB of tables: one for each thread
    // instead of one for each block.
    static UNPACK: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// Unpacks one zstd frame of at most `len` bytes.
fn unpack(payload: &[u8], len: usize) -> io::Result<Vec<u8>> {
    UNPACK.with_borrow_mut(|slot| {
        let unpacker = match slot {
            Some(unpacker) => unpacker,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        unpacker.decompress(payload, len)
    })
}

/// Contexts for compression that are kept for the next block: it is rarely
/// more threads than this that compress.
const PACKERS_KEPT: usize = 2;

/// What compresses, and where to: making both anew for each block costs as much
/// as compressing a short one.
struct Packer {
    context: zstd::bulk::Compressor<'static>,
    out: Vec<u8>,
}

static PACKERS: Mutex<Vec<Packer>> = Mutex::new(Vec::new());

/// Packs bytes into one zstd frame. The result has no more memory than it needs.
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
    /// Checks that `payload` unpacks to the `len` bytes that `cid` names.
    ///
    /// # Errors
    ///
    /// [`EncodedError`], before more than [`MAX_BLOCK_LEN`] bytes are
    /// allocated, whatever is declared.
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

    /// The block as it is, without compression.
    #[expect(clippy::cast_possible_truncation, reason = "a block is at most 4 MiB")]
    pub fn plain(block: Block) -> Self {
        Self {
            cid: block.cid(),
            encoding: Encoding::Plain,
            len: block.data().len() as u32,
            payload: block.into_data(),
        }
    }

    /// The block compressed by zstd at `level`, or plain where that does not
    /// save a twentieth.
    pub fn compress(block: Block, level: i32) -> Self {
        Self::plain(block).packed(level)
    }

    /// The same block, compressed by zstd at `level` where it is not and that
    /// saves a twentieth.
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

    /// Unpacks the payload.
    ///
    /// # Errors
    ///
    /// [`EncodedError::Unpack`], which a payload that was checked can give
    /// only where memory runs out.
    pub fn decode(&self) -> Result<Bytes, EncodedError> {
        match self.encoding {
            Encoding::Plain => Ok(self.payload.clone()),
            Encoding::Zstd => unpack(&self.payload, self.len as usize)
                .map(Bytes::from)
                .map_err(|source| EncodedError::Unpack { cid: self.cid, source }),
        }
    }

    /// The same bytes under their name as `codec`.
    #[must_use]
    pub fn read_as(self, codec: Codec) -> Self {
        Self { cid: Cid::new(codec, *self.cid.hash()), ..self }
    }

    /// The block's name.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// How the payload holds the block's bytes.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The length of the block's bytes, unpacked.
    #[expect(clippy::len_without_is_empty, reason = "the empty block is like any other")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// What is stored and sent.
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
