//! Fetches damaged and missing blocks again, without a request.
//!
//! The store reports each loss, whoever finds it: a scrub, a verification, a restore, a
//! pull or a collection. The task fetches the block from its source or from another
//! connected peer, and tries again, with growing pauses, while no peer has it. A source
//! that connects ends the pause. A block that no peer has stays in the list, with the
//! snapshots, paths and data items that need it.
//!
//! A damaged block is healed alone. Only a lost pack, whose content is not known, and a
//! block that cannot be fetched cause a presence check, which walks all snapshots
//! without reading the data.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::NoticeLevel::{Error, Info, Warning};
use api::OutstandingBlock;
use backup::BackupEvent;
use jiff::Timestamp;
use net::{Access, Handle, NetEvent, PeerId, Purposes};
use parking_lot::Mutex;
use protocols::SessionPool;
use pull::{HealReport, PullError};
use snapshots::{SnapshotStore, VerifyProgress, VerifyReport};
use store::{BlockStore, PackStore};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Cid, Codec, with_causes};

use crate::healing_state::{self, Fault, HealingState};
use crate::journal::Journal;
use crate::names::source_name;
use crate::problems::Problems;
use crate::settings::Settings;
use crate::verify_result::verify_problems;

/// Maximum time for connecting to a source.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum pause between two presence checks: each walks all snapshots.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Number of blocks that get a line of their own in the journal. More share a line.
const LINES_MAX: usize = 3;

/// Requests to the task since its last round.
#[derive(Debug, Default)]
struct Requests {
    faults: Vec<Fault>,
    lost_packs: Vec<String>,
    presence_check: bool,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Requests>,
    state: Mutex<HealingState>,
    wake: Notify,
}

/// The healing of an instance. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Healing(Arc<Shared>);

/// The parts of an instance that the healing works with.
#[derive(Clone)]
pub(crate) struct HealingParts {
    pub(crate) store: Arc<PackStore>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) net: Handle,
    pub(crate) access: Access,
    pub(crate) settings: Settings,
    pub(crate) journal: Journal,
    pub(crate) problems: Problems,
    /// The file of the state.
    pub(crate) path: PathBuf,
    pub(crate) stop: CancellationToken,
}

impl Healing {
    /// Returns the state for the API.
    pub fn to_api(&self) -> api::Healing {
        self.0.state.lock().to_api()
    }

    /// Reports blocks that are damaged or missing.
    pub(crate) fn report(&self, faults: Vec<Fault>) {
        if !faults.is_empty() {
            self.0.requests.lock().faults.extend(faults);
            self.0.wake.notify_one();
        }
    }

    /// Reports the blocks that a verification found, and what needs them. Blocks the
    /// thread.
    pub(crate) fn report_verified(&self, store: &dyn BlockStore, report: &VerifyReport) {
        self.report(faults_of(store, report, "verify"));
    }

    /// Reports packs that have vanished.
    pub(crate) fn report_lost_packs(&self, packs: impl IntoIterator<Item = String>) {
        self.0.requests.lock().lost_packs.extend(packs);
        self.0.wake.notify_one();
    }

    /// Requests a check whether all needed blocks are present.
    pub(crate) fn check_presence(&self) {
        self.0.requests.lock().presence_check = true;
        self.0.wake.notify_one();
    }

    /// Heals until the instance stops. `sources` reports that a source answers again.
    pub(crate) async fn run(self, parts: HealingParts, sources: Receiver<BackupEvent>) {
        let waker = Arc::downgrade(&self.0);
        parts.store.on_loss(move || {
            if let Some(shared) = waker.upgrade() {
                shared.wake.notify_one();
            }
        });
        let path = parts.path.clone();
        let read = move || HealingState::read(&path, Instant::now());
        if let Ok(state) = tokio::task::spawn_blocking(read).await {
            *self.0.state.lock() = state;
        }
        let task = Task {
            healing: self,
            pool: SessionPool::new(parts.net.clone()),
            net_events: parts.net.events(),
            sources,
            failing_sources: BTreeSet::new(),
            last_presence_check: None,
            parts,
        };
        task.run().await;
    }
}

