//! The task of one source: asks it, decides what of the answer to believe,
//! pulls what is new, and tells it what is safe.
//!
//! Role: owns all that is known of the source; nobody else changes it, and
//! nothing that another source does can hold it up but the number of pulls at
//! once. What it knows is derived: a new task finds out the same again.
//!
//! Invariants: nothing is pulled that [`manifest::check`] has not taken; a hint
//! only makes it look; whatever fails is tried again, for ever, and shown.

mod attempt;
mod folder;
mod polling;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use config::SourcePeer;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use manifest::{ClientError, Discovery, OfferVerdict, PollResponse, WrongPeer};
use multiaddr::Multiaddr;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Cid, FolderId, with_causes};

use self::attempt::{End, attempt};
use self::folder::{Folder, Running};
use self::polling::Polling;
use crate::accept::{AcceptError, Accepted, AcceptedFolder};
use crate::accepted::{Acceptance, AcceptedFile};
use crate::backoff::Backoff;
use crate::board::Board;
use crate::settings::Common;
use crate::slots::Slots;
use crate::status::BackupEvent;
use crate::world::World;
use protocols::{Clock, ExchangeError, Panicked, Receipt, ReceiptAnswer, blocking};
use pull::{ManifestJob, ManifestProgress};
use snapshots::Snapshot;

/// How often it is shown how far the pulls are.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Attempts of one source at once; most of them wait for their place.
const ATTEMPTS_MAX: usize = 16;
/// Receipts of one source under way at once.
const RECEIPTS_MAX: usize = 4;
/// How long pulls may take to stop by themselves at the end of the task.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// Refusals of one answer that are logged.
const LOGGED_MAX: usize = 20;

/// What is asked of a source's task.
pub(crate) enum Request {
    /// A new connection with the source is up: it may have lost what it knew.
    Connected,
    /// The user takes the source as it is.
    Accept(oneshot::Sender<Result<Accepted, AcceptError>>),
}

/// What a source's task works with.
pub(crate) struct Tools {
    pub(crate) world: Arc<dyn World>,
    pub(crate) slots: Slots,
    pub(crate) board: Board,
    pub(crate) accepted: Arc<AcceptedFile>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) common: watch::Receiver<Common>,
    /// Told to look at once.
    pub(crate) hint: Arc<Notify>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) stop: CancellationToken,
}

/// The task of one source.
pub(crate) struct SourceTask {
    source: SourcePeer,
    tools: Tools,
    common: Common,
    polling: Polling,
    ask: Option<BoxFuture<'static, Result<PollResponse, ClientError>>>,
    last_poll: Option<Timestamp>,
    poll_error: Option<String>,
    discovery: Option<Discovery>,
    wrong_peer: Option<WrongPeer>,
    refusals: Vec<Refused>,
    folders: BTreeMap<FolderId, Folder>,
    work: JoinSet<Done>,
    /// When whatever was due was begun.
    begun_at: Instant,
}

/// An offer that is refused for what it says.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    text: String,
    accept: Option<(FolderId, Acceptance, String)>,
}

/// Something that was done beside the loop.
enum Done {
    Attempt { folder: FolderId, manifest: Cid, end: End },
    Receipt { folder: FolderId, manifest: Cid, answer: Result<ReceiptAnswer, ExchangeError> },
}

impl SourceTask {
    /// A task that knows nothing yet.
    pub(crate) fn new(source: SourcePeer, tools: Tools) -> Self {
        let common = *tools.common.borrow();
        Self {
            source,
            tools,
            common,
            polling: Polling::new(Instant::now()),
            ask: None,
            last_poll: None,
            poll_error: None,
            discovery: None,
            wrong_peer: None,
            refusals: Vec::new(),
            folders: BTreeMap::new(),
            work: JoinSet::new(),
            begun_at: Instant::now(),
        }
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) {
        self.publish();
        if self.load().await.is_some() {
            let stop = self.tools.stop.clone();
            while !stop.is_cancelled() {
                self.begin();
                self.publish();
                self.step().await;
            }
        }
        self.end().await;
    }

    /// Finds out what is here of the source; tries until it is known.
    async fn load(&mut self) -> Option<()> {
        let mut failures = 0;
        loop {
            let held = self.tools.world.held(self.source.peer_id);
            let held = tokio::select! {
                () = self.tools.stop.cancelled() => return None,
                held = held => held,
            };
            match held {
                Ok(held) => {
                    self.poll_error = None;
                    let of = |(id, snapshots)| (id, Folder::of(snapshots));
                    self.folders = held.into_iter().map(of).collect();
                    return Some(());
                }
                Err(error) => {
                    failures += 1;
                    self.poll_error = Some(with_causes(&error));
                    self.publish();
                    tokio::select! {
                        () = self.tools.stop.cancelled() => return None,
                        () = tokio::time::sleep(Backoff::FAILURE.after(failures)) => {}
                    }
                }
            }
        }
    }

