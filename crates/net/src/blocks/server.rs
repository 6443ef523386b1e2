//! Takes inbound streams of the block protocol and serves them.
//!
//! A peer that is not on the list is told so before a byte of its own is
//! read, whatever it would have asked: it cannot learn which blocks exist.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::BlockProvider;
use super::frame::StreamRefusal;
use super::serving::{Source, refuse, serve};
use crate::access::{Access, Purposes};
use crate::event_loop::NetEvent;
use crate::metrics::Metrics;
use crate::streams::NetStream;

/// Streams that are served at once. Each holds at most three batches.
const MAX_STREAMS: usize = 24;

/// Streams of one peer that are served at once, so that one leaves room for
/// others.
const MAX_STREAMS_PER_PEER: usize = 8;

/// Streams that are being turned away at once; any more are just reset.
const MAX_REFUSING: usize = 64;

/// Batches that are read at once, for all streams together.
const MAX_READERS: usize = 4;

/// A refused peer is told of once in this time.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// Refused peers that are remembered for that.
const MAX_REFUSED: usize = 1024;

/// Serves all streams of the node.
pub(crate) struct Server {
    source: Source,
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
            source: Source { provider, readers, metrics },
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
                stream = inbound.recv() => match stream {
                    Some(stream) => self.take(stream),
                    None => return,
                },
                Some(ended) = self.served.join_next() => self.ended(ended),
                Some(_) = self.refusing.join_next() => {}
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
            // The task catches its own panics, so that it can name its peer.
            Err(error) => tracing::error!(%error, "serving a stream failed"),
        }
    }

    fn take(&mut self, stream: NetStream) {
        let peer = stream.peer();
        if !self.access.allows(&peer, Purposes::BLOCKS) {
            self.source.metrics.refused.add(1);
            self.tell_refused(peer);
            self.refuse(stream, StreamRefusal::NotAllowed);
            return;
        }
        let of_peer = self.per_peer.get(&peer).copied().unwrap_or(0);
        if self.served.len() >= MAX_STREAMS || of_peer >= MAX_STREAMS_PER_PEER {
            self.source.metrics.overloaded.add(1);
            self.refuse(stream, StreamRefusal::Overloaded);
            return;
        }
        *self.per_peer.entry(peer).or_default() += 1;
        let (source, access) = (self.source.clone(), self.access.clone());
        self.served.spawn(async move {
            use futures::FutureExt as _;

            let serving = std::panic::AssertUnwindSafe(serve(stream, peer, source)).catch_unwind();
            tokio::select! {
                result = serving => match result {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a block stream ended"),
                    Err(_) => tracing::error!(%peer, "serving a stream panicked"),
                },
                // Dropping the stream resets it.
                () = access.revoked(&peer, Purposes::BLOCKS) => {
                    tracing::info!(%peer, "no longer allowed to fetch blocks; stream reset");
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

    fn tell_refused(&mut self, peer: PeerId) {
        let now = Instant::now();
        if self.refused.len() >= MAX_REFUSED {
            self.refused.retain(|_, told| now.duration_since(*told) < REFUSED_EVERY);
        }
        let told = self.refused.get(&peer);
        let is_due = told.is_none_or(|told| now.duration_since(*told) >= REFUSED_EVERY);
        // With the table full of peers that are not due, one more stays quiet.
        if !is_due || (told.is_none() && self.refused.len() >= MAX_REFUSED) {
            return;
        }
        self.refused.insert(peer, now);
        tracing::info!(%peer, "refused: it asked for blocks and is not allowed to");
        // Nobody may listen.
        let _ = self.events.send(NetEvent::Refused { peer });
    }
}
