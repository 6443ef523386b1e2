//! `POST /data`: stores the body as a data item.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt as _;
use node::{Services, roots};
use store::{BlockWrite as _, FileWriter, GcOptions, PackStore, Root, StoreAdmin as _};
use tokio::sync::mpsc;
use types::{BlockScheme, Cid, Dataset, MAX_MIMETYPE_LEN};

use super::blocking;
use crate::disposition;
use crate::text_error::TextError;

/// Maximum number of pieces of a body that wait to be written; a piece has at most
/// some hundred KiB.
const PIECES_MAX: usize = 8;
/// Time without a byte after which the client is considered gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of bytes of a refused body that are read …
const DRAINED_MAX: usize = 64 << 20;
/// … and the maximum time.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Handles `POST /data`.
pub(crate) async fn upload(
    State(services): State<Services>,
    headers: HeaderMap,
    body: Body,
) -> Result<String, TextError> {
    let mut body = body.into_data_stream();
    let result = try_upload(&services, &headers, &mut body).await;
    if result.is_err() {
        drain(body).await;
    }
    result
}

/// Reads the rest of a refused body for a while: a client whose connection is
/// closed while it writes may never see the answer.
async fn drain(mut body: BodyDataStream) {
    let reading = async {
        let mut left = DRAINED_MAX;
        while let Some(Ok(piece)) = body.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}

async fn try_upload(
    services: &Services,
    headers: &HeaderMap,
    body: &mut BodyDataStream,
) -> Result<String, TextError> {
    let mimetype = mimetype(headers)?;
    let filename = filename(headers)?;
    check_space(&services.store, headers).await?;
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    let store = services.store.clone();
    let scheme = BlockScheme::plain();
    let writing =
        tokio::task::spawn_blocking(move || write(&store, &scheme, receiver, filename, mimetype));
    let sent = send(body, pieces).await;
    let written = writing
        .await
        .map_err(|error| TextError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    // If the body was interrupted, its error is more useful than the error of the
    // writer.
    sent?;
    Ok(written?.to_string())
}

/// Refuses a body whose length is more than the available space.
async fn check_space(store: &Arc<PackStore>, headers: &HeaderMap) -> Result<(), TextError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let Some(needed) = length.and_then(|length| length.parse::<u64>().ok()) else { return Ok(()) };
    let store = store.clone();
    let available = blocking(move || Ok(store.usage()?.available_bytes)).await?;
    if needed <= available {
        return Ok(());
    }
    Err(TextError::new(
        StatusCode::INSUFFICIENT_STORAGE,
        format!(
            "not enough space for {needed} bytes: {available} bytes are available within \
             max_storage and disk_reserve; raise the limit, or delete data"
        ),
    ))
}

/// Sends the pieces of the body to the writer, and `None` after a complete body.
async fn send(
    body: &mut BodyDataStream,
    pieces: mpsc::Sender<Option<Bytes>>,
) -> Result<(), TextError> {
    loop {
        let piece = tokio::time::timeout(IDLE_TIMEOUT, body.next()).await.map_err(|_| {
            TextError::new(StatusCode::REQUEST_TIMEOUT, "the client sent no data for too long")
        })?;
        let is_last = piece.is_none();
        let piece = piece.transpose().map_err(|error| {
            TextError::new(StatusCode::BAD_REQUEST, format!("cannot read the body: {error}"))
        })?;
        // If the writer has gone, its result has the error.
        if pieces.send(piece).await.is_err() || is_last {
            return Ok(());
        }
    }
}

/// Writes the pieces and the dataset node. After an error nothing stays stored.
/// Runs on a blocking thread, which continues if the client has gone.
fn write(
    store: &Arc<PackStore>,
    scheme: &BlockScheme,
    pieces: mpsc::Receiver<Option<Bytes>>,
    filename: Option<String>,
    mimetype: Option<String>,
) -> Result<Cid, TextError> {
    let since = store.write_epoch();
    let result = try_write(store, scheme, pieces, filename, mimetype);
    if result.is_err() {
        // The blocks of the failed upload are removed before the answer is sent.
        if let Err(error) = store.gc(GcOptions::undo(since)) {
            tracing::warn!(%error, "cannot remove the blocks of a failed upload yet");
        }
    }
    result
}

fn try_write(
    store: &Arc<PackStore>,
    scheme: &BlockScheme,
    mut pieces: mpsc::Receiver<Option<Bytes>>,
    filename: Option<String>,
    mimetype: Option<String>,
) -> Result<Cid, TextError> {
    let mut writer = FileWriter::new(store.clone(), scheme.clone());
    loop {
        match pieces.blocking_recv() {
            Some(Some(piece)) => writer.write(&piece)?,
            Some(None) => break,
            None => {
                return Err(TextError::new(StatusCode::BAD_REQUEST, "the body is incomplete"));
            }
        }
    }
    let file = writer.finish()?;
    let dataset = Dataset { tree: file.cid, size: file.size, filename, mimetype };
    let node = dataset
        .encode(scheme)
        .map_err(|error| TextError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    let cid = node.cid();
    file.batch.put(&[scheme.encode(node)])?;
    file.batch.commit_root(&**store, &roots::data(cid), Root { cid, partial: false })?;
    Ok(cid)
}

fn mimetype(headers: &HeaderMap) -> Result<Option<String>, TextError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let invalid = || {
        TextError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the MIME type is not valid: send `Content-Type: type/subtype`, or none",
        )
    };
    let text = value.to_str().map_err(|_| invalid())?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > MAX_MIMETYPE_LEN {
        return Err(invalid());
    }
    let mime: mime::Mime = text.parse().map_err(|_| invalid())?;
    let is_one = |name: mime::Name<'_>| name != mime::STAR && !name.as_str().is_empty();
    if !is_one(mime.type_()) || !is_one(mime.subtype()) {
        return Err(invalid());
    }
    Ok(Some(text.to_owned()))
}

fn filename(headers: &HeaderMap) -> Result<Option<String>, TextError> {
    let Some(value) = headers.get(header::CONTENT_DISPOSITION) else { return Ok(None) };
    disposition::parse(value.as_bytes())
        .map_err(|error| TextError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(value: &str) -> Result<Option<String>, StatusCode> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
        mimetype(&headers).map_err(|error| error.status())
    }

    #[test]
    fn any_valid_type_with_parameters_is_taken_as_it_is() {
        for good in [
            "text/plain",
            "text/plain; charset=utf-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/vnd.archivist.manifest+json",
            "Image/PNG",
        ] {
            assert_eq!(typed(good), Ok(Some(good.into())));
        }
        for bad in ["text", "text/", "/plain", "text/*", "*/*", "te xt/plain", &"x/".repeat(200)] {
            assert_eq!(typed(bad), Err(StatusCode::UNPROCESSABLE_ENTITY), "{bad}");
        }
        assert_eq!(typed(""), Ok(None));
        assert!(mimetype(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn fuzz_mimetype() {
        let examples = ["text/plain; charset=utf-8", "image/svg+xml", "*/*"];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            let Ok(value) = header::HeaderValue::from_bytes(bytes) else { return };
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value)]);
            if let Ok(Some(found)) = mimetype(&headers) {
                assert!(found.len() <= MAX_MIMETYPE_LEN && found.contains('/'));
            }
        });
    }
}
