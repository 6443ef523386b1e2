//! A block: bytes that are known to be the bytes of their name.

use bytes::Bytes;

use crate::{Cid, Codec, Hash, MAX_BLOCK_LEN};

/// Bytes and the name that they were checked against.
///
/// There is no way to make a `Block` whose bytes do not match its CID, so a
/// function that takes one need not hash it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    data: Bytes,
}

/// Why bytes are not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes do not hash to the name.
    #[error("the bytes are not those of block {wanted}: they hash to {found}")]
    Mismatch {
        /// The name that was asked for.
        wanted: Cid,
        /// What the bytes hash to.
        found: Hash,
    },
    /// Longer than [`MAX_BLOCK_LEN`].
    #[error("a block of {0} bytes is over the limit of {MAX_BLOCK_LEN}")]
    TooLong(usize),
}

impl Block {
    /// Names `data`.
    ///
    /// # Errors
    ///
    /// [`BlockError::TooLong`] above [`MAX_BLOCK_LEN`].
    pub fn new(codec: Codec, data: impl Into<Bytes>) -> Result<Self, BlockError> {
        let data = data.into();
        if data.len() > MAX_BLOCK_LEN {
            return Err(BlockError::TooLong(data.len()));
        }
        Ok(Self { cid: Cid::of(codec, &data), data })
    }

    /// Checks that `data` is what `cid` names.
    ///
    /// # Errors
    ///
    /// [`BlockError::Mismatch`] where it is not.
    pub fn verify(cid: Cid, data: impl Into<Bytes>) -> Result<Self, BlockError> {
        let data = data.into();
        if data.len() > MAX_BLOCK_LEN {
            return Err(BlockError::TooLong(data.len()));
        }
        let found = Hash::of(&data);
        if found != *cid.hash() {
            return Err(BlockError::Mismatch { wanted: cid, found });
        }
        Ok(Self { cid, data })
    }

    /// The block's name.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// The block's bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The block's bytes, without a copy.
    pub fn into_data(self) -> Bytes {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matching_bytes_become_a_block() {
        let block = Block::new(Codec::Raw, &b"bytes"[..]).unwrap();
        assert_eq!(Block::verify(block.cid(), &b"bytes"[..]).unwrap(), block);
        let error = Block::verify(block.cid(), &b"other"[..]).unwrap_err();
        assert_eq!(error, BlockError::Mismatch { wanted: block.cid(), found: Hash::of(b"other") });
        assert_eq!(
            Block::new(Codec::Raw, vec![0; MAX_BLOCK_LEN + 1]).unwrap_err(),
            BlockError::TooLong(MAX_BLOCK_LEN + 1)
        );
    }
}
