//! Segments: blocks with the sorted entries of a folder.

use std::ops::ControlFlow;

use super::{Entry, EntryKind, ManifestError};
use crate::{Block, BlockScheme, Cid, Codec, RelPath};

/// Maximum length of a segment in bytes, unless a single line is longer. A
/// segment that would become longer ends early; the next path that begins a
/// segment restores the usual cuts.
const SEGMENT_LEN_MAX: usize = 1 << 20;

/// Complete segment, as [`SegmentWriter`] returns it. The caller stores the block
/// and adds a [`super::SegmentRef`] to the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Path of the first entry.
    pub first_path: RelPath,
    /// The entries as JSON lines.
    pub block: Block,
    /// Number of entries.
    pub entries: u64,
}

/// Groups entries into segments. The caller adds the entries in path order.
///
/// A segment ends before a path for which [`BlockScheme::starts_segment`] returns
/// true, and before an entry that would make it longer than 1 MiB.
#[derive(Debug)]
pub struct SegmentWriter {
    scheme: BlockScheme,
    first_path: Option<RelPath>,
    lines: Vec<u8>,
    entries: u64,
}

impl SegmentWriter {
    /// Starts before the first entry.
    pub fn new(scheme: BlockScheme) -> Self {
        Self { scheme, first_path: None, lines: Vec::new(), entries: 0 }
    }

    /// Adds the next entry. Returns the previous segment if `entry` starts a new one.
    pub fn push(&mut self, entry: &Entry) -> Option<Segment> {
        self.push_line(&entry.path, entry.to_json().as_bytes())
    }

    /// Adds the next entry in the form of its JSON line, without the newline.
    /// Otherwise like [`SegmentWriter::push`].
    pub fn push_line(&mut self, path: &RelPath, line: &[u8]) -> Option<Segment> {
        let is_full = self.lines.len() + line.len() > SEGMENT_LEN_MAX;
        let is_end = self.entries > 0 && (is_full || self.scheme.starts_segment(path));
        let ended = if is_end { self.take() } else { None };
        if self.first_path.is_none() {
            self.first_path = Some(path.clone());
        }
        self.lines.extend_from_slice(line);
        self.lines.push(b'\n');
        self.entries += 1;
        ended
    }

    /// Returns the last segment, or `None` if no entry was added.
    pub fn finish(mut self) -> Option<Segment> {
        self.take()
    }

    fn take(&mut self) -> Option<Segment> {
        let first_path = self.first_path.take()?;
        let entries = std::mem::take(&mut self.entries);
        let lines = std::mem::take(&mut self.lines);
        let block = self
            .scheme
            .block(Codec::Json, lines)
            .expect("a line is at most some 700 KiB, and a segment 1 MiB more than that");
        Some(Segment { first_path, block, entries })
    }
}

