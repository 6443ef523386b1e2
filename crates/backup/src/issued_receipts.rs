//! The receipts that this backup server has signed: the last one of each chain, on the disk.
//!
//! There is one chain for each source and folder (docs/decisions/0012-receipts.md). A receipt is
//! stored before it is sent, so a receipt that is sent again has the same bytes. The next receipt
//! is signed only after the source has answered, so at most one receipt of a chain is unanswered,
//! and the chain has no gap and no fork.
//!
//! A file that cannot be read is never replaced: its chain continues when it can be read again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{AtomicWrite, Disk, FileError, StateError, read_file, write_atomic};
use manifest::SignatureError;
use net::{Keypair, PeerId};
use parking_lot::Mutex;
use protocols::{Confirmation, EncodedReceipt, Receipt, SignedReceipt};
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, with_causes};

use crate::confirmed_snapshot::{ConfirmedSnapshot, LastConfirmation};
use crate::discarded::DiscardedSnapshots;

/// Name of the directory, below the data directory.
const DIR: &str = "issued-receipts";
/// Name of the file with the discarded snapshots, in this directory.
const DISCARDED: &str = "discarded";
const VERSION: u32 = 1;
/// Maximum length of a file, in bytes.
const FILE_LEN_MAX: u64 = 64 << 10;

/// Reason why no receipt can be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// The file with the last receipt cannot be read or written.
    #[error("the receipt cannot be signed")]
    File(#[from] FileError),
    /// A directory cannot be made.
    #[error("the receipt cannot be signed: cannot {action} {}", path.display())]
    Dir {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error(
        "the receipt cannot be signed: {} is damaged ({reason}). To start another chain of \
         receipts, which the source reports to its user, move the file away",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The key cannot sign.
    #[error(transparent)]
    Key(#[from] SignatureError),
}

impl IssueError {
    /// Returns the reason why a file cannot be read.
    fn reason(&self) -> String {
        match self {
            Self::File(error) => with_causes(error),
            Self::Damaged { path, reason } => format!("{} is damaged ({reason})", path.display()),
            error => with_causes(error),
        }
    }
}

/// The signed receipts cannot be read; contains the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the receipts that this backup server has signed: {0}")]
pub struct ReceiptsUnreadable(String);

/// The file of a chain.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// The last receipt that the source has stored.
    accepted: Option<EncodedReceipt>,
    /// The receipt after it, which may have been sent.
    pending: Option<EncodedReceipt>,
}

/// The last receipts of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Last {
    accepted: Option<SignedReceipt>,
    pending: Option<SignedReceipt>,
}

/// The signed receipts. Clones share them. All functions block.
#[derive(Clone, Debug)]
pub struct IssuedReceipts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    keypair: Keypair,
    /// Locked while a file is read and written.
    writing: Mutex<()>,
    discarded: DiscardedSnapshots,
}

impl IssuedReceipts {
    /// Creates access to the receipts in the data directory of the backup server with this key.
    pub fn new(disk: Arc<dyn Disk>, data_dir: &Path, keypair: Keypair) -> Self {
        let data_dir = data_dir.to_owned();
        let discarded = DiscardedSnapshots::new(disk.clone(), data_dir.join(DIR).join(DISCARDED));
        Self(Arc::new(Shared { disk, data_dir, keypair, writing: Mutex::default(), discarded }))
    }

    /// Returns the receipt to send next: one that the source has not answered, else one of this
    /// snapshot, which is signed and stored durably if the source does not have it yet.
    ///
    /// # Errors
    ///
    /// Returns [`IssueError`] if the receipt cannot be signed and stored.
    pub(crate) fn next(
        &self,
        source: PeerId,
        confirmation: &Confirmation,
    ) -> Result<SignedReceipt, IssueError> {
        let _one_at_a_time = self.0.writing.lock();
        let path = self.path(&source, &confirmation.folder_id);
        let mut last = self.read(&path, &source, &confirmation.folder_id)?;
        if let Some(pending) = last.pending {
            return Ok(pending);
        }
        let is_same = |accepted: &&SignedReceipt| {
            let known = accepted.confirmation();
            known.sequence == confirmation.sequence
                && known.manifest_cid == confirmation.manifest_cid
        };
        if let Some(accepted) = last.accepted.as_ref().filter(is_same) {
            return Ok(accepted.clone());
        }
        let receipt = Receipt {
            number: last.accepted.as_ref().map_or(0, |before| before.receipt().number) + 1,
            previous: last.accepted.as_ref().map(SignedReceipt::hash),
            backup_server: self.0.keypair.public().to_peer_id(),
            source,
            confirmation: confirmation.clone(),
        };
        let signed = receipt.sign(&self.0.keypair)?;
        last.pending = Some(signed.clone());
        self.write(&path, &last)?;
        Ok(signed)
    }

