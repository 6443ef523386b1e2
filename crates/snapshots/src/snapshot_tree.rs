//! Looking into a snapshot: its header, its entries, one entry.
//!
//! A segment is a range of paths, so what is asked for says which segments
//! are needed; the others are not read. Every call blocks.

use std::ops::ControlFlow;
use std::sync::Arc;

use store::{BlockRead, StoreError, get_required};
use types::{
    Cid, Codec, Dataset, Entry, MANIFEST_MIME, ManifestError, ManifestHeader, NodeError, RelPath,
    SegmentRef, decode_segment,
};

/// How deep to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What is directly in the directory.
    Children,
    /// All that is below it.
    All,
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The store, or a block that is missing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name is not that of a manifest.
    #[error("{cid} is not a manifest: {reason}")]
    NotManifest {
        /// The name.
        cid: Cid,
        /// What it is instead.
        reason: String,
    },
    /// The header or a segment breaks the format.
    #[error("the manifest {cid} is broken")]
    Manifest {
        /// The block.
        cid: Cid,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
}

/// A manifest in a store, open for reading.
#[derive(Clone, Debug)]
pub struct SnapshotTree {
    store: Arc<dyn BlockRead>,
    header_cid: Cid,
    header: Arc<ManifestHeader>,
}

/// The name of the header of the manifest whose dataset these bytes are.
///
/// # Errors
///
/// [`TreeError::NotManifest`].
pub fn header_of(cid: Cid, bytes: &[u8]) -> Result<Cid, TreeError> {
    let not = |reason: String| TreeError::NotManifest { cid, reason };
    let dataset = Dataset::decode(bytes).map_err(|error: NodeError| not(error.to_string()))?;
    if dataset.mimetype.as_deref() != Some(MANIFEST_MIME) {
        return Err(not(format!("it is of type {:?}", dataset.mimetype.unwrap_or_default())));
    }
    if dataset.tree.codec() != Codec::Json {
        return Err(not("its content is no header".to_owned()));
    }
    Ok(dataset.tree)
}

impl SnapshotTree {
    /// Opens the manifest `cid`, as a snapshot or a source names it.
    ///
    /// # Errors
    ///
    /// [`TreeError`].
    pub fn open(store: Arc<dyn BlockRead>, cid: Cid) -> Result<Self, TreeError> {
        let header_cid = header_of(cid, &get_required(&*store, cid)?)?;
        let header = ManifestHeader::decode(&get_required(&*store, header_cid)?)
            .map_err(|source| TreeError::Manifest { cid: header_cid, source })?;
        Ok(Self { store, header_cid, header: Arc::new(header) })
    }

    /// The block that holds the header.
    pub fn header_cid(&self) -> Cid {
        self.header_cid
    }

    /// The header.
    pub fn header(&self) -> &Arc<ManifestHeader> {
        &self.header
    }

    /// The entry at `path`; that of the folder itself for the root.
    ///
    /// # Errors
    ///
    /// [`TreeError`].
    pub fn lookup(&self, path: &RelPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(self.header.root.clone()));
        }
        let Some(at) = self.segment_of(path) else { return Ok(None) };
        let found = self.read(&self.header.segments[at], |entry| match entry.path.cmp(path) {
            std::cmp::Ordering::Less => ControlFlow::Continue(()),
            std::cmp::Ordering::Equal => ControlFlow::Break(Some(entry)),
            std::cmp::Ordering::Greater => ControlFlow::Break(None),
        })?;
        Ok(found.flatten())
    }

    /// Calls `each` with the entries below `path`, in order, until it breaks.
    /// Of a file there are none.
    ///
    /// # Errors
    ///
    /// [`TreeError`]; what came before it has been given to `each`.
    pub fn list(
        &self,
        path: &RelPath,
        depth: Depth,
        each: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        self.list_after(path, None, depth, each)
    }

    /// As [`SnapshotTree::list`], but only what comes after the path `after`.
    ///
    /// # Errors
    ///
    /// [`TreeError`]; what came before it has been given to `each`.
    pub fn list_after(
        &self,
        path: &RelPath,
        after: Option<&RelPath>,
        depth: Depth,
        mut each: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        let segments = &self.header.segments;
        let after = after.filter(|after| *after > path).unwrap_or(path);
        let first = self.segment_of(after).unwrap_or(0);
        for (at, segment) in segments.iter().enumerate().skip(first) {
            if segment.first_path > *path && !segment.first_path.is_within(path) {
                return Ok(());
            }
            if depth == Depth::Children && self.is_inside_a_child(path, at) {
                continue;
            }
            let ended = self.read(segment, |entry| {
                if entry.path <= *after {
                    return ControlFlow::Continue(());
                }
                if !entry.path.is_within(path) {
                    return ControlFlow::Break(());
                }
                let is_wanted = match depth {
                    Depth::All => true,
                    Depth::Children => entry.path.parent().as_ref() == Some(path),
                };
                if is_wanted { each(entry) } else { ControlFlow::Continue(()) }
            })?;
            if ended.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether everything in a segment is below one child of `path`, and that
    /// child itself is not in it.
    fn is_inside_a_child(&self, path: &RelPath, at: usize) -> bool {
        let segments = &self.header.segments;
        let first = &segments[at].first_path;
        let Some(next) = segments.get(at + 1) else { return false };
        let depth = path.names().count();
        let child = |of: &RelPath| -> Option<Vec<u8>> { of.names().nth(depth).map(<[u8]>::to_vec) };
        first.names().count() > depth + 1
            && next.first_path.is_within(path)
            && next.first_path.names().count() > depth + 1
            && child(first) == child(&next.first_path)
    }

    /// The segment that `path` is in, if it is in any.
    fn segment_of(&self, path: &RelPath) -> Option<usize> {
        let after = self.header.segments.partition_point(|segment| segment.first_path <= *path);
        after.checked_sub(1)
    }

    fn read<B>(
        &self,
        segment: &SegmentRef,
        each: impl FnMut(Entry) -> ControlFlow<B>,
    ) -> Result<Option<B>, TreeError> {
        let bytes = get_required(&*self.store, segment.cid)?;
        decode_segment(&bytes, each)
            .map_err(|source| TreeError::Manifest { cid: segment.cid, source })
    }
}
