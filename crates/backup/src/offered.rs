//! The snapshots that this backup server offers to their source, for restoring.

use std::sync::Arc;

use protocols::{ListOffered, OfferedSnapshots, RemoteSnapshot};
use snapshots::{Snapshot, SnapshotStore};

/// Returns a snapshot in the form in which its source sees it.
pub fn remote_snapshot(snapshot: Snapshot) -> RemoteSnapshot {
    let record = snapshot.record;
    let held = record.doubt().map(str::to_owned);
    RemoteSnapshot {
        id: snapshot.id.to_string(),
        source: record.source.to_string(),
        folder_id: record.folder,
        folder_name: record.folder_name,
        sequence: record.sequence,
        created_at: record.created_at,
        received_at: record.received_at,
        files: record.files,
        bytes: record.bytes,
        manifest_cid: record.manifest,
        held,
        signature: record.signature.to_base64(),
    }
}

/// Returns the listing of `snapshots` for [`protocols::serve_snapshots`].
pub fn list_offered(snapshots: SnapshotStore) -> ListOffered {
    Arc::new(move |source, folder| {
        let listing = snapshots.list_of(source, folder).map_err(|error| error.to_string())?;
        Ok(OfferedSnapshots {
            snapshots: listing.snapshots.into_iter().map(remote_snapshot).collect(),
            damaged: listing.damaged.len() as u64,
        })
    })
}
