//! What of a manifest has to be looked at: pure.
//!
//! A segment that a complete snapshot has as well is complete too. Of the
//! others, a file that the snapshot has in the same stretch of paths is.

use std::collections::{HashMap, HashSet};

use types::{
    Cid, Entry, EntryKind, ManifestError, ManifestHeader, Metadata, RelPath, SegmentRef, TreeCheck,
};

/// What has to be pulled for a manifest, given what is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each segment of the manifest, in order, what is to be done.
    pub steps: Vec<Step>,
}

/// What is to be done about one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The segment.
    pub segment: SegmentRef,
    /// `false`: it, and every file in it, is known to be here.
    pub is_new: bool,
    /// Segments of the snapshot before, by their place there, that hold the
    /// same stretch of paths: what they name is here.
    pub overlaps: std::ops::Range<usize>,
}

impl Plan {
    /// The segments that have to be looked at.
    pub fn new_segments(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.is_new)
    }
}

/// Compares a manifest with what is here: `complete` names the segments all of
/// whose files are, and `base` is the last snapshot.
pub fn diff(
    manifest: &ManifestHeader,
    base: Option<&ManifestHeader>,
    complete: &HashMap<Cid, Summary>,
) -> Plan {
    let old = base.map_or(&[][..], |base| &base.segments);
    let steps = manifest.segments.iter().enumerate().map(|(at, segment)| {
        let end = manifest.segments.get(at + 1).map(|next| &next.first_path);
        // From the one that holds the first path to the one before the end.
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

/// What is remembered of a segment that was read: enough to go on behind it
/// without reading it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    first_path: RelPath,
    last_path: RelPath,
    is_last_dir: bool,
    entries: u64,
    bytes: u64,
    counts: Counts,
}

/// What some entries come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything but directories.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// The lengths of the files together, in bytes.
    pub bytes: u64,
}

impl Counts {
    /// Adds one entry.
    pub fn add(&mut self, entry: &Entry) {
        match entry.kind {
            EntryKind::Dir => self.dirs += 1,
            EntryKind::File { size, .. } => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(size);
            }
            _ => self.files += 1,
        }
    }

    /// Adds what others come to.
    pub fn add_all(&mut self, other: &Self) {
        self.files = self.files.saturating_add(other.files);
        self.dirs = self.dirs.saturating_add(other.dirs);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Summary {
    /// What its entries come to.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether `segment` says of it what it is.
    pub fn is_of(&self, segment: &SegmentRef) -> bool {
        self.first_path == segment.first_path
            && self.entries == segment.entries
            && self.bytes == segment.bytes
    }
}

/// Checks the entries of a whole manifest, in which some segments were checked
/// before.
///
/// Whether a segment is a tree depends on what is before it only in that its
/// first entry's directories are there; so for one that was checked, its first
/// and its last path are enough.
#[derive(Debug, Default)]
pub struct TreeWalk {
    check: TreeCheck,
}

impl TreeWalk {
    /// Before the first segment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes a segment that was checked before.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] where it does not fit behind what came before.
    pub fn pass(&mut self, known: &Summary) -> Result<(), ManifestError> {
        self.check.next(&stand_in(&known.first_path, false))?;
        // Behind its last entry, the open directories are those above that,
        // whatever came before.
        let mut check = TreeCheck::new();
        let mut above = Vec::new();
        let mut path = known.last_path.parent();
        while let Some(dir) = path.filter(|dir| !dir.is_root()) {
            path = dir.parent();
            above.push(dir);
        }
        for dir in above.iter().rev() {
            check.next(&stand_in(dir, true))?;
        }
        check.next(&stand_in(&known.last_path, known.is_last_dir))?;
        self.check = check;
        Ok(())
    }

    /// Begins a segment that is read whole.
    pub fn segment<'a>(&'a mut self, segment: &'a SegmentRef) -> SegmentWalk<'a> {
        SegmentWalk { walk: self, segment, last: None, entries: 0, counts: Counts::default() }
    }
}

fn stand_in(path: &RelPath, is_dir: bool) -> Entry {
    let kind = if is_dir { EntryKind::Dir } else { EntryKind::Fifo };
    Entry { path: path.clone(), kind, metadata: Metadata::default(), error: None }
}

/// Checks the entries of one segment.
#[derive(Debug)]
pub struct SegmentWalk<'a> {
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
    /// [`ManifestError`].
    pub fn next(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        if self.entries == 0 && entry.path != self.segment.first_path {
            return Err(ManifestError::Rule("a segment that begins with another path"));
        }
        self.walk.check.next(entry)?;
        self.entries += 1;
        self.counts.add(entry);
        self.last = Some((entry.path.clone(), entry.kind == EntryKind::Dir));
        Ok(())
    }

    /// Ends the segment, whose block is so long.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Rule`] where the header says something else of it.
    pub fn finish(self, bytes: u64) -> Result<Summary, ManifestError> {
        let Some((last_path, is_last_dir)) = self.last else {
            return Err(ManifestError::Rule("an empty segment"));
        };
        if self.entries != self.segment.entries || bytes != self.segment.bytes {
            return Err(ManifestError::Rule("a segment of another size than the header says"));
        }
        Ok(Summary {
            first_path: self.segment.first_path.clone(),
            last_path,
            is_last_dir,
            entries: self.entries,
            bytes,
            counts: self.counts,
        })
    }
}

/// The files of segments that are here already.
#[derive(Debug, Default)]
pub struct KnownFiles(HashSet<(Cid, u64)>);

impl KnownFiles {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the file of an entry.
    pub fn add(&mut self, entry: &Entry) {
        if let EntryKind::File { cid, size, .. } = entry.kind {
            self.0.insert((cid, size));
        }
    }

    /// Whether this is one, under this length.
    pub fn has(&self, cid: &Cid, size: u64) -> bool {
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

    fn known(segment: &SegmentRef) -> (Cid, Summary) {
        let summary = Summary {
            first_path: segment.first_path.clone(),
            last_path: segment.first_path.clone(),
            is_last_dir: false,
            entries: segment.entries,
            bytes: segment.bytes,
            counts: Counts::default(),
        };
        (segment.cid, summary)
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
        // The cuts have moved: whatever holds a part of the stretch overlaps.
        let new = header(vec![segment("b", "x"), segment("k", "y")]);
        let plan = diff(&new, Some(&old), &complete);
        let overlaps: Vec<_> = plan.steps.iter().map(|step| step.overlaps.clone()).collect();
        assert_eq!(overlaps, [0..2, 1..3]);
        // Complete, but the header says something else of it.
        let mut lying = old.clone();
        lying.segments[1].first_path = RelPath::new("i").unwrap();
        lying.segments[2].entries = 5;
        let plan = diff(&lying, Some(&old), &complete);
        assert_eq!(plan.new_segments().count(), 2);
        // Nothing is known: everything.
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

    /// Walks all, reading those segments that `reads` says.
    fn walk(
        segments: &[(Segment, Vec<Entry>)],
        summaries: &HashMap<Cid, Summary>,
        reads: impl Fn(usize) -> bool,
    ) -> Result<Vec<(Cid, Summary)>, ManifestError> {
        let mut walk = TreeWalk::new();
        let mut all = Vec::new();
        for (at, (segment, entries)) in segments.iter().enumerate() {
            let reference = as_ref(segment);
            if !reads(at) {
                walk.pass(&summaries[&reference.cid])?;
                continue;
            }
            let mut walking = walk.segment(&reference);
            entries.iter().try_for_each(|entry| walking.next(entry))?;
            all.push((reference.cid, walking.finish(reference.bytes)?));
        }
        Ok(all)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn passing_a_segment_is_as_good_as_reading_it(seed in any::<u64>()) {
            let segments = cut(&tree(8, 700));
            prop_assert!(segments.len() > 3);
            let summaries = walk(&segments, &HashMap::new(), |_| true).unwrap();
            let summaries = summaries.into_iter().collect();
            walk(&segments, &summaries, |at| seed >> (at % 64) & 1 == 0).unwrap();
            // Without a segment, what follows it is in no directory, or it is
            // found wherever it is.
            let gone = usize::try_from(seed >> 32).unwrap() % segments.len();
            let mut without = segments.clone();
            without.remove(gone);
            let whole = walk(&without, &summaries, |_| true).is_ok();
            let passed = walk(&without, &summaries, |at| seed >> (at % 64) & 1 == 0).is_ok();
            prop_assert_eq!(whole, passed);
            // Out of order.
            let mut swapped = segments.clone();
            swapped.swap(gone, (gone + 1) % segments.len());
            prop_assert!(walk(&swapped, &summaries, |at| seed >> (at % 64) & 1 == 0).is_err());
        }
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
