//! The bytes of a log of roots, as specified in `docs/formats/roots.md`.

use std::collections::BTreeMap;

use types::{Cid, Codec, Hash};

use super::Root;
use crate::bytes_at::{u32_at, u64_at};

const MAGIC: [u8; 8] = *b"ARCHROOT";
const RECORD_MAGIC: [u8; 4] = *b"RTR1";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 32;
const RECORD_HEADER_LEN: usize = 12;
/// Length of the body of a record without its name and root.
const BODY_HEADER_LEN: usize = 12;

/// A change that a record describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set(String, Root),
    Remove(String),
}

/// The content of one log.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) base_sequence: u64,
    pub(super) base: BTreeMap<String, Root>,
    pub(super) changes: BTreeMap<u64, Change>,
    /// True if the header and all records are valid.
    pub(super) is_whole: bool,
    /// True if the header and the base are valid, whatever the changes are.
    pub(super) is_base_whole: bool,
    /// True if only the end is damaged: no valid record follows the damage.
    pub(super) is_torn: bool,
    /// True if records were lost before the base was written.
    pub(super) incomplete: bool,
    /// Offset of the end of the last record.
    pub(super) end: u64,
    /// Length of the file in bytes.
    pub(super) len: u64,
}

#[expect(clippy::cast_possible_truncation, reason = "names are at most 512 bytes")]
fn encode_body(sequence: u64, op: u8, name: &str, root: Option<Root>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + name.len());
    body.extend_from_slice(&sequence.to_le_bytes());
    body.push(op);
    body.push(root.map_or(0, |root| u8::from(root.partial)));
    body.extend_from_slice(&(name.len() as u16).to_le_bytes());
    body.extend_from_slice(name.as_bytes());
    if let Some(root) = root {
        body.push(root.cid.codec().tag());
        body.extend_from_slice(root.cid.hash().as_bytes());
    }
    let mut record = Vec::with_capacity(RECORD_HEADER_LEN + body.len());
    record.extend_from_slice(&RECORD_MAGIC);
    record.extend_from_slice(&(body.len() as u32).to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

const OP_BASE: u8 = 0;
const OP_SET: u8 = 1;
const OP_REMOVE: u8 = 2;
/// In the base: records were lost before the base was written.
const OP_INCOMPLETE: u8 = 3;

pub(super) fn encode_change(sequence: u64, change: &Change) -> Vec<u8> {
    match change {
        Change::Set(name, root) => encode_body(sequence, OP_SET, name, Some(*root)),
        Change::Remove(name) => encode_body(sequence, OP_REMOVE, name, None),
    }
}

pub(super) fn encode_base(
    sequence: u64,
    roots: &BTreeMap<String, Root>,
    incomplete: bool,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&(roots.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    for (name, root) in roots {
        bytes.extend_from_slice(&encode_body(sequence, OP_BASE, name, Some(*root)));
    }
    if incomplete {
        bytes.extend_from_slice(&encode_body(sequence, OP_INCOMPLETE, "", None));
    }
    bytes
}

/// Returns the length of the record that removes the root with this name.
pub(super) fn removal_len(name: &str) -> u64 {
    (RECORD_HEADER_LEN + BODY_HEADER_LEN + name.len()) as u64
}

/// Reports whether a later version of the program wrote the log.
pub(super) fn is_newer(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_LEN
        && bytes[..8] == MAGIC
        && u32_at(bytes, 8) > VERSION
        && u32_at(bytes, 28) == crc32c::crc32c(&bytes[..28])
}

/// Parses a log. Accepts any bytes: damaged records are skipped.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let header_whole = bytes.len() >= HEADER_LEN
        && bytes[..8] == MAGIC
        && u32_at(bytes, 8) == VERSION
        && u32_at(bytes, 28) == crc32c::crc32c(&bytes[..28]);
    let mut parsed = Parsed::default();
    let mut base_len = 0;
    if header_whole {
        parsed.base_sequence = u64_at(bytes, 12);
        base_len = u64_at(bytes, 20);
    }
    let mut at = HEADER_LEN.min(bytes.len());
    let mut skipped = false;
    let (mut is_torn, mut has_gap) = (false, false);
    while at < bytes.len() {
        let Some((sequence, op, name, root, len)) = parse_record(&bytes[at..]) else {
            if bytes[at..].iter().all(|byte| *byte == 0) {
                break;
            }
            skipped = true;
            is_torn = true;
            let next = bytes[at + 1..].windows(4).position(|four| four == RECORD_MAGIC);
            let Some(next) = next else { break };
            at += 1 + next;
            continue;
        };
        at += len;
        has_gap |= is_torn;
        match (op, root) {
            (OP_BASE, Some(root)) => {
                parsed.base.insert(name, root);
            }
            (OP_SET, Some(root)) => {
                parsed.changes.insert(sequence, Change::Set(name, root));
            }
            (OP_REMOVE, None) => {
                parsed.changes.insert(sequence, Change::Remove(name));
            }
            (OP_INCOMPLETE, None) => parsed.incomplete = true,
            _ => skipped = true,
        }
    }
    parsed.end = at as u64;
    parsed.len = bytes.len() as u64;
    parsed.is_base_whole = header_whole && parsed.base.len() as u64 == base_len;
    parsed.is_whole = parsed.is_base_whole && !skipped;
    parsed.is_torn = parsed.is_base_whole && is_torn && !has_gap;
    parsed
}

type Record = (u64, u8, String, Option<Root>, usize);

fn parse_record(bytes: &[u8]) -> Option<Record> {
    if bytes.len() < RECORD_HEADER_LEN || bytes[..4] != RECORD_MAGIC {
        return None;
    }
    let len = u32_at(bytes, 4) as usize;
    let body = bytes.get(RECORD_HEADER_LEN..RECORD_HEADER_LEN.checked_add(len)?)?;
    if crc32c::crc32c(body) != u32_at(bytes, 8) || body.len() < BODY_HEADER_LEN {
        return None;
    }
    let name_len = usize::from(u16::from_le_bytes([body[10], body[11]]));
    let name = String::from_utf8(body.get(12..12 + name_len)?.to_vec()).ok()?;
    let rest = &body[12 + name_len..];
    let root = match rest.len() {
        0 => None,
        33 => {
            let mut digest = [0; 32];
            digest.copy_from_slice(&rest[1..]);
            let cid = Cid::new(Codec::from_tag(rest[0])?, Hash::from_bytes(digest));
            Some(Root { cid, partial: body[9] == 1 })
        }
        _ => return None,
    };
    Some((u64_at(body, 0), body[8], name, root, RECORD_HEADER_LEN + len))
}
