//! The files of segments: which are new, and whether they are complete in the store. All functions
//! block the thread.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use net::Want;
use store::{BlockRead, StoreError, get_required};
use types::{
    Cid, Codec, Entry, EntryKind, FileNode, MAX_TREE_DEPTH, SegmentRef, decode_segment,
    segment_lines,
};

use super::ManifestPullError;
use crate::plan::{KnownFiles, Summary, TreeWalk};

/// Maximum number of nodes that are remembered while files are checked, so that a node that occurs
/// many times is read once.
const CHECKED_MAX: usize = 64 * 1024;

/// A file that must be complete in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileWant {
    pub(super) cid: Cid,
    pub(super) size: u64,
    /// The file at the same path in the last snapshot.
    pub(super) similar: Option<Cid>,
}

impl From<&FileWant> for Want {
    fn from(file: &FileWant) -> Self {
        let len = match file.cid.codec() {
            Codec::Raw => u32::try_from(file.size).ok(),
            _ => None,
        };
        Self { cid: file.cid, len }
    }
}

/// Checks a stored segment, entry by entry.
pub(super) fn check_segment(
    store: &dyn BlockRead,
    segment: &SegmentRef,
    walk: &mut TreeWalk,
) -> Result<Summary, ManifestPullError> {
    let unsound = |source| ManifestPullError::Unsound { cid: segment.cid, source };
    let bytes = get_required(store, segment.cid)?;
    let mut walking = walk.segment(segment);
    let bad = decode_segment(&bytes, |entry| match walking.next(&entry) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match bad.map_err(unsound)? {
        Some(error) => Err(unsound(error)),
        None => walking.finish(bytes.len() as u64).map_err(unsound),
    }
}

/// A segment of the last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BaseSegment {
    pub(super) cid: Cid,
    /// True if all its files are known to be complete. Otherwise it only serves for similarity
    /// hints.
    pub(super) is_complete: bool,
}

/// Returns the files of `segment` that no complete segment of `base` has, each once.
///
/// A line that also occurs in a complete segment is not parsed, because its file is stored. After a
/// few edits or deletions these are nearly all lines.
pub(super) fn files_of(
    store: &dyn BlockRead,
    segment: Cid,
    base: &[BaseSegment],
) -> Result<Vec<FileWant>, ManifestPullError> {
    let mut old = Vec::with_capacity(base.len());
    for segment in base {
        match get_required(store, segment.cid) {
            Ok(bytes) => old.push((segment, bytes)),
            // It would only have given hints.
            Err(StoreError::Missing(_) | StoreError::Damaged { .. }) if !segment.is_complete => {}
            Err(error) => return Err(error.into()),
        }
    }
    let new = get_required(store, segment)?;
    let new_lines: HashSet<&[u8]> = segment_lines(&new).collect();
    let mut old_lines: HashSet<&[u8]> = HashSet::new();
    let mut known = KnownFiles::new();
    let mut before = HashMap::new();
    for (old_segment, bytes) in &old {
        for line in segment_lines(bytes) {
            if new_lines.contains(line) {
                if old_segment.is_complete {
                    old_lines.insert(line);
                }
                continue;
            }
            let entry = match entry(old_segment.cid, line) {
                Ok(entry) => entry,
                Err(_) if !old_segment.is_complete => continue,
                Err(error) => return Err(error),
            };
            if old_segment.is_complete {
                known.add(&entry);
            }
            if let EntryKind::File { cid, .. } = entry.kind {
                before.insert(entry.path, cid);
            }
        }
    }
    let mut files = Vec::new();
    for line in segment_lines(&new).filter(|line| !old_lines.contains(line)) {
        let entry = entry(segment, line)?;
        if let EntryKind::File { cid, size, .. } = entry.kind
            && !known.has(&cid, size)
        {
            let similar = before.get(&entry.path).copied().filter(|before| *before != cid);
            files.push(FileWant { cid, size, similar });
            known.add(&entry);
        }
    }
    Ok(files)
}

fn entry(cid: Cid, line: &[u8]) -> Result<Entry, ManifestPullError> {
    Entry::from_json(line).map_err(|source| ManifestPullError::Unsound { cid, source })
}

/// Returns the first missing block of these files, if any.
///
/// # Errors
///
/// Returns [`ManifestPullError::NotFile`] if a file has another length than in the manifest,
/// because a restore could not read it.
pub(super) fn first_missing(
    store: &dyn BlockRead,
    files: &[FileWant],
) -> Result<Option<Cid>, ManifestPullError> {
    let mut checked = HashMap::new();
    for file in files {
        if let Some(missing) = missing_of(store, file, &mut checked)? {
            return Ok(Some(missing));
        }
    }
    Ok(None)
}

