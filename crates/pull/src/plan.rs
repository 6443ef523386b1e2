//! Compares a manifest with the last snapshot, and checks its entries. No I/O.
//!
//! A segment that a complete snapshot also has is complete. In the other segments, a file is stored
//! if the snapshot has it in the same range of paths.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use types::{
    Cid, Entry, EntryKind, Hash, ManifestError, ManifestHeader, Metadata, RelPath, SegmentRef,
    TreeCheck,
};

/// The work to do for a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// One step for each segment of the manifest, in order.
    pub(crate) steps: Vec<Step>,
}

/// The work to do for one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The segment.
    pub(crate) segment: SegmentRef,
    /// False if the segment and all its files are known to be stored.
    pub(crate) is_new: bool,
    /// Indexes of the segments of the last snapshot that cover the same range of paths.
    pub(crate) overlaps: std::ops::Range<usize>,
}

impl Plan {
    /// Returns the steps whose segments must be examined.
    pub(crate) fn new_segments(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.is_new)
    }
}

/// Compares a manifest with `base`, the header of the last snapshot. `complete` are the segments
/// whose files are all stored.
pub(crate) fn diff(
    manifest: &ManifestHeader,
    base: Option<&ManifestHeader>,
    complete: &Summaries,
) -> Plan {
    let old = base.map_or(&[][..], |base| &base.segments);
    let steps = manifest.segments.iter().enumerate().map(|(at, segment)| {
        let end = manifest.segments.get(at + 1).map(|next| &next.first_path);
        // From the segment that covers the first path to the last one before the end.
        let from = old.partition_point(|other| other.first_path <= segment.first_path);
        let to = end.map_or(old.len(), |end| old.partition_point(|o| o.first_path < *end));
        let from = from.saturating_sub(1);
        Step {
            segment: segment.clone(),
            is_new: complete.get(&segment.cid).is_none_or(|known| !known.is_of(segment)),
            overlaps: from..to.max(from),
        }
    });
    Plan { steps: steps.collect() }
}

/// Maximum length of the last path of a segment that can be skipped, in bytes. Longer ones are not
/// kept: a source chooses the paths, and a manifest of 4 MB can have 30,000 segments that each end
/// in a path of 16 KiB.
const END_PATH_LEN_MAX: usize = 256;

/// The checked segments of a manifest, by CID.
pub(crate) type Summaries = HashMap<Cid, Arc<Summary>>;

/// Summary of a checked segment: enough to continue the check behind it without reading it again,
/// unless its last path is long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    first_path: Hash,
    /// The last path, and whether it is a directory; `None` if the path is long. The segment is
    /// read again then.
    end: Option<(RelPath, bool)>,
    entries: u64,
    bytes: u64,
    counts: Counts,
}

/// Totals of some entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Number of entries that are not directories.
    pub(crate) files: u64,
    /// Number of directories.
    pub(crate) dirs: u64,
    /// Total length of the files, in bytes.
    pub(crate) bytes: u64,
}

impl Counts {
    /// Adds one entry.
    pub(crate) fn add(&mut self, entry: &Entry) {
        match entry.kind {
            EntryKind::Dir => self.dirs += 1,
            EntryKind::File { size, .. } => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(size);
            }
            _ => self.files += 1,
        }
    }

    /// Adds the totals of other entries.
    pub(crate) fn add_all(&mut self, other: &Self) {
        self.files = self.files.saturating_add(other.files);
        self.dirs = self.dirs.saturating_add(other.dirs);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Summary {
    /// Returns the totals of its entries.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns about how much memory the summary takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        const TABLES: usize = 200;
        size_of::<Self>() + TABLES + self.end.as_ref().map_or(0, |(path, _)| path.as_bytes().len())
    }

    /// Reports whether `segment` describes this segment correctly, and it can be skipped.
    pub(crate) fn is_of(&self, segment: &SegmentRef) -> bool {
        self.end.is_some()
            && self.first_path == Hash::of(segment.first_path.as_bytes())
            && self.entries == segment.entries
            && self.bytes == segment.bytes
    }
}

