//! Reading single blocks: what a missing or damaged block means to the caller.

use bytes::Bytes;
use types::Cid;

use crate::{BlockRead, StoreError};

/// Returns the bytes of a block that must exist.
///
/// # Errors
///
/// Returns [`StoreError::Missing`] if the store does not have the block; otherwise the same as
/// [`BlockRead::get`].
pub fn get_required(store: &dyn BlockRead, cid: Cid) -> Result<Bytes, StoreError> {
    store.get(&cid)?.ok_or(StoreError::Missing(cid))
}

/// Returns the bytes of a block, or `None` if it is missing or damaged.
///
/// # Errors
///
/// Same as [`BlockRead::get`], except for [`StoreError::Damaged`].
pub fn get_sound(store: &dyn BlockRead, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
    match store.get(cid) {
        Err(StoreError::Damaged { .. }) => Ok(None),
        result => result,
    }
}
