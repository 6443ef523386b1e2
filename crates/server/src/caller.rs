//! The user of this computer that a connection over loopback comes from.
//!
//! Every user of a computer can connect to its loopback addresses. Requests that show what
//! is backed up are for the owner: the user that the instance runs as, or root. The kernel
//! says who made the socket at the other end (`proc_pid_net(5)`: `/proc/net/tcp`,
//! `/proc/net/tcp6`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use procfs::net::{TcpNetEntry, TcpState};
use tokio::sync::OnceCell;

/// User id of root.
const ROOT: u32 = 0;

/// The two ends of a connection. Clones share what was found out about the client.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: SocketAddr,
    server: SocketAddr,
    is_owner: Arc<OnceCell<bool>>,
}

impl Caller {
    /// Describes a connection from `client` that was accepted at `server`.
    pub(crate) fn new(client: SocketAddr, server: SocketAddr) -> Self {
        Self { client, server, is_owner: Arc::default() }
    }

    /// Returns the address of the client.
    pub(crate) fn address(&self) -> IpAddr {
        self.client.ip().to_canonical()
    }

    /// Reports whether the client is a socket of this computer that belongs to the user of
    /// this process or to root. False if that cannot be found out.
    pub(crate) async fn is_owner(&self) -> bool {
        *self.is_owner.get_or_init(|| self.look_up()).await
    }

    async fn look_up(&self) -> bool {
        if !self.address().is_loopback() {
            return false;
        }
        let (client, server) = (self.client, self.server);
        let user = tokio::task::spawn_blocking(move || user_of(client, server)).await;
        match user {
            Ok(Ok(Some(user))) => is_trusted(user),
            Ok(Ok(None)) => false,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = types::with_causes(&error),
                    "cannot find out which user a connection comes from; requests without the \
                     token are refused"
                );
                false
            }
            // The panic hook has logged the panic.
            Err(_) => false,
        }
    }
}

fn is_trusted(user: u32) -> bool {
    user == ROOT || user == rustix::process::geteuid().as_raw()
}

/// Returns the user of the socket at the client's end of a connection.
fn user_of(client: SocketAddr, server: SocketAddr) -> Result<Option<u32>, procfs::ProcError> {
    if let Some(user) = find(&procfs::net::tcp()?, client, server) {
        return Ok(Some(user));
    }
    // A socket of IPv6 that is connected to an address of IPv4 is listed here. A kernel
    // without IPv6 has no such list.
    match procfs::net::tcp6() {
        Ok(sockets) => Ok(find(&sockets, client, server)),
        Err(procfs::ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn find(sockets: &[TcpNetEntry], client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let canonical = |at: SocketAddr| (at.ip().to_canonical(), at.port());
    let is_it = |socket: &&TcpNetEntry| {
        canonical(socket.local_address) == canonical(client)
            && canonical(socket.remote_address) == canonical(server)
            && has_owner(socket)
    };
    sockets.iter().find(is_it).map(|socket| socket.uid)
}

/// Reports whether a process holds the socket. One that was closed is listed for a while
/// without an inode, and as a socket of root, whoever it belonged to. One that only wants to
/// connect is not the one that did.
fn has_owner(socket: &TcpNetEntry) -> bool {
    socket.inode != 0 && !matches!(socket.state, TcpState::SynSent | TcpState::TimeWait)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    fn pair(listen: IpAddr) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((listen, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// The connection as the server sees it.
    fn caller(server: &TcpStream) -> Caller {
        Caller::new(server.peer_addr().unwrap(), server.local_addr().unwrap())
    }

    #[tokio::test]
    async fn a_connection_of_this_user_is_the_owners() {
        let (_client, server) = pair(Ipv4Addr::LOCALHOST.into());
        assert!(caller(&server).is_owner().await);
        let (_client, server) = pair(Ipv6Addr::LOCALHOST.into());
        assert!(caller(&server).is_owner().await);
    }

    #[tokio::test]
    async fn a_socket_of_ipv6_at_an_address_of_ipv4_is_found() {
        use rustix::net::{AddressFamily, SocketType, connect, socket};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port));
        connect(&client, &to).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(caller(&server).is_owner().await);
    }

    #[tokio::test]
    async fn a_closed_socket_has_no_owner() {
        // The kernel lists it as a socket of root.
        let (mut client, server) = pair(Ipv4Addr::LOCALHOST.into());
        client.write_all(b"a request").unwrap();
        drop(client);
        assert!(!caller(&server).is_owner().await);
    }

    #[tokio::test]
    async fn other_addresses_and_other_connections_have_no_owner() {
        let (client, server) = pair(Ipv4Addr::LOCALHOST.into());
        let far = SocketAddr::from(([192, 0, 2, 1], 5));
        assert!(!Caller::new(far, server.local_addr().unwrap()).is_owner().await);
        // The server's own end is not the client's.
        assert!(caller(&client).is_owner().await);
        drop(server);
        let unused = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        assert!(!Caller::new(unused, client.local_addr().unwrap()).is_owner().await);
    }

    #[test]
    fn other_users_are_not_trusted() {
        let own = rustix::process::geteuid().as_raw();
        assert!(is_trusted(own) && is_trusted(ROOT));
        assert!(!is_trusted(own + 1) && !is_trusted(u32::MAX));
    }
}
