//! The task of one source: polls it, checks its offers, pulls what is new, and sends receipts.
//!
//! Role: owns the state of the source; no other code changes it. Other sources can delay the task
//! only by occupying pull slots. The state is derived: a new task determines it again from the
//! store and the source.
//!
//! * `polling`: the schedule of polls; `offers`: the check of their answers.
//! * `freshness`: detects old answers.
//! * `lost`: the confirmed snapshots that are not stored any more.
//! * `folder`: the state of a folder; `work`, `attempt`: its pulls and receipts.
//! * `quota`: the disk space that the source may use.
//! * `report`: the status for others.
//!
//! Invariants: only offers that [`manifest::check`] takes are pulled; a hint only causes a poll;
//! every failure is retried without end, and reported.

mod attempt;
mod folder;
mod freshness;
mod lost;
mod offers;
mod polling;
mod quota;
mod report;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::SourcePeer;
use futures::future::BoxFuture;
use jiff::Timestamp;
use manifest::{ClientError, Discovery, PollResponse, WrongPeer};
use protocols::{Clock, Confirmation};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{FolderId, with_causes};

use self::folder::Folder;
use self::freshness::Freshness;
use self::polling::Polling;
use self::quota::Quota;
use self::work::Completed;
use crate::accept::{AcceptError, Accepted};
use crate::backoff::Backoff;
use crate::effects::{Effects, Polled};
use crate::offer_file::{NotedOffer, OfferFile};
use crate::settings::CommonSettings;
use crate::slots::Slots;
use crate::status_registry::StatusRegistry;

/// Interval at which the progress of running pulls is published.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum time for pulls to stop at the end of the task.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// A request to the task of a source.
pub(crate) enum Request {
    /// The source has connected again, and may have lost the receipts.
    Connected,
    /// Snapshots of the source were added or removed by others.
    SnapshotsChanged,
    /// The user accepts the current offers of the source.
    Accept(oneshot::Sender<Result<Accepted, AcceptError>>),
}

/// Dependencies of the task of a source.
pub(crate) struct TaskContext {
    pub(crate) effects: Arc<dyn Effects>,
    pub(crate) slots: Slots,
    pub(crate) registry: StatusRegistry,
    pub(crate) acceptances: Arc<OfferFile>,
    /// The offers by which sources were recognized as set back.
    pub(crate) set_backs: Arc<OfferFile>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) common: watch::Receiver<CommonSettings>,
    /// Notified to poll immediately.
    pub(crate) hint: Arc<Notify>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) stop: CancellationToken,
}

/// The task of one source.
pub(crate) struct SourceTask {
    source: SourcePeer,
    context: TaskContext,
    common: CommonSettings,
    polling: Polling,
    /// The running poll.
    poll: Option<BoxFuture<'static, Result<Polled, ClientError>>>,
    /// Time at which the last poll began.
    asked_at: Instant,
    last_poll: Option<Timestamp>,
    poll_error: Option<String>,
    discovery: Option<Discovery>,
    freshness: Freshness,
    /// The time at which the request for `discovery` was sent, if it is proved to be the answer to
    /// that request, or if the source has confirmed it since.
    current_since: Option<Instant>,
    /// Offers that show that the source was set back, which are not in the file yet.
    new_set_backs: BTreeMap<FolderId, NotedOffer>,
    wrong_peer: Option<WrongPeer>,
    refusals: Vec<Refused>,
    folders: BTreeMap<FolderId, Folder>,
    /// The snapshots that were confirmed last and are lost.
    lost: BTreeMap<FolderId, Confirmation>,
    quota: Quota,
    work: JoinSet<Completed>,
    /// Time at which the due work was last started.
    started_at: Instant,
}

/// A refused offer.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    text: String,
    /// The acceptance that would resolve the refusal, if there is one, and the name of the folder.
    accept: Option<(FolderId, NotedOffer, String)>,
}

