//! [`Server`]: accepts the inbound streams of the block protocol, up to its limits.
//!
//! A peer without the purpose [`Purposes::BLOCKS`] is refused before a byte of its
//! stream is read, so it cannot learn which blocks exist. `serving.rs` serves the
//! others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::BlockProvider;
use super::frame::StreamRefusal;
use super::serving::{ServeContext, refuse, serve};
use crate::access::{Access, Purposes};
use crate::event_loop::NetEvent;
use crate::metrics::Metrics;
use crate::streams::NetStream;

/// Maximum number of streams that are served at the same time. Each uses memory for
/// at most three batches.
const MAX_STREAMS: usize = 24;

/// Maximum number of streams of one peer that are served at the same time. Leaves room
/// for other peers.
const MAX_STREAMS_PER_PEER: usize = 8;

/// Maximum number of refusals that are sent at the same time. Further streams are
/// reset without a reason.
const MAX_REFUSING: usize = 64;

/// Maximum number of batches that are read at the same time for all streams.
const MAX_READERS: usize = 4;

/// Minimum time between two reports about the same refused peer.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// Maximum number of refused peers that are remembered for that.
const MAX_REFUSED: usize = 1024;

/// Serves all streams of the node.
pub(crate) struct Server {
    context: ServeContext,
    access: Access,
    events: broadcast::Sender<NetEvent>,
    refused: HashMap<PeerId, Instant>,
    served: JoinSet<PeerId>,
    per_peer: HashMap<PeerId, usize>,
    refusing: JoinSet<()>,
}

impl Server {
    pub(crate) fn new(
        provider: Arc<dyn BlockProvider>,
        access: Access,
        metrics: Arc<Metrics>,
        events: broadcast::Sender<NetEvent>,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(MAX_READERS));
        Self {
            context: ServeContext { provider, readers, metrics },
            access,
            events,
            refused: HashMap::new(),
            served: JoinSet::new(),
            per_peer: HashMap::new(),
            refusing: JoinSet::new(),
        }
    }

    /// Runs until the node stops.
    pub(crate) async fn run(&mut self, mut inbound: mpsc::Receiver<NetStream>) {
        loop {
            tokio::select! {
                biased;
                // First, so that a flood of streams does not keep the places of ended ones
                // occupied.
                Some(ended) = self.served.join_next() => self.ended(ended),
                Some(_) = self.refusing.join_next() => {}
                stream = inbound.recv() => match stream {
                    Some(stream) => self.take(stream),
                    None => return,
                },
            }
        }
    }

    fn ended(&mut self, ended: Result<PeerId, tokio::task::JoinError>) {
        match ended {
            Ok(peer) => {
                if let Some(count) = self.per_peer.get_mut(&peer) {
                    *count -= 1;
                    if *count == 0 {
                        self.per_peer.remove(&peer);
                    }
                }
            }
            // The task catches panics itself, so that it can log its peer.
            Err(error) => tracing::error!(%error, "serving a block stream failed"),
        }
    }

    fn take(&mut self, stream: NetStream) {
        let peer = stream.peer();
        if !self.access.allows(&peer, Purposes::BLOCKS) {
            self.context.metrics.refused.add(1);
            self.report_refused(peer);
            self.refuse(stream, StreamRefusal::NotAllowed);
            return;
        }
        let of_peer = self.per_peer.get(&peer).copied().unwrap_or(0);
        if self.served.len() >= MAX_STREAMS || of_peer >= MAX_STREAMS_PER_PEER {
            self.context.metrics.overloaded.add(1);
            self.refuse(stream, StreamRefusal::Overloaded);
            return;
        }
        *self.per_peer.entry(peer).or_default() += 1;
        let (context, access) = (self.context.clone(), self.access.clone());
        self.served.spawn(async move {
            use futures::FutureExt as _;

            let serving = std::panic::AssertUnwindSafe(serve(stream, peer, context)).catch_unwind();
            tokio::select! {
                biased;
                result = serving => match result {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a block stream ended"),
                    Err(_) => tracing::error!(%peer, "serving a block stream panicked"),
                },
                // Dropping the stream resets it.
                () = access.revoked(&peer, Purposes::BLOCKS) => {
                    tracing::info!(
                        %peer,
                        "reset a block stream: the peer may not fetch blocks any more"
                    );
                }
            }
            peer
        });
    }

    fn refuse(&mut self, mut stream: NetStream, refusal: StreamRefusal) {
        if self.refusing.len() < MAX_REFUSING {
            self.refusing.spawn(async move { refuse(&mut stream, refusal).await });
        }
    }

    /// Reports a refused peer in the log and as an event, at most once a minute.
    fn report_refused(&mut self, peer: PeerId) {
        let now = Instant::now();
        if self.refused.len() >= MAX_REFUSED {
            self.refused.retain(|_, last| now.duration_since(*last) < REFUSED_EVERY);
        }
        let last = self.refused.get(&peer);
        let is_due = last.is_none_or(|last| now.duration_since(*last) >= REFUSED_EVERY);
        // If the table is full of peers that were reported recently, further peers are
        // not reported.
        if !is_due || (last.is_none() && self.refused.len() >= MAX_REFUSED) {
            return;
        }
        self.refused.insert(peer, now);
        tracing::info!(%peer, "refused a block stream: the peer is not allowed to fetch blocks");
        // Fails if there is no subscriber.
        let _ = self.events.send(NetEvent::Refused { peer });
    }
}