fn missing_of(
    store: &dyn BlockRead,
    file: &FileWant,
    checked: &mut HashMap<Cid, usize>,
) -> Result<Option<Cid>, ManifestPullError> {
    let mut stack = vec![(file.cid, file.size, 0)];
    while let Some((cid, size, depth)) = stack.pop() {
        let not_file = |reason| ManifestPullError::NotFile { cid, reason };
        if cid.codec() == Codec::Raw {
            match store.len_of(&cid)? {
                Some(len) if len == size => continue,
                Some(_) => return Err(not_file("a chunk has another length")),
                None => return Ok(Some(cid)),
            }
        }
        if depth == MAX_TREE_DEPTH {
            return Err(not_file("its tree is too deep"));
        }
        let bytes = match store.get(&cid) {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(Some(cid)),
            Err(error) => return Err(error.into()),
        };
        let node = FileNode::decode(&bytes).map_err(|_| not_file("a node is malformed"))?;
        if node.size() != size {
            return Err(not_file("a node has another length"));
        }
        if checked.len() >= CHECKED_MAX {
            checked.clear();
        }
        // A node has the same children wherever it occurs, but a parent may give it a wrong length,
        // or it may be deeper than before.
        if checked.get(&cid).is_none_or(|checked_at| depth > *checked_at) {
            checked.insert(cid, depth);
            stack.extend(node.children().iter().map(|child| (child.cid, child.len, depth + 1)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use store::{BlockWrite as _, MemStore};
    use types::{EncodedBlock, Hash, Metadata, RelPath, SegmentWriter};

    use super::*;

    /// Returns a file with this content and modification time.
    fn file(path: &str, content: &str, mtime_ns: i128) -> Entry {
        let blake3 = Hash::of(content.as_bytes());
        let (cid, size) = (Cid::new(Codec::Raw, blake3), content.len() as u64);
        let kind = EntryKind::File { cid, size, blake3, is_sparse: false };
        let metadata = Metadata { mtime_ns, ..Metadata::default() };
        Entry { path: RelPath::new(path).unwrap(), kind, metadata, error: None }
    }

    fn put(store: &MemStore, entries: &[Entry]) -> Cid {
        let mut writer = SegmentWriter::new(types::BlockScheme::plain());
        for entry in entries {
            assert!(writer.push(entry).is_none());
        }
        let block = writer.finish().unwrap().block;
        let cid = block.cid();
        store.put(&[EncodedBlock::plain(block)]).unwrap();
        cid
    }

    #[test]
    fn the_files_that_are_new_are_those_whose_content_is() {
        let store = MemStore::new();
        let dir = Entry { kind: EntryKind::Dir, ..file("dir", "", 0) };
        let complete = |cid| BaseSegment { cid, is_complete: true };
        let known = [
            put(&store, &[file("a", "one", 1), file("b", "two", 1), file("c", "three", 1)]),
            put(&store, &[dir.clone(), file("dir/e", "four", 1), file("dir/f", "five", 1)]),
        ]
        .map(complete);
        let new = put(
            &store,
            &[
                file("a", "one", 1),
                // Touched, renamed, and new.
                file("b", "two", 2),
                file("c2", "three", 1),
                file("d", "new", 1),
                dir,
                file("dir/e", "four and more", 1),
                file("dir/f", "five", 1),
                // The same new content under another name.
                file("dir/g", "new", 1),
            ],
        );
        let contents = |files: Vec<FileWant>| files.iter().map(|f| f.cid).collect::<Vec<_>>();
        let cid = |content: &str| Cid::of(Codec::Raw, content.as_bytes());
        let files = files_of(&store, new, &known).unwrap();
        let similar: Vec<_> = files.iter().map(|file| file.similar).collect();
        assert_eq!(similar, [None, Some(cid("four"))], "the old file at the path");
        assert_eq!(contents(files), [cid("new"), cid("four and more")]);
        let files = files_of(&store, new, &known[1..]).unwrap();
        let without = ["one", "two", "three", "new", "four and more"];
        assert_eq!(contents(files), without.map(cid));
        assert_eq!(files_of(&store, known[0].cid, &known[..1]).unwrap(), []);
        // Segments that may be incomplete or missing give only hints.
        let gone = Cid::of(Codec::Json, b"gone");
        let unknown = [known[0].cid, known[1].cid, gone];
        let unknown = unknown.map(|cid| BaseSegment { cid, is_complete: false });
        let files = files_of(&store, new, &unknown).unwrap();
        let similar: Vec<_> = files.iter().filter_map(|file| file.similar).collect();
        assert_eq!(similar, [cid("four")]);
        let all = ["one", "two", "three", "new", "four and more", "five"];
        assert_eq!(contents(files), all.map(cid));
        assert!(files_of(&store, new, &[complete(gone)]).is_err());
        // The same content with another length is another file.
        let mut other = file("a", "one", 1);
        if let EntryKind::File { size, .. } = &mut other.kind {
            *size += 1;
        }
        let other = put(&store, &[other]);
        assert_eq!(files_of(&store, other, &known).unwrap().len(), 1);
    }

    #[test]
    fn a_line_that_is_none_is_found_where_it_is_new() {
        let store = MemStore::new();
        let known = put(&store, &[file("a", "one", 1)]);
        let lines = [store.get(&known).unwrap().unwrap().as_ref(), b"{}\n"].concat();
        let block = types::Block::new(Codec::Json, lines).unwrap();
        let cid = block.cid();
        store.put(&[EncodedBlock::plain(block)]).unwrap();
        let error =
            files_of(&store, cid, &[BaseSegment { cid: known, is_complete: true }]).unwrap_err();
        assert!(matches!(error, ManifestPullError::Unsound { cid: found, .. } if found == cid));
    }
}
