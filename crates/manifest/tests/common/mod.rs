//! A running source, and servers that imitate one.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use config::{ManifestUrl, Network};
use libp2p_identity::Keypair;
use manifest::{ManifestRegistry, ManifestServer, SeenClients};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use types::{Cid, Codec, FolderId, PublishedManifest, SequenceNumber};

/// Time limit, far above what any test needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn published(folder: &str, sequence: u64) -> PublishedManifest {
    PublishedManifest {
        folder_id: folder.parse().unwrap(),
        folder_name: folder.to_uppercase(),
        folder_path: format!("/home/me/{folder}"),
        manifest_cid: Cid::of(Codec::DagCbor, format!("{folder} {sequence}").as_bytes()),
        sequence_number: SequenceNumber(sequence),
        updated_at: "2026-11-22T10:30:00Z".parse().unwrap(),
        file_count: 12,
        total_size_bytes: 345,
    }
}

pub(crate) struct Source {
    pub(crate) registry: ManifestRegistry,
    pub(crate) whitelist: watch::Sender<Vec<Network>>,
    pub(crate) confirmed: watch::Sender<BTreeMap<FolderId, SequenceNumber>>,
    pub(crate) clients: SeenClients,
    pub(crate) stop: CancellationToken,
    pub(crate) address: SocketAddr,
}

impl Source {
    pub(crate) async fn start() -> Self {
        Self::with(Keypair::generate_secp256k1()).await
    }

    pub(crate) async fn with(keypair: Keypair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Self {
            registry: ManifestRegistry::new(keypair),
            whitelist: watch::Sender::default(),
            confirmed: watch::Sender::default(),
            clients: SeenClients::new(),
            stop: CancellationToken::new(),
            address: listener.local_addr().unwrap(),
        };
        let service = source.router().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        source
    }

    pub(crate) fn router(&self) -> Router {
        let server = ManifestServer {
            registry: self.registry.clone(),
            addresses: Arc::new(|| {
                vec![
                    "/ip4/127.0.0.1/tcp/8070".parse().unwrap(),
                    "/ip4/192.0.2.10/tcp/8070".parse().unwrap(),
                ]
            }),
            whitelist: self.whitelist.subscribe(),
            confirmed: self.confirmed.subscribe(),
            clients: self.clients.clone(),
            stop: self.stop.clone(),
        };
        server.router()
    }

    pub(crate) fn url(&self) -> ManifestUrl {
        url(self.address)
    }
}

pub(crate) fn url(address: SocketAddr) -> ManifestUrl {
    format!("http://{address}").parse().unwrap()
}

pub(crate) async fn respond(router: Router, from: IpAddr, path: &str) -> axum::response::Response {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(from, 12345)));
    router.oneshot(request).await.unwrap()
}

pub(crate) async fn status_from(router: Router, from: IpAddr, path: &'static str) -> u16 {
    respond(router, from, path).await.status().as_u16()
}

pub(crate) async fn body_from(router: Router, from: IpAddr, path: &str) -> String {
    let body = respond(router, from, path).await.into_body();
    String::from_utf8(axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap()
}

/// Sends a request head and returns the complete response.
pub(crate) async fn raw(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

pub(crate) fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

/// Answers the first request with these bytes and closes the connection.
pub(crate) async fn impostor(answer: String) -> ManifestUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        // The client may close the connection first.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    });
    url
}

/// Answers with ten bytes a second, without end.
pub(crate) async fn trickling() -> ManifestUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    url
}

/// Returns the URL of a port on which no server listens.
pub(crate) async fn nobody() -> ManifestUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url(listener.local_addr().unwrap())
}
