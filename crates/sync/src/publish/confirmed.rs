//! Entries of the newest manifest that the backup server has confirmed. Its root keeps it in the
//! store.

use std::ops::ControlFlow;

use types::{Cid, Dataset, Entry, FolderId, ManifestHeader, RelPath, decode_segment};

use crate::context::Context;

/// The entry of a path in the newest confirmed manifest.
pub(crate) enum ConfirmedEntry {
    /// The entry, and the sequence number of the manifest.
    Found(u64, Box<Entry>),
    /// No manifest is confirmed, or it has no such entry.
    Absent,
    /// The confirmed manifest cannot be read.
    Unknown,
}

/// Returns the entry of a path in the newest confirmed manifest of a folder.
pub(crate) fn confirmed_entry(
    context: &Context,
    folder: &FolderId,
    path: &RelPath,
) -> ConfirmedEntry {
    let Some(receipt) = context.statuses.confirmed(folder) else { return ConfirmedEntry::Absent };
    match entry_of(context, &receipt.manifest_cid, path) {
        Some(Some(entry)) => ConfirmedEntry::Found(receipt.sequence.0, Box::new(entry)),
        Some(None) => ConfirmedEntry::Absent,
        None => ConfirmedEntry::Unknown,
    }
}

/// Returns the entry of a path in a manifest, if it has one; the outer option is `None` if the
/// manifest cannot be read.
fn entry_of(context: &Context, manifest: &Cid, path: &RelPath) -> Option<Option<Entry>> {
    let get = |cid: &Cid| context.store.get(cid).ok().flatten();
    let dataset = Dataset::decode(&get(manifest)?).ok()?;
    let header = ManifestHeader::decode(&get(&dataset.tree)?).ok()?;
    let after = header.segments.partition_point(|segment| segment.first_path <= *path);
    let Some(segment) = after.checked_sub(1).and_then(|at| header.segments.get(at)) else {
        return Some(None);
    };
    let entry = decode_segment(&get(&segment.cid)?, |entry| {
        if entry.path == *path { ControlFlow::Break(entry) } else { ControlFlow::Continue(()) }
    });
    entry.ok()
}
