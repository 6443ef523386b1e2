//! The receipts of the backup servers, on the source: checked, stored, and compared with the
//! lists of the backup servers (docs/decisions/0012-receipts.md).
//!
//! * `chain_file`: the lines of a chain; `chains`: the chains on the disk.
//! * [`Receipts`]: checks each receipt that arrives, and reports problems.
//! * `comparison`: asks the backup servers for the snapshots that they confirmed.
//! * `listing`: reads the chains for the user.
//!
//! **Invariant.** Nothing is shown as confirmed without a stored receipt whose signatures are
//! valid.

mod chain_file;
mod chains;
mod comparison;
mod listing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use disk::Disk;
use jiff::Timestamp;
use net::PeerId;
use parking_lot::Mutex;
use protocols::{Clock, OnReceipt, ReceiptAnswer, SignedReceipt};
use sync::{SyncHandle, WeakSyncHandle};
use tokio::sync::{Notify, watch};
use types::{Cid, FolderId, SequenceNumber, with_causes};

use self::chains::{Added, Chains};
use self::comparison::Compared;
use crate::journal::Journal;

pub use self::chain_file::{ChainId, Interruption, StoredReceipt};
pub use self::chains::ChainError;
pub(crate) use self::comparison::{ListSnapshots, compare_always};
pub use self::listing::{ListedReceipt, ReceiptListing, read_receipts};

/// Maximum number of chains whose last refusal is remembered, so that the journal names each
/// refusal once.
const REFUSALS_MAX: usize = 1000;
/// Name of the directory of the chains, below the data directory.
const DIR: &str = "receipts";

/// The published state of a folder, as far as receipts are concerned.
#[derive(Clone, Debug)]
pub(crate) struct PublishedFolder {
    pub(crate) name: String,
    /// Sequence number of the last manifest; 0 before the first.
    pub(crate) sequence: SequenceNumber,
    pub(crate) manifest_cid: Option<Cid>,
}

/// The folders of this source.
pub(crate) trait Folders: Send + Sync + 'static {
    /// Returns the state of a watched folder.
    fn published(&self, folder: &FolderId) -> Option<PublishedFolder>;

    /// Called after [`Receipts::newest`] has changed for a folder.
    fn receipt_changed(&self, folder: &FolderId);
}

impl Folders for WeakSyncHandle {
    fn published(&self, folder: &FolderId) -> Option<PublishedFolder> {
        let status = self.upgrade()?.folder(folder)?;
        Some(PublishedFolder {
            name: status.name.clone(),
            sequence: status.sequence,
            manifest_cid: status.manifest_cid,
        })
    }

    fn receipt_changed(&self, folder: &FolderId) {
        if let Some(sync) = self.upgrade() {
            sync.receipt_changed(folder);
        }
    }
}

/// A problem with receipts, for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptProblem {
    /// Message: the event, the folder, and the reason.
    pub message: String,
    /// Instruction for the user.
    pub action: String,
}

/// The newest receipt of a chain, and its problems.
#[derive(Clone, Debug)]
pub struct ChainStatus {
    /// The chain.
    pub id: ChainId,
    /// Display name of the folder, or its id if it is not watched.
    pub folder_name: String,
    /// Number of receipts.
    pub count: u64,
    /// The newest receipt.
    pub newest: Option<StoredReceipt>,
    /// The problems.
    pub problems: Vec<ReceiptProblem>,
}

/// The receipts of this source. Clones share them.
#[derive(Clone)]
pub struct Receipts(Arc<Shared>);

struct Shared {
    own: PeerId,
    chains: Chains,
    /// Set when the source side runs. Receipts are received only after that.
    folders: OnceLock<Box<dyn Folders>>,
    clock: Arc<dyn Clock>,
    /// The newest confirmed snapshot of each folder.
    newest: Mutex<BTreeMap<FolderId, sync::Receipt>>,
    /// Sequence number of the newest confirmed snapshot of each folder.
    confirmed: watch::Sender<BTreeMap<FolderId, SequenceNumber>>,
    /// The reason of the last refusal of each chain whose last receipt was refused.
    refused: Mutex<BTreeMap<ChainId, String>>,
    /// Set when the source side runs.
    journal: OnceLock<Journal>,
    /// The last receipt of each chain whose snapshot this source has signed and does not know any
    /// more.
    forgotten: Mutex<BTreeMap<ChainId, SequenceNumber>>,
    /// Receipts that could not be stored, with the error.
    not_stored: Mutex<BTreeMap<ChainId, String>>,
    /// Results of the last comparison with each backup server.
    compared: Mutex<BTreeMap<PeerId, Compared>>,
    /// The backup servers that send receipts without a signature.
    outdated: Mutex<BTreeSet<PeerId>>,
    /// Notified of each new receipt.
    arrived: Notify,
}

