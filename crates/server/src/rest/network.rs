//! `/data/{cid}/network…`: content that is fetched from the network.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use node::{Download, DownloadError, DownloadState, Services};
use serde::{Deserialize, Serialize};
use store::{BlockRead, Content, FileReader, StoreError};
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::Cid;

use super::download::ContentResponse;
use super::item::DataItem;
use super::{blocking, parse_cid};
use crate::text_error::TextError;

/// Time after which a request fails if no peer has the content, unless the
/// request has another timeout.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Maximum timeout of a request in seconds.
const TIMEOUT_MAX: u64 = 3600;

#[derive(Debug, Deserialize)]
pub(crate) struct Wait {
    timeout: Option<u64>,
}

impl Wait {
    fn timeout(&self) -> Result<Duration, TextError> {
        match self.timeout {
            None => Ok(TIMEOUT_DEFAULT),
            Some(seconds @ 1..=TIMEOUT_MAX) => Ok(Duration::from_secs(seconds)),
            Some(_) => Err(TextError::new(
                StatusCode::BAD_REQUEST,
                format!("timeout must be a number of seconds from 1 to {TIMEOUT_MAX}"),
            )),
        }
    }
}

impl From<DownloadError> for TextError {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Store(error) => error.into(),
            DownloadError::Unavailable(_) | DownloadError::Timeout(_) => {
                Self::new(StatusCode::NOT_FOUND, error.to_string())
            }
        }
    }
}

/// Handles `POST /data/{cid}/network`.
pub(crate) async fn fetch(
    State(services): State<Services>,
    Path(cid): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Json<DataItem>, TextError> {
    let cid = parse_cid(&cid)?;
    let content = services.downloads.content(cid, wait.timeout()?).await?;
    services.downloads.start(cid, &content);
    Ok(Json(DataItem::new(cid, &content)))
}

/// Handles `GET /data/{cid}/network/manifest`.
pub(crate) async fn manifest(
    State(services): State<Services>,
    Path(cid): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Json<DataItem>, TextError> {
    let cid = parse_cid(&cid)?;
    let content = services.downloads.content(cid, wait.timeout()?).await?;
    Ok(Json(DataItem::new(cid, &content)))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobProgress {
    cid: Cid,
    /// `fetching`, `complete` or `failed`.
    state: &'static str,
    /// The reason of a failure.
    error: Option<String>,
    /// Bytes of the content that are stored here.
    bytes_done: u64,
    bytes_total: u64,
    /// Blocks that were fetched.
    blocks_fetched: u64,
    /// Bytes that were received from the network.
    bytes_fetched: u64,
}

/// Handles `GET /data/{cid}/network/progress`.
pub(crate) async fn progress(
    State(services): State<Services>,
    Path(cid): Path<String>,
) -> Result<Json<JobProgress>, TextError> {
    let cid = parse_cid(&cid)?;
    let job = services.downloads.get(cid).ok_or_else(|| {
        TextError::new(StatusCode::NOT_FOUND, format!("{cid} is not being fetched"))
    })?;
    let now = job.state().borrow().clone();
    let (state, error) = match now {
        DownloadState::Fetching => ("fetching", None),
        DownloadState::Complete => ("complete", None),
        DownloadState::Failed(reason) => ("failed", Some(reason)),
    };
    Ok(Json(JobProgress {
        cid,
        state,
        error,
        bytes_done: job.progress.bytes().min(job.size),
        bytes_total: job.size,
        blocks_fetched: job.progress.blocks(),
        bytes_fetched: job.progress.fetched_bytes(),
    }))
}

/// Handles `GET /data/{cid}/network/stream` and `GET /data/{cid}/network`: sends
/// the content while it is fetched.
pub(crate) async fn stream(
    State(services): State<Services>,
    Path(cid): Path<String>,
    Query(wait): Query<Wait>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, TextError> {
    let cid = parse_cid(&cid)?;
    let timeout = wait.timeout()?;
    // The time for finding the content is part of the timeout.
    let deadline = Instant::now() + timeout;
    let content = services.downloads.content(cid, timeout).await?;
    let head = ContentResponse::new(cid, &content, &headers)?;
    if method != Method::HEAD && !head.is_not_modified() {
        let job = services.downloads.start(cid, &content);
        let first = first_chunk(&services, &content, head.range(&content), &job);
        tokio::time::timeout_at(deadline, first)
            .await
            .map_err(|_| TextError::from(DownloadError::Timeout(timeout)))??;
        let store: Arc<dyn BlockRead> = Arc::new(services.blocks.clone());
        let mut response = head.into_response(&content, false, |range, chunks| {
            let reader = FileReader::new(store, &content).range(range);
            services.tasks.spawn("stream", follow(reader, job, chunks));
        });
        expose(&mut response);
        return Ok(response);
    }
    let mut response = head.into_response(&content, true, |_, _| {});
    expose(&mut response);
    Ok(response)
}

fn expose(response: &mut Response) {
    let name = header::HeaderValue::from_static("Content-Disposition");
    response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, name);
}

/// Waits until the first wanted byte is stored here: a response that has started
/// cannot become a 404.
async fn first_chunk(
    services: &Services,
    content: &Content,
    wanted: Range<u64>,
    job: &Download,
) -> Result<(), TextError> {
    let mut news = job.progress.watch();
    let mut ended = job.state();
    loop {
        let reader =
            FileReader::new(Arc::new(services.blocks.clone()), content).range(wanted.clone());
        let found = blocking(move || {
            let mut reader = reader;
            match reader.read() {
                Err(StoreError::Missing(_)) => Ok(false),
                result => result.map(|_| true).map_err(TextError::from),
            }
        })
        .await?;
        if found {
            return Ok(());
        }
        if let DownloadState::Failed(reason) = &*ended.borrow_and_update() {
            return Err(TextError::new(StatusCode::NOT_FOUND, reason.clone()));
        }
        tokio::select! {
            _ = news.changed() => {}
            _ = ended.changed() => {}
        }
    }
}

/// Sends the chunks, and waits for missing ones while the fetch is running.
async fn follow(
    mut reader: FileReader,
    job: Arc<Download>,
    chunks: mpsc::Sender<Result<Bytes, StoreError>>,
) {
    let mut news = job.progress.watch();
    let mut ended = job.state();
    loop {
        news.borrow_and_update();
        let has_ended = !matches!(*ended.borrow_and_update(), DownloadState::Fetching);
        // The reader keeps its position if a block is missing.
        let read = tokio::task::spawn_blocking(move || {
            let read = reader.read();
            (reader, read)
        })
        .await;
        let Ok((kept, read)) = read else { return };
        reader = kept;
        match read {
            Ok(Some(chunk)) => {
                if chunks.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(StoreError::Missing(_)) if !has_ended => {
                tokio::select! {
                    () = chunks.closed() => return,
                    _ = news.changed() => {}
                    _ = ended.changed() => {}
                }
            }
            Err(error) => {
                let _ = chunks.send(Err(error)).await;
                return;
            }
        }
    }
}
