//! The work beside the loop of a source's task: pulls and receipts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use config::SourcePeer;
use futures::FutureExt as _;
use multiaddr::Multiaddr;
use net::NetError;
use protocols::{Confirmation, ExchangeError, Panicked, ReceiptAnswer};
use pull::{ManifestJob, ManifestProgress, ManifestPullError};
use snapshots::Snapshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Cid, FolderId, with_causes};

use super::SourceTask;
use super::attempt::{AttemptEnd, attempt};
use super::folder::{Folder, RunningPull};
use crate::backoff::Backoff;
use crate::effects::ReceiptError;
use crate::status::BackupEvent;

/// Maximum number of attempts of one source at the same time; most of them wait for a slot.
pub(super) const ATTEMPTS_MAX: usize = 16;
/// Maximum number of receipts of one source that are sent at the same time.
const RECEIPTS_MAX: usize = 4;

/// Work that has ended.
pub(super) enum Completed {
    Attempt { folder: FolderId, manifest: Cid, end: AttemptEnd },
    Measured { before: u64, used: Result<u64, ManifestPullError> },
    Receipt { folder: FolderId, manifest: Cid, answer: Result<ReceiptAnswer, ReceiptError> },
}

impl SourceTask {
    /// Returns the addresses at which the source may be reached.
    fn addresses(&self) -> Vec<Multiaddr> {
        let mut addresses = self.source.dial_addresses();
        // The addresses that the right peer announces are not checked: the peer at an address must
        // prove its identity.
        if self.wrong_peer.is_none()
            && let Some(discovery) = &self.discovery
        {
            addresses.extend(discovery.addresses.iter().cloned());
        }
        addresses
    }

    /// Starts the pulls that are due.
    pub(super) fn start_pulls(&mut self, now: Instant) {
        if !self.may_pull(now) {
            return;
        }
        let addresses = self.addresses();
        let mut running = self.folders.values().filter(|folder| folder.running.is_some()).count();
        let is_due = |(_, folder): &(&FolderId, &Folder)| folder.due(now).is_some();
        let due: Vec<FolderId> =
            self.folders.iter().filter(is_due).map(|(id, _)| id.clone()).collect();
        for id in &due {
            if running >= ATTEMPTS_MAX {
                return;
            }
            let after = self.must_follow(id);
            let Some(folder) = self.folders.get_mut(id) else { continue };
            let Some(offer) = folder.due(now).cloned() else { continue };
            running += 1;
            let published = &offer.published;
            let (manifest, stop) = (published.manifest_cid, CancellationToken::new());
            let progress =
                Arc::new(ManifestProgress::new(published.file_count, published.total_size_bytes));
            let job = ManifestJob {
                source: self.source.peer_id,
                offer: offer.clone(),
                after,
                peers: vec![self.source.peer_id],
                progress: progress.clone(),
                budget: self.quota.budget.clone(),
                stop: stop.clone(),
            };
            let started_at = self.context.clock.now();
            folder.running = Some(RunningPull { offer, stop, progress, started_at });
            let (effects, slots) = (self.context.effects.clone(), self.context.slots.clone());
            let (folder, addresses) = (id.clone(), addresses.clone());
            self.work.spawn(async move {
                let end = attempt(effects, slots, job, addresses).await;
                Completed::Attempt { folder, manifest, end }
            });
        }
    }

    /// Sends the receipts that are due.
    pub(super) fn start_receipts(&mut self, now: Instant) {
        if self.wrong_peer.is_some() {
            return;
        }
        let addresses = self.addresses();
        let source = self.source.peer_id;
        let mut running = self.folders.values().filter(|f| f.receipt.is_sending).count();
        for (id, folder) in &mut self.folders {
            if running >= RECEIPTS_MAX {
                return;
            }
            let is_due = folder.receipt.retry_at.is_none_or(|at| at <= now);
            let Some(snapshot) = folder.unconfirmed().filter(|_| is_due) else { continue };
            running += 1;
            let record = &snapshot.record;
            let manifest = record.manifest;
            let confirmation = Confirmation {
                folder_id: id.clone(),
                sequence: record.sequence,
                manifest_cid: manifest,
                manifest_signature: record.signature.clone(),
                received_at: record.received_at,
            };
            folder.receipt.is_sending = true;
            let (effects, folder) = (self.context.effects.clone(), id.clone());
            let addresses = addresses.clone();
            self.work.spawn(async move {
                let sending = async {
                    effects.connect(source, addresses).await.map_err(ExchangeError::from)?;
                    effects.send_receipt(source, confirmation).await
                };
                let answer = AssertUnwindSafe(sending).catch_unwind().await;
                let answer = answer.unwrap_or(Err(ReceiptError::Panicked(Panicked)));
                Completed::Receipt { folder, manifest, answer }
            });
        }
    }

