//! The format of a pack file: many blocks, appended, with a footer at the end.
//!
//! `docs/formats/pack.md` specifies the bytes. A pack is written once, from front
//! to back: the header, the records and, when the pack is full, the footer. Each
//! record describes itself, so a pack without a footer (its writer died) or with a
//! damaged one is read by walking the records; after a damaged record the walk
//! continues at the next valid one. The footer only saves that walk. It is written
//! after the records were synced, so a footer that exists after a power cut can be
//! trusted.
//! The records are in [`crate::record`].

use std::io;
use std::ops::Range;

use types::Codec;

use crate::bytes_at::{hash_at, u32_at, u64_at};
use crate::record::{Entry, Form, RECORD_HEADER_LEN, RECORD_MAGIC, decode_record_header};
use disk::DiskFile;

/// Kind of the blocks in a pack. Metadata has packs of its own, so that walking
/// the trees of files does not read their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum PackKind {
    /// Chunks of files.
    Data = 0,
    /// Blocks with links: nodes, manifests.
    Meta = 1,
}

impl PackKind {
    /// Both kinds, in the order in which they are made durable: data before the
    /// nodes that refer to it.
    pub(crate) const ALL: [Self; 2] = [Self::Data, Self::Meta];

    /// Returns the kind of pack for blocks of `codec`.
    pub(crate) fn of(codec: Codec) -> Self {
        match codec {
            Codec::Raw => Self::Data,
            Codec::DagCbor | Codec::Json => Self::Meta,
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Self::Data),
            1 => Some(Self::Meta),
            _ => None,
        }
    }
}

const PACK_MAGIC: [u8; 8] = *b"ARCHPACK";
/// Replaces [`PACK_MAGIC`] in a pack that is no longer needed.
pub(crate) const RETIRED_MAGIC: [u8; 8] = *b"ARCHGONE";
const FOOTER_MAGIC: [u8; 8] = *b"ARCHFOOT";
const VERSION: u8 = 1;
/// Names are the BLAKE3 hash of the stored bytes.
const HASH_MODE_PLAIN: u8 = 0;

/// Length of the header of a pack in bytes.
pub(crate) const HEADER_LEN: u64 = HEADER_BYTES as u64;
pub(crate) const HEADER_BYTES: usize = 64;
const ENTRY_LEN: usize = 48;
const TRAILER_LEN: usize = 48;

/// Header of a pack. It identifies the pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackHeader {
    pub(crate) kind: PackKind,
    pub(crate) number: u32,
    pub(crate) uuid: [u8; 16],
}

/// Reason why the header of a pack cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the header is damaged")]
    Damaged,
    #[error("the pack was emptied by a garbage collection")]
    Retired,
    #[error("the pack was written by a newer version of this program; use that version")]
    Version,
}

impl PackHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&PACK_MAGIC);
        bytes[8] = VERSION;
        bytes[9] = self.kind as u8;
        bytes[10] = HASH_MODE_PLAIN;
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.uuid);
        let sum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Decodes a header.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        if bytes[..8] == RETIRED_MAGIC {
            return Err(HeaderError::Retired);
        }
        if bytes[..8] != PACK_MAGIC || u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err(HeaderError::Damaged);
        }
        if bytes[8] != VERSION || bytes[10] != HASH_MODE_PLAIN {
            return Err(HeaderError::Version);
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        let kind = PackKind::from_tag(bytes[9]).ok_or(HeaderError::Version)?;
        Ok(Self { kind, number: u32_at(bytes, 12), uuid })
    }
}

/// Reports whether a collection has emptied the pack in an open file.
pub(crate) fn is_retired(file: &dyn DiskFile) -> bool {
    let mut head = [0; HEADER_BYTES];
    file.read_at(&mut head, 0).is_ok()
        && PackHeader::decode(&head).is_err_and(|error| error == HeaderError::Retired)
}

