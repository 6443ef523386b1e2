//! Testing the connection to another computer, step by step, each with a remedy.

use std::time::{Duration, Instant};

use api::Step;
use axum::extract::State;
use axum::http::StatusCode;
use config::SourcePeer;
use manifest::{ManifestClient, PollRequest};
use net::{Multiaddr, PeerId};
use node::{Services, snapshot_source};
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::Json;
use super::{ApiResult, Problem};
use types::with_causes;

/// Time within which a connection must be made.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time within which an HTTP server must answer.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection to test.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct TestRequest {
    /// The name of a source; without a name, the backup server is tested.
    #[serde(default)]
    source: Option<String>,
}

fn good(name: &str, detail: String) -> Step {
    Step { name: name.to_owned(), ok: true, detail: Some(detail) }
}

fn bad(name: &str, detail: String) -> Step {
    Step { name: name.to_owned(), ok: false, detail: Some(detail) }
}

/// Tests the connection to a source or to the backup server. Changes nothing. A
/// failed step is part of the answer.
#[utoipa::path(
    post,
    path = "/connection-test",
    request_body = TestRequest,
    responses(
        (status = 200, description = "Every step with its result", body = Vec<Step>),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such source", body = api::ApiProblem),
        (status = 409, description = "No backup server is configured", body = api::ApiProblem),
    )
)]
pub(crate) async fn test(
    State(services): State<Services>,
    Json(request): Json<TestRequest>,
) -> ApiResult<Vec<Step>> {
    let config = services.settings.get();
    let steps = match request.source {
        Some(name) => {
            let source = config
                .source(&name)
                .ok_or_else(|| Problem::not_found(format!("there is no source {name:?}")))?;
            of_source(&services, source).await
        }
        None => of_server(&services).await?,
    };
    Ok(Json(steps))
}

async fn dial(services: &Services, peer: PeerId, addresses: Vec<Multiaddr>) -> Step {
    let name = "P2P connection";
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let started = Instant::now();
    match services.net.connect(peer, addresses, DIAL_TIMEOUT).await {
        Ok(()) => good(name, format!("connected in {} ms", started.elapsed().as_millis())),
        Err(error) => bad(
            name,
            format!(
                "{}. Tried {}. Check that archivist is running there, that the address is the one \
                 shown on its page Devices, and that no firewall blocks its [node] listen_port",
                with_causes(&error),
                if shown.is_empty() {
                    "the addresses found by discovery".to_owned()
                } else {
                    shown.join(", ")
                },
            ),
        ),
    }
}

async fn of_source(services: &Services, source: &SourcePeer) -> Vec<Step> {
    let mut addresses = source.dial_addresses();
    let mut steps = Vec::new();
    let name = "Manifest server";
    let own = services.net.peer_id();
    let polled = match ManifestClient::new(Some(own)) {
        Ok(client) => client.poll(&source.manifest_server_url, &PollRequest::default()).await,
        Err(error) => Err(error),
    };
    steps.push(match polled {
        Ok(manifest::PollResponse::Unchanged { .. }) => good(name, "the server answers".to_owned()),
        Ok(manifest::PollResponse::Changed { discovery, .. })
            if discovery.peer != source.peer_id =>
        {
            bad(
                name,
                format!(
                    "{} answers as {}, not as {}: another computer has this address now, or the source \
                 has a new key. Nothing is pulled from it",
                    source.manifest_server_url, discovery.peer, source.peer_id
                ),
            )
        }
        Ok(manifest::PollResponse::Changed { discovery, .. }) => {
            addresses.extend(discovery.addresses);
            let offered = discovery.manifests.len();
            good(
                name,
                format!("{} answers and offers {offered} folders", source.manifest_server_url),
            )
        }
        Err(error) => bad(
            name,
            format!(
                "{}. Check that archivist is running there with a folder, and that its \
                 [manifest_server] whitelisted_ips contains the address of this computer",
                with_causes(&error)
            ),
        ),
    });
    steps.push(dial(services, source.peer_id, addresses).await);
    let config = services.settings.get();
    let port = config.backup_server.trigger_port;
    steps.push(if config.backup_server.enabled {
        let url = format!("http://127.0.0.1:{port}/health");
        health(
            "Trigger port on this computer",
            &url,
            "it accepts triggers; without triggers this computer polls at its interval",
            "another program may use the port; if so, change [backup_server] trigger_port",
        )
        .await
    } else {
        bad("Backup server", "it is disabled; enable it on the page Backup server".to_owned())
    });
    steps
}

async fn of_server(services: &Services) -> Result<Vec<Step>, Problem> {
    let config = services.settings.get();
    let peer = snapshot_source::backup_server(services)?;
    let address = config.sync.backup_peer_address.clone().and_then(net::split_peer);
    let (_, plain) = address.ok_or_else(|| {
        Problem::new(StatusCode::CONFLICT, "[sync] backup_peer_address contains no peer id")
    })?;
    let mut steps = vec![dial(services, peer, vec![plain]).await];
    if steps.iter().all(|step| step.ok) {
        let name = "Access to snapshots";
        steps.push(match protocols::list_remote(&services.net, peer, None).await {
            Ok(listing) => {
                good(name, format!("it has {} snapshots of this computer", listing.snapshots.len()))
            }
            Err(error) => bad(
                name,
                format!(
                    "{}. On the backup server, this computer must be a source with the peer id {}",
                    with_causes(&error),
                    services.net.peer_id()
                ),
            ),
        });
    }
    let port = config.sync.backup_trigger_port;
    steps.push(match config.sync.trigger_host() {
        Some(host) => {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            health(
                "Trigger port",
                &format!("http://{host}:{port}/health"),
                "it accepts triggers, so new snapshots are pulled immediately",
                "without triggers the backup server polls at its interval. Check that its \
                 [backup_server] trigger_port equals [sync] backup_trigger_port on this computer, \
                 and that no firewall blocks the port",
            )
            .await
        }
        None => bad("Trigger port", "the address of the backup server has no host".to_owned()),
    });
    steps.push(manifest_server(services));
    Ok(steps)
}

async fn health(name: &str, url: &str, works: &str, fix: &str) -> Step {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(HTTP_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    let answer = match client.build() {
        Ok(client) => client.get(url).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) if answer.status() == 200 => good(name, format!("{url} answers; {works}")),
        Ok(answer) => bad(name, format!("{url} answers with {}; {fix}", answer.status())),
        Err(error) => bad(name, format!("{}; {fix}", with_causes(&error))),
    }
}

/// Tests whether the backup server can poll this computer.
fn manifest_server(services: &Services) -> Step {
    let name = "Manifest server on this computer";
    let config = services.settings.get();
    if !config.manifest_server.enabled {
        return bad(name, "it is disabled; set [manifest_server] enabled".to_owned());
    }
    let server = config.sync.backup_peer_id();
    let client = services.manifest_clients.list().into_iter().find(|client| client.peer == server);
    match client {
        Some(client) if client.is_allowed => {
            good(name, format!("the backup server polls from {}", client.address))
        }
        Some(client) => bad(
            name,
            format!(
                "the backup server polled from {} and was refused; add this address to \
                 [manifest_server] whitelisted_ips",
                client.address
            ),
        ),
        None => bad(
            name,
            format!(
                "the backup server has not polled since the start of this instance. On the backup \
                 server, the source must have the address of this computer and port {}",
                config.manifest_server.port
            ),
        ),
    }
}