    /// Records that the source has stored a receipt, or has refused it. The next receipt of the
    /// chain follows a receipt that was stored, and replaces one that was refused.
    ///
    /// # Errors
    ///
    /// Returns [`IssueError`] if that cannot be recorded; the receipt is sent again then.
    pub(crate) fn answered(
        &self,
        signed: &SignedReceipt,
        is_stored: bool,
    ) -> Result<(), IssueError> {
        let (source, folder) = (signed.receipt().source, &signed.confirmation().folder_id);
        let _one_at_a_time = self.0.writing.lock();
        let path = self.path(&source, folder);
        let mut last = self.read(&path, &source, folder)?;
        if last.pending.as_ref().map(SignedReceipt::hash) != Some(signed.hash()) {
            return Ok(());
        }
        let pending = last.pending.take();
        if is_stored {
            last.accepted = pending;
        }
        self.write(&path, &last)
    }

    /// Returns the snapshots of the last receipts of all chains, by source and folder: for each
    /// chain the one that the source has stored, and the one that it may have. Snapshots that the
    /// owner has discarded are left out.
    ///
    /// # Errors
    ///
    /// Returns [`ReceiptsUnreadable`] if a file cannot be read.
    pub fn confirmed(&self) -> Result<Vec<ConfirmedSnapshot>, ReceiptsUnreadable> {
        let is_discarded = self.0.discarded.read();
        let is_discarded = is_discarded.map_err(|error| ReceiptsUnreadable(with_causes(&error)))?;
        let mut confirmed = Vec::new();
        for (source, folder) in self.chains()? {
            let last = self.last(&source, &folder);
            let last = last.map_err(|error| ReceiptsUnreadable(error.reason()))?;
            let last = last.into_iter();
            let snapshot = |one: LastConfirmation| {
                let confirmation = one.confirmation;
                ConfirmedSnapshot { source, confirmation }
            };
            confirmed.extend(last.map(snapshot));
        }
        confirmed.retain(|one| !is_discarded(one));
        Ok(confirmed)
    }

    /// Discards the confirmed snapshots for which `is_lost` returns true, durably:
    /// [`IssuedReceipts::confirmed`] leaves them out from now on. The receipts stay. Receipts that
    /// cannot be read are left out.
    ///
    /// # Errors
    ///
    /// Returns [`StateError`] if the list of discarded snapshots cannot be read or written.
    pub fn discard(&self, is_lost: impl Fn(&ConfirmedSnapshot) -> bool) -> Result<(), StateError> {
        let mut lost = Vec::new();
        for (source, folder) in self.chains().unwrap_or_default() {
            let last = self.last(&source, &folder).unwrap_or_default().into_iter();
            let last = last.map(|one| one.confirmation);
            let last = last.map(|confirmation| ConfirmedSnapshot { source, confirmation });
            lost.extend(last.filter(&is_lost));
        }
        let _one_at_a_time = self.0.writing.lock();
        self.0.discarded.add(&lost)
    }

    /// Demands discarded snapshots again for which `is_listed` returns true: the source has backed
    /// them up again.
    ///
    /// # Errors
    ///
    /// Same as [`IssuedReceipts::discard`].
    pub fn demand_listed(
        &self,
        is_listed: impl Fn(&PeerId, &FolderId, &Cid) -> bool,
    ) -> Result<(), StateError> {
        let _one_at_a_time = self.0.writing.lock();
        self.0.discarded.remove(is_listed)
    }

    /// Returns the snapshots of the last receipts to one source. Logs the files that cannot be
    /// read; no receipt can be signed then, so the user is told.
    pub(crate) fn confirmed_to(&self, source: &PeerId) -> Vec<LastConfirmation> {
        let warn = |reason: String| {
            tracing::error!(
                reason,
                "cannot read signed receipts, so a source that goes back to an older state may \
                 not be noticed"
            );
        };
        let chains = self.chains().unwrap_or_else(|error| {
            warn(error.to_string());
            Vec::new()
        });
        let of_source = chains.into_iter().filter(|(peer, _)| peer == source);
        let last = of_source.map(|(_, folder)| {
            self.last(source, &folder).unwrap_or_else(|error| {
                warn(error.reason());
                Vec::new()
            })
        });
        last.flatten().collect()
    }