struct Task {
    healing: Healing,
    parts: HealingParts,
    pool: SessionPool,
    net_events: Receiver<NetEvent>,
    sources: Receiver<BackupEvent>,
    /// Sources that did not answer the last poll.
    failing_sources: BTreeSet<PeerId>,
    last_presence_check: Option<Instant>,
}

impl Task {
    async fn run(mut self) {
        // Damage that was found in an earlier run, and is not healed.
        let mut must_list = true;
        let mut must_check = false;
        loop {
            let losses = self.parts.store.take_losses();
            let requests = std::mem::take(&mut *self.healing.0.requests.lock());
            let lost = losses.packs.iter().map(|path| path.display().to_string());
            let lost: Vec<String> = lost.chain(requests.lost_packs).collect();
            must_check |= requests.presence_check || !lost.is_empty();
            self.note_lost_packs(&lost);
            self.add(requests.faults);
            must_list |= losses.is_damage_found;
            if must_list {
                must_list = !self.list_damage().await;
            }
            if must_check && self.may_check() {
                must_check = self.check_presence().await;
            }
            let healed = self.attempt().await;
            if self.healing.0.state.lock().must_locate() && self.may_check() {
                must_check |= self.check_presence().await;
            }
            self.note_failures();
            self.save().await;
            if self.parts.stop.is_cancelled() {
                return;
            }
            // Without a pause while blocks arrive: more may be missing than one list names.
            if healed > 0 {
                if must_check {
                    self.last_presence_check = None;
                }
                continue;
            }
            let must_locate = self.healing.0.state.lock().must_locate();
            if !self.wait(must_check || must_locate).await {
                return;
            }
        }
    }