/// Checks the entries of a manifest, of which some segments were checked before.
///
/// The check of a segment depends on the entries before it in one respect: they must contain the
/// directories of its first entry. So the first and last path of a checked segment are enough.
#[derive(Debug, Default)]
pub(crate) struct TreeWalk {
    check: TreeCheck,
}

impl TreeWalk {
    /// Starts before the first segment.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Skips a segment that was checked before, and of which `known` is the summary
    /// ([`Summary::is_of`]).
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError`] if the segment does not fit behind the entries before it.
    pub(crate) fn skip(
        &mut self,
        segment: &SegmentRef,
        known: &Summary,
    ) -> Result<(), ManifestError> {
        let Some((last_path, is_last_dir)) = &known.end else {
            return Err(ManifestError::Rule("the end of a skipped segment is not known"));
        };
        self.check.next(&stand_in(&segment.first_path, false))?;
        // Behind its last entry, the open directories are those of that entry.
        let mut check = TreeCheck::new();
        let mut above = Vec::new();
        let mut path = last_path.parent();
        while let Some(dir) = path.filter(|dir| !dir.is_root()) {
            path = dir.parent();
            above.push(dir);
        }
        for dir in above.iter().rev() {
            check.next(&stand_in(dir, true))?;
        }
        check.next(&stand_in(last_path, *is_last_dir))?;
        self.check = check;
        Ok(())
    }

    /// Starts a segment whose entries are checked.
    pub(crate) fn segment<'a>(&'a mut self, segment: &'a SegmentRef) -> SegmentWalk<'a> {
        SegmentWalk { walk: self, segment, last: None, entries: 0, counts: Counts::default() }
    }
}

/// Returns an entry that represents any entry at `path` in the check.
fn stand_in(path: &RelPath, is_dir: bool) -> Entry {
    let kind = if is_dir { EntryKind::Dir } else { EntryKind::Fifo };
    Entry { path: path.clone(), kind, metadata: Metadata::default(), error: None }
}

/// Checks the entries of one segment.
#[derive(Debug)]
pub(crate) struct SegmentWalk<'a> {
    walk: &'a mut TreeWalk,
    segment: &'a SegmentRef,
    last: Option<(RelPath, bool)>,
    entries: u64,
    counts: Counts,
}

impl SegmentWalk<'_> {
    /// Checks the next entry.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError`] if the entry does not fit behind the entries before it.
    pub(crate) fn next(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        if self.entries == 0 && entry.path != self.segment.first_path {
            return Err(ManifestError::Rule(
                "a segment begins with another path than in the header",
            ));
        }
        self.walk.check.next(entry)?;
        self.entries += 1;
        self.counts.add(entry);
        self.last = Some((entry.path.clone(), entry.kind == EntryKind::Dir));
        Ok(())
    }

    /// Ends the segment. `bytes` is the length of its block.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError::Rule`] if the header describes the segment differently.
    pub(crate) fn finish(self, bytes: u64) -> Result<Summary, ManifestError> {
        let Some(last) = self.last else {
            return Err(ManifestError::Rule("an empty segment"));
        };
        if self.entries != self.segment.entries || bytes != self.segment.bytes {
            return Err(ManifestError::Rule("a segment has another size than in the header"));
        }
        Ok(Summary {
            first_path: Hash::of(self.segment.first_path.as_bytes()),
            end: Some(last).filter(|(path, _)| path.as_bytes().len() <= END_PATH_LEN_MAX),
            entries: self.entries,
            bytes,
            counts: self.counts,
        })
    }
}

/// The files that are known to be stored.
#[derive(Debug, Default)]
pub(crate) struct KnownFiles(HashSet<(Cid, u64)>);

