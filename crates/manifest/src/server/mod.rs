//! [`ManifestServer`]: serves `GET /manifests` to whitelisted addresses and `GET
//! /health` to everyone (`docs/formats/http.md`).
//!
//! Role: an axum router. The caller provides the socket, the limits on
//! connections and request heads, and the address of the client as
//! `ConnectInfo<SocketAddr>`.
//!
//! Invariants: the address of the connection alone decides who gets the list, never
//! a header. A request body is never read. Waiting requests are limited, for each
//! address and in total, and end when the instance stops.

mod clients;
mod long_poll;

use std::collections::BTreeMap;
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
use types::{FolderId, Hash, SequenceNumber};

use self::long_poll::LongPolls;
use crate::proof::{PROOF_HEADER, Statement, bare, is_nonce};
use crate::registry::ManifestRegistry;
use crate::responses::{
    error_response, health_response, json_response, method_not_allowed_response,
};
use crate::wire::{DiscoveryOut, OfferOut, PEER_HEADER};

pub use self::clients::{SeenClient, SeenClients};

/// Maximum time for which a request waits for a change.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Maximum length of `since` or `If-None-Match` in bytes. A longer one is
/// ignored.
const ETAG_LEN_MAX: usize = 1024;

/// Function that returns the current addresses of this instance for block
/// transfers.
pub type ListenAddresses = Arc<dyn Fn() -> Vec<Multiaddr> + Send + Sync>;

/// Manifest server of a source. The fields are its inputs; [`ManifestServer::router`]
/// makes the server of them.
#[derive(Clone)]
pub struct ManifestServer {
    /// Manifests to list.
    pub registry: ManifestRegistry,
    /// Addresses of this instance, for the document. Clients fetch blocks from them.
    pub addresses: ListenAddresses,
    /// Networks that get the list; changes apply immediately. Loopback addresses
    /// always get it.
    pub whitelist: watch::Receiver<Vec<Network>>,
    /// Number of the newest snapshot of each folder whose receipt this source has.
    pub confirmed: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
    /// Record of the addresses that requested the list.
    pub clients: SeenClients,
    /// Ends waiting requests when it is cancelled.
    pub stop: CancellationToken,
}

#[derive(Clone)]
struct Shared {
    server: ManifestServer,
    polls: LongPolls,
}

impl ManifestServer {
    /// Reports whether an address gets the list.
    pub fn is_allowed(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() || self.is_listed(address)
    }

    /// Reports whether the whitelist contains an address.
    pub fn is_listed(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.whitelist.borrow().iter().any(|network| network.contains(address))
    }

    /// Returns the router. The caller must serve it with
    /// `into_make_service_with_connect_info::<SocketAddr>()`.
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
    nonce: Option<String>,
}

async fn not_found() -> Response {
    error_response(StatusCode::NOT_FOUND, "only /manifests and /health exist here")
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
    // Only browsers send these headers. A web page may not ask. A person who types
    // the address into a browser (`none`) may.
    let is_from_page = headers.get_all("sec-fetch-site").iter().any(|site| site != "none");
    if headers.contains_key(ORIGIN) || is_from_page {
        return error_response(StatusCode::FORBIDDEN, "web pages may not call this server");
    }
    let peer = headers.get(PEER_HEADER).and_then(|peer| peer.to_str().ok()?.parse().ok());
    if let Some(refused) = server.admit(client, peer) {
        return refused;
    }
    let Ok(Query(query)) = query else {
        return error_response(
            StatusCode::BAD_REQUEST,
            "`wait` must be a number of seconds, and `since` an ETag of an earlier response",
        );
    };
    let nonce = query.nonce.filter(|nonce| is_nonce(nonce)).unwrap_or_default();
    let known = KnownEtags::new(&headers, query.since);
    // Subscribed before the first read, so that no change is missed.
    let mut changes = server.registry.watch();
    let mut prepared = server.prepare(client);
    let wait = Duration::from_secs(query.wait.unwrap_or(0)).min(WAIT_MAX);
    // A request without a permit is answered immediately. Its client learns about
    // a change at its next poll.
    if known.contains(&prepared.etag)
        && !wait.is_zero()
        && let Some(_permit) = shared.polls.enter(client)
    {
        let mut whitelist = server.whitelist.clone();
        whitelist.mark_unchanged();
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        while known.contains(&prepared.etag) {
            tokio::select! {
                biased;
                () = server.stop.cancelled() => break,
                () = &mut deadline => break,
                changed = changes.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    prepared = server.prepare(client);
                }
                Ok(()) = whitelist.changed() => {
                    if !server.is_allowed(client) {
                        return forbidden(client);
                    }
                }
            }
        }
    }
    let confirmed = server.confirmed.borrow().clone();
    prepared.into_response(&known, nonce, &confirmed, &server.registry)
}