impl fmt::Debug for Receipts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipts").field("chains", &self.0.chains).finish_non_exhaustive()
    }
}

impl Receipts {
    /// Reads the chains below `data_dir`. A chain that cannot be read is a problem, and confirms
    /// nothing. Blocks.
    ///
    /// # Errors
    ///
    /// Returns [`ChainError`] if the chains cannot be listed.
    pub fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        own: PeerId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ChainError> {
        let chains = Chains::open(disk, data_dir, own)?;
        let mut newest = BTreeMap::<FolderId, sync::Receipt>::new();
        for report in chains.reports().into_iter().filter(|report| report.is_newest_signed) {
            let Some(stored) = report.state.newest else { continue };
            let receipt = shown(&stored.signed, stored.arrived_at);
            let known = newest.entry(report.id.folder).or_insert(receipt);
            if known.sequence < receipt.sequence {
                *known = receipt;
            }
        }
        Ok(Self(Arc::new(Shared {
            own,
            chains,
            folders: OnceLock::new(),
            clock,
            newest: Mutex::new(newest),
            confirmed: watch::Sender::default(),
            refused: Mutex::default(),
            journal: OnceLock::new(),
            forgotten: Mutex::default(),
            not_stored: Mutex::default(),
            compared: Mutex::default(),
            outdated: Mutex::default(),
            arrived: Notify::new(),
        })))
    }

    /// Connects the receipts with the watched folders, whose status shows the confirmed
    /// snapshots. Called once.
    pub fn watch(&self, sync: &SyncHandle) {
        let folders = sync.folders();
        let known = folders.iter().filter_map(|folder| Some((folder.id.clone(), folder.receipt?)));
        let confirmed = known.map(|(id, receipt)| (id, receipt.sequence)).collect();
        // The service asks the receipts for its statuses: a strong handle would make a cycle, and
        // neither would be freed.
        self.connect(sync.downgrade(), confirmed);
    }

    fn connect(&self, folders: impl Folders, confirmed: BTreeMap<FolderId, SequenceNumber>) {
        self.0.confirmed.send_replace(confirmed);
        // A second call has no effect.
        let _ = self.0.folders.set(Box::new(folders));
    }

    /// Sets the journal, which gets an entry for each refusal. Called once.
    pub(crate) fn report_to(&self, journal: Journal) {
        // A second call has no effect.
        let _ = self.0.journal.set(journal);
    }

    /// Reports a refusal. The journal gets an entry if the last receipt of the chain was not
    /// refused for the same reason: a backup server sends a receipt again and again.
    fn refused(&self, id: &ChainId, signed: &SignedReceipt, name: &str, reason: &str) {
        let (server, sequence) = (&id.backup_server, signed.confirmation().sequence);
        tracing::warn!(peer = %server, folder = name, %sequence, reason, "refused a receipt");
        let Some(journal) = self.0.journal.get() else { return };
        {
            let mut refused = self.0.refused.lock();
            if refused.get(id).is_some_and(|known| known == reason) {
                return;
            }
            if refused.len() >= REFUSALS_MAX {
                refused.clear();
            }
            refused.insert(id.clone(), reason.to_owned());
        }
        let message = format!(
            "A receipt of backup server {server} for snapshot {sequence} of {name} was not \
             accepted: {reason}."
        );
        journal.note_folder(api::NoticeLevel::Warning, message, name);
    }

    fn published(&self, folder: &FolderId) -> Option<PublishedFolder> {
        self.0.folders.get()?.published(folder)
    }

    /// Returns the sequence number of the newest confirmed snapshot of each folder.
    pub fn confirmed(&self) -> watch::Receiver<BTreeMap<FolderId, SequenceNumber>> {
        self.0.confirmed.subscribe()
    }

    /// Returns the function that handles the receipts that arrive.
    pub fn on_receipt(&self) -> OnReceipt {
        let receipts = self.clone();
        Arc::new(move |peer, signed| receipts.receive(peer, &signed))
    }

