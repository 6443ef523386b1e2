//! Making a manifest: the rows of a folder become segments, a header and a
//! name, and that becomes the folder's last manifest.
//!
//! The order makes every crash harmless: blocks, then the root that keeps them,
//! then the row that says which manifest is the last, and only then does
//! anybody hear of it. (The index of blocks in place was committed before the
//! rows that name them.) A crash before the row leaves a root that no folder
//! names; it is removed at the next start, and its number was never seen.

mod plan;

use crossbeam_channel::{Receiver, Sender, bounded};
use fstree::Owners;
use store::{Batch, Root, StoreError};
use types::{
    Block, BlockScheme, Cid, Codec, Dataset, FolderId, MANIFEST_MIME, ManifestHeader,
    ManifestStats, RelPath, SegmentRef, SegmentWriter, SequenceNumber,
};

use crate::core::Core;
use crate::error::SyncError;
use crate::index::{
    FolderRecord, ManifestRecord, NewManifest, NewRun, Row, RowStamp, SegmentBlock, SegmentRow,
    Snapshot, Totals,
};
use crate::path_key::{folder_range, key_of};
use plan::{OldSegment, runs_to_cut};

/// Blocks are put when so many bytes of them have come together.
const PUT_LEN: usize = 4 << 20;
/// Segments that wait to be compressed, of some 200 KiB each.
const BLOCKS_AHEAD: usize = 4;
/// What is said of a manifest of a first look that goes on.
const UNFINISHED: &str = "the folder was being looked through for the first time: this is a part";
/// What is lost has to be at least so many files …
const LOSS_MIN: u64 = 50;

/// What a manifest says besides what is in the folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming<'a> {
    pub(crate) folder: &'a FolderId,
    pub(crate) name: &'a str,
    pub(crate) path: &'a str,
}

/// What a manifest says of the state that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is for the guards to say whether somebody has to look at it first.
    Found,
    /// Somebody has looked at it, and means it.
    Confirmed,
    /// It is a part of the folder: the first look at it has not ended.
    Unfinished,
}

/// What making a manifest came to.
#[derive(Debug)]
pub(crate) enum Made {
    /// It is the last one now, and others may hear of it.
    Manifest(Box<FolderRecord>),
    /// The content of these files is not in the store any more: they have to
    /// be read again first. No manifest has it.
    Missing(Vec<(RelPath, RowStamp)>),
}

/// The name of the root of a manifest.
pub(crate) fn root_name(folder: &FolderId, sequence: SequenceNumber) -> String {
    format!("{}{sequence}", root_prefix(folder))
}

/// What the names of the roots of a folder begin with.
pub(crate) fn root_prefix(folder: &FolderId) -> String {
    format!("manifest/{folder}/")
}

/// The number in the name of a root.
pub(crate) fn sequence_of(name: &str) -> Option<SequenceNumber> {
    let (_, number) = name.rsplit_once('/')?;
    Some(SequenceNumber(number.parse().ok()?))
}