    /// Waits until there is something to do. Returns false if the instance stops.
    async fn wait(&mut self, must_check: bool) -> bool {
        let next_try = self.healing.0.state.lock().next_try();
        let next_check = self.last_presence_check.filter(|_| must_check);
        let next_check = next_check.map(|last| last + PRESENCE_INTERVAL);
        let next = next_try.into_iter().chain(next_check).min();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = self.parts.stop.cancelled() => return false,
                () = self.healing.0.wake.notified() => return true,
                () = &mut due => return true,
                event = self.net_events.recv() => match event {
                    Ok(NetEvent::Connected { peer, .. })
                        if self.parts.access.get(&peer) != Purposes::NONE => break,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return false,
                },
                event = self.sources.recv() => match event {
                    Ok(BackupEvent::Source(source)) => {
                        if source.poll_failures > 0 {
                            self.failing_sources.insert(source.peer_id);
                        } else if self.failing_sources.remove(&source.peer_id) {
                            break;
                        }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return false,
                },
            }
        }
        self.healing.0.state.lock().retry_now(Instant::now());
        true
    }

    fn may_check(&self) -> bool {
        self.last_presence_check.is_none_or(|last| last.elapsed() >= PRESENCE_INTERVAL)
    }

    /// Adds faults to the list, and the new ones to the journal.
    fn add(&self, faults: Vec<Fault>) {
        let (at, now) = (Timestamp::now(), Instant::now());
        let new = self.healing.0.state.lock().add(faults, at, now);
        for fault in new.iter().take(LINES_MAX) {
            self.note(
                Warning,
                format!(
                    "A stored block is damaged or missing, and is fetched again: {} (found by: {}; \
                     block {})",
                    fault.reason, fault.found_by, fault.cid
                ),
            );
        }
        if new.len() > LINES_MAX {
            let more = new.len() - LINES_MAX;
            self.note(Warning, format!("{more} more blocks are damaged or missing."));
        }
        if !new.is_empty() {
            self.show();
        }
    }

    /// Adds the blocks that the store found damaged. Returns false if they cannot be
    /// listed now.
    async fn list_damage(&self) -> bool {
        let store = self.parts.store.clone();
        match tokio::task::spawn_blocking(move || store.damaged_blocks()).await {
            Ok(Ok(blocks)) => {
                let fault = |block: store::FaultyBlock| Fault {
                    cid: block.cid,
                    reason: format!(
                        "{}: {} at {}",
                        block.pack.display(),
                        block.reason,
                        block.offset
                    ),
                    found_by: "reading",
                    concerns: BTreeSet::new(),
                };
                self.add(blocks.into_iter().map(fault).collect());
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(error = with_causes(&error), "cannot list the damaged blocks");
                false
            }
            Err(error) => {
                tracing::error!(%error, "listing the damaged blocks ended unexpectedly");
                true
            }
        }
    }

    /// Checks whether all needed blocks are present, adds the missing ones, and names
    /// the snapshots, paths and items that need them. Reports whether another check is
    /// needed.
    async fn check_presence(&mut self) -> bool {
        let (snapshots, stop) = (self.parts.snapshots.clone(), self.parts.stop.clone());
        let work = tokio::task::spawn_blocking(move || {
            let report = snapshots::verify(&snapshots, false, &VerifyProgress::default(), &stop);
            report
                .map(|report| (faults_of(&**snapshots.store(), &report, "presence check"), report))
        });
        self.last_presence_check = Some(Instant::now());
        let (faults, report) = match work.await {
            Ok(Ok(checked)) => checked,
            Ok(Err(error)) => {
                tracing::warn!(error = with_causes(&error), "cannot check the snapshots");
                return true;
            }
            Err(error) => {
                tracing::error!(%error, "a check of the snapshots ended unexpectedly");
                return false;
            }
        };
        // Below an unreadable node, nothing is known about what is needed.
        let is_all_known = !report.is_cut_short
            && report.damaged.is_empty()
            && report.newer.is_empty()
            && report.problems.iter().all(|problem| problem.cid.codec() == Codec::Raw);
        let needed: HashSet<Cid> = faults.iter().map(|fault| fault.cid).collect();
        self.add(faults);
        if is_all_known {
            let dropped = self.healing.0.state.lock().drop_unneeded(&needed);
            if dropped > 0 {
                tracing::info!(dropped, "damaged blocks are not needed by anything");
            }
        }
        self.healing.0.state.lock().set_located();
        self.show();
        report.is_cut_short
    }

    /// Tries to fetch the blocks that are due. Returns the number of healed blocks.
    async fn attempt(&mut self) -> usize {
        let due = self.healing.0.state.lock().due(Instant::now());
        if due.is_empty() {
            return 0;
        }
        let sources = self.connect().await;
        let peers = self.peers(&sources).await;
        let store = self.parts.store.clone();
        let stop = &self.parts.stop;
        let result = tokio::select! {
            result = pull::heal(store, &self.pool, &peers, due.clone(), stop) => result,
            () = stop.cancelled() => Err(PullError::Stopped),
        };
        let healed = match result {
            Ok(report) => self.apply(report, &sources),
            Err(PullError::Stopped) => 0,
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(error, "cannot fetch damaged blocks again");
                let mut state = self.healing.0.state.lock();
                for cid in &due {
                    state.set_failed(cid, false, &error, Instant::now());
                }
                0
            }
        };
        self.show();
        healed
    }

    /// Records the result of an attempt. Returns the number of healed blocks.
    fn apply(&self, report: HealReport, sources: &[PeerId]) -> usize {
        let HealReport { healed, missing, below, answered, failed } = report;
        let is_lost = !answered.is_empty() && sources.iter().all(|peer| answered.contains(peer));
        let error = match (answered.len(), failed.first()) {
            (0, None) => "no other computer is connected".to_owned(),
            (0, Some((_, error))) => error.clone(),
            (1, _) => "the connected computer does not have it".to_owned(),
            (count, _) => format!("none of the {count} connected computers has it"),
        };
        let mut count = 0;
        for (cid, from) in healed {
            if !self.healing.0.state.lock().set_healed(&cid) {
                continue;
            }
            count += 1;
            if count <= LINES_MAX {
                let from = from.map_or("was stored again".to_owned(), |peer| {
                    let config = self.parts.settings.get();
                    format!("was fetched again from {}", source_name(&config, &peer.to_string()))
                });
                self.note(Info, format!("The damaged or missing block {cid} {from}."));
            }
        }
        if count > LINES_MAX {
            self.note(Info, format!("{} more blocks were fetched again.", count - LINES_MAX));
        }
        {
            let mut state = self.healing.0.state.lock();
            for cid in &missing {
                state.set_failed(cid, is_lost, &error, Instant::now());
            }
        }
        let fault = |cid| Fault {
            cid,
            reason: "it is missing below a block that was fetched again".to_owned(),
            found_by: "healing",
            concerns: BTreeSet::new(),
        };
        self.add(below.into_iter().map(fault).collect());
        count
    }

    /// Connects to every source. Returns the sources.
    async fn connect(&self) -> Vec<PeerId> {
        let config = self.parts.settings.get();
        let sources = &config.backup_server.source_peers;
        let connecting = sources.iter().map(|source| {
            self.parts.net.connect(source.peer_id, source.dial_addresses(), CONNECT_TIMEOUT)
        });
        // The attempt reports sources that cannot be reached.
        let connecting = futures::future::join_all(connecting);
        tokio::select! {
            _ = connecting => {}
            () = self.parts.stop.cancelled() => {}
        }
        sources.iter().map(|source| source.peer_id).collect()
    }

    /// Returns the connected peers, the sources first.
    async fn peers(&self, sources: &[PeerId]) -> Vec<PeerId> {
        let connected = self.parts.net.peers().await.unwrap_or_default();
        let mut peers: Vec<PeerId> = connected.into_iter().map(|peer| peer.peer).collect();
        peers.sort_by_key(|peer| !sources.contains(peer));
        peers
    }

    fn note_lost_packs(&self, lost: &[String]) {
        for pack in lost.iter().take(LINES_MAX) {
            self.note(
                Error,
                format!(
                    "{pack} of the store is missing or cut short. Its blocks are fetched again."
                ),
            );
        }
        if lost.len() > LINES_MAX {
            let more = lost.len() - LINES_MAX;
            self.note(Error, format!("{more} more packs of the store are missing."));
        }
    }

    /// Adds the blocks that could not be fetched to the journal.
    fn note_failures(&self) {
        let failures = self.healing.0.state.lock().take_unreported();
        let line = |block: &OutstandingBlock| {
            let needed = match block.concerns.as_slice() {
                [] => String::new(),
                concerns => format!(" It is needed by {}.", concerns.join(", ")),
            };
            let error = block.error.as_deref().unwrap_or_default();
            format!("Block {} cannot be fetched again yet: {error}.{needed}", block.cid)
        };
        for block in failures.iter().take(LINES_MAX) {
            self.note(Error, line(block));
        }
        if failures.len() > LINES_MAX {
            let more = failures.len() - LINES_MAX;
            self.note(Error, format!("{more} more blocks cannot be fetched again yet."));
        }
    }

    fn note(&self, level: api::NoticeLevel, message: String) {
        self.parts.journal.note(level, message);
    }

    /// Shows the alarm in the status, or removes it.
    fn show(&self) {
        let problem = self.healing.0.state.lock().problem();
        self.parts.problems.set("healing", problem);
    }

    async fn save(&self) {
        let changed = self.healing.0.state.lock().take_changed();
        if let Some(bytes) = changed {
            let path = self.parts.path.clone();
            // The panic hook has logged a panic.
            let _ = tokio::task::spawn_blocking(move || healing_state::write(&path, &bytes)).await;
        }
    }
}

/// Returns the absent blocks in the report of a verification. Blocks that cannot be read,
/// or that are not what they should be, are present: other bytes cannot be fetched under
/// their names. Blocks the thread.
fn faults_of(store: &dyn BlockStore, report: &VerifyReport, found_by: &'static str) -> Vec<Fault> {
    let problems = verify_problems(store, report).into_iter();
    let absent = problems.filter(|problem| matches!(store.has(&problem.cid), Ok(false)));
    absent
        .map(|problem| Fault {
            cid: problem.cid,
            reason: problem.reason,
            found_by,
            concerns: problem.concerns.into_iter().collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
