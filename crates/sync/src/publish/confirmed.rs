//! Entries of the newest manifest that the backup server has confirmed. Its root keeps it in the
//! store.

use std::ops::ControlFlow;

use types::{Cid, Dataset, Entry, FolderId, ManifestHeader, RelPath, decode_segment};

use crate::context::Context;
use crate::error::SyncError;

/// Returns the entry of a path in the newest confirmed manifest of a folder, with the sequence
/// number of the manifest; `None` if no manifest is confirmed, or it has no such entry.
pub(crate) fn confirmed_entry(
    context: &Context,
    folder: &FolderId,
    path: &RelPath,
) -> Result<Option<(u64, Entry)>, SyncError> {
    let Some(receipt) = context.statuses.confirmed(folder) else { return Ok(None) };
    // A block that is damaged or was collected is treated as one without the entry.
    let get = |cid: &Cid| Ok::<_, SyncError>(context.store.get(cid).ok().flatten());
    let Some(dataset) = get(&receipt.manifest_cid)? else { return Ok(None) };
    let Ok(dataset) = Dataset::decode(&dataset) else { return Ok(None) };
    let Some(header) = get(&dataset.tree)? else { return Ok(None) };
    let Ok(header) = ManifestHeader::decode(&header) else { return Ok(None) };
    let after = header.segments.partition_point(|segment| segment.first_path <= *path);
    let Some(segment) = after.checked_sub(1).and_then(|at| header.segments.get(at)) else {
        return Ok(None);
    };
    let Some(bytes) = get(&segment.cid)? else { return Ok(None) };
    let entry = decode_segment(&bytes, |entry| {
        if entry.path == *path { ControlFlow::Break(entry) } else { ControlFlow::Continue(()) }
    });
    Ok(entry.ok().flatten().map(|entry| (receipt.sequence.0, entry)))
}
