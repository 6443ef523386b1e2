//! The file of one chain of receipts: its lines, and their order (docs/formats/receipt.md).
//!
//! A line is a receipt, or the user's acceptance of everything that is wrong before it. Lines are
//! only appended. A damaged line stays where it is, and is reported.
//!
//! Reading needs a bounded amount of memory, however long the file is.

use std::fmt;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use net::PeerId;
use protocols::{EncodedReceipt, SignedReceipt};
use serde::{Deserialize, Serialize};
use types::{FolderId, printable_line};

/// Maximum length of a line, in bytes; ours have about 800.
pub(super) const LINE_LEN_MAX: usize = 8192;
/// Extension of the files.
const EXTENSION: &str = "jsonl";

/// Names one chain: there is one for each backup server and folder of this source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainId {
    /// Peer id of the backup server.
    pub backup_server: PeerId,
    /// Id of the folder.
    pub folder: FolderId,
}

/// A receipt as the source stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReceipt {
    /// The receipt.
    pub signed: SignedReceipt,
    /// Time at which the receipt arrived, by the clock of this computer.
    pub arrived_at: Timestamp,
}

/// The content of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LineContent {
    /// A receipt.
    Receipt(Box<StoredReceipt>),
    /// The user accepted the interruptions of the chain before this line.
    Accepted(Timestamp),
    /// The line is not of the form; holds the reason.
    Damaged(String),
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Number of the line, from 1.
    pub(super) number: u64,
    /// Offset of the first byte.
    pub(super) start: u64,
    /// Offset after the last byte.
    pub(super) end: u64,
    /// The content.
    pub(super) content: LineContent,
}

/// The fields of every kind of line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arrived_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted_at: Option<Timestamp>,
}

impl LineContent {
    /// Returns the bytes of the line.
    pub(super) fn encode(&self) -> Vec<u8> {
        let fields = match self {
            Self::Receipt(stored) => {
                let EncodedReceipt { receipt, signature } = stored.signed.encode();
                Fields {
                    receipt: Some(receipt),
                    signature: Some(signature),
                    arrived_at: Some(stored.arrived_at),
                    accepted_at: None,
                }
            }
            Self::Accepted(at) => {
                Fields { receipt: None, signature: None, arrived_at: None, accepted_at: Some(*at) }
            }
            Self::Damaged(_) => return Vec::new(),
        };
        let mut bytes = serde_json::to_vec(&fields).expect("texts and times have a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Parses a line of the chain `id` of the source `own`. Signatures are not verified.
    fn parse(bytes: &[u8], id: &ChainId, own: &PeerId) -> Result<Self, String> {
        let fields: Fields = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match fields {
            Fields {
                receipt: Some(receipt),
                signature: Some(signature),
                arrived_at: Some(arrived_at),
                accepted_at: None,
            } => {
                let signed = SignedReceipt::parse(EncodedReceipt { receipt, signature })
                    .map_err(|error| error.to_string())?;
                let receipt = signed.receipt();
                if receipt.backup_server != id.backup_server
                    || receipt.source != *own
                    || receipt.confirmation.folder_id != id.folder
                {
                    return Err("the receipt belongs to another chain".to_owned());
                }
                Ok(Self::Receipt(Box::new(StoredReceipt { signed, arrived_at })))
            }
            Fields { receipt: None, signature: None, arrived_at: None, accepted_at: Some(at) } => {
                Ok(Self::Accepted(at))
            }
            _ => Err("the fields do not belong together".to_owned()),
        }
    }
}

/// Reads the lines of a chain.
pub(super) struct Lines<'a, R> {
    reader: R,
    id: &'a ChainId,
    own: &'a PeerId,
    number: u64,
    at: u64,
}

impl<'a, R: BufRead> Lines<'a, R> {
    pub(super) fn new(reader: R, id: &'a ChainId, own: &'a PeerId) -> Self {
        Self { reader, id, own, number: 0, at: 0 }
    }

    /// Reads up to the end of a line. Returns the line without its end, or `None` if it is too
    /// long, and whether it has an end.
    fn read(&mut self) -> io::Result<(Option<Vec<u8>>, bool)> {
        let mut line = Some(Vec::new());
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok((line, false));
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            line = line.filter(|line| line.len() + part.len() < LINE_LEN_MAX);
            if let Some(line) = &mut line {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.at += used as u64;
            if end.is_some() {
                return Ok((line, true));
            }
        }
    }
}

impl<R: BufRead> Iterator for Lines<'_, R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let (line, has_end) = match self.read() {
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        if self.at == start {
            return None;
        }
        self.number += 1;
        let parsed = match line {
            // A complete line without its end may still be cut inside a number.
            Some(_) if !has_end => Err("the line is not complete".to_owned()),
            Some(line) => LineContent::parse(&line, self.id, self.own),
            None => Err("the line is too long".to_owned()),
        };
        let content = parsed.unwrap_or_else(|reason| LineContent::Damaged(printable_line(&reason)));
        Some(Ok(Line { number: self.number, start, end: self.at, content }))
    }
}

