//! The segments of the last manifest, and which of them no longer match the rows.
//!
//! The key of a segment is its first path. The first segment begins with the root, so that
//! every path belongs to a segment.

use std::ops::Bound;

use redb::{ReadableTable, Table};
use types::{Cid, Codec, Hash, RelPath};

use super::codec::{Reader, Writer};
use super::{Bytes, DbResult, Totals};
use crate::path_key::{FolderNumber, NUMBER_LEN, key_of, path_of};

/// A row of the table `segments`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    /// The last transaction that changed one of its rows since it was written; 0 if none did.
    pub(crate) stale: u64,
    /// Its block; `None` before the first manifest, and for an empty folder.
    pub(crate) block: Option<SegmentBlock>,
}

/// A segment that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentBlock {
    /// Its CID.
    pub(crate) cid: Cid,
    /// The path of its first entry.
    pub(crate) first_path: RelPath,
    /// The length of the block, in bytes.
    pub(crate) len: u64,
    /// Totals of its entries.
    pub(crate) totals: Totals,
}

impl SegmentBlock {
    /// Returns the number of its entries.
    pub(crate) fn entries(&self) -> u64 {
        self.totals.files + self.totals.dirs
    }
}

impl SegmentRow {
    /// Returns a segment that was not written yet.
    pub(crate) fn unwritten(stale: u64) -> Self {
        Self { stale, block: None }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(self.stale);
        if let Some(block) = &self.block {
            out.raw(block.cid.hash().as_bytes());
            out.bytes(block.first_path.as_bytes());
            out.number(block.len);
            out.number(block.totals.files);
            out.number(block.totals.dirs);
            out.number(block.totals.bytes);
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let stale = from.number()?;
        if from.is_at_end() {
            return Some(Self::unwritten(stale));
        }
        let block = SegmentBlock {
            cid: Cid::new(Codec::Json, Hash::from_bytes(from.array()?)),
            first_path: RelPath::new(from.bytes()?).ok()?,
            len: from.number()?,
            totals: Totals { files: from.number()?, dirs: from.number()?, bytes: from.number()? },
        };
        from.is_at_end().then_some(Self { stale, block: Some(block) })
    }
}

/// Marks segments as stale within one transaction.
#[derive(Debug)]
pub(super) struct Marker {
    number: FolderNumber,
    counter: u64,
    /// The range of keys of the segment that was marked last.
    marked: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Marker {
    pub(super) fn new(number: FolderNumber, counter: u64) -> Self {
        Self { number, counter, marked: None }
    }

    /// Marks the segment to which `key` belongs.
    pub(super) fn mark(&mut self, table: &mut Table<'_, Bytes, Bytes>, key: &[u8]) -> DbResult<()> {
        if let Some((from, to)) = &self.marked
            && key >= &from[..]
            && to.as_ref().is_none_or(|to| key < &to[..])
        {
            return Ok(());
        }
        let first = key_of(self.number, &RelPath::root());
        let found = {
            let found = table.range(&first[..]..=key)?.next_back().transpose()?;
            found.and_then(|(start, value)| {
                Some((start.value().to_vec(), SegmentRow::decode(value.value())?))
            })
        };
        let (start, mut segment) = found.ok_or_else(damaged)?;
        segment.stale = self.counter;
        table.insert(&start[..], &segment.encode()[..])?;
        let after = (Bound::Excluded(&start[..]), Bound::Unbounded);
        let next = table.range::<&[u8]>(after)?.next().transpose()?;
        let next = next.map(|(key, _)| key.value().to_vec());
        self.marked = Some((start, next));
        Ok(())
    }
}

fn damaged() -> redb::Error {
    redb::Error::Corrupted("the segments of a folder".into())
}

/// Returns the first path of the segment with this key.
pub(crate) fn start_of(key: &[u8]) -> Option<RelPath> {
    if key.len() == NUMBER_LEN {
        return Some(RelPath::root());
    }
    path_of(key).map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_read_back() {
        let block = SegmentBlock {
            cid: Cid::of(Codec::Json, b"x"),
            first_path: RelPath::new(b"a/b".to_vec()).unwrap(),
            len: 1000,
            totals: Totals { files: 3, dirs: 1, bytes: u64::MAX },
        };
        for row in [
            SegmentRow::unwritten(0),
            SegmentRow::unwritten(7),
            SegmentRow { stale: 300, block: Some(block) },
        ] {
            let bytes = row.encode();
            assert_eq!(SegmentRow::decode(&bytes), Some(row.clone()));
            if row.block.is_some() {
                assert_eq!(SegmentRow::decode(&bytes[..bytes.len() - 1]), None);
            }
        }
        assert_eq!(SegmentRow::decode(b""), None);
    }

    #[test]
    fn fuzz_segment_row() {
        let block = SegmentBlock {
            cid: Cid::of(Codec::Json, b"segment"),
            first_path: RelPath::new("a/b").unwrap(),
            len: 9,
            totals: Totals { files: 3, dirs: 2, bytes: 1 << 40 },
        };
        let written = SegmentRow { stale: 0, block: Some(block) };
        let examples = [SegmentRow::unwritten(7).encode(), written.encode()];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Some(row) = SegmentRow::decode(bytes) {
                assert_eq!(SegmentRow::decode(&row.encode()), Some(row));
            }
        });
    }
}