/// Encodes the footer over `entries`, which starts at `offset`.
#[expect(clippy::cast_possible_truncation, reason = "a pack has fewer than 2^32 records")]
pub(crate) fn encode_footer(header: &PackHeader, entries: &[Entry], offset: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_LEN + TRAILER_LEN);
    for entry in entries {
        bytes.extend_from_slice(entry.hash.as_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.stored_len.to_le_bytes());
        bytes.extend_from_slice(&entry.len.to_le_bytes());
        bytes.extend_from_slice(&entry.form.to_bytes());
    }
    let entries_sum = crc32c::crc32c(&bytes);
    let start = bytes.len();
    bytes.extend_from_slice(&FOOTER_MAGIC);
    bytes.extend_from_slice(&header.uuid);
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&entries_sum.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let sum = crc32c::crc32c(&bytes[start..]);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Trailer of a sealed pack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trailer {
    /// Offset of the footer.
    offset: u64,
    /// Number of records.
    pub(crate) records: u32,
    sum: u32,
}

/// Returns the length in bytes of the footer over `records` records.
pub(crate) fn footer_len(records: u32) -> u64 {
    u64::from(records) * ENTRY_LEN as u64 + TRAILER_LEN as u64
}

/// Returns the trailer of a pack, or `None` if the pack is not sealed or the
/// trailer is damaged.
pub(crate) fn read_trailer(
    file: &dyn DiskFile,
    header: &PackHeader,
) -> io::Result<Option<Trailer>> {
    let len = file.len()?;
    let Some(trailer_at) = len.checked_sub(TRAILER_LEN as u64) else { return Ok(None) };
    let mut bytes = [0; TRAILER_LEN];
    file.read_at(&mut bytes, trailer_at)?;
    let trailer = Trailer {
        offset: u64_at(&bytes, 24),
        records: u32_at(&bytes, 32),
        sum: u32_at(&bytes, 36),
    };
    let intact = bytes[..8] == FOOTER_MAGIC
        && u32_at(&bytes, 44) == crc32c::crc32c(&bytes[..44])
        && bytes[8..24] == header.uuid
        && trailer.offset >= HEADER_LEN
        && trailer.offset.checked_add(footer_len(trailer.records)) == Some(len);
    Ok(intact.then_some(trailer))
}

/// Returns the entries of a sealed pack in the order of its records, or `None` if
/// the footer is missing or damaged.
pub(crate) fn read_footer(
    file: &dyn DiskFile,
    header: &PackHeader,
) -> io::Result<Option<Vec<Entry>>> {
    let Some(trailer) = read_trailer(file, header)? else { return Ok(None) };
    let mut bytes = vec![0; trailer.records as usize * ENTRY_LEN];
    let read = file.read_at(&mut bytes, trailer.offset)?;
    if read < bytes.len() || crc32c::crc32c(&bytes) != trailer.sum {
        return Ok(None);
    }
    let entry = |bytes: &[u8]| {
        let entry = Entry {
            hash: hash_at(bytes, 0),
            offset: u32_at(bytes, 32),
            stored_len: u32_at(bytes, 36),
            len: u32_at(bytes, 40),
            form: Form::from_bytes(bytes[44..48].try_into().ok()?),
        };
        (entry.end() <= trailer.offset).then_some(entry)
    };
    Ok(bytes.chunks_exact(ENTRY_LEN).map(entry).collect())
}

/// Result of walking the records of a pack.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The valid records, in order.
    pub(crate) entries: Vec<Entry>,
    /// Offset of the end of the last valid record.
    pub(crate) end: u64,
    /// Damaged bytes between valid records.
    pub(crate) gaps: Vec<Range<u64>>,
}

impl Walk {
    /// Returns the number of valid records.
    pub(crate) fn records(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }
}

