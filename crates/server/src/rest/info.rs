//! Information about the node, connecting to peers, and the log level.

use std::str::FromStr as _;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use data_encoding::BASE64URL_NOPAD;
use net::{Multiaddr, PeerId};
use node::Services;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::json;
use store::StoreAdmin as _;

use super::blocking;
use crate::text_error::TextError;
use types::with_causes;

/// Time within which a connection must be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(25);
/// Maximum number of addresses in a request to connect.
const ADDRESSES_MAX: usize = 64;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Space {
    total_blocks: u64,
    quota_max_bytes: u64,
    quota_used_bytes: u64,
    /// Space that is reserved for other nodes: always 0 here.
    quota_reserved_bytes: u64,
}

/// Handles `GET /space`.
pub(crate) async fn space(State(services): State<Services>) -> Result<Json<Space>, TextError> {
    blocking(move || {
        let usage = services.store.usage()?;
        Ok(Json(Space {
            total_blocks: usage.blocks,
            // Without a configured limit, the disk is the limit.
            quota_max_bytes: usage.max_bytes.unwrap_or(usage.used_bytes + usage.available_bytes),
            quota_used_bytes: usage.used_bytes,
            quota_reserved_bytes: 0,
        }))
    })
    .await
}

/// Reports whether the client wants plain text.
fn wants_text(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/plain"))
}

fn text_or_json(headers: &HeaderMap, key: &str, value: &str) -> Response {
    if wants_text(headers) {
        value.to_owned().into_response()
    } else {
        Json(json!({ key: value })).into_response()
    }
}

/// Handles `GET /peerid`.
pub(crate) async fn peer_id(State(services): State<Services>, headers: HeaderMap) -> Response {
    text_or_json(&headers, "id", &services.net.peer_id().to_string())
}

fn signed_peer_record(services: &Services) -> String {
    format!("spr:{}", BASE64URL_NOPAD.encode(&services.net.signed_peer_record()))
}

/// Handles `GET /spr`.
pub(crate) async fn spr(State(services): State<Services>, headers: HeaderMap) -> Response {
    text_or_json(&headers, "spr", &signed_peer_record(&services))
}

/// Handles `GET /debug/info`.
pub(crate) async fn debug(State(services): State<Services>) -> Json<serde_json::Value> {
    let id = services.net.peer_id().to_string();
    let spr = signed_peer_record(&services);
    let listening = services.net.listen_addrs();
    let peers = services.net.peers().await.unwrap_or_default();
    let nodes: Vec<_> = peers
        .iter()
        .map(|peer| {
            let address = peer.addresses.first().map(Multiaddr::to_string);
            json!({
                "nodeId": peer.peer.to_string(),
                "peerId": peer.peer.to_string(),
                "record": "",
                "address": address,
                "seen": true,
            })
        })
        .collect();
    let texts = |addresses: &[Multiaddr]| -> Vec<String> {
        addresses.iter().map(Multiaddr::to_string).collect()
    };
    Json(json!({
        "id": id,
        "addrs": texts(&listening),
        "repo": services.data_dir.to_string_lossy(),
        "spr": spr,
        "announceAddresses": texts(services.net.announce_addrs()),
        "table": {
            "localNode": {
                "nodeId": id,
                "peerId": id,
                "record": spr,
                "address": listening.first().map(Multiaddr::to_string),
                "seen": true,
            },
            "nodes": nodes,
        },
        "archivist": {
            "version": env!("CARGO_PKG_VERSION"),
            "revision": "",
            "contracts": "",
        },
    }))
}

/// Returns the values of a query parameter, in order.
fn parameters(query: Option<&str>, names: &[&str]) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    pairs
        .filter(|(name, _)| names.contains(&decode(name).as_str()))
        .map(|(_, value)| decode(value))
        .collect()
}

/// Handles `POST /debug/chronicles/loglevel?level=`.
pub(crate) async fn set_log_level(
    State(services): State<Services>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, TextError> {
    let bad = |message: &str| TextError::new(StatusCode::BAD_REQUEST, message);
    let levels = parameters(query.as_deref(), &["level"]);
    let level = levels.first().ok_or_else(|| bad("Missing log level"))?;
    // The levels of the Archivist node; `notice` and `fatal` do not exist here.
    let level = match level.to_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" | "notice" => "info",
        "warn" => "warn",
        "error" | "fatal" => "error",
        _ => {
            return Err(bad(
                "Please specify one of: trace, debug, info, notice, warn, error or fatal",
            ));
        }
    };
    services
        .log_level
        .set(level)
        .map_err(|error| TextError::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    Ok(StatusCode::OK)
}

/// Handles `GET /connect/{peerId}?addrs=…`.
pub(crate) async fn connect(
    State(services): State<Services>,
    Path(peer): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<&'static str, TextError> {
    let bad = |message: String| TextError::new(StatusCode::BAD_REQUEST, message);
    let peer = PeerId::from_str(&peer)
        .map_err(|error| bad(format!("the peer id is not valid: {error}")))?;
    let given = parameters(query.as_deref(), &["addrs", "addrs[]"]);
    if given.len() > ADDRESSES_MAX {
        return Err(bad(format!("the request has more than {ADDRESSES_MAX} addresses")));
    }
    let mut addresses = Vec::new();
    for address in given {
        let parsed = Multiaddr::from_str(&address)
            .map_err(|error| bad(format!("{address:?} is not a multiaddr: {error}")))?;
        addresses.push(parsed);
    }
    if addresses.is_empty() {
        addresses = services.net.find_peer(peer, CONNECT_TIMEOUT).await.unwrap_or_default();
        if addresses.is_empty() {
            return Err(bad("Unable to find Peer!".into()));
        }
    }
    services
        .net
        .connect(peer, addresses, CONNECT_TIMEOUT)
        .await
        .map_err(|error| bad(format!("Unable to dial peer: {}", with_causes(&error))))?;
    Ok("Successfully connected to peer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_repeat_and_come_in_both_spellings() {
        let query = "addrs=%2Fip4%2F1.2.3.4%2Ftcp%2F1&x=y&addrs=/dns/a&addrs%5B%5D=/ip6/::1";
        let found = parameters(Some(query), &["addrs", "addrs[]"]);
        assert_eq!(found, ["/ip4/1.2.3.4/tcp/1", "/dns/a", "/ip6/::1"]);
        assert!(parameters(None, &["addrs"]).is_empty());
        assert!(parameters(Some("addrs&=x&"), &["addrs"]).is_empty());
    }
}
