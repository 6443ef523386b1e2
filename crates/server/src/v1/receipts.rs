//! The receipts of the backup servers. `archivist receipts` reads the files without the API.

use api::{NewestReceipt, Receipt, ReceiptChain};
use axum::extract::State;
use node::{ChainStatus, Services, read_receipts};
use serde::Deserialize;
use types::FolderId;
use utoipa::ToSchema;

use super::extract::Json;
use super::ui::Owner;
use super::{ApiResult, Problem, blocking};

/// Lists the chains of receipts: one for each backup server and folder.
#[utoipa::path(get, path = "/receipts", responses((status = 200, body = Vec<ReceiptChain>)))]
pub(crate) async fn list(State(services): State<Services>) -> ApiResult<Vec<ReceiptChain>> {
    blocking(move || Ok(Json(all(&services)))).await
}

/// Lists every receipt with its signature, chain by chain, the oldest first: the output of
/// `archivist receipts --json`. All signatures are verified for the answer.
#[utoipa::path(
    get,
    path = "/receipts/export",
    responses(
        (status = 200, body = Vec<Receipt>),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
    )
)]
pub(crate) async fn export(_: Owner, State(services): State<Services>) -> ApiResult<Vec<Receipt>> {
    blocking(move || {
        let config = services.settings.get();
        let listings = read_receipts(&services.data_dir, Some(&services.net.peer_id()), |_| true);
        let listings = listings.map_err(|error| Problem::internal(&error))?;
        let receipts = listings.iter().flat_map(|listing| &listing.receipts);
        Ok(Json(receipts.map(|receipt| receipt.to_api(&config)).collect()))
    })
    .await
}

fn all(services: &Services) -> Vec<ReceiptChain> {
    services.receipts.chains().into_iter().map(to_api).collect()
}

fn to_api(chain: ChainStatus) -> ReceiptChain {
    let newest = chain.newest.map(|stored| {
        let confirmed = stored.signed.confirmation();
        NewestReceipt {
            number: stored.signed.receipt().number,
            sequence: confirmed.sequence,
            manifest_cid: confirmed.manifest_cid,
            received_at: confirmed.received_at,
            arrived_at: stored.arrived_at,
        }
    });
    ReceiptChain {
        backup_server: chain.id.backup_server.to_string(),
        folder_id: chain.id.folder,
        folder_name: chain.folder_name,
        count: chain.count,
        newest,
        problems: chain.problems.into_iter().map(|problem| problem.message).collect(),
    }
}

/// The chains whose interruptions are accepted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct AcceptInterruptions {
    /// Id of the folder; all folders without one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    folder_id: Option<FolderId>,
}

/// Accepts the interruptions of chains of receipts. They stay visible in the chain, and are no
/// longer a problem.
#[utoipa::path(
    post,
    path = "/receipts/accept",
    request_body = AcceptInterruptions,
    responses(
        (status = 200, description = "The chains, after the change", body = Vec<ReceiptChain>),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
    )
)]
pub(crate) async fn accept(
    State(services): State<Services>,
    Json(accepted): Json<AcceptInterruptions>,
) -> ApiResult<Vec<ReceiptChain>> {
    blocking(move || {
        let result = services.receipts.accept(accepted.folder_id.as_ref());
        let count = result.map_err(|error| Problem::internal(&error))?;
        tracing::info!(count, "the interruptions of chains of receipts were accepted");
        Ok(Json(all(&services)))
    })
    .await
}