/// Walks the records of a pack without trusting its content.
pub(crate) fn walk(file: &dyn DiskFile) -> io::Result<Walk> {
    let len = file.len()?;
    let mut window = Window { file, start: 0, bytes: Vec::new() };
    let mut walk = Walk { end: HEADER_LEN, ..Walk::default() };
    let mut at = HEADER_LEN;
    while at < len {
        // A pack is far shorter than 4 GiB; later bytes are not part of it.
        let Ok(offset) = u32::try_from(at) else { break };
        let Some(entry) = valid_record(&mut window, offset)? else {
            at = next_magic(&mut window, at + 1, len)?;
            continue;
        };
        if at > walk.end {
            walk.gaps.push(walk.end..at);
        }
        at = entry.end();
        walk.end = at;
        walk.entries.push(entry);
    }
    Ok(walk)
}

fn valid_record(window: &mut Window<'_>, offset: u32) -> io::Result<Option<Entry>> {
    let head = window.get(offset.into(), RECORD_HEADER_LEN)?;
    let Some((entry, sum)) = decode_record_header(head, offset) else { return Ok(None) };
    let stored_len = entry.stored_len as usize;
    let payload = window.get(u64::from(offset) + RECORD_HEADER_LEN as u64, stored_len)?;
    Ok((payload.len() == stored_len && crc32c::crc32c(payload) == sum).then_some(entry))
}

/// Returns the offset of the next magic of a record, or the end of the file.
fn next_magic(window: &mut Window<'_>, from: u64, len: u64) -> io::Result<u64> {
    let mut at = from;
    while at < len {
        let bytes = window.get(at, Window::LEN)?;
        if let Some(found) = bytes.windows(4).position(|four| four == RECORD_MAGIC) {
            return Ok(at + found as u64);
        }
        // The magic may cross the end of the window.
        at += (bytes.len() as u64).saturating_sub(3).max(1);
    }
    Ok(len)
}

