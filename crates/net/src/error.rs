//! What can go wrong, and whether trying again can help.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId, StreamProtocol};

/// Whether the same call can succeed later without anybody changing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It cannot: the configuration, the peer or this program has to change.
    Permanent,
    /// It can: the network or the peer was busy, slow or away.
    Temporary,
}

/// Why the identity cannot be loaded or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read, or the directory not be written.
    #[error("cannot {action} the identity key {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The key file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is a file, but it does not hold a secp256k1 key.
    #[error(
        "{path} does not hold a secp256k1 libp2p key ({reason}); it was left as it is: restore it \
         from a copy, or move it away to get a new identity"
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Another peer than the one that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{address} is peer {found}, not {expected}")]
pub struct WrongPeer {
    /// Who was asked for.
    pub expected: PeerId,
    /// Who answered, or is named by the address.
    pub found: PeerId,
    /// Where.
    pub address: Multiaddr,
}

impl WrongPeer {
    pub(crate) fn error(expected: PeerId, found: PeerId, address: Multiaddr) -> NetError {
        NetError::WrongPeer(Box::new(Self { expected, found, address }))
    }
}

/// Why the node cannot start, or cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A listening socket could not be opened.
    #[error("cannot listen on {transport} {address}: {source}")]
    Listen {
        /// `TCP` or `UDP (QUIC)`.
        transport: &'static str,
        /// The address and port.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No listening socket was asked for, or none could be opened.
    #[error("there is no address to listen on")]
    NoListenAddress,
    /// The listening sockets were not ready in time.
    #[error("the listening sockets were not ready within {0:?}")]
    ListenTimeout(Duration),
    /// The transports could not be set up.
    #[error("cannot set up the {what}")]
    Setup {
        /// Which part.
        what: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node has stopped, or is stopping.
    #[error("the network has stopped")]
    Stopped,
    /// The network thread panicked.
    #[error("the network thread panicked: {0}")]
    Panicked(String),
    /// The network thread did not stop in time.
    #[error("the network did not stop within {0:?}")]
    StopTimeout(Duration),
    /// Nobody knows an address of the peer.
    #[error("no address of peer {0} is known")]
    NoAddress(PeerId),
    /// Another peer answered at the address.
    #[error(transparent)]
    WrongPeer(Box<WrongPeer>),
    /// The peer is this node itself.
    #[error("{0} is this node itself")]
    SelfDial(Multiaddr),
    /// No address of the peer led to a connection.
    #[error("cannot connect to peer {peer}: {reason}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// What each address said.
        reason: String,
    },
    /// It took too long.
    #[error("no connection to peer {peer} within {after:?}")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The limit that was passed.
        after: Duration,
    },
    /// The peer does not speak the protocol.
    #[error("peer {peer} does not speak {protocol}")]
    UnsupportedProtocol {
        /// The peer.
        peer: PeerId,
        /// The protocol.
        protocol: StreamProtocol,
    },
    /// A limit of this node would be passed.
    #[error("too many {0} at once")]
    TooMany(&'static str),
    /// The connection broke while the stream was opened.
    #[error("the stream to peer {peer} could not be opened")]
    Stream {
        /// The peer.
        peer: PeerId,
        /// What the connection said.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// Whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Listen { .. }
            | Self::NoListenAddress
            | Self::Setup { .. }
            | Self::Stopped
            | Self::Panicked(_)
            | Self::WrongPeer(_)
            | Self::SelfDial(_)
            | Self::UnsupportedProtocol { .. } => Retry::Permanent,
            Self::ListenTimeout(_)
            | Self::StopTimeout(_)
            | Self::NoAddress(_)
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::TooMany(_)
            | Self::Stream { .. } => Retry::Temporary,
        }
    }
}
