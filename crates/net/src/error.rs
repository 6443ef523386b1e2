//! Errors of the crate.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId, StreamProtocol};
use types::Retry;

/// Errors in loading or creating the identity key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read, or the file or its directory could not be
    /// created.
    #[error("cannot {action} the identity key {path}")]
    Io {
        /// Action that failed, as a verb.
        action: &'static str,
        /// Path of the key file.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The file exists but does not contain a secp256k1 key.
    #[error(
        "{path} is not a secp256k1 libp2p key ({reason}); the file was not changed: restore it \
         from a copy, or move it away to get a new identity"
    )]
    Damaged {
        /// Path of the key file.
        path: PathBuf,
        /// Problem of the file.
        reason: &'static str,
    },
}

/// Error: an address belongs to another peer than the expected one.
#[derive(Debug, thiserror::Error)]
#[error("{address} is peer {found}, not {expected}")]
pub struct WrongPeer {
    /// Expected peer.
    pub expected: PeerId,
    /// Peer that answered, or that the address names.
    pub found: PeerId,
    /// Address that was dialled.
    pub address: Multiaddr,
}

impl WrongPeer {
    pub(crate) fn error(expected: PeerId, found: PeerId, address: Multiaddr) -> NetError {
        NetError::WrongPeer(Box::new(Self { expected, found, address }))
    }
}

/// Errors of the node and its connections.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A listening socket could not be opened.
    #[error("cannot listen on {transport} {address}: {source}")]
    Listen {
        /// `TCP` or `UDP (QUIC)`.
        transport: &'static str,
        /// Address and port.
        address: SocketAddr,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The configuration has no listening address, or none of its addresses exists
    /// on this computer.
    #[error("no address to listen on")]
    NoListenAddress,
    /// The listening sockets were not ready in time.
    #[error("the listening sockets were not ready within {0:?}")]
    ListenTimeout(Duration),
    /// The network thread or one of the transports could not be set up.
    #[error("cannot set up the {what}")]
    Setup {
        /// Name of the part.
        what: &'static str,
        /// Error of that part.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node has stopped, or is stopping.
    #[error("the network has stopped")]
    Stopped,
    /// The network thread panicked; contains the message.
    #[error("the network thread panicked: {0}")]
    Panicked(String),
    /// The network thread did not stop in time.
    #[error("the network did not stop within {0:?}")]
    StopTimeout(Duration),
    /// No address of the peer is known.
    #[error("no address of peer {0} is known")]
    NoAddress(PeerId),
    /// Another peer answered at the address.
    #[error(transparent)]
    WrongPeer(Box<WrongPeer>),
    /// The peer is this node itself.
    #[error("{0} is this node itself")]
    SelfDial(Multiaddr),
    /// The node could not connect to any address of the peer.
    #[error("cannot connect to peer {peer}: {reason}")]
    Unreachable {
        /// Peer that was dialled.
        peer: PeerId,
        /// Error at one address, and the number of other addresses that failed. The log contains
        /// all errors, at level debug.
        reason: String,
    },
    /// The time limit of the call was reached.
    #[error("no connection to peer {peer} within {after:?}")]
    Timeout {
        /// Peer that was called.
        peer: PeerId,
        /// Time limit.
        after: Duration,
    },
    /// The peer does not support the protocol.
    #[error("peer {peer} does not support {protocol}")]
    UnsupportedProtocol {
        /// Peer that was called.
        peer: PeerId,
        /// Requested protocol.
        protocol: StreamProtocol,
    },
    /// A limit of this node is reached; contains the name of the things that are
    /// limited.
    #[error("too many {0} at the same time")]
    TooMany(&'static str),
    /// The connection broke while the stream was opened.
    #[error("cannot open a stream to peer {peer}")]
    Stream {
        /// Peer that was called.
        peer: PeerId,
        /// Error of the connection.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// Reports whether the same call may succeed later.
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
