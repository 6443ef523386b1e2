//! The files of segments: which there are, and whether they are here whole.
//! Everything here blocks.

use std::collections::HashMap;
use std::ops::ControlFlow;

use net::Want;
use store::{BlockStore, StoreError};
use types::{Cid, Codec, Entry, EntryKind, FileNode, MAX_TREE_DEPTH, SegmentRef, decode_segment};

use super::ManifestPullError;
use crate::plan::{KnownFiles, Summary, TreeWalk};
use crate::tree::read_segment;

/// Nodes that are remembered while files are checked, so that a node that is
/// named again and again is read once.
const CHECKED_MAX: usize = 64 * 1024;

/// A file that has to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileWant {
    pub(super) cid: Cid,
    pub(super) size: u64,
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

/// Checks a segment that is here, entry by entry.
pub(super) fn check_segment(
    store: &dyn BlockStore,
    segment: &SegmentRef,
    walk: &mut TreeWalk,
) -> Result<Summary, ManifestPullError> {
    let unsound = |source| ManifestPullError::Unsound { cid: segment.cid, source };
    let bytes = store.get(&segment.cid)?.ok_or(StoreError::Missing(segment.cid))?;
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

fn each_file(
    store: &dyn BlockStore,
    cid: Cid,
    mut each: impl FnMut(&Entry),
) -> Result<(), ManifestPullError> {
    read_segment(store, cid, |entry| {
        each(&entry);
        ControlFlow::<()>::Continue(())
    })?;
    Ok(())
}

/// The files of `segment` that are in none of `known`, each once.
pub(super) fn files_of(
    store: &dyn BlockStore,
    segment: Cid,
    known: &[Cid],
) -> Result<Vec<FileWant>, ManifestPullError> {
    let mut here = KnownFiles::new();
    for cid in known {
        each_file(store, *cid, |entry| here.add(entry))?;
    }
    let mut files = Vec::new();
    each_file(store, segment, |entry| {
        if let EntryKind::File { cid, size, .. } = entry.kind
            && !here.has(&cid, size)
        {
            files.push(FileWant { cid, size });
            here.add(entry);
        }
    })?;
    Ok(files)
}

/// The first block that is missing of these files, if one is. They are of the
/// lengths that the manifest says, so that a restore can read them.
pub(super) fn first_missing(
    store: &dyn BlockStore,
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
    store: &dyn BlockStore,
    file: &FileWant,
    checked: &mut HashMap<Cid, usize>,
) -> Result<Option<Cid>, ManifestPullError> {
    let mut stack = vec![(file.cid, file.size, 0)];
    while let Some((cid, size, depth)) = stack.pop() {
        let not_file = |reason| ManifestPullError::NotFile { cid, reason };
        if cid.codec() == Codec::Raw {
            match store.len_of(&cid)? {
                Some(len) if len == size => continue,
                Some(_) => return Err(not_file("a chunk of it is of another length")),
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
        let node = FileNode::decode(&bytes).map_err(|_| not_file("it is of another form"))?;
        if node.size() != size {
            return Err(not_file("its length is another"));
        }
        if checked.len() >= CHECKED_MAX {
            checked.clear();
        }
        // Each name of a node stands for the same below it, but its parent may
        // give it a wrong length, or it may be deeper than before.
        if checked.get(&cid).is_none_or(|checked_at| depth > *checked_at) {
            checked.insert(cid, depth);
            stack.extend(node.children().iter().map(|child| (child.cid, child.len, depth + 1)));
        }
    }
    Ok(None)
}
