//! Reading a manifest: its header first, then its entries, segment by
//! segment, in memory that does not grow with the folder.

use std::ops::ControlFlow;
use std::sync::Arc;

use types::{Cid, Codec, Dataset, Entry, ManifestHeader, SegmentRef, TreeCheck, decode_segment};

use crate::blocks::{Blocks, BlocksError, one};

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A block of it.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// It is no manifest.
    #[error("{0} is not a manifest")]
    NotOne(Cid),
    /// It is one, but not a sound one.
    #[error("manifest {manifest} is not sound")]
    Unsound {
        /// The manifest.
        manifest: Cid,
        /// What is wrong with it.
        #[source]
        source: types::ManifestError,
    },
}

/// A manifest whose header has been read.
#[derive(Debug)]
pub struct Manifest {
    cid: Cid,
    header: ManifestHeader,
    blocks: Arc<dyn Blocks>,
}

impl Manifest {
    /// Reads the header of a manifest: a dataset over it, or the header's own
    /// name.
    ///
    /// # Errors
    ///
    /// [`ManifestError`].
    pub fn open(blocks: Arc<dyn Blocks>, cid: Cid) -> Result<Self, ManifestError> {
        let mut bytes = one(&*blocks, cid)?;
        if cid.codec() == Codec::DagCbor {
            let dataset = Dataset::decode(&bytes).map_err(|_| ManifestError::NotOne(cid))?;
            if dataset.tree.codec() != Codec::Json {
                return Err(ManifestError::NotOne(cid));
            }
            bytes = one(&*blocks, dataset.tree)?;
        }
        let header = ManifestHeader::decode(&bytes)
            .map_err(|source| ManifestError::Unsound { manifest: cid, source })?;
        Ok(Self { cid, header, blocks })
    }

    /// What the header says.
    pub fn header(&self) -> &ManifestHeader {
        &self.header
    }

    /// Gives every entry to `each`, in the order of paths, until it breaks.
    /// Segments for which `wants` is false are not read.
    ///
    /// # Errors
    ///
    /// [`ManifestError`], at the first thing that is not sound.
    pub fn entries<B>(
        &self,
        mut wants: impl FnMut(&SegmentRef, Option<&SegmentRef>) -> bool,
        mut each: impl FnMut(Entry) -> ControlFlow<B>,
    ) -> Result<Option<B>, ManifestError> {
        let unsound = |source| ManifestError::Unsound { manifest: self.cid, source };
        let segments = &self.header.segments;
        // Whether the entries are one tree can be seen only where all are read.
        let mut check = Some(TreeCheck::new());
        for (number, segment) in segments.iter().enumerate() {
            if !wants(segment, segments.get(number + 1)) {
                check = None;
                continue;
            }
            let bytes = one(&*self.blocks, segment.cid)?;
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
                let rule = types::ManifestError::Rule("a segment of another length");
                return Err(unsound(rule));
            }
        }
        Ok(None)
    }

    /// The whole manifest as one JSON document: the header, with a `files`
    /// array for its segments.
    ///
    /// # Errors
    ///
    /// [`ManifestError`]; those of `out`.
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

/// Why a manifest could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Where it was written to.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