/// Why the chain is interrupted at a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The receipt does not follow from the receipt before it.
    Break {
        /// Number of the receipt.
        number: u64,
        /// Number of the receipt before it; `None` if it is the first that this computer has.
        after: Option<u64>,
    },
    /// A line of the file is damaged.
    Damage {
        /// Number of the line.
        line: u64,
        /// The reason.
        reason: String,
    },
    /// The signature of a receipt is not valid.
    Unsigned {
        /// Number of the receipt.
        number: u64,
    },
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Break { number, after: None } => {
                write!(f, "the receipts before receipt {number} are missing")
            }
            Self::Break { number, after: Some(after) } if number <= after => {
                write!(f, "receipt {number} comes after receipt {after}: the chain was restarted")
            }
            Self::Break { number, after: Some(after) } => {
                write!(f, "receipt {number} does not continue receipt {after}")
            }
            Self::Damage { line, reason } => write!(f, "line {line} is damaged: {reason}"),
            Self::Unsigned { number } => {
                write!(f, "the signature of receipt {number} is not valid")
            }
        }
    }
}

/// The state of a chain after some of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChainState {
    /// The last receipt.
    pub(super) newest: Option<StoredReceipt>,
    /// Number of receipts.
    pub(super) count: u64,
    /// Number of interruptions that the user has not accepted.
    pub(super) open: u64,
    /// The first of them.
    pub(super) first_open: Option<Interruption>,
    /// Damaged lines after the last good one: their number, and the first.
    pub(super) damaged_tail: Option<(u64, Interruption)>,
}

impl ChainState {
    /// Adds a line, and returns the interruption of the chain at it, if there is one. Damage is
    /// counted with the next good line: at the end of the file, it can be an interrupted write.
    pub(super) fn add(&mut self, line: &Line) -> Option<Interruption> {
        if let LineContent::Damaged(reason) = &line.content {
            let damage = Interruption::Damage { line: line.number, reason: reason.clone() };
            let (count, _) = self.damaged_tail.get_or_insert_with(|| (0, damage.clone()));
            *count += 1;
            return Some(damage);
        }
        let damaged = self.damaged_tail.take();
        let is_after_damage = damaged.is_some();
        if let Some((count, first)) = damaged {
            self.open(count, first);
        }
        match &line.content {
            LineContent::Receipt(stored) => self.receipt(stored, is_after_damage),
            LineContent::Accepted(_) => {
                (self.open, self.first_open) = (0, None);
                None
            }
            LineContent::Damaged(_) => None,
        }
    }

    /// Adds a receipt. After damage it need not follow: the damage is counted already.
    pub(super) fn receipt(
        &mut self,
        stored: &StoredReceipt,
        is_after_damage: bool,
    ) -> Option<Interruption> {
        let before = self.newest.as_ref().map(|newest| &newest.signed);
        // The same receipt again replaces one whose signature was damaged.
        let is_again = before.is_some_and(|before| before.hash() == stored.signed.hash());
        let interruption =
            (!is_again && !is_after_damage && !stored.signed.follows(before)).then(|| {
                Interruption::Break {
                    number: stored.signed.receipt().number,
                    after: before.map(|before| before.receipt().number),
                }
            });
        self.count += u64::from(!is_again);
        self.newest = Some(stored.clone());
        if let Some(interruption) = &interruption {
            self.open(1, interruption.clone());
        }
        interruption
    }

    /// Removes the interruption by the newest receipt, whose signature was not valid.
    pub(super) fn signed_again(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.first_open = None;
        }
    }

    fn open(&mut self, count: u64, first: Interruption) {
        self.open += count;
        self.first_open.get_or_insert(first);
    }
}

/// Returns the path of a chain below the directory of all chains.
pub(super) fn path_of(dir: &Path, id: &ChainId) -> PathBuf {
    dir.join(format!("{}.{}.{EXTENSION}", id.backup_server, id.folder))
}

/// Returns the chain of a file name.
pub(super) fn chain_of(name: &str) -> Option<ChainId> {
    let mut parts = name.split('.');
    let (server, folder) = (parts.next()?, parts.next()?);
    let is_chain = parts.next() == Some(EXTENSION) && parts.next().is_none();
    is_chain.then_some(())?;
    Some(ChainId { backup_server: server.parse().ok()?, folder: folder.parse().ok()? })
}
