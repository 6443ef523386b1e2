//! The trigger server: `POST /trigger` tells the backup server that a source may have published
//! something (SPEC section 5, `docs/formats/http.md`).
//!
//! Role: an axum router. The caller provides the socket, the limits on connections and on request
//! heads, and the client's address as `ConnectInfo<SocketAddr>`.
//!
//! Invariants: a trigger carries no data and has no authority; the address of the connection alone
//! decides who may send one; no body is read; each host name is resolved at most once in
//! [`LOOKUP_EVERY`], however many requests arrive.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::header::{HeaderMap, ORIGIN};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use config::{SourcePeer, host_of};
use futures::future::BoxFuture;
use manifest::{error_response, health_response, json_response, method_not_allowed_response};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Minimum time between two lookups of the same name.
const LOOKUP_EVERY: Duration = Duration::from_secs(60);
/// Maximum time of a lookup. The addresses that were found before are valid meanwhile.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of names that are looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;
/// Maximum number of addresses that are kept for one name.
const ADDRESSES_PER_NAME_MAX: usize = 32;
/// Maximum number of refused addresses that are logged; further ones are not.
const LOGGED_MAX: usize = 64;

/// Function that the server calls for every accepted trigger. Must return immediately. It makes the
/// backup server poll its sources, and merges many triggers into one poll.
pub type OnTrigger = Arc<dyn Fn() + Send + Sync>;

/// Finds the addresses of a host name.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// HTTP server on the backup server that accepts triggers from its sources. Clones share the
/// resolved addresses.
#[derive(Clone)]
pub struct TriggerServer(Arc<Shared>);

struct Shared {
    on_trigger: OnTrigger,
    sources: watch::Receiver<Vec<SourcePeer>>,
    lookup: Lookup,
    names: Mutex<HashMap<String, ResolvedName>>,
    /// Permit to resolve names: one caller at a time, the others wait for it.
    turn: Arc<Semaphore>,
    logged: Mutex<HashSet<IpAddr>>,
}

/// Result of the last lookup of a name.
struct ResolvedName {
    addresses: Vec<IpAddr>,
    looked_up_at: Instant,
}

impl fmt::Debug for TriggerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TriggerServer").finish_non_exhaustive()
    }
}

/// The hosts that may send a trigger.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hosts {
    addresses: BTreeSet<IpAddr>,
    names: BTreeSet<String>,
}

impl Hosts {
    fn of(sources: &[SourcePeer]) -> Self {
        let mut hosts = Self::default();
        for source in sources {
            match source.manifest_server_url.host() {
                url::Host::Ipv4(ip) => hosts.add_address(ip.into()),
                url::Host::Ipv6(ip) => hosts.add_address(ip.into()),
                url::Host::Domain(name) => hosts.add_name(name),
            }
            for host in source.addresses.iter().filter_map(host_of) {
                match host.trim_matches(['[', ']']).parse() {
                    Ok(address) => hosts.add_address(address),
                    Err(_) => hosts.add_name(&host),
                }
            }
        }
        hosts
    }

    fn add_address(&mut self, address: IpAddr) {
        self.addresses.insert(address.to_canonical());
    }

    fn add_name(&mut self, name: &str) {
        self.names.insert(name.to_ascii_lowercase());
    }
}

