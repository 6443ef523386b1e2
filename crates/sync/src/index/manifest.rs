//! The transaction that makes a manifest the last one of its folder.

use types::{FolderId, RelPath};

use super::segments::SegmentBlock;
use super::{
    DbResult, FolderRecord, Index, ManifestRecord, SEGMENTS, SegmentRow, put_record, record_in,
};
use crate::error::SyncError;
use crate::path_key::{FolderNumber, folder_range, key_of};

/// A run of segments that replaces former ones.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    /// The first path of the run.
    pub(crate) from: RelPath,
    /// The first path of the next unchanged segment; `None` at the end.
    pub(crate) to: Option<RelPath>,
    /// The new segments.
    pub(crate) segments: Vec<SegmentBlock>,
}

/// A manifest whose blocks are durable.
#[derive(Clone, Debug)]
pub(crate) struct NewManifest {
    /// The manifest for the record of the folder.
    pub(crate) manifest: ManifestRecord,
    /// The last transaction that the manifest covers.
    pub(crate) counter: u64,
    /// Number of changes that were pending at that time.
    pub(crate) pending: u64,
    /// Why the user should confirm it; see [`FolderRecord::awaiting_confirmation`].
    pub(crate) awaiting_confirmation: Option<String>,
    /// The segments that changed.
    pub(crate) runs: Vec<NewRun>,
}

impl Index {
    /// Makes a manifest the last one. It may be published when this returns.
    pub(crate) fn commit_manifest(
        &self,
        folder: &FolderId,
        new: &NewManifest,
    ) -> Result<FolderRecord, SyncError> {
        let found = self.write("write a manifest to", |txn| {
            let Some(mut record) = record_in(txn, folder)? else { return Ok(None) };
            let mut table = txn.open_table(SEGMENTS)?;
            for run in &new.runs {
                replace_run(&mut table, record.number, new.counter, run)?;
            }
            record.pending = record.pending.saturating_sub(new.pending);
            record.manifest = Some(new.manifest.clone());
            record.awaiting_confirmation.clone_from(&new.awaiting_confirmation);
            (record.lost, record.deleted) = (0, 0);
            put_record(txn, folder, &record)?;
            Ok(Some(record))
        })?;
        found.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))
    }
}

fn replace_run(
    table: &mut redb::Table<'_, super::Bytes, super::Bytes>,
    number: FolderNumber,
    counter: u64,
    run: &NewRun,
) -> DbResult<()> {
    let from = key_of(number, &run.from);
    let to = match &run.to {
        Some(path) => key_of(number, path),
        None => folder_range(number).end,
    };
    // Rows may have changed since the segments were cut. Then the new segments of these rows
    // are stale, too.
    let mut stale = 0;
    table.retain_in(&from[..]..&to[..], |_, value| {
        let old = SegmentRow::decode(value).map_or(u64::MAX, |segment| segment.stale);
        if old > counter {
            stale = stale.max(old);
        }
        false
    })?;
    let is_first = run.from.is_root();
    if run.segments.is_empty() && (is_first || stale > 0) {
        table.insert(&from[..], &SegmentRow::unwritten(stale).encode()[..])?;
    }
    for (at, block) in run.segments.iter().enumerate() {
        let key =
            if is_first && at == 0 { from.clone() } else { key_of(number, &block.first_path) };
        let row = SegmentRow { stale, block: Some(block.clone()) };
        table.insert(&key[..], &row.encode()[..])?;
    }
    Ok(())
}
