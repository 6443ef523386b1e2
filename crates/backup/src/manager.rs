//! Starts and ends the task of each source, as the settings say.

use std::collections::HashMap;
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

use crate::accepted::AcceptedFile;
use crate::board::Board;
use crate::settings::{BackupSettings, Common};
use crate::slots::Slots;
use crate::source::{Request, SourceTask, Tools};
use crate::state_file::StateFile;
use crate::status::{SourceState, SourceStatus};
use crate::world::World;

/// Requests that wait for a source's task.
const REQUESTS_MAX: usize = 16;

pub(crate) type Links = Arc<Mutex<HashMap<String, Link>>>;

/// The way to a source's task.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) hint: Arc<Notify>,
    pub(crate) requests: mpsc::Sender<Request>,
}

/// Starts and ends the sources' tasks.
pub(crate) struct Manager {
    pub(crate) world: Arc<dyn World>,
    pub(crate) slots: Slots,
    pub(crate) common: watch::Sender<Common>,
    pub(crate) board: Board,
    pub(crate) accepted: Arc<AcceptedFile>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) links: Links,
    pub(crate) settings: watch::Receiver<BackupSettings>,
    pub(crate) running: HashMap<String, Running>,
    /// The ends of the tasks that were told to stop, with whose they are: the
    /// next task of that peer waits for them.
    pub(crate) ending: Vec<(PeerId, CancellationToken)>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) stop: CancellationToken,
    pub(crate) failed: watch::Sender<Option<String>>,
}

/// A source's task.
pub(crate) struct Running {
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
        self.tidy(puller).await;
        self.apply();
        let stop = self.stop.clone();
        let mut has_settings = true;
        let mut has_events = true;
        loop {
            tokio::select! {
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
                        let what = "the task of a source panicked".to_owned();
                        tracing::error!(what, "the backup daemon ends");
                        self.failed.send_replace(Some(what));
                        self.stop.cancel();
                    }
                }
            }
        }
        self.links.lock().clear();
        self.running.values().for_each(|running| running.stop.cancel());
        while self.tasks.join_next().await.is_some() {}
        stop_writing.cancel();
        // It logs what goes wrong.
        let _ = written.await;
    }

    /// Removes what pulls have left behind with which nobody goes on.
    async fn tidy(&self, puller: ManifestPuller) {
        let sources = self.settings.borrow().sources.iter().map(|source| source.peer_id).collect();
        let tidied = blocking(move || {
            let sources: Vec<PeerId> = sources;
            puller.remove_stale_roots(&sources)?;
            Ok::<_, ManifestPullError>(())
        });
        if let Err(error) = tidied.await {
            tracing::warn!(%error, "the roots of pulls that are done could not be removed");
        }
    }

    /// Makes everything as the settings say.
    pub(crate) fn apply(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        self.slots.set(settings.max_concurrent_downloads.max(1));
        let common = settings.common();
        self.common.send_if_modified(|old| std::mem::replace(old, common) != common);
        let is_wanted =
            |running: &Running| settings.enabled && settings.sources.contains(&running.source);
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
        for status in self.board.sources() {
            if !names.contains(&status.name.as_str()) {
                self.board.remove(&status.name);
            }
        }
        for source in &settings.sources {
            if !settings.enabled {
                self.board.set(disabled(source), None);
            } else if !self.running.contains_key(source.name.as_str()) {
                self.start(source);
            }
        }
    }

    /// Starts the task of a source, once those that pulled from the same peer
    /// have ended.
    fn start(&mut self, source: &SourcePeer) {
        let before = self.ending.iter().filter(|(peer, _)| *peer == source.peer_id);
        let before: Vec<_> = before.map(|(_, ended)| ended.clone()).collect();
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (hint, (requests, receiver)) = (Arc::new(Notify::new()), mpsc::channel(REQUESTS_MAX));
        let tools = Tools {
            world: self.world.clone(),
            slots: self.slots.clone(),
            board: self.board.clone(),
            accepted: self.accepted.clone(),
            clock: self.clock.clone(),
            common: self.common.subscribe(),
            hint: hint.clone(),
            requests: receiver,
            stop: stop.clone(),
        };
        let name = source.name.to_string();
        self.links.lock().insert(name.clone(), Link { peer: source.peer_id, hint, requests });
        let running = Running { source: source.clone(), stop, ended: ended.clone() };
        self.running.insert(name, running);
        let source = source.clone();
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            for before in before {
                before.cancelled().await;
            }
            SourceTask::new(source, tools).run().await;
        });
    }

    /// Tells the task of `peer`, or all where it is not known whose, that there
    /// is a new connection.
    fn connected(&self, peer: Option<PeerId>) {
        for link in self.links.lock().values() {
            if peer.is_none_or(|peer| peer == link.peer) {
                // A task whose queue is full has heard of one already.
                let _ = link.requests.try_send(Request::Connected);
            }
        }
    }
}

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
