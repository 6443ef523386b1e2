//! Reads the chains of receipts for the user, with every signature verified.
//!
//! The files are only read, so this works beside a running instance and on a disk without write
//! access.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use config::{Config, FolderConfig};
use net::PeerId;

use super::chain_file::{
    ChainId, ChainState, Interruption, LineContent, Lines, StoredReceipt, path_of,
};
use super::chains::{ChainError, find_chains};

/// Number of times that a file is read before its last line is reported as incomplete: a running
/// instance may be in the middle of writing the line.
const READS_MAX: usize = 5;

/// A receipt in a list.
#[derive(Clone, Debug)]
pub struct ListedReceipt {
    /// The receipt.
    pub stored: StoredReceipt,
    /// The problem of the receipt: its signature is not valid, or it does not continue the chain.
    pub problem: Option<Interruption>,
}

impl ListedReceipt {
    /// Returns the receipt in the form of the API.
    pub fn to_api(&self, config: &Config) -> api::Receipt {
        let signed = &self.stored.signed;
        let (receipt, confirmed, encoded) =
            (signed.receipt(), signed.confirmation(), signed.encode());
        api::Receipt {
            backup_server: receipt.backup_server.to_string(),
            source: receipt.source.to_string(),
            folder_id: confirmed.folder_id.clone(),
            folder_name: config.folder(&confirmed.folder_id).map(FolderConfig::display_name),
            number: receipt.number,
            sequence: confirmed.sequence,
            manifest_cid: confirmed.manifest_cid,
            received_at: confirmed.received_at,
            arrived_at: self.stored.arrived_at,
            hash: signed.hash().to_string(),
            previous: receipt.previous.map(|hash| hash.to_string()),
            problem: self.problem.as_ref().map(ToString::to_string),
            receipt: encoded.receipt,
            signature: encoded.signature,
        }
    }
}

/// The content of a chain.
#[derive(Clone, Debug)]
pub struct ReceiptListing {
    /// The chain.
    pub id: ChainId,
    /// Peer id of the source that the receipts are for; `None` if there is no receipt and the
    /// peer id of this computer is not known.
    pub source: Option<PeerId>,
    /// The receipts, oldest first.
    pub receipts: Vec<ListedReceipt>,
    /// Lines that are damaged, repeated or of a later form, and receipts without a valid signature.
    pub damage: Vec<Interruption>,
    /// Number of interruptions that the user has not accepted.
    pub open: u64,
}

/// Reads every chain below `data_dir` that `is_wanted`. The receipts of a chain are those for the
/// source `own`; if it has none, or `own` is not known, those for the source of its first receipt.
///
/// # Errors
///
/// Returns [`ChainError::Io`] if a file or directory cannot be read.
pub fn read_receipts(
    data_dir: &Path,
    own: Option<&PeerId>,
    is_wanted: impl Fn(&ChainId) -> bool,
) -> Result<Vec<ReceiptListing>, ChainError> {
    let dir = data_dir.join(super::DIR);
    let list = |dir: &Path| std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect();
    let mut listings = Vec::new();
    for id in find_chains(&dir, list)?.into_iter().filter(is_wanted) {
        let path = path_of(&dir, &id);
        let failed = |source| ChainError::Io { action: "read", path: path.clone(), source };
        let mut listing = read(&path, id.clone(), own).map_err(failed)?;
        for _ in 1..READS_MAX {
            if !matches!(listing.damage.last(), Some(Interruption::Cut { .. })) {
                break;
            }
            listing = read(&path, id.clone(), own).map_err(failed)?;
        }
        listings.push(listing);
    }
    Ok(listings)
}

/// Returns the source that the receipts of a chain are for.
fn source_of(path: &Path, id: &ChainId, own: Option<&PeerId>) -> io::Result<Option<PeerId>> {
    let mut first = None;
    for line in Lines::new(reader(path)?, id, None) {
        let LineContent::Receipt(stored) = line?.content else { continue };
        let source = stored.signed.receipt().source;
        if own.is_none_or(|own| *own == source) {
            return Ok(Some(source));
        }
        first.get_or_insert(source);
    }
    Ok(first.or(own.copied()))
}

fn reader(path: &Path) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(64 << 10, File::open(path)?))
}

fn read(path: &Path, id: ChainId, own: Option<&PeerId>) -> io::Result<ReceiptListing> {
    let source = source_of(path, &id, own)?;
    let (mut state, mut damage) = (ChainState::default(), Vec::new());
    let mut receipts: Vec<ListedReceipt> = Vec::new();
    for line in Lines::new(reader(path)?, &id, source.as_ref()) {
        let line = line?;
        let interruption = state.add(&line);
        match line.content {
            LineContent::Receipt(stored) => {
                let mut problem = interruption;
                let number = stored.signed.receipt().number;
                let is_unsigned = |problem: &Option<Interruption>| {
                    matches!(problem, Some(Interruption::Unsigned { .. }))
                };
                let is_repeated = receipts.last().is_some_and(|last| {
                    last.stored.signed.hash() == stored.signed.hash() && !is_unsigned(&last.problem)
                });
                if !stored.signed.is_signed() {
                    problem = Some(Interruption::Unsigned { number });
                    damage.extend(problem.clone());
                } else if is_repeated {
                    problem = Some(Interruption::Repeated { line: line.number, number });
                    damage.extend(problem.clone());
                }
                receipts.push(ListedReceipt { stored: *stored, problem });
            }
            LineContent::Damaged(_) | LineContent::Newer => damage.extend(interruption),
            LineContent::Incomplete => damage.push(Interruption::Cut { line: line.number }),
            LineContent::Accepted(_) => {}
        }
    }
    Ok(ReceiptListing { id, source, receipts, damage, open: state.open })
}