    /// Returns the sources and folders of all chains.
    fn chains(&self) -> Result<Vec<(PeerId, FolderId)>, ReceiptsUnreadable> {
        let dir = self.0.data_dir.join(DIR);
        let mut names = match self.0.disk.list(&dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(ReceiptsUnreadable(format!("cannot list {}: {error}", dir.display())));
            }
        };
        names.sort();
        Ok(names.iter().filter_map(|name| parse_name(name.to_str()?)).collect())
    }

    /// Returns the snapshots of the last receipts of a chain.
    fn last(
        &self,
        source: &PeerId,
        folder: &FolderId,
    ) -> Result<Vec<LastConfirmation>, IssueError> {
        let _one_at_a_time = self.0.writing.lock();
        let last = self.read(&self.path(source, folder), source, folder)?;
        let receipts = [(last.accepted, true), (last.pending, false)];
        let confirmations = receipts.into_iter().filter_map(|(signed, is_stored)| {
            Some(LastConfirmation { confirmation: signed?.confirmation().clone(), is_stored })
        });
        Ok(confirmations.collect())
    }

    fn path(&self, source: &PeerId, folder: &FolderId) -> PathBuf {
        self.0.data_dir.join(DIR).join(format!("{source}.{folder}.json"))
    }

    fn read(&self, path: &Path, source: &PeerId, folder: &FolderId) -> Result<Last, IssueError> {
        let bytes = match read_file(&*self.0.disk, path, FILE_LEN_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Last::default()),
            Err(error) => return Err(error.into()),
        };
        let damaged = |reason: String| IssueError::Damaged { path: path.to_owned(), reason };
        let file: File =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if file.version != VERSION {
            return Err(damaged(format!("unsupported version {}", file.version)));
        }
        let own = self.0.keypair.public().to_peer_id();
        let parse = |encoded: Option<EncodedReceipt>| {
            let Some(encoded) = encoded else { return Ok(None) };
            let signed =
                SignedReceipt::parse(encoded).map_err(|error| damaged(error.to_string()))?;
            let receipt = signed.receipt();
            if receipt.backup_server != own
                || receipt.source != *source
                || receipt.confirmation.folder_id != *folder
                || !signed.is_signed()
            {
                return Err(damaged("the receipt belongs to another chain".to_owned()));
            }
            Ok(Some(signed))
        };
        Ok(Last { accepted: parse(file.accepted)?, pending: parse(file.pending)? })
    }

    fn write(&self, path: &Path, last: &Last) -> Result<(), IssueError> {
        let disk = &*self.0.disk;
        let data_dir = &self.0.data_dir;
        let encode = |signed: &Option<SignedReceipt>| signed.as_ref().map(SignedReceipt::encode);
        let file = File {
            version: VERSION,
            accepted: encode(&last.accepted),
            pending: encode(&last.pending),
        };
        let json = serde_json::to_vec_pretty(&file).expect("texts have a JSON form");
        let failed = |action, dir: &Path| {
            let path = dir.to_owned();
            move |source| IssueError::Dir { action, path, source }
        };
        if last.accepted.is_none() {
            let dir = data_dir.join(DIR);
            disk.create_dir(&dir).map_err(failed("create", &dir))?;
            disk.sync_dir(data_dir).map_err(failed("sync", data_dir))?;
        }
        write_atomic(disk, path, &json, &AtomicWrite::PRIVATE)?;
        Ok(())
    }
}