impl TriggerServer {
    /// Creates a server that accepts triggers from this computer and from the hosts of `sources`:
    /// the hosts in the URL of the manifest server and in the addresses of each source. Changes of
    /// `sources` apply immediately.
    pub fn new(on_trigger: OnTrigger, sources: watch::Receiver<Vec<SourcePeer>>) -> Self {
        let lookup: Lookup = Arc::new(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        });
        Self::with_lookup(on_trigger, sources, lookup)
    }

    /// Reports whether an address is one of a source, as far as that is known without a lookup of
    /// a name.
    pub fn is_known(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let hosts = Hosts::of(&self.0.sources.borrow());
        let names = self.0.names.lock();
        let mut resolved = hosts.names.iter().filter_map(|name| names.get(name));
        hosts.addresses.contains(&address) || resolved.any(|name| name.addresses.contains(&address))
    }

    /// Same as [`TriggerServer::new`], with another way to resolve names.
    fn with_lookup(
        on_trigger: OnTrigger,
        sources: watch::Receiver<Vec<SourcePeer>>,
        lookup: Lookup,
    ) -> Self {
        Self(Arc::new(Shared {
            on_trigger,
            sources,
            lookup,
            names: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            logged: Mutex::default(),
        }))
    }

    /// Returns the router, to be served with `ConnectInfo<SocketAddr>`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/trigger", post(trigger).fallback(only_post))
            .route("/health", get(health_response).fallback(only_get))
            .fallback(not_found)
            .with_state(self)
    }

    /// Reports whether a trigger from `client` is accepted.
    async fn is_allowed(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        if client.is_loopback() {
            return true;
        }
        let hosts = Hosts::of(&self.0.sources.borrow());
        if hosts.addresses.contains(&client) || self.is_resolved(&hosts, client) {
            return true;
        }
        if hosts.names.is_empty() {
            return false;
        }
        self.look_up(&hosts).await;
        self.is_resolved(&hosts, client)
    }

    /// Reports whether a lookup of one of the names has found this address.
    fn is_resolved(&self, hosts: &Hosts, client: IpAddr) -> bool {
        let names = self.0.names.lock();
        hosts
            .names
            .iter()
            .filter_map(|name| names.get(name))
            .any(|found| found.addresses.contains(&client))
    }

    /// Looks up the names whose last lookup is too old. If a lookup fails, the addresses that were
    /// found before stay valid: a trigger is only a hint.
    async fn look_up(&self, hosts: &Hosts) {
        let Ok(turn) = self.0.turn.clone().acquire_owned().await else { return };
        let due: Vec<String> = {
            let mut names = self.0.names.lock();
            names.retain(|name, _| hosts.names.contains(name));
            let is_due = |name: &&String| {
                names.get(*name).is_none_or(|found| found.looked_up_at.elapsed() >= LOOKUP_EVERY)
            };
            hosts.names.iter().filter(is_due).cloned().collect()
        };
        if due.is_empty() {
            return;
        }
        // A task of its own: a client that disconnects must not abort a lookup that others wait
        // for, nor restart it again and again.
        let server = self.clone();
        let looking = tokio::spawn(async move {
            server.look_up_all(due).await;
            drop(turn);
        });
        let _ = looking.await;
    }

    async fn look_up_all(&self, names: Vec<String>) {
        use futures::StreamExt as _;

        let each = |name: String| async move {
            let looking = (self.0.lookup)(name.clone());
            let found = tokio::time::timeout(LOOKUP_TIMEOUT, looking).await;
            let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let mut names = self.0.names.lock();
            let looked_up_at = Instant::now();
            let entry =
                names.entry(name).or_insert(ResolvedName { addresses: Vec::new(), looked_up_at });
            entry.looked_up_at = looked_up_at;
            match found {
                Ok(found) => {
                    let found = found.into_iter().map(|ip| ip.to_canonical());
                    entry.addresses = found.take(ADDRESSES_PER_NAME_MAX).collect();
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot resolve the host name of a source");
                }
            }
        };
        futures::stream::iter(names).for_each_concurrent(LOOKUPS_AT_ONCE, each).await;
    }

    fn note_refused(&self, client: IpAddr) {
        let is_new = {
            let mut logged = self.0.logged.lock();
            logged.len() < LOGGED_MAX && logged.insert(client)
        };
        if is_new {
            tracing::warn!(
                address = %client,
                "refused a trigger: no source in [backup_server] has this address"
            );
        }
    }
}

async fn trigger(
    State(server): State<TriggerServer>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let client = client.ip().to_canonical();
    // Only browsers send this header, and no web page may send a trigger.
    if headers.contains_key(ORIGIN) {
        return error_response(StatusCode::FORBIDDEN, "requests from web pages are refused");
    }
    if !server.is_allowed(client).await {
        server.note_refused(client);
        return error_response(
            StatusCode::FORBIDDEN,
            &format!(
                "{client} is not the address of a source of this backup server; on the backup \
                 server, check manifest_server_url and addresses in [[backup_server.source_peers]]"
            ),
        );
    }
    (server.0.on_trigger)();
    json_response(StatusCode::ACCEPTED, json!({ "status": "accepted" }).to_string())
}