fn forbidden(client: IpAddr) -> Response {
    error_response(
        StatusCode::FORBIDDEN,
        &format!(
            "{client} is not on the whitelist; add it to [manifest_server] whitelisted_ips on the source"
        ),
    )
}

impl ManifestServer {
    /// Records the client. Returns the response to a client that may not ask.
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

    /// Returns the current response for `client`.
    fn prepare(&self, client: IpAddr) -> PreparedResponse {
        // A loopback address is useless on another machine.
        let is_useful = |address: &Multiaddr| client.is_loopback() || !is_loopback(address);
        let addresses = (self.addresses)();
        let offers = self.registry.watch().borrow().clone();
        let document = DiscoveryOut {
            peer_id: self.registry.peer_id().to_string(),
            addresses: addresses
                .iter()
                .filter(|address| is_useful(address))
                .map(Multiaddr::to_string)
                .collect(),
            manifests: offers.folders.values().map(OfferOut::from).collect(),
            timestamp: None,
            nonce: None,
            signature: None,
        };
        let text = serde_json::to_vec(&document).expect("texts and numbers have a JSON form");
        // A hash of the content, so that it stays the same after a restart.
        let hash = Hash::of(&text).to_string();
        PreparedResponse { document, etag: format!("\"{}\"", &hash[..32]) }
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Possible response, with its ETag.
struct PreparedResponse {
    document: DiscoveryOut,
    etag: String,
}

impl PreparedResponse {
    /// Returns the answer to a request with `nonce`, signed with the time.
    fn into_response(
        self,
        known: &KnownEtags,
        nonce: String,
        confirmed: &BTreeMap<FolderId, SequenceNumber>,
        registry: &ManifestRegistry,
    ) -> Response {
        let time = Timestamp::now();
        let statement =
            Statement { etag: bare(&self.etag).to_owned(), time, nonce, document: None };
        let mut response = if known.contains(&self.etag) {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            if let Some(proof) = header_proof(&statement, registry) {
                response.headers_mut().insert(PROOF_HEADER, proof);
            }
            response
        } else {
            json_response(StatusCode::OK, self.document.signed(statement, confirmed, registry))
        };
        let etag = HeaderValue::from_str(&self.etag).expect("hexadecimal digits in quotes");
        response.headers_mut().insert(ETAG, etag);
        response
    }
}

/// Signs a statement. Without a valid key, answers have no proof.
fn sign(statement: &Statement, registry: &ManifestRegistry) -> Option<String> {
    match registry.sign(&statement.bytes(&registry.peer_id())) {
        Ok(signature) => Some(signature.to_base64()),
        Err(error) => {
            tracing::error!(%error, "cannot sign an answer to a backup server");
            None
        }
    }
}

/// Returns the value of the header that proves an answer without a document.
fn header_proof(statement: &Statement, registry: &ManifestRegistry) -> Option<HeaderValue> {
    let signature = sign(statement, registry)?;
    let nonce = if statement.nonce.is_empty() { "-" } else { &statement.nonce };
    HeaderValue::from_str(&format!("{} {nonce} {signature}", statement.time)).ok()
}

impl DiscoveryOut {
    /// Returns the text of the document with its time, the nonce of the request, the confirmed
    /// snapshots, and the signature of all that.
    fn signed(
        mut self,
        mut statement: Statement,
        confirmed: &BTreeMap<FolderId, SequenceNumber>,
        registry: &ManifestRegistry,
    ) -> String {
        for offer in &mut self.manifests {
            let number = confirmed.get(offer.folder()).map_or(0, |number| number.0);
            offer.confirmed_sequence = Some(number);
        }
        self.timestamp = Some(statement.time);
        self.nonce = Some(statement.nonce.clone()).filter(|nonce| !nonce.is_empty());
        let json = |document: &Self| {
            serde_json::to_string(document).expect("texts and numbers have a JSON form")
        };
        // The signature is the last field: it signs what is before it.
        let unsigned = json(&self);
        let signed = unsigned.strip_suffix('}').unwrap_or(&unsigned);
        statement.document = Some(Hash::of(signed.as_bytes()));
        self.signature = sign(&statement, registry);
        json(&self)
    }
}

/// ETags of responses that the client already has.
struct KnownEtags(Vec<String>);

impl KnownEtags {
    /// Parses `since` or, if there is none, `If-None-Match`.
    fn new(headers: &HeaderMap, since: Option<String>) -> Self {
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

    fn contains(&self, etag: &str) -> bool {
        let etag = etag.trim_matches('"');
        self.0.iter().any(|known| known == etag || known == "*")
    }
}