/// Returns the source and the folder in the name of a file.
fn parse_name(name: &str) -> Option<(PeerId, FolderId)> {
    let (source, folder) = name.strip_suffix(".json")?.split_once('.')?;
    Some((source.parse().ok()?, folder.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use disk::sim::{EIO, Fault, FaultRule, Power, SimDisk};
    use types::{Codec, SequenceNumber};

    use super::*;

    const DATA: &str = "/data";

    struct Server {
        key: Keypair,
        source: Keypair,
    }

    impl Server {
        fn new() -> Self {
            Self { key: Keypair::generate_secp256k1(), source: Keypair::generate_secp256k1() }
        }

        fn on(&self, disk: &SimDisk) -> IssuedReceipts {
            IssuedReceipts::new(Arc::new(disk.clone()), Path::new(DATA), self.key.clone())
        }

        fn source(&self) -> PeerId {
            self.source.public().to_peer_id()
        }

        fn confirmation(&self, sequence: u64) -> Confirmation {
            let folder_id: FolderId = "docs".parse().unwrap();
            let manifest_cid = Cid::of(Codec::DagCbor, &sequence.to_le_bytes());
            let sequence = SequenceNumber(sequence);
            let manifest_signature =
                manifest::sign(&self.source, &folder_id, sequence, &manifest_cid).unwrap();
            Confirmation {
                folder_id,
                sequence,
                manifest_cid,
                manifest_signature,
                received_at: "2026-11-22T10:30:05Z".parse().unwrap(),
            }
        }

        fn next(&self, issued: &IssuedReceipts, sequence: u64) -> SignedReceipt {
            issued.next(self.source(), &self.confirmation(sequence)).unwrap()
        }
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir(Path::new(DATA)).unwrap();
        disk
    }

    #[test]
    fn a_chain_continues_with_what_the_source_has_stored() {
        let (server, disk) = (Server::new(), disk());
        let issued = server.on(&disk);
        let first = server.next(&issued, 1);
        assert!(first.is_signed() && first.follows(None));
        // Without an answer, the same receipt is sent, whatever is new, and after a restart.
        assert_eq!(server.next(&issued, 2), first);
        assert_eq!(server.next(&server.on(&disk.crash(Power::Dropped)), 1), first);
        issued.answered(&first, true).unwrap();
        assert_eq!(server.next(&issued, 1), first, "the same snapshot again");
        let second = server.next(&issued, 2);
        assert!(second.follows(Some(&first)));
        // A refused receipt is in no chain: the next one takes its place.
        issued.answered(&second, false).unwrap();
        let third = server.next(&server.on(&disk), 3);
        assert!(third.follows(Some(&first)));
        assert_ne!(third.hash(), second.hash());
        // A late answer to another receipt changes nothing.
        issued.answered(&second, true).unwrap();
        assert_eq!(server.next(&issued, 3), third);
        // Other folders and sources have chains of their own.
        let mut other = server.confirmation(3);
        other.folder_id = "other".parse().unwrap();
        let (key, sequence) = (&server.source, other.sequence);
        other.manifest_signature =
            manifest::sign(key, &other.folder_id, sequence, &other.manifest_cid).unwrap();
        assert!(issued.next(server.source(), &other).unwrap().follows(None));
    }

    #[test]
    fn the_last_receipts_of_all_chains_are_known_or_an_error_names_the_file() {
        let (server, disk) = (Server::new(), disk());
        let issued = server.on(&disk);
        assert_eq!(issued.confirmed(), Ok(vec![]));
        let sequences = |expected: &[u64]| {
            let confirmed = server.on(&disk).confirmed().unwrap();
            assert!(confirmed.iter().all(|one| one.source == server.source()));
            let found = confirmed.iter().map(|one| one.confirmation.sequence.0);
            assert_eq!(found.collect::<Vec<_>>(), expected);
            assert_eq!(issued.confirmed_to(&server.source()).len(), expected.len());
            assert!(issued.confirmed_to(&PeerId::random()).is_empty());
        };
        let first = server.next(&issued, 1);
        sequences(&[1]);
        issued.answered(&first, true).unwrap();
        server.next(&issued, 2);
        sequences(&[1, 2]);
        // Another file is no chain.
        let stray = Path::new(DATA).join(DIR).join("note.txt");
        disk.create(&stray).unwrap();
        sequences(&[1, 2]);
        // A discarded snapshot is not confirmed any more, until it is listed again.
        issued.discard(|one| one.confirmation.sequence.0 == 1).unwrap();
        let demanded = |issued: &IssuedReceipts| -> Vec<u64> {
            let confirmed = issued.confirmed().unwrap().into_iter();
            confirmed.map(|one| one.confirmation.sequence.0).collect()
        };
        assert_eq!(demanded(&server.on(&disk.crash(Power::Dropped))), [2]);
        assert_eq!(issued.confirmed_to(&server.source()).len(), 2);
        issued.demand_listed(|_, _, _| false).unwrap();
        assert_eq!(demanded(&issued), [2]);
        // If the list of discarded snapshots cannot be read, it is not an empty one.
        disk.add_fault(FaultRule::reads(EIO).on(DISCARDED));
        let error = issued.confirmed().unwrap_err().to_string();
        assert!(error.contains("issued-receipts/discarded"), "{error}");
        disk.clear_fault_rules();
        let first = server.confirmation(1).manifest_cid;
        issued.demand_listed(|_, _, manifest| *manifest == first).unwrap();
        sequences(&[1, 2]);
        disk.damage(&issued.path(&server.source(), &"docs".parse().unwrap()), |bytes| {
            bytes.truncate(9);
        });
        let error = issued.confirmed().unwrap_err().to_string();
        assert!(error.contains("docs.json is damaged"), "{error}");
        assert!(issued.confirmed_to(&server.source()).is_empty());
    }

    #[test]
    fn after_a_crash_at_any_write_a_sent_receipt_has_the_same_bytes() {
        let server = Server::new();
        let mut crashes = 0;
        for fault in [Fault::Die, Fault::Fail(io::ErrorKind::StorageFull)] {
            for at in 0.. {
                let disk = disk();
                let issued = server.on(&disk);
                disk.set_fault(at, fault);
                // The receipts in the order in which they could be sent.
                let mut sent: Vec<SignedReceipt> = Vec::new();
                let mut work = || -> Result<(), IssueError> {
                    for sequence in 1..=2 {
                        let receipt =
                            issued.next(server.source(), &server.confirmation(sequence))?;
                        sent.push(receipt.clone());
                        issued.answered(&receipt, true)?;
                    }
                    Ok(())
                };
                let result = work();
                let is_done = disk.operations() <= at;
                assert_eq!(result.is_ok(), is_done, "{result:?}");
                for power in [Power::Kept, Power::Dropped, Power::Torn, Power::Reordered(at)] {
                    let again = server.on(&disk.crash(power));
                    let next = server.next(&again, 3);
                    let is_sent = sent.iter().any(|sent| sent.hash() == next.hash());
                    let last = sent.last();
                    let follows = next.follows(last)
                        || last.is_none() && next.follows(None)
                        // Stored, but never sent.
                        || next.confirmation().sequence.0 == sent.len() as u64 + 1;
                    assert!(is_sent || follows, "{fault:?} at {at}, {power:?}: {next:?}");
                    crashes += 1;
                }
                if is_done {
                    break;
                }
            }
        }
        assert!(crashes > 60, "{crashes}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_kept_and_named() {
        let (server, disk) = (Server::new(), disk());
        let issued = server.on(&disk);
        issued.answered(&server.next(&issued, 1), true).unwrap();
        let path = issued.path(&server.source(), &"docs".parse().unwrap());
        let content = read_file(&disk, &path, FILE_LEN_MAX).unwrap();
        let text = String::from_utf8(content.clone()).unwrap();
        let stranger = IssuedReceipts::new(
            Arc::new(disk.clone()),
            Path::new(DATA),
            Keypair::generate_secp256k1(),
        );
        let of_another = stranger.next(server.source(), &server.confirmation(2)).unwrap_err();
        assert!(matches!(of_another, IssueError::Damaged { .. }), "{of_another}");
        for damaged in [
            String::new(),
            text.replace("\\\"sequence\\\":1", "\\\"sequence\\\":2"),
            text.replace("\"version\": 1", "\"version\": 2"),
            "x".repeat(70_000),
        ] {
            assert_ne!(damaged, text);
            disk.damage(&path, |bytes| *bytes = damaged.clone().into_bytes());
            let error = issued.next(server.source(), &server.confirmation(2)).unwrap_err();
            let error = types::with_causes(&error);
            assert!(error.contains("docs.json"), "{error}");
            let kept = read_file(&disk, &path, 1 << 20).unwrap();
            assert_eq!(kept, damaged.into_bytes());
        }
        disk.damage(&path, |bytes| *bytes = content);
        assert_eq!(server.next(&issued, 2).receipt().number, 2);
        // Moved away, the chain starts again, which the source sees.
        disk.lose(&path);
        assert!(server.next(&issued, 2).follows(None));
    }

    #[test]
    fn fuzz_issued_receipts() {
        let (server, disk) = (Server::new(), disk());
        let issued = server.on(&disk);
        let mut sent = Vec::new();
        for sequence in 1..=2 {
            let receipt = server.next(&issued, sequence);
            issued.answered(&receipt, sequence == 1).unwrap();
            sent.push(receipt);
        }
        sent.push(server.next(&issued, 3));
        let (source, folder) = (server.source(), "docs".parse().unwrap());
        let path = issued.path(&source, &folder);
        let example = read_file(&disk, &path, FILE_LEN_MAX).unwrap();
        fuzzing::target!(&[example], |bytes: &[u8]| {
            disk.damage(&path, |content| *content = bytes.to_vec());
            let Ok(last) = issued.read(&path, &source, &folder) else { return };
            for found in [last.accepted, last.pending].into_iter().flatten() {
                assert!(sent.contains(&found), "a receipt that this server has not signed");
            }
        });
    }
}
