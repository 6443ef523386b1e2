//! Serves HTTP with limits: the number of connections, the time and length of a
//! request head, and the time for shutting down.
//!
//! This is the loop around axum's handlers. A client that sends its head one byte
//! per minute, or opens a thousand connections without a request, costs a bounded
//! amount.

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
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

/// Maximum number of connections of a listener; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
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
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = limit.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
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
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            connection(stream, address, router, stop).await;
        });
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
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        router.clone().call(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .keep_alive(true);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%address, %error, "a connection ended with an error");
    }
}
