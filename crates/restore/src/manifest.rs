//! Reads a manifest: first its header, then its entries segment by segment, in memory
//! that does not grow with the folder.

use std::ops::ControlFlow;
use std::sync::Arc;

use types::{Cid, Codec, Dataset, Entry, ManifestHeader, SegmentRef, TreeCheck, decode_segment};

use crate::blocks::{Blocks, BlocksError, get_one};

/// The reason why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A block of the manifest cannot be read.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The block is not a manifest.
    #[error("{0} is not a manifest")]
    NotOne(Cid),
    /// The manifest is invalid.
    #[error("manifest {manifest} is invalid")]
    Unsound {
        /// The manifest.
        manifest: Cid,
        /// The violated rule.
        #[source]
        source: types::ManifestError,
    },
}

/// A manifest, with its header in memory.
#[derive(Debug)]
pub struct Manifest {
    cid: Cid,
    header: ManifestHeader,
    blocks: Arc<dyn Blocks>,
}

impl Manifest {
    /// Reads the header of a manifest. `cid` names the header itself, or a dataset that
    /// contains it.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError`].
    pub fn open(blocks: Arc<dyn Blocks>, cid: Cid) -> Result<Self, ManifestError> {
        let mut bytes = get_one(&*blocks, cid)?;
        if cid.codec() == Codec::DagCbor {
            let dataset = Dataset::decode(&bytes).map_err(|_| ManifestError::NotOne(cid))?;
            if dataset.tree.codec() != Codec::Json {
                return Err(ManifestError::NotOne(cid));
            }
            bytes = get_one(&*blocks, dataset.tree)?;
        }
        let header = ManifestHeader::decode(&bytes)
            .map_err(|source| ManifestError::Unsound { manifest: cid, source })?;
        Ok(Self { cid, header, blocks })
    }

    /// Returns the header.
    pub fn header(&self) -> &ManifestHeader {
        &self.header
    }

    /// Calls `each` with every entry, in the order of paths, until it breaks. Segments
    /// for which `wants` returns false are not read.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestError`] at the first invalid segment or missing block.
    pub fn entries<B>(
        &self,
        mut wants: impl FnMut(&SegmentRef, Option<&SegmentRef>) -> bool,
        mut each: impl FnMut(Entry) -> ControlFlow<B>,
    ) -> Result<Option<B>, ManifestError> {
        let unsound = |source| ManifestError::Unsound { manifest: self.cid, source };
        let segments = &self.header.segments;
        // The check that the entries form one tree needs all segments.
        let mut check = Some(TreeCheck::new());
        for (number, segment) in segments.iter().enumerate() {
            if !wants(segment, segments.get(number + 1)) {
                check = None;
                continue;
            }
            let bytes = get_one(&*self.blocks, segment.cid)?;
            let mut found = 0;
            let mut fault = None;
            let broken = decode_segment(&bytes, |entry| {
                found += 1;
                let checked = check.as_mut().map_or(Ok(()), |check| check.next(&entry));
                if let Err(source) = checked {
                    fault = Some(source);
                    return ControlFlow::Break(None);
                }
                match each(entry) {
                    ControlFlow::Continue(()) => ControlFlow::Continue(()),
                    ControlFlow::Break(value) => ControlFlow::Break(Some(value)),
                }
            })
            .map_err(unsound)?;
            if let Some(source) = fault {
                return Err(unsound(source));
            }
            if let Some(value) = broken {
                return Ok(value);
            }
            if found != segment.entries {
                let rule = types::ManifestError::Rule("a segment has the wrong number of entries");
                return Err(unsound(rule));
            }
        }
        Ok(None)
    }

    /// Writes the complete manifest as one JSON document: the header, with the entries
    /// of all segments in an array `files`.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError::Manifest`] if the manifest cannot be read, and
    /// [`WriteError::Io`] if `out` fails.
    pub fn write_json(&self, out: &mut impl std::io::Write) -> Result<(), WriteError> {
        let json = self.header.to_json();
        let text = String::from_utf8_lossy(&json);
        let head = text.strip_suffix('}').unwrap_or(&text);
        write!(out, "{head},\"files\":[")?;
        let mut is_first = true;
        let failed = self.entries(
            |_, _| true,
            |entry| {
                let separator = if std::mem::take(&mut is_first) { "\n" } else { ",\n" };
                match write!(out, "{separator}{}", entry.to_json()) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(error),
                }
            },
        )?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        writeln!(out, "\n]}}")?;
        Ok(())
    }
}

/// The reason why a manifest could not be written as JSON.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
