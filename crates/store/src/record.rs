//! The records of a pack. Each contains a block and describes it.
//!
//! `docs/formats/pack.md` specifies the bytes. A later version of the program may
//! write records of another [`Form`]. This version keeps them: it finds them, and
//! copies them byte for byte when their pack is rewritten.

use std::io;

use bytes::Bytes;
use types::{Cid, Codec, EncodedBlock, EncodedError, Encoding, Hash, MAX_BLOCK_LEN};

use crate::bytes_at::{hash_at, u32_at};
use disk::DiskFile;

pub(crate) const RECORD_MAGIC: [u8; 4] = *b"BLK1";
/// Length of a record without its payload in bytes.
pub(crate) const RECORD_HEADER_LEN: usize = 56;

/// Form of a record: bytes 4 to 8 of its header, and the last bytes of its entry in
/// the footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A block, as this version writes it.
    Block {
        /// The codec of the block.
        codec: Codec,
        /// The encoding of the payload.
        encoding: Encoding,
    },
    /// A record of a later version: its codec, encoding, kind or flags are unknown.
    /// Contains these four bytes.
    Newer([u8; 4]),
}

impl Form {
    /// Stands for a record of a later version whose four bytes are in its header.
    pub(crate) const NEWER: Self = Self::Newer([0xff; 4]);

    /// Returns the form of `block` as this version writes it.
    pub(crate) fn of(block: &EncodedBlock) -> Self {
        Self::Block { codec: block.cid().codec(), encoding: block.encoding() }
    }

    /// Returns the four bytes: codec, encoding, kind, flags.
    pub(crate) fn to_bytes(self) -> [u8; 4] {
        match self {
            Self::Block { codec, encoding } => [codec.tag(), encoding.tag(), 0, 0],
            Self::Newer(bytes) => bytes,
        }
    }

    pub(crate) fn from_bytes(bytes: [u8; 4]) -> Self {
        match Self::known_tags(bytes) {
            Some((codec, encoding)) if bytes[2..] == [0, 0] => Self::Block { codec, encoding },
            _ => Self::Newer(bytes),
        }
    }

    /// Returns codec and encoding if both are known, whatever kind and flags are.
    fn known_tags(bytes: [u8; 4]) -> Option<(Codec, Encoding)> {
        Some((Codec::from_tag(bytes[0])?, Encoding::from_tag(bytes[1])?))
    }

    /// Reports whether the record is of a later version.
    pub(crate) fn is_newer(self) -> bool {
        matches!(self, Self::Newer(_))
    }
}

/// Place and form of a block in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hash: Hash,
    /// Offset of the record in the pack.
    pub(crate) offset: u32,
    /// Length of the payload in bytes.
    pub(crate) stored_len: u32,
    /// Length of the block in bytes.
    pub(crate) len: u32,
    pub(crate) form: Form,
}

impl Entry {
    /// Returns the length of the record in the pack in bytes.
    pub(crate) fn record_len(&self) -> u64 {
        RECORD_HEADER_LEN as u64 + u64::from(self.stored_len)
    }

    /// Returns the offset of the end of the record.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + self.record_len()
    }
}

/// Content of a record: can be appended to a pack.
pub(crate) trait ToRecord {
    /// Returns the header of the record.
    fn header(&self) -> [u8; RECORD_HEADER_LEN];

    /// Returns the payload of the record.
    fn payload(&self) -> &Bytes;

    /// Returns the entry of the record if it is written at `offset`.
    fn entry(&self, offset: u32) -> Entry;
}

impl ToRecord for EncodedBlock {
    fn header(&self) -> [u8; RECORD_HEADER_LEN] {
        record_header(self)
    }

    fn payload(&self) -> &Bytes {
        self.payload()
    }

    #[expect(clippy::cast_possible_truncation, reason = "a payload is at most 4 MiB")]
    fn entry(&self, offset: u32) -> Entry {
        Entry {
            hash: *self.cid().hash(),
            offset,
            stored_len: self.payload().len() as u32,
            len: self.len(),
            form: Form::of(self),
        }
    }
}

/// A record of a later version, to be copied to another pack byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct NewerRecord {
    header: [u8; RECORD_HEADER_LEN],
    payload: Bytes,
    entry: Entry,
}

impl NewerRecord {
    /// Returns the block under the codec `codec` if this version knows codec and
    /// encoding of the record, so that its links can be read. `None` if not.
    ///
    /// # Errors
    ///
    /// Returns [`EncodedError`] if the payload is not that of the name.
    pub(crate) fn block(&self, codec: Codec) -> Result<Option<EncodedBlock>, EncodedError> {
        let Some((_, encoding)) = Form::known_tags(self.entry.form.to_bytes()) else {
            return Ok(None);
        };
        let cid = Cid::new(codec, self.entry.hash);
        EncodedBlock::verify(cid, encoding, self.entry.len, self.payload.clone()).map(Some)
    }
}

