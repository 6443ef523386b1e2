//! Starts and ends the task of each source according to the settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::SourcePeer;
use net::{NetEvent, PeerId};
use parking_lot::Mutex;
use protocols::{Clock, blocking};
use pull::{ManifestPullError, ManifestPuller};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::effects::Effects;
use crate::offer_file::OfferFile;
use crate::settings::{BackupSettings, CommonSettings};
use crate::slots::Slots;
use crate::source::{Request, SourceTask, TaskContext};
use crate::state_file::StateFile;
use crate::status::{SourceState, SourceStatus};
use crate::status_registry::StatusRegistry;

/// Maximum number of requests that wait for the task of a source.
const REQUESTS_MAX: usize = 16;

pub(crate) type Links = Arc<Mutex<BTreeMap<String, Link>>>;

/// The channels to the task of a source.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) hint: Arc<Notify>,
    pub(crate) requests: mpsc::Sender<Request>,
}

/// Starts and ends the tasks of the sources.
pub(crate) struct Manager {
    pub(crate) effects: Arc<dyn Effects>,
    pub(crate) slots: Slots,
    pub(crate) common: watch::Sender<CommonSettings>,
    pub(crate) registry: StatusRegistry,
    pub(crate) acceptances: Arc<OfferFile>,
    pub(crate) set_backs: Arc<OfferFile>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) links: Links,
    pub(crate) settings: watch::Receiver<BackupSettings>,
    pub(crate) running: BTreeMap<String, RunningTask>,
    /// The tasks that are stopping, with the peer ids of their sources. The next task for the same
    /// peer waits for their end.
    pub(crate) ending: Vec<(PeerId, CancellationToken)>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) stop: CancellationToken,
    pub(crate) failed: watch::Sender<Option<String>>,
}

/// A running task of a source.
pub(crate) struct RunningTask {
    source: SourcePeer,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Manager {
    pub(crate) async fn run(
        mut self,
        mut events: broadcast::Receiver<NetEvent>,
        state: StateFile,
        puller: ManifestPuller,
    ) {
        let (written, stop_writing) = {
            let stop = CancellationToken::new();
            (tokio::spawn(state.run(stop.clone())), stop)
        };
        self.remove_stale_roots(puller).await;
        self.apply();
        let stop = self.stop.clone();
        let mut has_settings = true;
        let mut has_events = true;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = self.settings.changed(), if has_settings => match changed {
                    Ok(()) => self.apply(),
                    Err(_) => has_settings = false,
                },
                event = events.recv(), if has_events => match event {
                    Ok(NetEvent::Connected { peer, .. }) => self.connected(Some(peer)),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.connected(None),
                    Err(RecvError::Closed) => has_events = false,
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended
                        && error.is_panic()
                    {
                        let message = "the task of a source panicked".to_owned();
                        tracing::error!("{message}; the backup daemon ends");
                        self.failed.send_replace(Some(message));
                        self.stop.cancel();
                    }
                }
            }
        }
        self.links.lock().clear();
        self.running.values().for_each(|running| running.stop.cancel());
        while self.tasks.join_next().await.is_some() {}
        stop_writing.cancel();
        // The task logs its errors.
        let _ = written.await;
    }

    /// Removes the partial roots of pulls that will not continue.
    async fn remove_stale_roots(&self, puller: ManifestPuller) {
        let sources = self.settings.borrow().sources.iter().map(|source| source.peer_id).collect();
        let removed = blocking(move || {
            let sources: Vec<PeerId> = sources;
            puller.remove_stale_roots(&sources)?;
            Ok::<_, ManifestPullError>(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "cannot remove the partial roots of finished pulls");
        }
    }

    /// Applies the settings: starts and ends tasks, and updates the shared settings.
    pub(crate) fn apply(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        self.slots.set(settings.max_concurrent_downloads.max(1));
        let common = settings.common();
        self.common.send_if_modified(|old| std::mem::replace(old, common) != common);
        let is_wanted =
            |running: &RunningTask| settings.enabled && settings.sources.contains(&running.source);
        self.ending.retain(|(_, ended)| !ended.is_cancelled());
        let (links, ending) = (&self.links, &mut self.ending);
        self.running.retain(|name, running| {
            if is_wanted(running) {
                return true;
            }
            running.stop.cancel();
            links.lock().remove(name);
            ending.push((running.source.peer_id, running.ended.clone()));
            false
        });
        let names: Vec<&str> = settings.sources.iter().map(|source| source.name.as_str()).collect();
        for status in self.registry.sources() {
            if !names.contains(&status.name.as_str()) {
                self.registry.remove(&status.name);
            }
        }
        for source in &settings.sources {
            if !settings.enabled {
                self.registry.set(disabled(source), None);
            } else if !self.running.contains_key(source.name.as_str()) {
                self.start(source);
            }
        }
    }

    /// Starts the task of a source. It waits for the end of earlier tasks for the same peer.
    fn start(&mut self, source: &SourcePeer) {
        let before = self.ending.iter().filter(|(peer, _)| *peer == source.peer_id);
        let before: Vec<_> = before.map(|(_, ended)| ended.clone()).collect();
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (hint, (requests, receiver)) = (Arc::new(Notify::new()), mpsc::channel(REQUESTS_MAX));
        let context = TaskContext {
            effects: self.effects.clone(),
            slots: self.slots.clone(),
            registry: self.registry.clone(),
            acceptances: self.acceptances.clone(),
            set_backs: self.set_backs.clone(),
            clock: self.clock.clone(),
            common: self.common.subscribe(),
            hint: hint.clone(),
            requests: receiver,
            stop: stop.clone(),
        };
        let name = source.name.to_string();
        self.links.lock().insert(name.clone(), Link { peer: source.peer_id, hint, requests });
        let running = RunningTask { source: source.clone(), stop, ended: ended.clone() };
        self.running.insert(name, running);
        let source = source.clone();
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            for before in before {
                before.cancelled().await;
            }
            SourceTask::new(source, context).run().await;
        });
    }

    /// Notifies the task of `peer` of a new connection; all tasks if the peer is not known.
    fn connected(&self, peer: Option<PeerId>) {
        for link in self.links.lock().values() {
            if peer.is_none_or(|peer| peer == link.peer) {
                // If the queue is full, the task learns about a connection from an earlier request.
                let _ = link.requests.try_send(Request::Connected);
            }
        }
    }
}

/// Returns the status of a source while the backup server is disabled.
fn disabled(source: &SourcePeer) -> SourceStatus {
    SourceStatus {
        name: source.name.to_string(),
        peer_id: source.peer_id,
        manifest_server_url: source.manifest_server_url.to_string(),
        state: SourceState::Disabled,
        detail: None,
        last_poll: None,
        poll_failures: 0,
        long_poll: false,
        errors: Vec::new(),
        can_be_accepted: false,
        pulls: Vec::new(),
        folders: Vec::new(),
    }
}