impl SourceTask {
    /// Creates a task with an empty state.
    pub(crate) fn new(source: SourcePeer, context: TaskContext) -> Self {
        let common = *context.common.borrow();
        let quota = Quota::new(source.quota.limit());
        Self {
            source,
            context,
            quota,
            common,
            polling: Polling::new(Instant::now()),
            poll: None,
            asked_at: Instant::now(),
            last_poll: None,
            poll_error: None,
            discovery: None,
            freshness: Freshness::default(),
            current_since: None,
            new_set_backs: BTreeMap::new(),
            wrong_peer: None,
            refusals: Vec::new(),
            folders: BTreeMap::new(),
            lost: BTreeMap::new(),
            work: JoinSet::new(),
            started_at: Instant::now(),
        }
    }

    /// Runs the task until it is stopped.
    pub(crate) async fn run(mut self) {
        self.publish();
        if self.load().await.is_some() {
            let stop = self.context.stop.clone();
            while !stop.is_cancelled() {
                self.start_due();
                self.publish();
                self.step().await;
                self.store_set_backs().await;
            }
        }
        self.end().await;
    }

    /// Loads the stored snapshots of the source, with retries. Returns `None` if the task is
    /// stopped.
    async fn load(&mut self) -> Option<()> {
        let mut failures = 0;
        loop {
            let listing = self.context.effects.stored_snapshots(self.source.peer_id);
            let stored = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return None,
                stored = listing => stored,
            };
            match stored {
                Ok(stored) => {
                    self.poll_error = None;
                    let folder = |(id, snapshots)| (id, Folder::of(snapshots));
                    self.folders = stored.into_iter().map(folder).collect();
                    self.load_lost().await;
                    return Some(());
                }
                Err(error) => {
                    failures += 1;
                    self.poll_error = Some(with_causes(&error));
                    self.publish();
                    tokio::select! {
                        biased;
                        () = self.context.stop.cancelled() => return None,
                        () = tokio::time::sleep(Backoff::FAILURE.after(failures)) => {}
                    }
                }
            }
        }
    }

    /// Starts the polls, pulls and receipts that are due.
    fn start_due(&mut self) {
        let now = Instant::now();
        self.started_at = now;
        if self.polling.next().is_some_and(|next| next <= now) {
            let request = self.polling.start(now, self.common.poll_interval);
            let url = self.source.manifest_server_url.clone();
            self.asked_at = now;
            self.poll = Some(self.context.effects.poll(self.source.peer_id, url, request));
        }
        self.start_pulls(now);
        self.start_receipts(now);
    }

    /// Waits for one event and handles it.
    async fn step(&mut self) {
        let wake = self.wake_at();
        let context = &mut self.context;
        // In this order, so that a run can be repeated. A time that has come is last, because it
        // may have come in every step.
        tokio::select! {
            biased;
            () = context.stop.cancelled() => {}
            answer = next_answer(&mut self.poll) => self.answered(answer),
            () = context.hint.notified() => self.hinted(),
            Some(completed) = self.work.join_next() => {
                // Panics are caught inside the work, which then reports them as errors.
                if let Ok(completed) = completed {
                    self.completed(completed);
                }
            }
            Some(request) = context.requests.recv() => self.handle(request).await,
            Ok(()) = context.common.changed() => {
                self.common = *self.context.common.borrow_and_update();
                self.polling.interval_changed(Instant::now(), self.common.poll_interval);
            }
            () = sleep_until(wake) => {}
        }
    }

    /// Returns the time at which the next work is due.
    fn wake_at(&self) -> Option<Instant> {
        let folders = self.folders.values();
        let pulls = folders.clone().filter_map(Folder::due_at);
        let receipts =
            folders.filter_map(|folder| folder.unconfirmed().and(folder.receipt.retry_at));
        // Due work that was not started waits for the end of other work.
        let later = pulls.chain(receipts).filter(|at| *at > self.started_at);
        let is_pulling = self.folders.values().any(|folder| folder.running.is_some());
        let progress = is_pulling.then(|| Instant::now() + PROGRESS_INTERVAL);
        later.chain(progress).chain(self.polling.next()).min()
    }

    /// Polls and retries immediately.
    fn hinted(&mut self) {
        if self.polling.hint(Instant::now()) {
            self.poll = None;
        }
        self.folders.values_mut().for_each(Folder::hint);
    }

    /// Handles the end of a poll.
    fn answered(&mut self, answer: Result<Polled, ClientError>) {
        self.poll = None;
        let (now, interval) = (Instant::now(), self.common.poll_interval);
        match answer {
            Ok(Polled { response, age }) => {
                let wall = self.context.clock.now();
                self.last_poll = Some(wall);
                self.poll_error = None;
                let was_stale = self.freshness.error().is_some();
                let is_current = self.freshness.answered(now, wall, age);
                if let Some(error) = self.freshness.error().filter(|_| !was_stale) {
                    tracing::warn!(source = self.source.name.as_str(), error, "old answers");
                }
                let (etag, is_news) = match response {
                    PollResponse::Unchanged { .. } => {
                        let is_first_proof = is_current && self.current_since.is_none();
                        if is_first_proof {
                            // The list is the current one, but its numbers of receipts are of the
                            // time of its first answer.
                            self.forget_confirmed();
                            self.current_since = Some(self.asked_at);
                        }
                        (None, is_first_proof && self.evaluate())
                    }
                    PollResponse::Changed { discovery, etag, .. } => {
                        self.discovery = Some(*discovery);
                        self.current_since = is_current.then_some(self.asked_at);
                        (Some(etag), self.evaluate())
                    }
                };
                self.polling.answered(now, interval, etag, is_news);
            }
            Err(error) => {
                let is_temporary = error.retry() == types::Retry::Temporary;
                if self.polling.failed(now, interval, is_temporary) {
                    let text = with_causes(&error);
                    if self.poll_error.as_ref() != Some(&text) {
                        let source = self.source.name.as_str();
                        tracing::warn!(source, error = text, "cannot poll a source");
                    }
                    self.poll_error = Some(text);
                }
            }
        }
    }

    /// Handles a request.
    async fn handle(&mut self, request: Request) {
        match request {
            Request::Connected => {
                for folder in self.folders.values_mut() {
                    folder.receipt.confirmed = None;
                }
            }
            Request::SnapshotsChanged => self.reload().await,
            Request::Accept(reply) => {
                let result = self.accept().await;
                self.evaluate();
                // The caller may no longer wait.
                let _ = reply.send(result);
            }
        }
    }

    /// Lists the snapshots again. If that fails, the task continues with the snapshots that it
    /// knows: they exist, or are decided on again after the next start.
    async fn reload(&mut self) {
        match self.context.effects.stored_snapshots(self.source.peer_id).await {
            Ok(stored) => {
                for (id, snapshots) in stored {
                    self.folders.entry(id).or_default().set_snapshots(snapshots);
                }
                // A removal may have made room.
                self.quota.snapshots_changed();
                self.folders.values_mut().for_each(Folder::hint);
                self.load_lost().await;
                self.evaluate();
            }
            Err(error) => {
                let (source, error) = (self.source.name.as_str(), with_causes(&error));
                tracing::warn!(source, error, "cannot list the snapshots of a source");
            }
        }
    }

    /// Stops the pulls. The blocks that they fetched stay in the store.
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
                biased;
                () = &mut patience => break,
                completed = self.work.join_next() => match completed {
                    Some(Ok(completed)) => self.completed(completed),
                    Some(Err(_)) => {}
                    None => break,
                },
            }
        }
        self.work.shutdown().await;
    }
}

/// Waits for the answer to the running poll; without one, forever.
async fn next_answer(
    poll: &mut Option<BoxFuture<'static, Result<Polled, ClientError>>>,
) -> Result<Polled, ClientError> {
    match poll {
        Some(poll) => poll.await,
        None => std::future::pending().await,
    }
}

/// Sleeps until a time; without one, forever.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
