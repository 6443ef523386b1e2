//! [`Handle`]: the interface to a running node.
//!
//! A handle sends commands to the event loop and waits for its reply. It works
//! from any thread and any async runtime.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::PeerRecord;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::runtime;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::addresses::without_peer;
use crate::error::NetError;
use crate::event_loop::{Command, NetEvent, PeerInfo};
use crate::limits::OPEN_TIMEOUT;
use crate::metrics::MetricsSnapshot;
use crate::streams::{Meter, NetStream, OpenRequest};

/// Interface to a running node. Clones are cheap.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

/// State that all handles share.
pub(crate) struct Shared {
    pub(crate) keypair: Keypair,
    pub(crate) peer: PeerId,
    pub(crate) announce: Vec<Multiaddr>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<NetEvent>,
    pub(crate) listening: Arc<watch::Sender<Vec<Multiaddr>>>,
    pub(crate) meter: Meter,
    pub(crate) runtime: runtime::Handle,
}

impl Handle {
    /// Returns the peer id of this node.
    pub fn peer_id(&self) -> PeerId {
        self.0.peer
    }

    /// Returns the addresses that the node currently listens on, with the actual
    /// ports.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.0.listening.borrow().clone()
    }

    /// Returns [`NetConfig::announce`](crate::NetConfig::announce).
    pub fn announce_addrs(&self) -> &[Multiaddr] {
        &self.0.announce
    }

    /// Returns the addresses of the node, signed with its key: a libp2p signed
    /// envelope (RFC 0002 of libp2p) with a peer record, in protobuf encoding.
    pub fn signed_peer_record(&self) -> Vec<u8> {
        let mut addresses = self.0.announce.clone();
        addresses.extend(self.listen_addrs());
        PeerRecord::new_interop(&self.0.keypair, addresses)
            .expect("a key of the node's type can sign")
            .to_signed_envelope()
            .into_protobuf_encoding()
    }

    /// Subscribes to the events from now on. A receiver that falls behind by more
    /// than 256 events loses the oldest ones and gets an error with their number.
    pub fn events(&self) -> broadcast::Receiver<NetEvent> {
        self.0.events.subscribe()
    }

    /// Returns the current counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.0.meter.metrics.snapshot()
    }

    /// Sets the maximum number of bytes per second that all streams send; 0 means
    /// no limit.
    pub fn set_upload_limit(&self, rate: u64) {
        self.0.meter.upload.set(rate);
    }

    /// Sets the maximum number of bytes per second that all streams receive; 0
    /// means no limit.
    pub fn set_download_limit(&self, rate: u64) {
        self.0.meter.download.set(rate);
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), NetError> {
        self.0.commands.send(command).await.map_err(|_| NetError::Stopped)
    }

    /// Connects to `peer` at `addresses` or at an address that is known already.
    /// Returns immediately if the peer is connected.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::WrongPeer`] if an address belongs to another peer,
    /// [`NetError::NoAddress`] if no address is known, [`NetError::Unreachable`] if
    /// none works, [`NetError::Timeout`] after `timeout`, [`NetError::SelfDial`] for
    /// the id of this node, [`NetError::TooMany`] if too many callers wait for
    /// connections, and [`NetError::Stopped`].
    pub async fn connect(
        &self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
        timeout: Duration,
    ) -> Result<(), NetError> {
        let addresses = addresses
            .into_iter()
            .map(|address| without_peer(address, peer))
            .collect::<Result<Vec<_>, _>>()?;
        if peer == self.0.peer {
            let address = addresses.into_iter().next().unwrap_or_else(Multiaddr::empty);
            return Err(NetError::SelfDial(address));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::Connect { peer, addresses, reply }).await?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer.map_err(|_| NetError::Stopped)?,
            Err(_) => Err(NetError::Timeout { peer, after: timeout }),
        }
    }

    /// Closes all connections with `peer`. Does not wait until they are closed.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::Stopped`] if the node has stopped.
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), NetError> {
        self.send(Command::Disconnect { peer }).await
    }

    /// Returns the connected peers, the longest connected first.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::Stopped`] if the node has stopped.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Peers { reply }).await?;
        answer.await.map_err(|_| NetError::Stopped)
    }

    /// Returns the addresses of `peer` that this node knows, without a search.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::Stopped`] if the node has stopped.
    pub async fn known_addresses(&self, peer: PeerId) -> Result<Vec<Multiaddr>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::KnownAddresses { peer, reply }).await?;
        answer.await.map_err(|_| NetError::Stopped)
    }

    /// Searches the DHT for the addresses of `peer` and adds the addresses that
    /// this node knows.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::NoAddress`] if there is none, [`NetError::Timeout`] after
    /// `timeout`, [`NetError::TooMany`] if 64 searches are running, and
    /// [`NetError::Stopped`].
    pub async fn find_peer(
        &self,
        peer: PeerId,
        timeout: Duration,
    ) -> Result<Vec<Multiaddr>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::FindPeer { peer, reply }).await?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(found)) if found.is_empty() => Err(NetError::NoAddress(peer)),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) => Err(NetError::TooMany("searches for a peer")),
            Err(_) => Err(NetError::Timeout { peer, after: timeout }),
        }
    }

    /// Opens a stream to `peer`, over TCP if there is a choice. Connects first if
    /// necessary. The time limit is 15 s.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::UnsupportedProtocol`] if the peer does not support
    /// `protocol`, [`NetError::Stream`] if the connection broke,
    /// [`NetError::Timeout`] after the time limit, [`NetError::TooMany`] if too many
    /// streams are requested, and the errors of [`Handle::connect`] if the peer was
    /// not connected.
    pub async fn open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<NetStream, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open { peer, open: OpenRequest { protocol, reply } }).await?;
        match tokio::time::timeout(OPEN_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                Err(NetError::Stream { peer, source: io::ErrorKind::ConnectionReset.into() })
            }
            Err(_) => Err(NetError::Timeout { peer, after: OPEN_TIMEOUT }),
        }
    }

    /// Runs a task on the network thread, on which the bytes of streams arrive.
    /// Reading a stream on another thread costs a wake-up across threads for each
    /// piece. The task must not block, and must not hash or compress much.
    ///
    /// The task ends when the returned handle is dropped or the node stops.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.0.runtime.spawn(task))
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }
}