/// Makes a manifest of the rows as they are, and makes it the last.
pub(crate) fn make(
    core: &Core,
    naming: &Naming<'_>,
    owners: &Owners,
    standing: Standing,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Made, SyncError> {
    let folder = naming.folder;
    let batch = Batch::new(core.store.clone());
    let snapshot = core.index.snapshot()?;
    let record =
        snapshot.folder(folder)?.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))?;
    let sequence = record.sequence().next();
    let sequence = sequence.ok_or_else(|| SyncError::SequenceExhausted(folder.clone()))?;
    // Cutting and compressing take about as long as each other.
    let (runs, segments, missing) = std::thread::scope(|scope| {
        let (blocks, to_put) = bounded(BLOCKS_AHEAD);
        let putter = scope.spawn(|| put_all(&batch, &core.scheme, to_put));
        let cut = Cutter { core, owners, is_stopped, blocks }.cut(&snapshot, &record);
        match putter.join() {
            Ok(Ok(())) => cut,
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    if !missing.is_empty() {
        return Ok(Made::Missing(missing));
    }
    let root = core.index.row(record.number, &RelPath::root())?;
    drop(snapshot);
    let root = root.ok_or_else(|| core.index.damaged("a folder without its root"))?;
    let totals = segments.iter().fold(Totals::default(), |sum, segment| Totals {
        files: sum.files + segment.totals.files,
        dirs: sum.dirs + segment.totals.dirs,
        bytes: sum.bytes.saturating_add(segment.totals.bytes),
    });
    let created_at = core.clock.now();
    let held = if standing == Standing::Confirmed { None } else { held(&record) };
    let is_unfinished = standing == Standing::Unfinished;
    let header = ManifestHeader {
        folder_id: folder.clone(),
        folder_name: naming.name.to_owned(),
        folder_path: naming.path.to_owned(),
        source_peer_id: core.source_peer_id.clone(),
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
        held: held.clone().or_else(|| is_unfinished.then(|| UNFINISHED.to_owned())),
        segments: segments.iter().map(segment_ref).collect(),
    };
    let header = header
        .encode(&core.scheme)
        .map_err(|source| SyncError::TooLarge { folder: folder.clone(), source })?;
    let dataset = Dataset {
        tree: header.cid(),
        size: header.data().len() as u64,
        filename: None,
        mimetype: Some(MANIFEST_MIME.to_owned()),
    };
    let dataset = dataset
        .encode(&core.scheme)
        .map_err(|source| SyncError::Dataset { folder: folder.clone(), source })?;
    let cid = dataset.cid();
    batch.put(&[core.scheme.encode(header), core.scheme.encode(dataset)])?;
    // Chunks in place are not in the store, so something is missing below it.
    // Where those are is durable since before the rows were.
    let manifest_root = Root { cid, partial: true };
    batch.commit_root(&*core.store, &root_name(folder, sequence), manifest_root)?;
    let manifest = ManifestRecord {
        sequence,
        cid,
        at: created_at,
        folder_name: naming.name.to_owned(),
        folder_path: naming.path.to_owned(),
        totals,
        is_unfinished,
    };
    let new =
        NewManifest { manifest, counter: record.counter, pending: record.pending, held, runs };
    let record = core.index.commit_manifest(folder, &new)?;
    Ok(Made::Manifest(Box::new(record)))
}

fn segment_ref(segment: &SegmentBlock) -> SegmentRef {
    SegmentRef {
        first_path: segment.first_path.clone(),
        cid: segment.cid,
        entries: segment.entries(),
        bytes: segment.len,
    }
}

/// Removes the roots of manifests that nobody needs any more: all but the last
/// and the one before it, which a backup server may be about to fetch.
pub(crate) fn remove_old_roots(
    core: &Core,
    folder: &FolderId,
    last: Option<SequenceNumber>,
) -> Result<(), StoreError> {
    let last = last.unwrap_or(SequenceNumber(0)).0;
    for (name, _) in core.store.roots(&root_prefix(folder)) {
        let is_kept = sequence_of(&name)
            .is_some_and(|SequenceNumber(number)| number + 1 >= last && number <= last);
        if !is_kept {
            core.store.remove_root(&name)?;
        }
    }
    Ok(())
}

/// Why the user has to look before this state is taken for what is wanted.
fn held(record: &FolderRecord) -> Option<String> {
    if record.held.is_some() {
        return record.held.clone();
    }
    let last = record.manifest.as_ref()?.totals.files;
    let (in_a_day, all) = record.recent_losses();
    let is_much = |lost: u64, of: u64| lost >= LOSS_MIN && lost > of / 2;
    if is_much(record.lost, last) {
        Some(format!("{} of {last} files were deleted or rewritten at once", record.lost))
    } else if is_much(in_a_day, all) {
        Some(format!("{in_a_day} of {all} files were deleted or rewritten within a day"))
    } else {
        None
    }
}

/// Compresses blocks and puts them, until there are no more.
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

/// Cuts segments, and hands them to [`put_all`].
struct Cutter<'a> {
    core: &'a Core,
    owners: &'a Owners,
    is_stopped: &'a dyn Fn() -> bool,
    blocks: Sender<Block>,
}

type Cut = (Vec<NewRun>, Vec<SegmentBlock>, Vec<(RelPath, RowStamp)>);

impl Cutter<'_> {
    /// The runs that are new, all segments, and the files whose content is
    /// missing.
    fn cut(self, snapshot: &Snapshot<'_>, record: &FolderRecord) -> Result<Cut, SyncError> {
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
        let plan = runs_to_cut(&self.core.scheme, &old, |from, to| {
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
        let mut writer = SegmentWriter::new(self.core.scheme.clone());
        let mut totals = Totals::default();
        let mut cut = Vec::new();
        snapshot.each_row(range, |path, row| {
            if path.is_root() {
                return Ok(());
            }
            // (What the last manifest has is kept by its root, and whoever
            // asks for it finds out whether it is damaged.)
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
        // Where it is not taken, whoever takes it has failed, and says why.
        self.blocks.send(segment.block).map_err(|_| SyncError::Stopped)?;
        Ok(block)
    }

    /// Whether what the store has to have of a file is there.
    fn has_content(&self, row: &Row) -> Result<bool, SyncError> {
        let Some(content) = row.content() else { return Ok(true) };
        if content.id.is_some() && content.cid.codec() == Codec::Raw {
            return Ok(true);
        }
        Ok(self.core.store.has(&content.cid)?)
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

/// Content of files that no manifest keeps alive: what rows name that are in
/// none yet. All of it is kept from now on; what is missing already is
/// returned.
pub(crate) fn keep_unpublished(
    core: &Core,
    record: &FolderRecord,
    pin: &store::Pin,
) -> Result<Vec<RelPath>, SyncError> {
    let snapshot = core.index.snapshot()?;
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
            if !is_whole(core, content.cid, is_in_place)? {
                missing.push(path);
            }
            Ok(())
        })?;
    }
    Ok(missing)
}

/// Whether the nodes of a file are in the store, and its chunks where they are
/// to be.
fn is_whole(core: &Core, cid: Cid, is_in_place: bool) -> Result<bool, SyncError> {
    let mut to_see = vec![cid];
    while let Some(cid) = to_see.pop() {
        if cid.codec() == Codec::Raw {
            let is_known = if is_in_place {
                // The empty block is in every file.
                cid == core.scheme.name(Codec::Raw, b"") || core.in_place.is_known(cid.hash())?
            } else {
                core.store.has(&cid)?
            };
            if !is_known {
                return Ok(false);
            }
            continue;
        }
        // A damaged node counts as absent.
        let Ok(Some(bytes)) = core.store.get(&cid) else { return Ok(false) };
        let Ok(node) = types::FileNode::decode(&bytes) else { return Ok(false) };
        to_see.extend(node.children().iter().map(|child| child.cid));
    }
    Ok(true)
}