    /// Checks a receipt of a peer that may send receipts, and stores it.
    fn receive(&self, peer: PeerId, signed: &SignedReceipt) -> ReceiptAnswer {
        let (receipt, confirmation) = (signed.receipt(), signed.confirmation());
        let (folder, sequence) = (&confirmation.folder_id, confirmation.sequence);
        let id = ChainId { backup_server: peer, folder: folder.clone() };
        let published = self.published(folder);
        let name = published.as_ref().map_or(folder.as_str(), |folder| &folder.name).to_owned();
        let refused = |reason: &str| {
            self.refused(&id, signed, &name, reason);
            ReceiptAnswer::Refused
        };
        if receipt.backup_server != peer {
            return refused("another backup server signed it");
        }
        if receipt.source != self.0.own {
            return refused("it is for another source");
        }
        if !signed.is_signed() {
            return refused("a signature is not valid");
        }
        let Some(published) = published else {
            self.refused(&id, signed, &name, "this computer does not watch the folder");
            return ReceiptAnswer::UnknownFolder;
        };
        // The receipt contains the signature of this source for the manifest. So if the manifest is
        // unknown, this source published it and was set back since, or another computer did that
        // has the same key.
        let is_forgotten = |newest: Cid| {
            sequence > published.sequence
                || (sequence == published.sequence && newest != confirmation.manifest_cid)
        };
        if published.manifest_cid.is_some_and(is_forgotten) {
            self.0.forgotten.lock().insert(id.clone(), sequence);
        }
        // An earlier manifest is recognized by the signature that this source made for it.
        let refusal = |continued: Option<&SignedReceipt>| {
            let cid = confirmation.manifest_cid;
            if sequence > published.sequence {
                return Some("this source has not published the manifest");
            }
            if sequence == published.sequence && published.manifest_cid != Some(cid) {
                return Some("this source published another manifest with this number");
            }
            let known = continued?.confirmation();
            // The sequence numbers of a source that lost its state go back.
            let is_news = known.sequence < sequence
                || known.sequence > published.sequence
                || (known.sequence == sequence && known.manifest_cid != cid);
            (!is_news).then_some("it confirms nothing new")
        };
        let arrived_at = self.0.clock.now();
        let added = self.0.chains.add(signed, arrived_at, refusal);
        let folder = name.as_str();
        match added {
            Ok(Added::New(interruption)) => {
                let number = receipt.number;
                tracing::info!(%peer, folder, %sequence, number,
                    "the backup server confirmed a snapshot; its receipt is stored");
                if let Some(interruption) = interruption {
                    tracing::error!(%peer, folder, %interruption,
                        "the chain of receipts is interrupted");
                }
                self.show(&published, signed, arrived_at);
            }
            Ok(Added::Newest) => self.show(&published, signed, arrived_at),
            Ok(Added::Older) => {}
            Ok(Added::Refused(reason)) => return refused(reason),
            Ok(Added::TooManyInterruptions) => {
                let reason = "the chain is interrupted too often; see `archivist status`";
                self.refused(&id, signed, &name, reason);
                return ReceiptAnswer::ChainBroken;
            }
            Err(error) => {
                let error = with_causes(&error);
                self.refused(&id, signed, &name, &format!("it cannot be stored: {error}"));
                self.0.not_stored.lock().insert(id, error);
                return ReceiptAnswer::Failed;
            }
        }
        self.0.refused.lock().remove(&id);
        self.0.forgotten.lock().remove(&id);
        self.0.not_stored.lock().remove(&id);
        self.0.outdated.lock().remove(&peer);
        self.0.arrived.notify_one();
        ReceiptAnswer::Ok
    }

    /// Records that a backup server sends receipts without a signature, which confirm nothing.
    pub(crate) fn unsigned(&self, peer: PeerId) {
        if self.0.outdated.lock().insert(peer) {
            tracing::error!(%peer, "the backup server sends receipts without a signature: update it");
        }
    }

    /// Makes a folder show a snapshot as confirmed, if it is newer than the one that is shown, or
    /// the shown one is not of the current sequence numbers.
    fn show(&self, published: &PublishedFolder, signed: &SignedReceipt, at: Timestamp) {
        let (receipt, folder) = (shown(signed, at), &signed.confirmation().folder_id);
        if receipt.sequence > published.sequence {
            return;
        }
        {
            let mut newest = self.0.newest.lock();
            let known = newest.entry(folder.clone()).or_insert(receipt);
            let is_same =
                known.sequence == receipt.sequence && known.manifest_cid == receipt.manifest_cid;
            // A receipt that arrives again keeps the time of its first arrival.
            if !is_same
                && (known.sequence > published.sequence || known.sequence <= receipt.sequence)
            {
                *known = receipt;
            }
        }
        if let Some(folders) = self.0.folders.get() {
            folders.receipt_changed(folder);
        }
        self.0.confirmed.send_if_modified(|all| {
            let known = all.get(folder).copied();
            let is_news =
                known.is_none_or(|known| known < receipt.sequence || known > published.sequence);
            if is_news {
                all.insert(folder.clone(), receipt.sequence);
            }
            is_news
        });
    }