/// A part of a file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    const LEN: usize = 1 << 20;

    /// Returns the `len` bytes from `at` on; fewer at the end of the file.
    fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let end = at + len as u64;
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            self.bytes.resize(len.max(Self::LEN), 0);
            let read = self.file.read_at(&mut self.bytes, at)?;
            self.bytes.truncate(read);
            self.start = at;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(&self.bytes[from..(from + len).min(self.bytes.len())])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "small numbers")]

    use std::path::Path;

    use types::{Block, EncodedBlock};

    use super::*;
    use crate::record::{ReadError, Record, read_record, record_header};
    use disk::Disk;
    use disk::sim::SimDisk;

    const PACK: PackHeader = PackHeader { kind: PackKind::Data, number: 7, uuid: [9; 16] };

    fn blocks() -> Vec<EncodedBlock> {
        let block = |bytes: Vec<u8>| Block::new(Codec::Raw, bytes).unwrap();
        vec![
            EncodedBlock::plain(block(b"first".to_vec())),
            EncodedBlock::compress(block(vec![b'x'; 10_000]), 1),
            EncodedBlock::plain(block(Vec::new())),
            EncodedBlock::plain(block(b"last".to_vec())),
        ]
    }

    fn pack(sealed: bool) -> (SimDisk, Box<dyn DiskFile>, Vec<Entry>) {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/")).unwrap();
        let file = disk.create(Path::new("/pack")).unwrap();
        file.write_at(&[&PACK.encode()], 0).unwrap();
        let mut entries = Vec::new();
        let mut at = HEADER_LEN;
        for block in blocks() {
            file.write_at(&[&record_header(&block), block.payload()], at).unwrap();
            let entry = Entry {
                hash: *block.cid().hash(),
                offset: u32::try_from(at).unwrap(),
                stored_len: u32::try_from(block.payload().len()).unwrap(),
                len: block.len(),
                form: Form::of(&block),
            };
            at = entry.end();
            entries.push(entry);
        }
        if sealed {
            file.write_at(&[&encode_footer(&PACK, &entries, at)], at).unwrap();
        }
        (disk, file, entries)
    }

    fn content(file: &dyn DiskFile) -> Vec<u8> {
        file.read_vec_at(file.len().unwrap() as usize, 0).unwrap()
    }

    /// No damage makes a reader panic, find a record outside the file, or take other bytes
    /// for a block.
    #[test]
    fn fuzz_pack() {
        let examples = [true, false].map(|sealed| content(&*pack(sealed).1));
        let names: Vec<_> = blocks().iter().map(|block| *block.cid().hash()).collect();
        fuzzing::target!(&examples, |bytes: &[u8]| {
            let disk = SimDisk::new();
            disk.create_dir(Path::new("/")).unwrap();
            let file = disk.create(Path::new("/pack")).unwrap();
            file.write_at(&[bytes], 0).unwrap();
            if let Some(head) = bytes.first_chunk() {
                let _ = PackHeader::decode(head);
            }
            let walk = walk(&*file).unwrap();
            assert!(walk.end <= HEADER_LEN.max(bytes.len() as u64));
            let footer = read_footer(&*file, &PACK).unwrap().unwrap_or_default();
            for entry in walk.entries.iter().chain(&footer) {
                if let Ok(Record::Block(block)) = read_record(&*file, entry) {
                    assert_eq!(*block.cid().hash(), entry.hash);
                    assert!(names.contains(&entry.hash), "a block from nowhere");
                }
            }
        });
    }

    #[test]
    fn footer_and_walk_agree_and_records_read_back() {
        let (_, file, entries) = pack(true);
        let mut header = [0; 64];
        file.read_at(&mut header, 0).unwrap();
        assert_eq!(PackHeader::decode(&header), Ok(PACK));
        assert_eq!(read_footer(&*file, &PACK).unwrap(), Some(entries.clone()));
        let walk = walk(&*file).unwrap();
        assert_eq!(walk.entries, entries);
        assert_eq!((walk.end, walk.gaps), (entries[3].end(), vec![]));
        for (entry, block) in entries.iter().zip(blocks()) {
            let Record::Block(read) = read_record(&*file, entry).unwrap() else { panic!() };
            assert_eq!(read, block);
        }
    }

    #[test]
    fn a_footer_of_another_pack_or_a_torn_one_is_none() {
        let (disk, file, _) = pack(true);
        let other = PackHeader { uuid: [8; 16], ..PACK };
        assert_eq!(read_footer(&*file, &other).unwrap(), None);
        let len = file.len().unwrap();
        for cut in [1, 20, 47, 48, 49, 100, 48 + 48 * 4, len - 64, len] {
            let (disk, file, _) = pack(true);
            disk.damage(Path::new("/pack"), |bytes| bytes.truncate((len - cut) as usize));
            assert_eq!(read_footer(&*file, &PACK).unwrap(), None, "cut {cut}");
        }
        drop(disk);
    }

    #[test]
    fn every_flipped_bit_is_found_and_costs_one_record() {
        let (_, file, entries) = pack(false);
        let len = usize::try_from(file.len().unwrap()).unwrap();
        for at in HEADER_LEN as usize..len {
            let (disk, file, _) = pack(false);
            disk.damage(Path::new("/pack"), |bytes| bytes[at] ^= 1 << (at % 8));
            let walk = walk(&*file).unwrap();
            let hit = entries.iter().position(|e| at < e.end() as usize).unwrap();
            let mut rest = entries.clone();
            rest.remove(hit);
            assert_eq!(walk.entries, rest, "flip at {at}");
            assert_eq!(walk.gaps.is_empty(), hit == entries.len() - 1);
            assert!(matches!(read_record(&*file, &entries[hit]), Err(ReadError::Damaged(_))));
        }
    }

    #[test]
    fn a_walk_stops_at_a_tail_of_zeros_or_noise() {
        for tail in [vec![0; 3_000_000], b"BLK1".repeat(100_000)] {
            let (disk, file, entries) = pack(false);
            disk.damage(Path::new("/pack"), |bytes| bytes.extend_from_slice(&tail));
            let walk = walk(&*file).unwrap();
            assert_eq!((walk.entries, walk.end), (entries.clone(), entries[3].end()));
        }
    }
}
