//! The server of the source: `GET /manifests` for whitelisted addresses, and
//! `GET /health` for anyone (SPEC section 4, `docs/formats/http.md`).
//!
//! Role: an axum router; whoever runs it brings the socket, the limits on
//! connections and on heads, and the address of the other end as
//! `ConnectInfo<SocketAddr>`.
//!
//! Invariants: who may ask is decided by the address of the connection alone,
//! never by a header; a request reads nothing of its body; requests that wait
//! are bounded, for each address and in all, and end with the instance.

mod clients;
mod long_poll;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::header::{ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, ORIGIN};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use config::Network;
use jiff::Timestamp;
use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::Hash;

use self::long_poll::LongPolls;
use crate::registry::ManifestRegistry;
use crate::responses::{
    error_response, health_response, json_response, method_not_allowed_response,
};
use crate::wire::{DiscoveryOut, OfferOut, PEER_HEADER};

pub use self::clients::{SeenClient, SeenClients};

/// A request waits for a change at most this long.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest `since` or `If-None-Match` that is looked at, in bytes.
const ETAG_LEN_MAX: usize = 1024;

/// Tells the addresses that the instance listens on now.
pub type ListenAddresses = Arc<dyn Fn() -> Vec<Multiaddr> + Send + Sync>;

/// What the server needs.
#[derive(Clone)]
pub struct ManifestServer {
    /// What there is to tell.
    pub registry: ManifestRegistry,
    /// Where blocks can be had.
    pub addresses: ListenAddresses,
    /// Who may ask, besides this machine.
    pub whitelist: watch::Receiver<Vec<Network>>,
    /// Where it is noted who asked.
    pub clients: SeenClients,
    /// Ends what waits.
    pub stop: CancellationToken,
}

#[derive(Clone)]
struct Shared {
    server: ManifestServer,
    polls: LongPolls,
}

impl ManifestServer {
    /// The router, to be served with `ConnectInfo<SocketAddr>`.
    pub fn router(self) -> Router {
        let shared = Arc::new(Shared { server: self, polls: LongPolls::default() });
        Router::new()
            .route("/manifests", get(list))
            .route("/health", get(health_response))
            .method_not_allowed_fallback(wrong_method)
            .fallback(not_found)
            .with_state(shared)
    }
}

#[derive(Deserialize)]
struct ListQuery {
    wait: Option<u64>,
    since: Option<String>,
}

async fn not_found() -> Response {
    error_response(StatusCode::NOT_FOUND, "there is only /manifests and /health here")
}

async fn wrong_method(_: Method) -> Response {
    method_not_allowed_response("GET, HEAD")
}

async fn list(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Response {
    let server = &shared.server;
    let client = client.ip().to_canonical();
    // Only browsers send these, and no page has any business here; what a
    // person typed (`none`) is none of a page's.
    let of_page = headers.get_all("sec-fetch-site").iter().any(|site| site != "none");
    if headers.contains_key(ORIGIN) || of_page {
        return error_response(StatusCode::FORBIDDEN, "this is not for web pages");
    }
    let peer = headers.get(PEER_HEADER).and_then(|peer| peer.to_str().ok()?.parse().ok());
    if let Some(refused) = server.admit(client, peer) {
        return refused;
    }
    let Ok(Query(query)) = query else {
        return error_response(
            StatusCode::BAD_REQUEST,
            "`wait` is a number of seconds, `since` an ETag from an earlier answer",
        );
    };
    let known = Known::of(&headers, query.since);
    // From before the first look, so that no change falls between.
    let mut changes = server.registry.watch();
    let mut view = server.view(client);
    let wait = Duration::from_secs(query.wait.unwrap_or(0)).min(WAIT_MAX);
    // One that finds no room to wait is answered at once: it only learns later.
    if known.is(&view.etag)
        && !wait.is_zero()
        && let Some(_place) = shared.polls.enter(client)
    {
        let mut whitelist = server.whitelist.clone();
        whitelist.mark_unchanged();
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        while known.is(&view.etag) {
            tokio::select! {
                () = server.stop.cancelled() => break,
                () = &mut deadline => break,
                changed = changes.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    view = server.view(client);
                }
                Ok(()) = whitelist.changed() => {
                    if !server.is_allowed(client) {
                        return forbidden(client);
                    }
                }
            }
        }
    }
    view.answer(&known)
}

fn forbidden(client: IpAddr) -> Response {
    error_response(
        StatusCode::FORBIDDEN,
        &format!(
            "{client} is not on the whitelist; on this machine, add it to [manifest_server] whitelisted_ips"
        ),
    )
}

impl ManifestServer {
    fn is_allowed(&self, client: IpAddr) -> bool {
        client.is_loopback() || self.whitelist.borrow().iter().any(|net| net.contains(client))
    }

    /// Notes who asks; returns the answer to one that may not.
    fn admit(&self, client: IpAddr, peer: Option<PeerId>) -> Option<Response> {
        let is_allowed = self.is_allowed(client);
        let is_news = self.clients.note(client, peer, is_allowed, Timestamp::now());
        if is_allowed {
            return None;
        }
        if is_news {
            tracing::warn!(
                address = %client,
                "refused a request for manifests: the address is not in [manifest_server] whitelisted_ips"
            );
        }
        Some(forbidden(client))
    }

    /// What `client` is told now.
    fn view(&self, client: IpAddr) -> View {
        // Elsewhere, this machine's loopback is another machine's.
        let is_of_use = |address: &Multiaddr| client.is_loopback() || !is_loopback(address);
        let addresses = (self.addresses)();
        let offers = self.registry.watch().borrow().clone();
        let document = DiscoveryOut {
            peer_id: self.registry.peer_id().to_string(),
            addresses: addresses
                .iter()
                .filter(|a| is_of_use(a))
                .map(Multiaddr::to_string)
                .collect(),
            manifests: offers.folders.values().map(OfferOut::from).collect(),
            timestamp: None,
        };
        let text = serde_json::to_vec(&document).expect("texts and numbers have a JSON form");
        // Of the content: the same after a restart, another where it differs.
        let hash = Hash::of(&text).to_string();
        View { document, etag: format!("\"{}\"", &hash[..32]) }
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// An answer that could be given.
struct View {
    document: DiscoveryOut,
    etag: String,
}

impl View {
    fn answer(mut self, known: &Known) -> Response {
        let mut response = if known.is(&self.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            self.document.timestamp = Some(Timestamp::now());
            let text =
                serde_json::to_string(&self.document).expect("texts and numbers have a JSON form");
            json_response(StatusCode::OK, text)
        };
        let etag = HeaderValue::from_str(&self.etag).expect("hexadecimal digits in quotes");
        response.headers_mut().insert(ETAG, etag);
        response
    }
}

/// What the client has already.
struct Known(Vec<String>);

impl Known {
    /// `since` counts before `If-None-Match`.
    fn of(headers: &HeaderMap, since: Option<String>) -> Self {
        let text = since.or_else(|| {
            headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned)
        });
        let text = text.filter(|text| text.len() <= ETAG_LEN_MAX).unwrap_or_default();
        let bare = |etag: &str| {
            let etag = etag.trim();
            etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_owned()
        };
        Self(text.split(',').map(bare).filter(|etag| !etag.is_empty()).collect())
    }

    fn is(&self, etag: &str) -> bool {
        let etag = etag.trim_matches('"');
        self.0.iter().any(|known| known == etag || known == "*")
    }
}