/// Splits the bytes of a segment, or of several concatenated segments, into lines
/// without parsing them.
pub fn segment_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Parses the entries of a segment and passes each to `each`, until it breaks.
/// Returns the value of the break, if any.
///
/// # Errors
///
/// Same as [`Entry::from_json`], for the first line that is not an entry, and
/// [`ManifestError::Rule`] if the segment does not end with a newline.
pub fn decode_segment<B>(
    bytes: &[u8],
    mut each: impl FnMut(Entry) -> ControlFlow<B>,
) -> Result<Option<B>, ManifestError> {
    let Some(lines) = bytes.strip_suffix(b"\n") else {
        return Err(ManifestError::Rule("a segment does not end with a newline"));
    };
    for line in lines.split(|byte| *byte == b'\n') {
        if let ControlFlow::Break(value) = each(Entry::from_json(line)?) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Checks that a sequence of entries is a tree: the paths are sorted and
/// distinct, and the parent of each is a directory that came before.
#[derive(Debug)]
pub struct TreeCheck {
    last: Option<RelPath>,
    /// Directories from the root down to the last entry.
    open: Vec<RelPath>,
}

impl Default for TreeCheck {
    fn default() -> Self {
        Self { last: None, open: vec![RelPath::root()] }
    }
}

impl TreeCheck {
    /// Starts before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the next entry.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError::Order`] if the path does not follow the previous
    /// one, [`ManifestError::Orphan`] if its parent is not a directory of the
    /// manifest, and [`ManifestError::Rule`] if the entry is the root.
    pub fn next(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        let Some(parent) = entry.path.parent() else {
            return Err(ManifestError::Rule("the root is among the entries"));
        };
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err(ManifestError::Order(entry.path.clone()));
        }
        while self.open.last().is_some_and(|dir| !entry.path.is_within(dir)) {
            self.open.pop();
        }
        if self.open.last() != Some(&parent) {
            return Err(ManifestError::Orphan(entry.path.clone()));
        }
        if entry.kind == EntryKind::Dir {
            self.open.push(entry.path.clone());
        }
        self.last = Some(entry.path.clone());
        Ok(())
    }
}

/// Returns the links of a JSON block: the segments of a header, or the files of a
/// segment. `previous` of a header is not a link: a manifest does not keep earlier
/// manifests alive.
pub(crate) fn manifest_links(bytes: &[u8]) -> Result<Vec<Cid>, ManifestError> {
    if let Ok(header) = super::ManifestHeader::decode(bytes) {
        return Ok(header.segments.iter().map(|segment| segment.cid).collect());
    }
    let mut cids = Vec::new();
    decode_segment(bytes, |entry| {
        if let EntryKind::File { cid, .. } = entry.kind {
            cids.push(cid);
        }
        ControlFlow::<()>::Continue(())
    })?;
    Ok(cids)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::entry::tests::{dir, file};
    use super::*;

    fn cut(entries: &[Entry]) -> Vec<Segment> {
        let mut writer = SegmentWriter::new(BlockScheme::plain());
        let mut segments: Vec<_> = entries.iter().filter_map(|entry| writer.push(entry)).collect();
        segments.extend(writer.finish());
        segments
    }

    fn tree(files: u32) -> Vec<Entry> {
        let mut entries = Vec::new();
        for number in 0..files {
            if number % 100 == 0 {
                entries.push(dir(&format!("d{:04}", number / 100)));
            }
            let path = format!("d{:04}/{number:06}.txt", number / 100);
            entries.push(file(&path, &number.to_le_bytes()));
        }
        entries
    }

    #[test]
    fn segments_are_of_a_size_and_read_back() {
        let entries = tree(20_000);
        let segments = cut(&entries);
        assert!((10..40).contains(&segments.len()), "{}", segments.len());
        let mut read = Vec::new();
        let mut check = TreeCheck::new();
        for segment in &segments {
            assert_eq!(segment.first_path, entries[read.len()].path);
            let before = read.len();
            decode_segment(segment.block.data(), |entry| {
                check.next(&entry).unwrap();
                read.push(entry);
                ControlFlow::<()>::Continue(())
            })
            .unwrap();
            assert_eq!((read.len() - before) as u64, segment.entries);
        }
        assert_eq!(read, entries);
    }

    #[test]
    fn one_changed_added_or_removed_file_changes_few_segments() {
        let entries = tree(20_000);
        let names = |segments: Vec<Segment>| -> HashSet<Cid> {
            segments.iter().map(|segment| segment.block.cid()).collect()
        };
        let before = names(cut(&entries));
        let mut changed = entries.clone();
        changed[7777] = file(&changed[7777].path.to_string(), b"new content");
        assert_eq!(names(cut(&changed)).difference(&before).count(), 1);
        let mut added = entries.clone();
        added.insert(7778, file(&format!("{}x", added[7777].path), b"added"));
        assert!(names(cut(&added)).difference(&before).count() <= 2);
        let mut removed = entries.clone();
        removed.remove(9999);
        assert!(names(cut(&removed)).difference(&before).count() <= 2);
    }

    #[test]
    fn entries_that_are_no_tree_are_refused() {
        let check = |entries: &[Entry]| -> Result<(), ManifestError> {
            let mut check = TreeCheck::new();
            entries.iter().try_for_each(|entry| check.next(entry))
        };
        assert!(check(&[dir("a"), file("a/b", b""), file("a-b", b""), dir("c")]).is_ok());
        for (bad, what) in [
            (vec![file("b", b""), file("a", b"")], "order"),
            (vec![file("a", b""), dir("a")], "twice"),
            (vec![file("a", b""), file("a/b", b"")], "in a file"),
            (vec![file("a/b", b"")], "in nothing"),
            (vec![dir("a"), dir("b"), file("a/x", b"")], "back"),
            (vec![dir("a"), file("a/b/c", b"")], "missing between"),
        ] {
            assert!(check(&bad).is_err(), "{what}");
        }
    }

    #[test]
    fn links_are_the_files_of_a_segment() {
        let entries = [dir("a"), file("a/b", b"1"), file("c", b"2")];
        let segment = &cut(&entries)[0];
        let links = manifest_links(segment.block.data()).unwrap();
        assert_eq!(links, [Cid::of(Codec::Raw, b"1"), Cid::of(Codec::Raw, b"2")]);
        assert!(manifest_links(b"neither").is_err());
    }
}
