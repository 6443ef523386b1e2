//! The one transaction that makes a manifest the folder's last.

use types::{FolderId, RelPath};

use super::segments::SegmentBlock;
use super::{
    DbResult, FolderRecord, Index, ManifestRecord, SEGMENTS, SegmentRow, put_record, record_in,
};
use crate::error::SyncError;
use crate::path_key::{FolderNumber, folder_range, key_of};

/// Segments that were cut anew.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    /// Where the run begins.
    pub(crate) from: RelPath,
    /// Where the next segment begins that stays; `None` at the end.
    pub(crate) to: Option<RelPath>,
    /// The segments in between.
    pub(crate) segments: Vec<SegmentBlock>,
}

/// A manifest whose blocks are durable.
#[derive(Clone, Debug)]
pub(crate) struct NewManifest {
    /// What the folder's record will say of it.
    pub(crate) manifest: ManifestRecord,
    /// The last transaction that it covers.
    pub(crate) counter: u64,
    /// The changes that were pending then.
    pub(crate) pending: u64,
    /// Why it is held.
    pub(crate) held: Option<String>,
    /// What was cut anew.
    pub(crate) runs: Vec<NewRun>,
}

impl Index {
    /// Makes a manifest the last one. It may be shown when this returns.
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
            record.held.clone_from(&new.held);
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
    // Rows may have changed since the manifest was cut: whatever replaces
    // their segments is to be cut again.
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
