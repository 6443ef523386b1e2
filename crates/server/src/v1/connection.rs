//! Testing the connection to another machine, step by step, each with what to
//! fix.

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
use super::{Answer, Problem};
use types::with_causes;

/// A connection that takes longer is none.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// The same for a port that answers HTTP.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// Which connection.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct TestRequest {
    /// The source, by name; the backup server, where none is named.
    #[serde(default)]
    source: Option<String>,
}

fn good(name: &str, detail: String) -> Step {
    Step { name: name.to_owned(), ok: true, detail: Some(detail) }
}

fn bad(name: &str, detail: String) -> Step {
    Step { name: name.to_owned(), ok: false, detail: Some(detail) }
}

/// Tests the connection to a source, or to the backup server. What is tested
/// is told whether it works or not; nothing is changed.
#[utoipa::path(
    post,
    path = "/connection-test",
    request_body = TestRequest,
    responses(
        (status = 200, description = "Every step, and whether it works", body = Vec<Step>),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 404, description = "No such source", body = api::ApiProblem),
        (status = 409, description = "There is no backup server to test", body = api::ApiProblem),
    )
)]
pub(crate) async fn test(
    State(services): State<Services>,
    Json(request): Json<TestRequest>,
) -> Answer<Vec<Step>> {
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
                "{}. Tried {}. Check that archivist runs there, that the address is the one that \
                 it shows under Devices, and that no firewall closes its [node] listen_port",
                with_causes(&error),
                if shown.is_empty() { "what discovery knows".to_owned() } else { shown.join(", ") },
            ),
        ),
    }
}

async fn of_source(services: &Services, source: &SourcePeer) -> Vec<Step> {
    let mut addresses = source.dial_addresses();
    let mut steps = Vec::new();
    let name = "Manifest server";
    let own = services.net.peer_id();
    let asked = match ManifestClient::new(Some(own)) {
        Ok(client) => client.poll(&source.manifest_server_url, &PollRequest::default()).await,
        Err(error) => Err(error),
    };
    steps.push(match asked {
        Ok(manifest::PollResponse::Unchanged) => good(name, "it answers".to_owned()),
        Ok(manifest::PollResponse::Changed { discovery, .. })
            if discovery.peer != source.peer_id =>
        {
            bad(
                name,
                format!(
                    "{} answers, and says that it is {}, not {}: another machine has that address \
                 now, or the source has a new key. Nothing is taken from it",
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
                "{}. Check that archivist runs there with a folder, and that its \
                 [manifest_server] whitelisted_ips names this machine",
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
            "Trigger port here",
            &url,
            "it takes triggers; without them this machine asks by itself",
            "another program may have the port: set [backup_server] trigger_port",
        )
        .await
    } else {
        bad("Backup server", "it is switched off: enable it on the page Backup server".to_owned())
    });
    steps
}

async fn of_server(services: &Services) -> Result<Vec<Step>, Problem> {
    let config = services.settings.get();
    let peer = snapshot_source::backup_server(services)?;
    let address = config.sync.backup_peer_address.clone().and_then(net::split_peer);
    let (_, plain) = address.ok_or_else(|| {
        Problem::new(StatusCode::CONFLICT, "[sync] backup_peer_address names no peer")
    })?;
    let mut steps = vec![dial(services, peer, vec![plain]).await];
    if steps.iter().all(|step| step.ok) {
        let name = "It knows this machine";
        steps.push(match protocols::list_remote(&services.net, peer, None).await {
            Ok(listing) => {
                good(name, format!("it holds {} versions of its folders", listing.snapshots.len()))
            }
            Err(error) => bad(
                name,
                format!(
                    "{}. On the backup server, this machine has to be a source with the peer id {}",
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
                "it takes triggers: new versions are told of at once",
                "it is a hint only, and the backup server asks by itself too. Check that its \
                 [backup_server] trigger_port is [sync] backup_trigger_port here, and that no \
                 firewall closes it",
            )
            .await
        }
        None => bad("Trigger port", "the address has no host that could be told".to_owned()),
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

/// Whether the backup server can ask this machine what is new.
fn manifest_server(services: &Services) -> Step {
    let name = "Manifest server here";
    let config = services.settings.get();
    if !config.manifest_server.enabled {
        return bad(name, "it is switched off: set [manifest_server] enabled".to_owned());
    }
    let server = config.sync.backup_peer_id();
    let asker = services.manifest_clients.list().into_iter().find(|asker| asker.peer == server);
    match asker {
        Some(asker) if asker.is_allowed => {
            good(name, format!("the backup server asks, from {}", asker.address))
        }
        Some(asker) => bad(
            name,
            format!(
                "the backup server asked from {} and was refused: add that to [manifest_server] \
                 whitelisted_ips",
                asker.address
            ),
        ),
        None => bad(
            name,
            format!(
                "the backup server has not asked since this instance was started. On it, the \
                 source has to have the address of this machine and port {}",
                config.manifest_server.port
            ),
        ),
    }
}