    /// Accepts the interruptions of the chains of a folder, or of all, and returns their number.
    /// Blocks for a write.
    ///
    /// # Errors
    ///
    /// Returns [`ChainError`] if the acceptance cannot be stored.
    pub fn accept(&self, folder: Option<&FolderId>) -> Result<u64, ChainError> {
        self.0.chains.accept(folder, self.0.clock.now())
    }

    /// Returns the state of every chain, with its problems.
    pub fn chains(&self) -> Vec<ChainStatus> {
        let forgotten = self.0.forgotten.lock().clone();
        let not_stored = self.0.not_stored.lock().clone();
        let compared = self.0.compared.lock().clone();
        let mut reports = self.0.chains.reports();
        for id in forgotten.keys() {
            if !reports.iter().any(|report| report.id == *id) {
                reports.push(chains::ChainReport::empty(id.clone()));
            }
        }
        let status = |report: chains::ChainReport| {
            let id = report.id;
            let server = id.backup_server;
            let published = self.published(&id.folder);
            let is_watched = published.is_some();
            let name = published.map_or_else(|| id.folder.to_string(), |folder| folder.name);
            let mut problems = Vec::new();
            let mut add = |message: String, action: &str| {
                let message = format!("{name}: {message}");
                problems.push(ReceiptProblem { message, action: action.to_owned() });
            };
            if let Some(reason) = &report.unreadable {
                add(
                    format!("the receipts of backup server {server} cannot be read: {reason}"),
                    "make the file readable and restart; nothing is confirmed until then",
                );
            }
            if let Some(first) = &report.state.first_open {
                let more = match report.state.open {
                    0 | 1 => String::new(),
                    open => format!(" (and {} more)", open - 1),
                };
                let action = match first {
                    Interruption::Newer { .. } => "update Archivist on this computer",
                    _ => {
                        "the backup server or this computer lost its receipts: check with \
                         `archivist snapshots` that the backup server has all snapshots, then run \
                         `archivist receipts accept`"
                    }
                };
                add(
                    format!(
                        "the chain of receipts of backup server {server} is interrupted: {first}{more}"
                    ),
                    action,
                );
            }
            if let Some(sequence) = forgotten.get(&id).filter(|_| is_watched) {
                add(
                    format!(
                        "backup server {server} has snapshot {sequence}, signed by this computer, \
                         which does not know it: its state was set back to an older one, or \
                         another computer uses its key. The backup server takes nothing new"
                    ),
                    "if this computer was restored from a backup, run `archivist source accept` on \
                     the backup server; if it is a copy, give it an identity of its own",
                );
            }
            if let Some(error) = not_stored.get(&id) {
                add(
                    format!("a receipt of backup server {server} cannot be stored: {error}"),
                    "correct the cause; the backup server sends the receipt again",
                );
            }
            if is_watched
                && let Some(missing) =
                    compared.get(&server).and_then(|found| found.missing.get(&id.folder))
            {
                add(
                    format!("backup server {server} {missing}"),
                    "check the backup server with `archivist snapshots` and `archivist verify`; \
                     `archivist receipts` on this computer has the signed receipt",
                );
            }
            ChainStatus {
                id,
                folder_name: name,
                count: report.state.count,
                newest: report.state.newest,
                problems,
            }
        };
        reports.into_iter().map(status).collect()
    }

    /// Returns the problems of all chains and backup servers.
    pub fn problems(&self) -> Vec<ReceiptProblem> {
        let mut problems: Vec<_> =
            self.chains().into_iter().flat_map(|chain| chain.problems).collect();
        for (server, compared) in self.0.compared.lock().iter() {
            if let Some(refusal) = &compared.refusal {
                problems.push(ReceiptProblem {
                    message: format!(
                        "backup server {server} confirmed snapshots, but does not list them: \
                         {refusal}"
                    ),
                    action: "check the backup server; `archivist receipts` on this computer has \
                             the signed receipts"
                        .to_owned(),
                });
            }
        }
        for server in self.0.outdated.lock().iter() {
            problems.push(ReceiptProblem {
                message: format!(
                    "backup server {server} sends receipts without a signature, which confirm \
                     nothing"
                ),
                action: "update Archivist on the backup server".to_owned(),
            });
        }
        problems
    }
}

impl sync::Confirmations for Receipts {
    fn newest(&self, folder: &FolderId) -> Option<sync::Receipt> {
        self.0.newest.lock().get(folder).copied()
    }
}

/// Returns what the status of a folder shows of a receipt.
fn shown(signed: &SignedReceipt, at: Timestamp) -> sync::Receipt {
    let confirmation = signed.confirmation();
    sync::Receipt { sequence: confirmation.sequence, manifest_cid: confirmation.manifest_cid, at }
}
