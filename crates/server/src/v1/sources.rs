//! The sources of this backup server.

use api::{Pull, Source};
use axum::extract::State;
use axum::http::StatusCode;
use backup::{AcceptError, SourceStatus};
use config::SourceUpdate;
use node::{Services, unknown_name};
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{Json, Path};
use super::{ApiResult, Problem, blocking};
use types::with_causes;

/// Lists the sources.
#[utoipa::path(get, path = "/sources", responses((status = 200, body = Vec<Source>)))]
pub(crate) async fn list(State(services): State<Services>) -> Json<Vec<Source>> {
    Json(all(&services))
}

/// Returns every configured source, in the order of the configuration.
pub(crate) fn all(services: &Services) -> Vec<Source> {
    let config = services.settings.get();
    let known = services.backup_daemon.sources();
    let sources = config.backup_server.source_peers.iter().map(|source| {
        let name = source.name.as_str();
        match known.iter().find(|status| status.name == name) {
            Some(status) => to_api(status),
            // The backup daemon does not know the new source yet.
            None => Source {
                name: name.to_owned(),
                peer_id: source.peer_id.to_string(),
                manifest_server_url: source.manifest_server_url.to_string(),
                state: "starting".to_owned(),
                detail: None,
                last_poll: None,
                errors: Vec::new(),
                pulls: Vec::new(),
            },
        }
    });
    sources.collect()
}

pub(crate) fn to_api(status: &SourceStatus) -> Source {
    let mut errors = status.errors.clone();
    for folder in &status.folders {
        let told = folder.refused.iter().chain(&folder.error);
        for error in told.map(|error| format!("{}: {error}", folder.folder_name)) {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
    }
    let pulls = status.pulls.iter().map(|pull| Pull {
        folder_id: pull.folder_id.clone(),
        folder_name: pull.folder_name.clone(),
        sequence: pull.sequence,
        files_done: pull.numbers.files_done,
        files_total: pull.numbers.files_total,
        bytes_done: pull.numbers.bytes_done,
        bytes_total: pull.numbers.bytes_total,
        started_at: pull.started_at,
    });
    Source {
        name: status.name.clone(),
        peer_id: status.peer_id.to_string(),
        manifest_server_url: status.manifest_server_url.clone(),
        state: status.state.as_str().to_owned(),
        detail: status.detail.clone(),
        last_poll: status.last_poll,
        errors,
        pulls: pulls.collect(),
    }
}

fn find(services: &Services, name: &str) -> Result<Source, Problem> {
    let sources = all(services);
    let found = sources.iter().find(|source| source.name == name || source.peer_id == name);
    found.cloned().ok_or_else(|| {
        let known = sources.into_iter().map(|source| source.name);
        Problem::not_found(unknown_name("source", name, known))
    })
}

/// A source to add.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct NewSource {
    /// The name.
    name: String,
    /// The URL of its manifest server, such as `http://192.0.2.10:8085`.
    manifest_server_url: String,
    /// Its peer id. Manifests of other peers are refused.
    peer_id: String,
    /// The multiaddrs to pull from; if empty, the addresses that discovery finds.
    #[serde(default)]
    addresses: Vec<String>,
}

fn unusable(what: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{what}: {error}"))
}

fn refused(error: &config::ConfigError) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, with_causes(error))
}

/// Adds a source. The configuration of the source must name this instance too;
/// pairing configures both sides.
#[utoipa::path(
    post,
    path = "/sources",
    request_body = NewSource,
    responses(
        (status = 200, body = Source),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 422, description = "The name, the URL, the peer id or an address is not valid",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn add(
    State(services): State<Services>,
    Json(new): Json<NewSource>,
) -> ApiResult<Source> {
    blocking(move || {
        let mut addresses = Vec::new();
        for address in &new.addresses {
            addresses.push(address.parse().map_err(|error| unusable(address, error))?);
        }
        let url = &new.manifest_server_url;
        let source = config::SourcePeer {
            name: new.name.parse().map_err(|error| unusable(&new.name, error))?,
            manifest_server_url: url.parse().map_err(|error| unusable(url, error))?,
            peer_id: new.peer_id.parse().map_err(|error| unusable(&new.peer_id, error))?,
            addresses,
            quota: config::ByteSize::default(),
            folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
        };
        let edited = services.settings.edit(|draft| draft.add_source(&source));
        edited.map_err(|error| refused(&error))?;
        Ok(Json(find(&services, source.name.as_str())?))
    })
    .await
}

/// Removes a source. Its snapshots stay.
#[utoipa::path(
    delete,
    path = "/sources/{name}",
    params(("name" = String, Path, description = "The name or the peer id of the source")),
    responses(
        (status = 200, description = "The source was removed"),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such source", body = api::ApiProblem),
        (status = 422, description = "The configuration cannot be changed",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn remove(
    State(services): State<Services>,
    Path(name): Path<String>,
) -> ApiResult<()> {
    blocking(move || {
        let source = find(&services, &name)?;
        let edited = services.settings.edit(|draft| draft.remove_source(&source.name));
        edited.map_err(|error| refused(&error))?;
        Ok(Json(()))
    })
    .await
}

/// Accepts a refused source: its state was lost or was reset to an older one. Its
/// snapshots stay.
#[utoipa::path(
    post,
    path = "/sources/{name}/accept",
    params(("name" = String, Path, description = "The name or the peer id of the source")),
    responses(
        (status = 200, body = Source),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such source", body = api::ApiProblem),
        (status = 409, description = "There is nothing to accept", body = api::ApiProblem),
    )
)]
pub(crate) async fn accept(
    State(services): State<Services>,
    Path(name): Path<String>,
) -> ApiResult<Source> {
    let source = find(&services, &name)?;
    let accepted =
        services.backup_daemon.accept(&source.name).await.map_err(|error| match error {
            AcceptError::NoSource(_) => Problem::not_found(with_causes(&error)),
            AcceptError::Nothing | AcceptError::NotRunning => Problem::conflict(&error),
            _ => Problem::internal(&error),
        })?;
    if let Some(peer) = accepted.peer_id {
        let update = SourceUpdate { peer_id: Some(peer), ..SourceUpdate::default() };
        let (settings, name) = (services.settings.clone(), source.name.clone());
        blocking(move || {
            let edited = settings.edit(|draft| draft.update_source(&name, &update));
            edited.map_err(|error| Problem::conflict(&error))
        })
        .await?;
    }
    Ok(Json(find(&services, &source.name)?))
}

/// Polls a source now.
#[utoipa::path(
    post,
    path = "/sources/{name}/poll",
    params(("name" = String, Path, description = "The name or the peer id of the source")),
    responses(
        (status = 200, body = Source),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 404, description = "No such source", body = api::ApiProblem),
    )
)]
pub(crate) async fn poll_one(
    State(services): State<Services>,
    Path(name): Path<String>,
) -> ApiResult<Source> {
    let source = find(&services, &name)?;
    services.backup_daemon.poll_now_source(&source.name);
    Ok(Json(source))
}

/// Polls every source now.
#[utoipa::path(
    post,
    path = "/poll",
    responses(
        (status = 202, description = "The sources are being polled"),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn poll(State(services): State<Services>) -> StatusCode {
    services.backup_daemon.poll_now();
    StatusCode::ACCEPTED
}
