//! The handle through which everybody uses the node.

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
use crate::blocks::BlockClient;
use crate::error::NetError;
use crate::event_loop::{Command, NetEvent, PeerInfo};
use crate::limits::OPEN_TIMEOUT;
use crate::metrics::MetricsSnapshot;
use crate::streams::{Meter, NetStream, Open};

/// A cheap, cloneable way to use the node from anywhere.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

/// What all handles share.
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
    /// Who this node is.
    pub fn peer_id(&self) -> PeerId {
        self.0.peer
    }

    /// The addresses that the node listens on now, ports resolved.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.0.listening.borrow().clone()
    }

    /// The addresses that the node was told to announce besides.
    pub fn announce_addrs(&self) -> &[Multiaddr] {
        &self.0.announce
    }

    /// The node's addresses, signed by its key: a libp2p signed envelope with
    /// a peer record, in its protobuf encoding.
    pub fn signed_peer_record(&self) -> Vec<u8> {
        let mut addresses = self.0.announce.clone();
        addresses.extend(self.listen_addrs());
        PeerRecord::new_interop(&self.0.keypair, addresses)
            .expect("a key of the node's type can sign")
            .to_signed_envelope()
            .into_protobuf_encoding()
    }

    /// What happens from now on. A listener that falls far behind misses
    /// the oldest events, and is told how many.
    pub fn events(&self) -> broadcast::Receiver<NetEvent> {
        self.0.events.subscribe()
    }

    /// The counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.0.meter.metrics.snapshot()
    }

    /// Changes how many bytes per second may be sent; 0 is no limit.
    pub fn set_upload_limit(&self, rate: u64) {
        self.0.meter.upload.set(rate);
    }

    /// Changes how many bytes per second may be received; 0 is no limit.
    pub fn set_download_limit(&self, rate: u64) {
        self.0.meter.download.set(rate);
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), NetError> {
        self.0.commands.send(command).await.map_err(|_| NetError::Stopped)
    }

    /// Connects to `peer` at `addresses` or at those that are known already.
    ///
    /// # Errors
    ///
    /// [`NetError::WrongPeer`] where another peer is there, and others.
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

    /// Closes all connections with `peer`.
    ///
    /// # Errors
    ///
    /// [`NetError::Stopped`].
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), NetError> {
        self.send(Command::Disconnect { peer }).await
    }

    /// The peers that are connected, oldest first.
    ///
    /// # Errors
    ///
    /// [`NetError::Stopped`].
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Peers { reply }).await?;
        answer.await.map_err(|_| NetError::Stopped)
    }

    /// The addresses of `peer` that are known here, without asking anybody.
    ///
    /// # Errors
    ///
    /// [`NetError::Stopped`].
    pub async fn known_addresses(&self, peer: PeerId) -> Result<Vec<Multiaddr>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Known { peer, reply }).await?;
        answer.await.map_err(|_| NetError::Stopped)
    }

    /// Asks the DHT for the addresses of `peer`; adds what is known here.
    ///
    /// # Errors
    ///
    /// [`NetError::NoAddress`] where nobody knows one.
    pub async fn find_peer(
        &self,
        peer: PeerId,
        timeout: Duration,
    ) -> Result<Vec<Multiaddr>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Find { peer, reply }).await?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(found)) if found.is_empty() => Err(NetError::NoAddress(peer)),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) => Err(NetError::TooMany("searches for peers")),
            Err(_) => Err(NetError::Timeout { peer, after: timeout }),
        }
    }

    /// Opens a stream to `peer`, over TCP where there is the choice, and
    /// connects first where that is needed and an address is known.
    ///
    /// # Errors
    ///
    /// [`NetError::UnsupportedProtocol`] where the peer does not speak
    /// `protocol`, and others.
    pub async fn open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<NetStream, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open { peer, open: Open { protocol, reply } }).await?;
        match tokio::time::timeout(OPEN_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                Err(NetError::Stream { peer, source: io::ErrorKind::ConnectionReset.into() })
            }
            Err(_) => Err(NetError::Timeout { peer, after: OPEN_TIMEOUT }),
        }
    }

    /// The way to fetch blocks from other nodes.
    pub fn blocks(&self) -> BlockClient {
        BlockClient::new(self.clone())
    }

    /// Runs a task on the network's own thread, where the bytes of its
    /// streams are: reading them from elsewhere costs a wake-up across threads
    /// for each piece. The task must never block, nor hash or pack much.
    /// Dropping what is returned ends it, and so does the end of the node.
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
