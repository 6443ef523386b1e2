//! [`Block`]: bytes that have been checked against their name.

use bytes::Bytes;

use crate::{Cid, Codec, Hash, MAX_BLOCK_LEN};

/// Bytes together with their name.
///
/// Every constructor hashes the bytes, so a function that receives a `Block`
/// does not need to verify it again. Cloning is cheap: clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    data: Bytes,
}

/// Reasons for which bytes are not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The hash of the bytes differs from that in the name.
    #[error("the bytes are not those of block {wanted}: their hash is {found}")]
    Mismatch {
        /// Expected name.
        wanted: Cid,
        /// Hash of the bytes.
        found: Hash,
    },
    /// The bytes are longer than [`MAX_BLOCK_LEN`]; contains their length.
    #[error("a block of {0} bytes exceeds the limit of {MAX_BLOCK_LEN} bytes")]
    TooLong(usize),
}

impl Block {
    /// Makes a block from `data` and computes its name.
    ///
    /// # Errors
    ///
    /// Returns [`BlockError::TooLong`] if `data` is longer than
    /// [`MAX_BLOCK_LEN`].
    pub fn new(codec: Codec, data: impl Into<Bytes>) -> Result<Self, BlockError> {
        let data = data.into();
        if data.len() > MAX_BLOCK_LEN {
            return Err(BlockError::TooLong(data.len()));
        }
        Ok(Self { cid: Cid::of(codec, &data), data })
    }

    /// Makes a block from `data` if `cid` is its name.
    ///
    /// # Errors
    ///
    /// Returns [`BlockError::Mismatch`] if `data` has another hash, and
    /// [`BlockError::TooLong`] if it is longer than [`MAX_BLOCK_LEN`].
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

    /// Returns the name of the block.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Returns the bytes of the block.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Returns the bytes of the block without a copy.
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