impl ToRecord for NewerRecord {
    fn header(&self) -> [u8; RECORD_HEADER_LEN] {
        self.header
    }

    fn payload(&self) -> &Bytes {
        &self.payload
    }

    fn entry(&self, offset: u32) -> Entry {
        Entry { offset, ..self.entry }
    }
}

/// A record that was read from a pack.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// A block.
    Block(EncodedBlock),
    /// A record of a later version.
    Newer(NewerRecord),
}

impl ToRecord for Record {
    fn header(&self) -> [u8; RECORD_HEADER_LEN] {
        match self {
            Self::Block(block) => block.header(),
            Self::Newer(record) => record.header(),
        }
    }

    fn payload(&self) -> &Bytes {
        match self {
            Self::Block(block) => block.payload(),
            Self::Newer(record) => record.payload(),
        }
    }

    fn entry(&self, offset: u32) -> Entry {
        match self {
            Self::Block(block) => block.entry(offset),
            Self::Newer(record) => record.entry(offset),
        }
    }
}

/// Returns the header of the record of `block`.
#[expect(clippy::cast_possible_truncation, reason = "a payload is at most 4 MiB")]
pub(crate) fn record_header(block: &EncodedBlock) -> [u8; RECORD_HEADER_LEN] {
    let mut bytes = [0; RECORD_HEADER_LEN];
    bytes[..4].copy_from_slice(&RECORD_MAGIC);
    bytes[4..8].copy_from_slice(&Form::of(block).to_bytes());
    bytes[8..12].copy_from_slice(&block.len().to_le_bytes());
    bytes[12..16].copy_from_slice(&(block.payload().len() as u32).to_le_bytes());
    bytes[16..48].copy_from_slice(block.cid().hash().as_bytes());
    bytes[48..52].copy_from_slice(&crc32c::crc32c(block.payload()).to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..52]);
    bytes[52..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Decodes the header of a record; returns the checksum of the payload, too.
pub(crate) fn decode_record_header(bytes: &[u8], offset: u32) -> Option<(Entry, u32)> {
    if bytes.len() < RECORD_HEADER_LEN
        || bytes[..4] != RECORD_MAGIC
        || u32_at(bytes, 52) != crc32c::crc32c(&bytes[..52])
    {
        return None;
    }
    let entry = Entry {
        hash: hash_at(bytes, 16),
        offset,
        stored_len: u32_at(bytes, 12),
        len: u32_at(bytes, 8),
        form: Form::from_bytes(bytes[4..8].try_into().ok()?),
    };
    let longest = entry.stored_len.max(entry.len) as usize;
    (longest <= MAX_BLOCK_LEN).then_some((entry, u32_at(bytes, 48)))
}

/// Reason why a record cannot be used.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The file system reported an error.
    Io(io::Error),
    /// The bytes have changed since they were written.
    Damaged(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads one record and checks all of it: the header, the checksum, and that the
/// decompressed payload matches the hash. The name of a record of a later version
/// cannot be checked.
pub(crate) fn read_record(file: &dyn DiskFile, entry: &Entry) -> Result<Record, ReadError> {
    let len = RECORD_HEADER_LEN + entry.stored_len as usize;
    let record = Bytes::from(file.read_vec_at(len, entry.offset.into())?);
    if record.len() < len {
        return Err(ReadError::Damaged("the pack ends within the record".into()));
    }
    let damaged = |reason: &str| Err(ReadError::Damaged(reason.into()));
    let Some((found, sum)) = decode_record_header(&record, entry.offset) else {
        return damaged("the header of the record is damaged");
    };
    // The index knows only that the form is newer than the program that indexed it.
    if found != *entry && !(entry.form.is_newer() && Entry { form: entry.form, ..found } == *entry)
    {
        return damaged("the record is that of another block");
    }
    let payload = record.slice(RECORD_HEADER_LEN..);
    if crc32c::crc32c(&payload) != sum {
        return damaged("the checksum of the record does not match");
    }
    match found.form {
        Form::Block { codec, encoding } => {
            EncodedBlock::verify(Cid::new(codec, entry.hash), encoding, entry.len, payload)
                .map(Record::Block)
                .map_err(|error| ReadError::Damaged(error.to_string()))
        }
        Form::Newer(_) => {
            let mut header = [0; RECORD_HEADER_LEN];
            header.copy_from_slice(&record[..RECORD_HEADER_LEN]);
            Ok(Record::Newer(NewerRecord { header, payload, entry: found }))
        }
    }
}