    /// Handles the end of a pull or a receipt.
    pub(super) fn completed(&mut self, completed: Completed) {
        match completed {
            Completed::Attempt { folder, manifest, end } => {
                self.attempt_ended(&folder, manifest, end);
            }
            Completed::Measured { before, used } => self.measured(before, used),
            Completed::Receipt { folder, manifest, answer } => {
                self.receipt_answered(&folder, manifest, &answer);
            }
        }
    }

    fn attempt_ended(&mut self, id: &FolderId, manifest: Cid, end: AttemptEnd) {
        let source = self.source.name.as_str();
        let Some(folder) = self.folders.get_mut(id) else { return };
        let running = folder.ended();
        let now = Instant::now();
        let mut is_set_back = false;
        let is_failure = match end {
            AttemptEnd::NoConnection(error) => {
                folder.unreachable(manifest, with_causes(&error), now);
                true
            }
            AttemptEnd::Pulled(result) => match *result {
                Err(error) => {
                    is_set_back = matches!(error, ManifestPullError::SetBack { .. });
                    folder.failed(manifest, &error, now)
                }
                Ok(snapshot) => {
                    self.context.registry.send(committed(&self.source, &snapshot));
                    self.context.registry.update_totals(|totals| totals.committed += 1);
                    folder.committed(snapshot);
                    self.lost.remove(id);
                    false
                }
            },
        };
        if let Some(text) = folder.refused().or(folder.error()).filter(|_| is_failure) {
            tracing::warn!(source, folder = %id, reason = text, "cannot pull a manifest");
        }
        if let Some(running) = running.as_ref().filter(|_| is_set_back) {
            self.note_set_back(&running.offer);
        }
        let numbers = running.map(|running| running.progress.numbers()).unwrap_or_default();
        self.context.registry.update_totals(|totals| {
            totals.failed_attempts += u64::from(is_failure);
            totals.fetched_blocks += numbers.fetched_blocks;
            totals.fetched_bytes += numbers.fetched_bytes;
        });
        // The offers are the same, but the snapshots may have changed.
        self.evaluate();
    }

    fn receipt_answered(
        &mut self,
        id: &FolderId,
        manifest: Cid,
        answer: &Result<ReceiptAnswer, ReceiptError>,
    ) {
        let Some(folder) = self.folders.get_mut(id) else { return };
        folder.receipt.is_sending = false;
        if folder.newest.as_ref().map(|newest| newest.record.manifest) != Some(manifest) {
            return;
        }
        if let Ok(ReceiptAnswer::Ok) = answer {
            folder.receipt.confirmed = Some(manifest);
            folder.acknowledged(manifest, Instant::now());
            folder.receipt.failures = 0;
            folder.receipt.retry_at = None;
            folder.receipt.error = None;
            return;
        }
        tracing::debug!(folder = %id, ?answer, "the source did not accept a receipt");
        let receipt = &mut folder.receipt;
        let error = not_accepted(answer);
        if error.is_some() && receipt.error != error {
            let source = self.source.name.as_str();
            tracing::warn!(source, folder = %id, reason = error, "a snapshot is not confirmed");
        }
        receipt.error = error;
        receipt.failures = receipt.failures.saturating_add(1);
        receipt.retry_at = Some(Instant::now() + Backoff::RECEIPT.after(receipt.failures));
    }
}

/// Returns why a receipt was not accepted, if a user has to act.
fn not_accepted(answer: &Result<ReceiptAnswer, ReceiptError>) -> Option<String> {
    let text = match answer {
        Ok(ReceiptAnswer::ChainBroken) => {
            "the source does not accept the receipt, because the chain of receipts is interrupted: \
             see `archivist status` on the source"
        }
        Ok(ReceiptAnswer::Failed) => {
            "the source cannot store the receipt: see `archivist status` on the source"
        }
        Ok(ReceiptAnswer::Unsupported) => {
            "the source runs an older version of Archivist that does not know this form of \
             receipts: update it"
        }
        Err(ReceiptError::Exchange(ExchangeError::Net(NetError::UnsupportedProtocol {
            ..
        }))) => {
            "the source runs a version of Archivist without signed receipts: update both computers \
             to the same version"
        }
        Err(error @ ReceiptError::Issue(_)) => return Some(with_causes(error)),
        _ => return None,
    };
    Some(text.to_owned())
}

/// Logs a new snapshot, and returns its event.
fn committed(source: &SourcePeer, snapshot: &Snapshot) -> BackupEvent {
    let record = &snapshot.record;
    tracing::info!(
        source = source.name.as_str(),
        folder = %record.folder,
        sequence = record.sequence.0,
        files = record.files,
        "committed a snapshot"
    );
    BackupEvent::SnapshotCommitted {
        id: snapshot.id.clone(),
        source_name: source.name.to_string(),
        source: record.source,
        folder: record.folder.clone(),
        folder_name: record.folder_name.clone(),
        sequence: record.sequence,
    }
}
