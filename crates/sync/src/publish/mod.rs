//! Making a manifest: the rows of a folder become segments and a header, and the result
//! becomes the last manifest of the folder.
//!
//! The order makes every crash harmless: first the blocks, then the root that keeps them
//! alive, then the record that names the last manifest, and only then the publisher. (The
//! index of blocks in place was committed before the rows that name them.) A crash before the
//! record leaves a root that no folder names. The next start removes it; nobody has seen its
//! sequence number.

mod confirmed;
mod plan;

use crossbeam_channel::{Receiver, Sender, bounded};
use fstree::Owners;
use store::{Batch, Root, StoreError};
use types::{
    Block, BlockScheme, Cid, Codec, Dataset, FolderId, HELD_PART, MANIFEST_MIME, ManifestHeader,
    ManifestStats, RelPath, SegmentRef, SegmentWriter, SequenceNumber,
};

use crate::context::Context;
use crate::error::SyncError;
use crate::index::{
    FolderRecord, ManifestRecord, NewManifest, NewRun, Row, RowStamp, SegmentBlock, SegmentRow,
    Snapshot, Totals,
};
use crate::path_key::{folder_range, key_of};
pub(crate) use confirmed::{ConfirmedEntry, confirmed_entry};
use plan::{OldSegment, runs_to_cut};

/// Number of bytes at which collected blocks are put into the store.
const PUT_LEN: usize = 4 << 20;
/// Maximum number of segments that wait to be compressed, of about 200 KiB each.
const BLOCKS_AHEAD: usize = 4;
/// Minimum number of lost files that need a confirmation.
const LOSS_MIN: u64 = 50;

/// The labels of a manifest: its folder, and the name and path to display.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ManifestLabels<'a> {
    pub(crate) folder: &'a FolderId,
    pub(crate) name: &'a str,
    pub(crate) path: &'a str,
}

/// How a manifest is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManifestKind {
    /// The guards decide whether the user has to confirm it.
    Guarded,
    /// The user has confirmed it.
    Confirmed,
    /// A part of the folder: the first scan has not ended.
    Partial,
}

/// The outcome of making a manifest.
#[derive(Debug)]
pub(crate) enum PublishOutcome {
    /// The manifest is the last one of the folder, and may be published.
    Published(Box<FolderRecord>),
    /// The content of these unpublished files is no longer in the store. They have to be read
    /// again first.
    ContentMissing(Vec<(RelPath, RowStamp)>),
}

/// Returns the name of the root of a manifest.
pub(crate) fn root_name(folder: &FolderId, sequence: SequenceNumber) -> String {
    format!("{}{sequence}", root_prefix(folder))
}

/// Returns the common prefix of the root names of a folder.
pub(crate) fn root_prefix(folder: &FolderId) -> String {
    format!("manifest/{folder}/")
}

/// Returns the sequence number in the name of a root.
pub(crate) fn sequence_of(name: &str) -> Option<SequenceNumber> {
    let (_, number) = name.rsplit_once('/')?;
    Some(SequenceNumber(number.parse().ok()?))
}

