//! Reads the contents of a snapshot: its header, its entries, one entry.
//!
//! A segment is a range of paths, so only the segments that contain the requested paths are read.
//! All functions block the thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use store::{BlockRead, StoreError, get_required};
use types::{
    Cid, Codec, Dataset, Entry, MANIFEST_MIME, ManifestError, ManifestHeader, NodeError, RelPath,
    SegmentRef, decode_segment,
};

/// Depth of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The entries directly in the directory.
    Children,
    /// All entries below the directory.
    All,
}

/// Reason why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The store failed, or a block is missing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The block is not a manifest.
    #[error("{cid} is not a manifest: {reason}")]
    NotManifest {
        /// CID of the block.
        cid: Cid,
        /// Reason why it is not a manifest.
        reason: String,
    },
    /// The header or a segment is malformed.
    #[error("block {cid} of the manifest is malformed")]
    Manifest {
        /// CID of the header or segment.
        cid: Cid,
        /// Error of the decoder.
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

/// Returns the CID of the header of a manifest. `bytes` are the dataset block `cid`.
///
/// # Errors
///
/// Returns [`TreeError::NotManifest`] if the block is not the dataset of a manifest.
pub fn header_of(cid: Cid, bytes: &[u8]) -> Result<Cid, TreeError> {
    let not_manifest = |reason: String| TreeError::NotManifest { cid, reason };
    let dataset =
        Dataset::decode(bytes).map_err(|error: NodeError| not_manifest(error.to_string()))?;
    if dataset.mimetype.as_deref() != Some(MANIFEST_MIME) {
        return Err(not_manifest(format!(
            "its type is {:?}",
            dataset.mimetype.unwrap_or_default()
        )));
    }
    if dataset.tree.codec() != Codec::Json {
        return Err(not_manifest("its content is not a header".to_owned()));
    }
    Ok(dataset.tree)
}

impl SnapshotTree {
    /// Opens the manifest with the CID that a snapshot record or an offer names.
    ///
    /// # Errors
    ///
    /// Returns [`TreeError`] if a block is missing, or is not part of a manifest.
    pub fn open(store: Arc<dyn BlockRead>, cid: Cid) -> Result<Self, TreeError> {
        let header_cid = header_of(cid, &get_required(&*store, cid)?)?;
        let header = ManifestHeader::decode(&get_required(&*store, header_cid)?)
            .map_err(|source| TreeError::Manifest { cid: header_cid, source })?;
        Ok(Self { store, header_cid, header: Arc::new(header) })
    }

    /// Returns the CID of the header.
    pub fn header_cid(&self) -> Cid {
        self.header_cid
    }

    /// Returns the header.
    pub fn header(&self) -> &Arc<ManifestHeader> {
        &self.header
    }

    /// Returns the entry at `path`, or that of the folder for the root.
    ///
    /// # Errors
    ///
    /// Returns [`TreeError::Store`] if a segment cannot be read, and [`TreeError::Manifest`] if it
    /// is malformed.
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

    /// Calls `each` with the entries below `path`, in order, until it breaks. A file has no entries
    /// below it.
    ///
    /// # Errors
    ///
    /// Same as [`SnapshotTree::lookup`]. `each` has received the entries before the error.
    pub fn list(
        &self,
        path: &RelPath,
        depth: Depth,
        each: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        self.list_after(path, None, depth, each)
    }

    /// Same as [`SnapshotTree::list`], but only for the entries after the path `after`.
    ///
    /// # Errors
    ///
    /// Same as [`SnapshotTree::list`].
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

    /// Reports whether all entries of a segment are below one child of `path`, without that child.
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

    /// Returns the index of the segment whose range contains `path`.
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
