//! Opens the listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;

use crate::config::NetConfig;
use crate::error::NetError;
use crate::event_loop::EventLoop;

/// Time limit for the listening sockets.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Transport of a listening socket.
#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Quic,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Quic => "UDP (QUIC)",
        }
    }

    fn multiaddr(self, address: SocketAddr) -> Multiaddr {
        let base = Multiaddr::from(address.ip());
        match self {
            Self::Tcp => base.with(Protocol::Tcp(address.port())),
            Self::Quic => base.with(Protocol::Udp(address.port())).with(Protocol::QuicV1),
        }
    }

    /// Checks that no other socket uses the address. libp2p listens with
    /// SO_REUSEPORT and would silently share the port with another node of the same
    /// user; each would then get some of the connections.
    fn probe(self, address: SocketAddr) -> io::Result<()> {
        match self {
            _ if address.port() == 0 => Ok(()),
            // A probe on `[::]` would also take IPv4 and collide with our own
            // socket.
            _ if address.is_ipv6() && address.ip().is_unspecified() => {
                let loopback = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port()));
                match self.bind(loopback) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
                    _ => Ok(()),
                }
            }
            _ => self.bind(address),
        }
    }

    fn bind(self, address: SocketAddr) -> io::Result<()> {
        match self {
            Self::Tcp => TcpListener::bind(address).map(drop),
            Self::Quic => UdpSocket::bind(address).map(drop),
        }
    }
}

/// Extracts the error of the system from the transport errors around it.
fn system_error(error: io::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if let Some(code) = io.and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        // `source` of an error made by `io::Error::other` skips its content, so
        // the content is taken from `get_ref`.
        cause = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    error
}

/// Reports whether the computer does not support the address family.
fn is_missing_family(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}

/// Opens all listening sockets. Skips the unspecified address of an address family
/// that the computer does not support.
///
/// # Errors
///
/// Returns [`NetError::Listen`] for the first socket that cannot be opened,
/// [`NetError::NoListenAddress`] if there is none, and [`NetError::ListenTimeout`].
pub(crate) async fn listen(node: &mut EventLoop, config: &NetConfig) -> Result<(), NetError> {
    let tcp = config.tcp.iter().map(|address| (Kind::Tcp, *address));
    let quic = config.quic.iter().map(|address| (Kind::Quic, *address));
    let mut waiting: Vec<(ListenerId, Kind, SocketAddr)> = Vec::new();
    let mut opened = 0;
    for (kind, address) in tcp.chain(quic) {
        let failed = |source| NetError::Listen { transport: kind.name(), address, source };
        let opening = kind.probe(address).and_then(|()| {
            node.swarm.listen_on(kind.multiaddr(address)).map_err(|error| match error {
                libp2p::TransportError::Other(error) => system_error(error),
                other => io::Error::other(other),
            })
        });
        match opening {
            Ok(id) => {
                opened += 1;
                // For the unspecified address, libp2p reports the addresses of the
                // interfaces, which come and go. There is none to wait for.
                if !address.ip().is_unspecified() {
                    waiting.push((id, kind, address));
                }
            }
            Err(error) if address.ip().is_unspecified() && is_missing_family(&error) => {
                tracing::warn!(
                    %address, %error,
                    "skipped a listening address: this computer does not support it"
                );
            }
            Err(error) => return Err(failed(error)),
        }
    }
    if opened == 0 {
        return Err(NetError::NoListenAddress);
    }
    for address in &config.announce {
        node.swarm.add_external_address(address.clone());
    }
    let ready = async {
        while !waiting.is_empty() || node.listening.borrow().is_empty() {
            let event = node.swarm.select_next_some().await;
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    waiting.retain(|(id, ..)| id != listener_id);
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    let lost = waiting.iter().find(|(id, ..)| id == listener_id);
                    if let Some((_, kind, address)) = lost {
                        let source = match reason {
                            Ok(()) => io::ErrorKind::Other.into(),
                            Err(error) => io::Error::new(error.kind(), error.to_string()),
                        };
                        let transport = kind.name();
                        return Err(NetError::Listen { transport, address: *address, source });
                    }
                }
                _ => {}
            }
            node.on_event(event);
        }
        Ok(())
    };
    tokio::time::timeout(LISTEN_TIMEOUT, ready)
        .await
        .unwrap_or(Err(NetError::ListenTimeout(LISTEN_TIMEOUT)))
}