/// Makes a manifest of the current rows, and makes it the last one of the folder.
pub(crate) fn make(
    context: &Context,
    labels: &ManifestLabels<'_>,
    owners: &Owners,
    kind: ManifestKind,
    is_stopped: &dyn Fn() -> bool,
) -> Result<PublishOutcome, SyncError> {
    let folder = labels.folder;
    let batch = Batch::new(context.store.clone());
    let snapshot = context.index.snapshot()?;
    let record =
        snapshot.folder(folder)?.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))?;
    let sequence = record.sequence().next();
    let sequence = sequence.ok_or_else(|| SyncError::SequenceExhausted(folder.clone()))?;
    // Cutting and compressing need about the same time, so they run in parallel.
    let (runs, segments, missing) = std::thread::scope(|scope| {
        let (blocks, to_put) = bounded(BLOCKS_AHEAD);
        let putter = scope.spawn(|| put_all(&batch, &context.scheme, to_put));
        let cut = SegmentCutter { context, owners, is_stopped, blocks }.cut(&snapshot, &record);
        match putter.join() {
            Ok(Ok(())) => cut,
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    if !missing.is_empty() {
        return Ok(PublishOutcome::ContentMissing(missing));
    }
    let root = context.index.row(record.number, &RelPath::root())?;
    drop(snapshot);
    let root = root.ok_or_else(|| context.index.damaged("a folder has no row for its root"))?;
    let totals = segments.iter().fold(Totals::default(), |sum, segment| Totals {
        files: sum.files + segment.totals.files,
        dirs: sum.dirs + segment.totals.dirs,
        bytes: sum.bytes.saturating_add(segment.totals.bytes),
    });
    let created_at = context.clock.now();
    let awaiting_confirmation =
        if kind == ManifestKind::Confirmed { None } else { confirmation_reason(&record) };
    let is_unfinished = kind == ManifestKind::Partial;
    let header = ManifestHeader {
        folder_id: folder.clone(),
        folder_name: labels.name.to_owned(),
        folder_path: labels.path.to_owned(),
        source_peer_id: context.source_peer_id.clone(),
        sequence_number: sequence,
        previous: record.manifest.as_ref().map(|manifest| manifest.cid),
        created_at,
        root: root.entry(RelPath::root(), owners),
        stats: ManifestStats {
            deleted_files: record.deleted,
            total_dirs: totals.dirs,
            total_files: totals.files,
            total_size_bytes: totals.bytes,
        },
        held: awaiting_confirmation.clone().or_else(|| is_unfinished.then(|| HELD_PART.to_owned())),
        segments: segments.iter().map(segment_ref).collect(),
    };
    let header = header
        .encode(&context.scheme)
        .map_err(|source| SyncError::TooLarge { folder: folder.clone(), source })?;
    let dataset = Dataset {
        tree: header.cid(),
        size: header.data().len() as u64,
        filename: None,
        mimetype: Some(MANIFEST_MIME.to_owned()),
    };
    let dataset = dataset
        .encode(&context.scheme)
        .map_err(|source| SyncError::Dataset { folder: folder.clone(), source })?;
    let cid = dataset.cid();
    batch.put(&[context.scheme.encode(header), context.scheme.encode(dataset)])?;
    // The root is partial: chunks in place are not in the store. Their locations became
    // durable before the rows.
    let manifest_root = Root { cid, partial: true };
    batch.commit_root(&*context.store, &root_name(folder, sequence), manifest_root)?;
    let manifest = ManifestRecord {
        sequence,
        cid,
        at: created_at,
        folder_name: labels.name.to_owned(),
        folder_path: labels.path.to_owned(),
        totals,
        is_unfinished,
    };
    let new = NewManifest {
        manifest,
        counter: record.counter,
        pending: record.pending,
        awaiting_confirmation,
        runs,
    };
    let record = context.index.commit_manifest(folder, &new)?;
    Ok(PublishOutcome::Published(Box::new(record)))
}

fn segment_ref(segment: &SegmentBlock) -> SegmentRef {
    SegmentRef {
        first_path: segment.first_path.clone(),
        cid: segment.cid,
        entries: segment.entries(),
        bytes: segment.len,
    }
}

/// Removes the roots of old manifests: all but the last one, the one before it, which a
/// backup server may be pulling, and the newest one that the backup server has confirmed.
pub(crate) fn remove_old_roots(
    context: &Context,
    folder: &FolderId,
    last: Option<SequenceNumber>,
) -> Result<(), StoreError> {
    let last = last.unwrap_or(SequenceNumber(0)).0;
    let confirmed = context.statuses.confirmed(folder).map(|receipt| receipt.sequence);
    for (name, _) in context.store.roots(&root_prefix(folder)) {
        let is_kept = sequence_of(&name).is_some_and(|sequence| {
            (sequence.0 + 1 >= last && sequence.0 <= last) || Some(sequence) == confirmed
        });
        if !is_kept {
            context.store.remove_root(&name)?;
        }
    }
    Ok(())
}

/// Returns why the user has to confirm the current state, if that is necessary.
fn confirmation_reason(record: &FolderRecord) -> Option<String> {
    if record.awaiting_confirmation.is_some() {
        return record.awaiting_confirmation.clone();
    }
    let last = record.manifest.as_ref()?.totals.files;
    let (in_a_day, all) = record.recent_losses();
    let is_much = |lost: u64, of: u64| lost >= LOSS_MIN && lost > of / 2;
    if is_much(record.lost, last) {
        Some(format!("{} of {last} files were deleted or rewritten in one snapshot", record.lost))
    } else if is_much(in_a_day, all) {
        Some(format!("{in_a_day} of {all} files were deleted or rewritten within 24 hours"))
    } else {
        None
    }
}

/// Compresses blocks and puts them into the store, until the sender is dropped.
fn put_all(batch: &Batch, scheme: &BlockScheme, blocks: Receiver<Block>) -> Result<(), StoreError> {
    let (mut waiting, mut waiting_len) = (Vec::new(), 0);
    for block in blocks {
        let block = scheme.encode(block);
        waiting_len += block.payload().len();
        waiting.push(block);
        if waiting_len >= PUT_LEN {
            batch.put(&std::mem::take(&mut waiting))?;
            waiting_len = 0;
        }
    }
    batch.put(&waiting)
}

/// Cuts segments and sends them to [`put_all`].
struct SegmentCutter<'a> {
    context: &'a Context,
    owners: &'a Owners,
    is_stopped: &'a dyn Fn() -> bool,
    blocks: Sender<Block>,
}

type CutResult = (Vec<NewRun>, Vec<SegmentBlock>, Vec<(RelPath, RowStamp)>);

impl SegmentCutter<'_> {
    /// Returns the new runs, all segments, and the files whose content is missing.
    fn cut(self, snapshot: &Snapshot<'_>, record: &FolderRecord) -> Result<CutResult, SyncError> {
        let number = record.number;
        let segments = snapshot.segments(number)?;
        let old: Vec<_> = segments
            .iter()
            .map(|(start, segment)| OldSegment {
                start: start.clone(),
                is_stale: segment.stale > 0,
            })
            .collect();
        let range_of = |from: &RelPath, to: Option<&RelPath>| {
            let end = to.map_or_else(|| folder_range(number).end, |to| key_of(number, to));
            key_of(number, from)..end
        };
        let plan = runs_to_cut(&self.context.scheme, &old, |from, to| {
            let rows = snapshot.raw_rows(&range_of(from, to), 1)?;
            Ok::<_, SyncError>(rows.first().and_then(crate::index::RawRow::path))
        })?;
        let (mut runs, mut all, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept = 0;
        let block_of = |(_, segment): &(RelPath, SegmentRow)| segment.block.clone();
        for run in plan {
            all.extend(segments[kept..run.start].iter().filter_map(block_of));
            kept = run.end;
            let from = segments[run.start].0.clone();
            let to = segments.get(run.end).map(|(start, _)| start.clone());
            let range = range_of(&from, to.as_ref());
            let cut = self.cut_run(snapshot, &range, record.sequence(), &mut missing)?;
            all.extend(cut.iter().cloned());
            runs.push(NewRun { from, to, segments: cut });
        }
        all.extend(segments[kept..].iter().filter_map(block_of));
        Ok((runs, all, missing))
    }

    fn cut_run(
        &self,
        snapshot: &Snapshot<'_>,
        range: &std::ops::Range<Vec<u8>>,
        last: SequenceNumber,
        missing: &mut Vec<(RelPath, RowStamp)>,
    ) -> Result<Vec<SegmentBlock>, SyncError> {
        let mut writer = SegmentWriter::new(self.context.scheme.clone());
        let mut totals = Totals::default();
        let mut cut = Vec::new();
        snapshot.each_row(range, |path, row| {
            if path.is_root() {
                return Ok(());
            }
            // The root of the last manifest keeps published content alive; a request for a
            // damaged block reports the damage.
            if row.sequence > last.0 && !self.has_content(&row)? {
                missing.push((path.clone(), row.stamp));
            }
            let of_row = totals_of(&row);
            if let Some(segment) = writer.push(&row.entry(path, self.owners)) {
                cut.push(self.put_segment(segment, std::mem::take(&mut totals))?);
            }
            totals.files += of_row.files;
            totals.dirs += of_row.dirs;
            totals.bytes = totals.bytes.saturating_add(of_row.bytes);
            Ok(())
        })?;
        if let Some(segment) = writer.finish() {
            cut.push(self.put_segment(segment, totals)?);
        }
        Ok(cut)
    }

    fn put_segment(
        &self,
        segment: types::Segment,
        totals: Totals,
    ) -> Result<SegmentBlock, SyncError> {
        if (self.is_stopped)() {
            return Err(SyncError::Stopped);
        }
        let block = SegmentBlock {
            cid: segment.block.cid(),
            first_path: segment.first_path,
            len: segment.block.data().len() as u64,
            totals,
        };
        // Sending fails if the receiver has failed; its error is returned instead.
        self.blocks.send(segment.block).map_err(|_| SyncError::Stopped)?;
        Ok(block)
    }

    /// Reports whether the store has the nodes of a file.
    fn has_content(&self, row: &Row) -> Result<bool, SyncError> {
        let Some(content) = row.content() else { return Ok(true) };
        if content.id.is_some() && content.cid.codec() == Codec::Raw {
            return Ok(true);
        }
        Ok(self.context.store.has(&content.cid)?)
    }
}

fn totals_of(row: &Row) -> Totals {
    let is_dir = row.is_dir();
    Totals {
        files: u64::from(!is_dir),
        dirs: u64::from(is_dir),
        bytes: if row.content().is_some() { row.stamp.size } else { 0 },
    }
}

/// Pins the content of unpublished rows, which no manifest keeps alive. Returns the files whose
/// content is already missing.
pub(crate) fn pin_unpublished(
    context: &Context,
    record: &FolderRecord,
    pin: &store::Pin,
) -> Result<Vec<RelPath>, SyncError> {
    let snapshot = context.index.snapshot()?;
    let segments = snapshot.segments(record.number)?;
    let mut missing = Vec::new();
    for (at, (start, segment)) in segments.iter().enumerate() {
        if segment.stale == 0 {
            continue;
        }
        let end = match segments.get(at + 1) {
            Some((next, _)) => key_of(record.number, next),
            None => folder_range(record.number).end,
        };
        snapshot.each_row(&(key_of(record.number, start)..end), |path, row| {
            let Some(content) = row.content() else { return Ok(()) };
            let is_in_place = content.id.is_some();
            if !is_in_place || content.cid.codec() != Codec::Raw {
                pin.add([content.cid]);
            }
            if !is_complete(context, content.cid, is_in_place)? {
                missing.push(path);
            }
            Ok(())
        })?;
    }
    Ok(missing)
}

/// Reports whether the nodes of a file are in the store, and its chunks in the store or at known
/// locations.
fn is_complete(context: &Context, cid: Cid, is_in_place: bool) -> Result<bool, SyncError> {
    let mut queue = vec![cid];
    while let Some(cid) = queue.pop() {
        if cid.codec() == Codec::Raw {
            let is_known = if is_in_place {
                // The empty block has no location.
                cid == context.scheme.name(Codec::Raw, b"")
                    || context.in_place.is_known(cid.hash())?
            } else {
                context.store.has(&cid)?
            };
            if !is_known {
                return Ok(false);
            }
            continue;
        }
        // A damaged node is treated as absent.
        let Ok(Some(bytes)) = context.store.get(&cid) else { return Ok(false) };
        let Ok(node) = types::FileNode::decode(&bytes) else { return Ok(false) };
        queue.extend(node.children().iter().map(|child| child.cid));
    }
    Ok(true)
}
