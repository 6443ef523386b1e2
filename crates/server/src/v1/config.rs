//! Reading and changing the configuration.

use api::{ConfigChange, ConfigChanged};
use axum::extract::State;
use axum::http::StatusCode;
use node::Services;

use super::extract::Json;
use super::ui::Owner;
use super::{ApiResult, Problem, blocking};
use types::with_causes;

/// Returns all settings, by section.
#[utoipa::path(
    get,
    path = "/config",
    responses(
        (status = 200, description = "Every key with its value", body = Object),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
    )
)]
pub(crate) async fn all(
    _: Owner,
    State(services): State<Services>,
) -> ApiResult<serde_json::Value> {
    let config = services.settings.get();
    serde_json::to_value(&*config).map(Json).map_err(|error| Problem::internal(&error))
}

/// Lists every key with its description, its allowed values and its default.
#[utoipa::path(
    get,
    path = "/config/keys",
    responses((status = 200, description = "The keys in the order of the file", body = Vec<Object>))
)]
pub(crate) async fn keys() -> Json<&'static [config::KeyInfo]> {
    Json(config::keys())
}

/// Changes a setting, in the file and in the running instance.
#[utoipa::path(
    post,
    path = "/config",
    request_body = ConfigChange,
    responses(
        (status = 200, description = "The setting was changed", body = ConfigChanged),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 422, description = "No such key, or the value is not valid", body = api::ApiProblem),
    )
)]
pub(crate) async fn set(
    State(services): State<Services>,
    Json(change): Json<ConfigChange>,
) -> ApiResult<ConfigChanged> {
    let settings = services.settings;
    blocking(move || {
        let edited = settings.edit(|draft| match &change.value {
            serde_json::Value::String(text) => draft.set(&change.key, text),
            value => draft.set_json(&change.key, value),
        });
        edited
            .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, with_causes(&error)))?;
        let waiting = settings.waiting_for_restart();
        let needs_restart: Vec<String> =
            waiting.into_iter().map(|change| change.key.to_string()).collect();
        Ok(Json(ConfigChanged { applied: !needs_restart.contains(&change.key), needs_restart }))
    })
    .await
}