impl KnownFiles {
    /// Creates an empty set.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds the file of an entry.
    pub(crate) fn add(&mut self, entry: &Entry) {
        if let EntryKind::File { cid, size, .. } = entry.kind {
            self.0.insert((cid, size));
        }
    }

    /// Reports whether the file with this CID and length is known.
    pub(crate) fn has(&self, cid: &Cid, size: u64) -> bool {
        self.0.contains(&(*cid, size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::{Codec, ManifestStats, Segment, SegmentWriter};

    use super::*;

    fn entry(path: &str, is_dir: bool) -> Entry {
        stand_in(&RelPath::new(path).unwrap(), is_dir)
    }

    fn header(segments: Vec<SegmentRef>) -> ManifestHeader {
        let root = Entry { path: RelPath::root(), ..entry("x", true) };
        ManifestHeader {
            folder_id: "docs".parse().unwrap(),
            folder_name: "Documents".into(),
            folder_path: "/docs".into(),
            source_peer_id: "p".into(),
            sequence_number: types::SequenceNumber(1),
            previous: None,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            root,
            stats: ManifestStats::default(),
            held: None,
            segments,
        }
    }

    fn segment(path: &str, content: &str) -> SegmentRef {
        SegmentRef {
            first_path: RelPath::new(path).unwrap(),
            cid: Cid::of(Codec::Json, content.as_bytes()),
            entries: 1,
            bytes: 1,
        }
    }

    fn known(segment: &SegmentRef) -> (Cid, Arc<Summary>) {
        let summary = Summary {
            first_path: Hash::of(segment.first_path.as_bytes()),
            end: Some((segment.first_path.clone(), false)),
            entries: segment.entries,
            bytes: segment.bytes,
            counts: Counts::default(),
        };
        (segment.cid, Arc::new(summary))
    }

    #[test]
    fn only_what_is_not_complete_is_looked_at() {
        let old = header(vec![segment("a", "1"), segment("h", "2"), segment("p", "3")]);
        let complete: HashMap<_, _> = old.segments.iter().map(known).collect();
        assert_eq!(diff(&old, Some(&old), &complete).new_segments().count(), 0);
        let new = header(vec![segment("a", "1"), segment("h", "new"), segment("p", "3")]);
        let plan = diff(&new, Some(&old), &complete);
        let steps: Vec<_> = plan.new_segments().collect();
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].overlaps, 1..2);
        // The boundaries have moved: all segments with a part of the range overlap.
        let new = header(vec![segment("b", "x"), segment("k", "y")]);
        let plan = diff(&new, Some(&old), &complete);
        let overlaps: Vec<_> = plan.steps.iter().map(|step| step.overlaps.clone()).collect();
        assert_eq!(overlaps, [0..2, 1..3]);
        // Complete, but described differently by the header.
        let mut lying = old.clone();
        lying.segments[1].first_path = RelPath::new("i").unwrap();
        lying.segments[2].entries = 5;
        let plan = diff(&lying, Some(&old), &complete);
        assert_eq!(plan.new_segments().count(), 2);
        // Without a base, all segments are new.
        assert_eq!(diff(&old, None, &HashMap::new()).new_segments().count(), 3);
    }

    fn cut(entries: &[Entry]) -> Vec<(Segment, Vec<Entry>)> {
        let (mut writer, mut segments) =
            (SegmentWriter::new(types::BlockScheme::plain()), Vec::new());
        let mut run = Vec::new();
        for entry in entries {
            if let Some(segment) = writer.push(entry) {
                segments.push((segment, std::mem::take(&mut run)));
            }
            run.push(entry.clone());
        }
        segments.extend(writer.finish().map(|segment| (segment, run)));
        segments
    }

    fn tree(dirs: usize, files: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        for dir in 0..dirs {
            entries.push(entry(&format!("d{dir:03}"), true));
            entries.push(entry(&format!("d{dir:03}/sub"), true));
            for file in 0..files {
                entries.push(entry(&format!("d{dir:03}/sub/{file:05}"), false));
            }
        }
        entries
    }

    fn as_ref(segment: &Segment) -> SegmentRef {
        SegmentRef {
            first_path: segment.first_path.clone(),
            cid: segment.block.cid(),
            entries: segment.entries,
            bytes: segment.block.data().len() as u64,
        }
    }

    /// Checks all segments; reads those that `reads` selects and skips the others.
    fn walk(
        segments: &[(Segment, Vec<Entry>)],
        summaries: &Summaries,
        reads: impl Fn(usize) -> bool,
    ) -> Result<Vec<(Cid, Arc<Summary>)>, ManifestError> {
        let mut walk = TreeWalk::new();
        let mut all = Vec::new();
        for (at, (segment, entries)) in segments.iter().enumerate() {
            let reference = as_ref(segment);
            if !reads(at) {
                walk.skip(&reference, &summaries[&reference.cid])?;
                continue;
            }
            let mut walking = walk.segment(&reference);
            entries.iter().try_for_each(|entry| walking.next(entry))?;
            all.push((reference.cid, Arc::new(walking.finish(reference.bytes)?)));
        }
        Ok(all)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn skipping_a_segment_is_as_good_as_reading_it(seed in any::<u64>()) {
            let segments = cut(&tree(8, 700));
            prop_assert!(segments.len() > 3);
            let summaries = walk(&segments, &HashMap::new(), |_| true).unwrap();
            let summaries = summaries.into_iter().collect();
            walk(&segments, &summaries, |at| seed >> (at % 64) & 1 == 0).unwrap();
            // Without one segment, both ways of checking must agree.
            let removed = usize::try_from(seed >> 32).unwrap() % segments.len();
            let mut without = segments.clone();
            without.remove(removed);
            let read = walk(&without, &summaries, |_| true).is_ok();
            let skipped = walk(&without, &summaries, |at| seed >> (at % 64) & 1 == 0).is_ok();
            prop_assert_eq!(read, skipped);
            // Out of order.
            let mut swapped = segments.clone();
            swapped.swap(removed, (removed + 1) % segments.len());
            prop_assert!(walk(&swapped, &summaries, |at| seed >> (at % 64) & 1 == 0).is_err());
        }
    }

    #[test]
    fn a_segment_with_a_long_end_takes_little_memory_and_is_read_again() {
        let long = "x".repeat(200);
        let mut path = String::from("a");
        let mut entries = vec![entry(&path, true)];
        while path.len() < 10_000 {
            path = format!("{path}/{long}");
            entries.push(entry(&path, true));
        }
        let reference = as_ref(&cut(&entries)[0].0);
        let mut walk = TreeWalk::new();
        let mut walking = walk.segment(&reference);
        entries.iter().try_for_each(|entry| walking.next(entry)).unwrap();
        let summary = walking.finish(reference.bytes).unwrap();
        assert!(summary.memory() < 1000, "{}", summary.memory());
        assert!(!summary.is_of(&reference));
        assert!(TreeWalk::new().skip(&reference, &summary).is_err());
    }

    #[test]
    fn a_segment_is_what_the_header_says() {
        let entries = [entry("a", false), entry("b", false)];
        let good = as_ref(&cut(&entries)[0].0);
        let check = |reference: &SegmentRef, bytes| {
            let mut walk = TreeWalk::new();
            let mut walking = walk.segment(reference);
            entries.iter().try_for_each(|entry| walking.next(entry))?;
            walking.finish(bytes)
        };
        assert!(check(&good, good.bytes).is_ok());
        assert!(check(&good, good.bytes + 1).is_err());
        assert!(check(&SegmentRef { entries: 3, ..good.clone() }, good.bytes).is_err());
        let path = RelPath::new("aa").unwrap();
        assert!(check(&SegmentRef { first_path: path, ..good.clone() }, good.bytes).is_err());
        let mut walk = TreeWalk::new();
        assert!(walk.segment(&good).finish(good.bytes).is_err());
    }
}
