//! Listing connected peers, and connecting to peers.

use std::time::Duration;

use api::{ConnectRequest, Peer};
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use net::{Multiaddr, PeerInfo, Purposes};
use node::Services;

use super::extract::Json;
use super::{ApiResult, Problem};
use types::with_causes;

/// Time within which a connection must be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Lists the connected peers, the oldest connection first.
#[utoipa::path(get, path = "/peers", responses((status = 200, body = Vec<Peer>)))]
pub(crate) async fn list(State(services): State<Services>) -> ApiResult<Vec<Peer>> {
    let peers = services.net.peers().await.map_err(|error| Problem::internal(&error))?;
    Ok(Json(peers.into_iter().map(|peer| to_api(&services, peer)).collect()))
}

/// Connects to a peer.
#[utoipa::path(
    post,
    path = "/connect",
    request_body = ConnectRequest,
    responses(
        (status = 200, description = "The peer is connected", body = Peer),
        (status = 400, description = "The address is malformed", body = api::ApiProblem),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 409, description = "The peer cannot be reached at this address", body = api::ApiProblem),
    )
)]
pub(crate) async fn connect(
    State(services): State<Services>,
    Json(request): Json<ConnectRequest>,
) -> ApiResult<Peer> {
    let address: Multiaddr = request.address.parse().map_err(|_| {
        Problem::bad(format!(
            "{:?} is not a multiaddr such as /ip4/192.0.2.10/tcp/8070/p2p/16Uiu2HAm…",
            request.address
        ))
    })?;
    let Some((peer, plain)) = net::split_peer(address) else {
        return Err(Problem::bad("the address must end with /p2p/ and the peer id"));
    };
    services
        .net
        .connect(peer, [plain], CONNECT_TIMEOUT)
        .await
        .map_err(|error| Problem::new(StatusCode::CONFLICT, with_causes(&error)))?;
    let peers = services.net.peers().await.map_err(|error| Problem::internal(&error))?;
    let found = peers.into_iter().find(|info| info.peer == peer).ok_or_else(|| {
        Problem::new(StatusCode::CONFLICT, format!("{peer} closed the connection"))
    })?;
    Ok(Json(to_api(&services, found)))
}

fn to_api(services: &Services, info: PeerInfo) -> Peer {
    let config = services.settings.get();
    let source = config.backup_server.source_peers.iter().find(|s| s.peer_id == info.peer);
    let is_backup_server = config.sync.backup_peer_id() == Some(info.peer);
    let name = match source {
        Some(source) => Some(source.name.as_str().to_owned()),
        None => is_backup_server.then(|| "backup server".to_owned()),
    };
    let direction = match (info.inbound, info.outbound) {
        (true, true) => "both",
        (true, false) => "inbound",
        _ => "outbound",
    };
    Peer {
        peer_id: info.peer.to_string(),
        name,
        addresses: info.addresses.iter().map(ToString::to_string).collect(),
        direction: direction.to_owned(),
        rtt_ms: info.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        agent: info.agent,
        is_allowed: info.purposes.contains(Purposes::BLOCKS),
        connected_since: Timestamp::try_from(info.connected_since).unwrap_or_default(),
    }
}
