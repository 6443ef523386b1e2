//! Serves HTTP with limits: the number of connections, the time and length of a request head, the
//! time for which a client does not read, and the time for shutting down.
//!
//! This is the loop around axum's handlers. A client that sends its head one byte per minute, reads
//! no answer, or opens a thousand connections without a request, costs a bounded amount, and
//! keeps nobody else out (`places`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::{Request, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::caller::Caller;
use crate::places::{Places, Seat};

/// Time within which the head of a request must arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum length of the head of a request in bytes.
const HEAD_LEN_MAX: usize = 32 * 1024;
/// Pause after an error of accepting, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time within which running requests must end when the server stops.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A server cannot listen on its address.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} ({what}){}",
    if source.kind() == io::ErrorKind::AddrInUse {
        ": the port is in use; stop the program that uses it, or configure another port"
    } else {
        ""
    }
)]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The server and its setting.
    pub what: &'static str,
    /// The error of the operating system.
    #[source]
    pub source: io::Error,
}

/// Binds an address.
///
/// # Errors
///
/// Returns [`ListenError`] if the port is in use or the address is not one of
/// this computer.
pub(crate) async fn bind(
    address: SocketAddr,
    what: &'static str,
) -> Result<TcpListener, ListenError> {
    listen(address).map_err(|source| ListenError { address, what, source })
}

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        // `0.0.0.0` needs a socket of its own in addition to `::`.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        socket
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, then ends running requests within two seconds.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    places: Arc<Places>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let seat = places.take(address.ip());
        connections.spawn(connection(stream, address, seat, router.clone(), stop.clone()));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(END_TIMEOUT, connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "interrupted running requests");
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    address: SocketAddr,
    seat: Seat,
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let Ok(server) = stream.local_addr() else { return };
    let caller = Caller::new(address, server);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        request.extensions_mut().insert(caller.clone());
        let (waiting, answer) = (seat.request(), router.clone().call(request));
        async move {
            let answer = answer.await;
            drop(waiting);
            answer
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .keep_alive(true);
    let connection = builder.serve_connection(TokioIo::new(seat.watch(stream)), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = seat.lost() => {
            tracing::debug!(%address, "ended a connection without progress");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%address, %error, "a connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::places::Guest;

    const STRANGER: [u8; 4] = [127, 0, 0, 2];
    const KNOWN: [u8; 4] = [127, 0, 0, 3];

    async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// Returns the answer to one request.
    async fn ask(from: [u8; 4], to: SocketAddr) -> String {
        let mut stream = connect(from, to).await;
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn strangers_who_read_nothing_keep_nobody_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let judge = |address: IpAddr| match address {
            IpAddr::V4(ip) if ip.octets() == STRANGER => Guest::Stranger,
            _ => Guest::Known,
        };
        let places = Places::new(Arc::new(judge));
        let router = Router::new().route("/", get(|| async { "an answer. ".repeat(100) }));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, places, stop.clone()));
        // More requests than the buffers have room for answers to.
        let many = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(5000);
        let mut strangers = Vec::new();
        for number in 0..300 {
            let stream = connect(STRANGER, address).await;
            if number % 2 == 0 {
                let _ = stream.try_write(&many);
            }
            strangers.push(stream);
        }
        assert!(ask(KNOWN, address).await.starts_with("HTTP/1.1 200"));
        // Strangers are served among themselves.
        assert!(ask(STRANGER, address).await.starts_with("HTTP/1.1 200"));
        stop.cancel();
        server.await.unwrap();
    }
}