async fn not_found() -> Response {
    error_response(StatusCode::NOT_FOUND, "this server has only /trigger and /health")
}

async fn only_post(_: Method) -> Response {
    method_not_allowed_response("POST")
}

async fn only_get(_: Method) -> Response {
    method_not_allowed_response("GET, HEAD")
}

#[cfg(test)]
mod tests {
    use axum::http::header::{ALLOW, CONTENT_TYPE};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    const PEER: &str = "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY";

    fn source(url: &str, addresses: &[&str]) -> SourcePeer {
        SourcePeer {
            name: "Desktop".parse().unwrap(),
            manifest_server_url: url.parse().unwrap(),
            peer_id: PEER.parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            quota: config::ByteSize::default(),
            folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
        }
    }

    struct Fixture {
        server: TriggerServer,
        sources: watch::Sender<Vec<SourcePeer>>,
        triggers: Arc<AtomicUsize>,
        lookups: Arc<AtomicUsize>,
        answer: Arc<Mutex<Option<Vec<IpAddr>>>>,
    }

    fn fixture(sources: Vec<SourcePeer>) -> Fixture {
        let (sources, receiver) = watch::channel(sources);
        let (triggers, lookups) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let answer: Arc<Mutex<Option<Vec<IpAddr>>>> = Arc::default();
        let (count, asked, told) = (triggers.clone(), lookups.clone(), answer.clone());
        let on_trigger: OnTrigger = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let lookup: Lookup = Arc::new(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            let told = told.lock().clone();
            Box::pin(async move { told.ok_or_else(|| io::ErrorKind::NotFound.into()) })
        });
        let server = TriggerServer::with_lookup(on_trigger, receiver, lookup);
        Fixture { server, sources, triggers, lookups, answer }
    }

    async fn ask(
        server: &TriggerServer,
        method: &str,
        path: &str,
        from: &str,
        header: Option<(&str, &str)>,
    ) -> (StatusCode, HeaderMap, serde_json::Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let mut request = request.body(Body::from("{\"ignored\":true}")).unwrap();
        let address = SocketAddr::new(from.parse().unwrap(), 50_000);
        request.extensions_mut().insert(ConnectInfo(address));
        let response = server.clone().router().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let json = if body.is_empty() {
            serde_json::Value::Null
        } else {
            assert_eq!(headers[CONTENT_TYPE], "application/json");
            serde_json::from_slice(&body).unwrap()
        };
        (status, headers, json)
    }

    async fn status(server: &TriggerServer, from: &str) -> u16 {
        ask(server, "POST", "/trigger", from, None).await.0.as_u16()
    }

    #[tokio::test]
    async fn the_answers_are_those_of_the_contract() {
        let fixture = fixture(vec![source("http://192.0.2.10:8085", &[])]);
        let server = &fixture.server;
        let (status, _, json) = ask(server, "POST", "/trigger", "127.0.0.1", None).await;
        assert_eq!((status.as_u16(), json), (202, json!({ "status": "accepted" })));
        assert_eq!(fixture.triggers.load(Ordering::SeqCst), 1);
        let (status, _, json) = ask(server, "POST", "/trigger", "203.0.113.9", None).await;
        assert_eq!((status.as_u16(), &json["error"]), (403, &json!("Forbidden")));
        assert!(json["message"].as_str().unwrap().contains("203.0.113.9"));
        for from in ["127.0.0.1", "203.0.113.9"] {
            let (status, _, json) = ask(server, "GET", "/health", from, None).await;
            assert_eq!((status.as_u16(), json), (200, json!({ "status": "ok" })));
            let (status, _, json) = ask(server, "POST", "/Trigger", from, None).await;
            assert_eq!((status.as_u16(), &json["error"]), (404, &json!("Not Found")));
            for (method, path, allowed) in [
                ("GET", "/trigger", "POST"),
                ("DELETE", "/trigger", "POST"),
                ("POST", "/health", "GET, HEAD"),
            ] {
                let (status, headers, json) = ask(server, method, path, from, None).await;
                assert_eq!((status.as_u16(), &json["error"]), (405, &json!("Method Not Allowed")));
                assert_eq!(headers[ALLOW], allowed);
            }
        }
        let page = Some(("origin", "http://evil.example"));
        assert_eq!(ask(server, "POST", "/trigger", "127.0.0.1", page).await.0.as_u16(), 403);
        // The address comes from the connection, never from a header.
        let forged = Some(("x-forwarded-for", "127.0.0.1"));
        assert_eq!(ask(server, "POST", "/trigger", "203.0.113.9", forged).await.0.as_u16(), 403);
        assert_eq!(fixture.triggers.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn sources_are_known_by_every_address_that_they_have() {
        let fixture = fixture(vec![
            source("http://192.0.2.10:8085", &["/ip4/198.51.100.7/tcp/8070"]),
            source("http://[2001:db8::1]:8085", &["/ip6/2001:db8::2/udp/8090/quic-v1"]),
        ]);
        let server = &fixture.server;
        for (from, wanted) in [
            ("192.0.2.10", 202),
            ("::ffff:192.0.2.10", 202),
            ("198.51.100.7", 202),
            ("2001:db8::1", 202),
            ("2001:db8::2", 202),
            ("::1", 202),
            ("::ffff:127.0.0.1", 202),
            ("192.0.2.11", 403),
            ("2001:db8::3", 403),
        ] {
            assert_eq!(status(server, from).await, wanted, "{from}");
        }
        assert_eq!(fixture.lookups.load(Ordering::SeqCst), 0);
        // The settings are read for each request.
        fixture.sources.send_replace(vec![source("http://192.0.2.11:8085", &[])]);
        assert_eq!(status(server, "192.0.2.11").await, 202);
        assert_eq!(status(server, "192.0.2.10").await, 403);
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_now_and_then_whoever_asks() {
        let fixture = fixture(vec![source("http://desktop.example:8085", &[])]);
        let server = &fixture.server;
        *fixture.answer.lock() = Some(vec!["192.0.2.10".parse().unwrap()]);
        assert_eq!(status(server, "192.0.2.10").await, 202);
        for _ in 0..1000 {
            assert_eq!(status(server, "203.0.113.9").await, 403);
        }
        assert_eq!(fixture.lookups.load(Ordering::SeqCst), 1);
        // The address of the name has changed.
        *fixture.answer.lock() = Some(vec!["::ffff:192.0.2.77".parse().unwrap()]);
        assert_eq!(status(server, "192.0.2.77").await, 403);
        tokio::time::advance(LOOKUP_EVERY).await;
        assert_eq!(status(server, "192.0.2.77").await, 202);
        assert_eq!(status(server, "192.0.2.10").await, 403);
        // While names cannot be resolved, the last addresses stay valid.
        *fixture.answer.lock() = None;
        tokio::time::advance(LOOKUP_EVERY).await;
        assert_eq!(status(server, "192.0.2.10").await, 403);
        assert_eq!(status(server, "192.0.2.77").await, 202);
        assert_eq!(fixture.lookups.load(Ordering::SeqCst), 3);
        // The name is no longer in the settings, so its addresses are dropped.
        fixture.sources.send_replace(vec![source("http://192.0.2.1", &[])]);
        assert_eq!(status(server, "192.0.2.77").await, 403);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_while_a_lookup_hangs_ends_in_time_with_one_lookup() {
        let fixture = fixture(vec![source("http://desktop.example:8085", &[])]);
        let lookups = Arc::new(AtomicUsize::new(0));
        let asked = lookups.clone();
        let lookup: Lookup = Arc::new(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::pending())
        });
        let on_trigger: OnTrigger = Arc::new(|| panic!("nobody was allowed"));
        let server = TriggerServer::with_lookup(on_trigger, fixture.sources.subscribe(), lookup);
        // Some clients disconnect before the answer; their lookup continues.
        for _ in 0..100 {
            let asking = status(&server, "203.0.113.9");
            let left = tokio::time::timeout(Duration::from_millis(1), asking).await;
            assert!(left.is_err());
        }
        let start = Instant::now();
        let asking = (0..500).map(|_| status(&server, "203.0.113.9"));
        let all = futures::future::join_all(asking).await;
        assert!(all.iter().all(|status| *status == 403));
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
        assert!(start.elapsed() <= LOOKUP_TIMEOUT);
    }
}