    /// Begins whatever is due.
    fn begin(&mut self) {
        let now = Instant::now();
        self.begun_at = now;
        if self.polling.next().is_some_and(|next| next <= now) {
            let ask = self.polling.start(now, self.common.poll_interval);
            self.ask = Some(self.tools.world.ask(self.source.manifest_server_url.clone(), ask));
        }
        self.begin_pulls(now);
        self.begin_receipts(now);
    }

    /// Waits for one thing to happen, and deals with it.
    async fn step(&mut self) {
        let wake = self.wake_at();
        let tools = &mut self.tools;
        tokio::select! {
            () = tools.stop.cancelled() => {}
            answer = next_answer(&mut self.ask) => self.answered(answer),
            () = sleep_until(wake) => {}
            () = tools.hint.notified() => self.hinted(),
            Some(done) = self.work.join_next() => {
                // A panic is caught where it can be told of.
                if let Ok(done) = done {
                    self.done(done);
                }
            }
            Some(request) = tools.requests.recv() => self.requested(request).await,
            Ok(()) = tools.common.changed() => {
                self.common = *self.tools.common.borrow_and_update();
                self.polling.interval_changed(Instant::now(), self.common.poll_interval);
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let folders = self.folders.values();
        let pulls = folders.clone().filter_map(Folder::due_at);
        let receipts = folders.filter_map(|folder| folder.to_tell().and(folder.receipt.retry_at));
        // What was due and was not begun waits for something else to end.
        let later = pulls.chain(receipts).filter(|at| *at > self.begun_at);
        let is_pulling = self.folders.values().any(|folder| folder.running.is_some());
        let progress = is_pulling.then(|| Instant::now() + PROGRESS_EVERY);
        later.chain(progress).chain(self.polling.next()).min()
    }

    /// There is, or may be, something new.
    fn hinted(&mut self) {
        if self.polling.hint(Instant::now()) {
            self.ask = None;
        }
        self.folders.values_mut().for_each(Folder::hint);
    }

    fn answered(&mut self, answer: Result<PollResponse, ClientError>) {
        self.ask = None;
        let (now, interval) = (Instant::now(), self.common.poll_interval);
        match answer {
            Ok(answer) => {
                self.last_poll = Some(self.tools.clock.now());
                self.poll_error = None;
                let (etag, is_news) = match answer {
                    PollResponse::Unchanged => (None, false),
                    PollResponse::Changed { discovery, etag } => {
                        self.discovery = Some(discovery);
                        (Some(etag), self.evaluate())
                    }
                };
                self.polling.answered(now, interval, etag, is_news);
            }
            Err(error) => {
                let is_temporary = error.retry() == manifest::Retry::Temporary;
                if self.polling.failed(now, interval, is_temporary) {
                    let text = with_causes(&error);
                    if self.poll_error.as_ref() != Some(&text) {
                        let source = self.source.name.as_str();
                        tracing::warn!(source, error = text, "a source cannot be asked");
                    }
                    self.poll_error = Some(text);
                }
            }
        }
    }

    /// Decides over the last answer; tells whether there is anything in it
    /// that is to be pulled and was not known.
    fn evaluate(&mut self) -> bool {
        let Some(discovery) = &self.discovery else { return false };
        let peer = self.source.peer_id;
        let held = self.folders.iter().filter_map(|(id, folder)| {
            let newest = folder.newest.as_ref()?.record.manifest;
            let accepted = self.tools.accepted.get(&peer, id, &newest);
            Some((id.clone(), folder.held(accepted)?))
        });
        let verdicts = manifest::check(discovery, &peer, &held.collect());
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            Err(wrong) => {
                if self.wrong_peer.as_ref() != Some(&*wrong) {
                    tracing::warn!(source = self.source.name.as_str(), %wrong, "refused");
                }
                self.wrong_peer = Some(*wrong);
                self.refusals.clear();
                self.folders.values_mut().for_each(|folder| folder.want_nothing(false));
                return false;
            }
        };
        self.wrong_peer = None;
        let (mut taken, mut same, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for verdict in verdicts {
            match verdict {
                OfferVerdict::Take(offer) => taken.push(offer),
                OfferVerdict::Same(folder) => same.push(folder),
                OfferVerdict::Refuse { folder, offer, reason } => {
                    refusals.push(self.refused(folder.as_ref(), offer, &reason));
                }
            }
        }
        if refusals != self.refusals {
            for refused in refusals.iter().take(LOGGED_MAX) {
                let source = self.source.name.as_str();
                tracing::warn!(source, reason = refused.text, "refused a manifest");
            }
        }
        self.refusals = refusals;
        let mut is_news = false;
        for (id, folder) in &mut self.folders {
            if same.contains(id) {
                folder.want_nothing(true);
            } else if !taken.iter().any(|offer| offer.published.folder_id == *id) {
                folder.want_nothing(false);
            }
        }
        for offer in taken {
            let folder = self.folders.entry(offer.published.folder_id.clone()).or_default();
            is_news |= folder.wanted.as_ref() != Some(&offer);
            folder.want(offer);
        }
        self.folders.retain(|_, folder| !folder.is_empty());
        is_news
    }

    fn refused(
        &self,
        folder: Option<&FolderId>,
        offer: Option<manifest::Offer>,
        reason: &manifest::OfferRefusal,
    ) -> Refused {
        let name = folder.map_or("a folder".to_owned(), |id| format!("folder {id}"));
        let accept = offer.filter(|_| reason.can_be_accepted()).and_then(|offer| {
            let published = offer.published;
            let over = self.folders.get(&published.folder_id)?.newest.as_ref()?.record.manifest;
            let acceptance = Acceptance {
                sequence: published.sequence_number,
                manifest: published.manifest_cid,
                over,
            };
            Some((published.folder_id, acceptance, published.folder_name))
        });
        Refused { text: format!("{name}: {reason}"), accept }
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let mut addresses = self.source.dial_addresses();
        // What the right peer says of itself; it is looked at no further, since
        // whoever is there has to prove who it is.
        if self.wrong_peer.is_none()
            && let Some(discovery) = &self.discovery
        {
            addresses.extend(discovery.addresses.iter().cloned());
        }
        addresses
    }

    fn begin_pulls(&mut self, now: Instant) {
        let addresses = self.addresses();
        let mut running = self.folders.values().filter(|folder| folder.running.is_some()).count();
        for (id, folder) in &mut self.folders {
            if running >= ATTEMPTS_MAX {
                return;
            }
            let Some(offer) = folder.due(now).cloned() else { continue };
            running += 1;
            let published = &offer.published;
            let (manifest, stop) = (published.manifest_cid, CancellationToken::new());
            let progress =
                Arc::new(ManifestProgress::new(published.file_count, published.total_size_bytes));
            let job = ManifestJob {
                source: self.source.peer_id,
                offer: offer.clone(),
                peers: vec![self.source.peer_id],
                progress: progress.clone(),
                stop: stop.clone(),
            };
            let started_at = self.tools.clock.now();
            folder.running = Some(Running { offer, stop, progress, started_at });
            let (world, slots) = (self.tools.world.clone(), self.tools.slots.clone());
            let (folder, addresses) = (id.clone(), addresses.clone());
            self.work.spawn(async move {
                let end = attempt(world, slots, job, addresses).await;
                Done::Attempt { folder, manifest, end }
            });
        }
    }

    fn begin_receipts(&mut self, now: Instant) {
        if self.wrong_peer.is_some() {
            return;
        }
        let addresses = self.addresses();
        let source = self.source.peer_id;
        let mut running = self.folders.values().filter(|f| f.receipt.is_under_way).count();
        for (id, folder) in &mut self.folders {
            if running >= RECEIPTS_MAX {
                return;
            }
            let is_due = folder.receipt.retry_at.is_none_or(|at| at <= now);
            let Some(snapshot) = folder.to_tell().filter(|_| is_due) else { continue };
            running += 1;
            let record = &snapshot.record;
            let manifest = record.manifest;
            let receipt = Receipt {
                folder_id: id.clone(),
                sequence: record.sequence,
                manifest_cid: manifest,
                received_at: record.received_at,
            };
            folder.receipt.is_under_way = true;
            let (world, folder) = (self.tools.world.clone(), id.clone());
            let addresses = addresses.clone();
            self.work.spawn(async move {
                let telling = async {
                    world.connect(source, addresses).await?;
                    world.acknowledge(source, receipt).await
                };
                let answer = AssertUnwindSafe(telling).catch_unwind().await;
                let answer = answer.unwrap_or(Err(ExchangeError::Panicked(Panicked)));
                Done::Receipt { folder, manifest, answer }
            });
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Attempt { folder, manifest, end } => self.attempted(&folder, manifest, end),
            Done::Receipt { folder, manifest, answer } => self.told(&folder, manifest, &answer),
        }
    }

    fn attempted(&mut self, id: &FolderId, manifest: Cid, end: End) {
        let source = self.source.name.as_str();
        let Some(folder) = self.folders.get_mut(id) else { return };
        let running = folder.ended();
        let now = Instant::now();
        let counts = match end {
            End::NoConnection(error) => {
                folder.unreachable(manifest, with_causes(&error), now);
                true
            }
            End::Pulled(result) => match *result {
                Err(error) => folder.failed(manifest, &error, now),
                Ok(snapshot) => {
                    self.tools.board.tell(committed(&self.source, &snapshot));
                    self.tools.board.count(|totals| totals.committed += 1);
                    folder.committed(snapshot);
                    false
                }
            },
        };
        if let Some(text) = folder.refused().or(folder.error()).filter(|_| counts) {
            tracing::warn!(source, folder = %id, reason = text, "a manifest was not pulled");
        }
        let numbers = running.map(|running| running.progress.numbers()).unwrap_or_default();
        self.tools.board.count(|totals| {
            totals.failed_attempts += u64::from(counts);
            totals.fetched_blocks += numbers.fetched_blocks;
            totals.fetched_bytes += numbers.fetched_bytes;
        });
        // What is offered is the same; what it means has changed.
        self.evaluate();
    }

    fn told(
        &mut self,
        id: &FolderId,
        manifest: Cid,
        answer: &Result<ReceiptAnswer, ExchangeError>,
    ) {
        let Some(folder) = self.folders.get_mut(id) else { return };
        folder.receipt.is_under_way = false;
        if folder.newest.as_ref().map(|newest| newest.record.manifest) != Some(manifest) {
            return;
        }
        if let Ok(ReceiptAnswer::Ok) = answer {
            folder.receipt.told = Some(manifest);
            folder.receipt.failures = 0;
            folder.receipt.retry_at = None;
            return;
        }
        tracing::debug!(folder = %id, ?answer, "a receipt was not taken");
        let receipt = &mut folder.receipt;
        receipt.failures = receipt.failures.saturating_add(1);
        receipt.retry_at = Some(Instant::now() + Backoff::RECEIPT.after(receipt.failures));
    }

    async fn requested(&mut self, request: Request) {
        match request {
            Request::Connected => {
                for folder in self.folders.values_mut() {
                    folder.receipt.told = None;
                }
            }
            Request::Accept(reply) => {
                let result = self.accept().await;
                self.evaluate();
                // Who asked may have gone.
                let _ = reply.send(result);
            }
        }
    }

    async fn accept(&mut self) -> Result<Accepted, AcceptError> {
        if let Some(wrong) = &self.wrong_peer {
            return Ok(Accepted { peer_id: Some(wrong.found), folders: Vec::new() });
        }
        let all: Vec<_> =
            self.refusals.iter().filter_map(|refused| refused.accept.clone()).collect();
        if all.is_empty() {
            return Err(AcceptError::Nothing);
        }
        let folders = all.iter().map(|(id, acceptance, name)| AcceptedFolder {
            folder_id: id.clone(),
            folder_name: name.clone(),
            sequence: acceptance.sequence,
            manifest_cid: acceptance.manifest,
        });
        let accepted = Accepted { peer_id: None, folders: folders.collect() };
        let (file, peer) = (self.tools.accepted.clone(), self.source.peer_id);
        blocking(move || {
            let folders = all.into_iter().map(|(id, acceptance, _)| (id, acceptance));
            file.add(&peer, folders).map_err(AcceptError::Io)
        })
        .await?;
        Ok(accepted)
    }

    /// Ends the pulls; what they brought is in the store.
    async fn end(mut self) {
        for folder in self.folders.values() {
            if let Some(running) = &folder.running {
                running.stop.cancel();
            }
        }
        let patience = tokio::time::sleep(STOP_PATIENCE);
        tokio::pin!(patience);
        while self.folders.values().any(|folder| folder.running.is_some()) {
            tokio::select! {
                () = &mut patience => break,
                done = self.work.join_next() => match done {
                    Some(Ok(done)) => self.done(done),
                    Some(Err(_)) => {}
                    None => break,
                },
            }
        }
        self.work.shutdown().await;
    }
}

fn committed(source: &SourcePeer, snapshot: &Snapshot) -> BackupEvent {
    let record = &snapshot.record;
    tracing::info!(
        source = source.name.as_str(),
        folder = %record.folder,
        sequence = record.sequence.0,
        files = record.files,
        "a snapshot is complete"
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

/// The answer to the question that is under way; never, where none is.
async fn next_answer(
    ask: &mut Option<BoxFuture<'static, Result<PollResponse, ClientError>>>,
) -> Result<PollResponse, ClientError> {
    match ask {
        Some(ask) => ask.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
