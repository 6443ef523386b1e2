//! The file of one chain of receipts: its lines, and their order (docs/formats/receipt.md).
//!
//! A line is a receipt, or the user's acceptance of everything that is wrong before it. Lines are
//! only appended. A line that is damaged, or of a later form, stays where it is, and is reported.
//! Only a last line without its end is an interrupted write.
//!
//! Reading needs a bounded amount of memory, however long the file is.

use std::fmt;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use net::PeerId;
use protocols::{EncodedReceipt, ReceiptFormError, SignedReceipt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{FolderId, printable_line};

/// Maximum length of a line, in bytes; ours have about 800.
const LINE_LEN_MAX: usize = 8192;
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
    /// The line is not of the form; contains the reason.
    Damaged(String),
    /// A later version of this program wrote the line.
    Newer,
    /// The last line of the file has no end: a write was interrupted, or is happening.
    Incomplete,
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

/// Names of the fields of a line.
const FIELDS: [&str; 4] = ["receipt", "signature", "arrived_at", "accepted_at"];

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
            Self::Damaged(_) | Self::Newer | Self::Incomplete => return Vec::new(),
        };
        let mut bytes = serde_json::to_vec(&fields).expect("texts and times have a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Parses a line of the chain `id` of the source `own`, or of any source if that is `None`.
    /// Signatures are not verified.
    fn parse(bytes: &[u8], id: &ChainId, own: Option<&PeerId>) -> Result<Self, String> {
        let fields: Fields = match serde_json::from_slice(bytes) {
            Ok(fields) => fields,
            Err(_) if Self::has_later_fields(bytes, id, own) => return Ok(Self::Newer),
            Err(error) => return Err(error.to_string()),
        };
        match fields {
            Fields {
                receipt: Some(receipt),
                signature: Some(signature),
                arrived_at: Some(arrived_at),
                accepted_at: None,
            } => {
                let signed = match SignedReceipt::parse(EncodedReceipt { receipt, signature }) {
                    Ok(signed) => signed,
                    Err(ReceiptFormError::Version(version)) if version > 1 => {
                        return Ok(Self::Newer);
                    }
                    Err(error) => return Err(error.to_string()),
                };
                let receipt = signed.receipt();
                if receipt.backup_server != id.backup_server
                    || own.is_some_and(|own| receipt.source != *own)
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

    /// Reports whether a line is of a later form: a line of this form with more fields, or
    /// another kind of line. The rest of a line of this form, one of whose names is damaged, is
    /// not.
    fn has_later_fields(bytes: &[u8], id: &ChainId, own: Option<&PeerId>) -> bool {
        let Ok(all) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return false };
        let count = all.len();
        let is_known = |name: &str| FIELDS.contains(&name);
        let known: Map<_, _> = all.into_iter().filter(|(name, _)| is_known(name)).collect();
        if known.len() == count {
            return false;
        }
        let line = || serde_json::to_vec(&known).unwrap_or_default();
        known.is_empty() || Self::parse(&line(), id, own).is_ok()
    }
}

/// Reads the lines of a chain.
pub(super) struct Lines<'a, R> {
    reader: R,
    id: &'a ChainId,
    own: Option<&'a PeerId>,
    number: u64,
    at: u64,
}

impl<'a, R: BufRead> Lines<'a, R> {
    /// Reads the lines of the chain `id`. Receipts of another source than `own`, if that is
    /// given, are damaged lines.
    pub(super) fn new(reader: R, id: &'a ChainId, own: Option<&'a PeerId>) -> Self {
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
            Some(_) if !has_end => Ok(LineContent::Incomplete),
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
    /// A later version of this program wrote a line of the file.
    Newer {
        /// Number of the line.
        line: u64,
    },
    /// The signature of a receipt is not valid.
    Unsigned {
        /// Number of the receipt.
        number: u64,
    },
    /// The last line of the file has no end.
    Cut {
        /// Number of the line.
        line: u64,
    },
    /// A line repeats the receipt before it, whose signature is valid.
    Repeated {
        /// Number of the line.
        line: u64,
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
            Self::Newer { line } => {
                write!(f, "line {line} was written by a newer version of this program")
            }
            Self::Unsigned { number } => {
                write!(f, "the signature of receipt {number} is not valid")
            }
            Self::Cut { line } => write!(
                f,
                "line {line} is not complete: the file was cut, or a write was interrupted; a \
                 receipt that this computer has not stored is sent again"
            ),
            Self::Repeated { line, number } => {
                write!(f, "line {line} repeats receipt {number}, which is stored already")
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
    /// True if lines after the last receipt could not be used. The next receipt need not follow
    /// the last one: the interruption is known already.
    is_after_gap: bool,
}

impl ChainState {
    /// Adds a line, and returns the interruption of the chain at it, if there is one.
    pub(super) fn add(&mut self, line: &Line) -> Option<Interruption> {
        let number = line.number;
        let gap = match &line.content {
            LineContent::Receipt(stored) => return self.receipt(stored),
            LineContent::Accepted(_) => {
                (self.open, self.first_open) = (0, None);
                return None;
            }
            LineContent::Incomplete => return None,
            LineContent::Damaged(reason) => {
                Interruption::Damage { line: number, reason: reason.clone() }
            }
            LineContent::Newer => Interruption::Newer { line: number },
        };
        self.is_after_gap = true;
        self.open(gap.clone());
        Some(gap)
    }

    /// Adds a receipt, and returns the interruption of the chain at it, if there is one.
    pub(super) fn receipt(&mut self, stored: &StoredReceipt) -> Option<Interruption> {
        let is_after_gap = std::mem::take(&mut self.is_after_gap);
        let before = self.newest.as_ref().map(|newest| &newest.signed);
        // The same receipt again replaces one whose signature was damaged.
        let is_again = before.is_some_and(|before| before.hash() == stored.signed.hash());
        let interruption =
            (!is_again && !is_after_gap && !stored.signed.follows(before)).then(|| {
                Interruption::Break {
                    number: stored.signed.receipt().number,
                    after: before.map(|before| before.receipt().number),
                }
            });
        self.count += u64::from(!is_again);
        self.newest = Some(stored.clone());
        if let Some(interruption) = &interruption {
            self.open(interruption.clone());
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

    /// Counts an interruption that the user has not accepted.
    pub(super) fn open(&mut self, interruption: Interruption) {
        self.open += 1;
        self.first_open.get_or_insert(interruption);
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
