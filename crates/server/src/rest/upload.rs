//! `POST /data`: the body becomes a data item.

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

/// Pieces of a body between the network and the disk; a piece is at most some
/// hundred KiB.
const PIECES: usize = 8;
/// A client that sends nothing for so long has gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a body that is refused, so much is read, in bytes …
const DRAINED_MAX: usize = 64 << 20;
/// … and for so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// `POST /data`
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

/// Reads what a client still sends, for a while: one whose connection is closed
/// while it writes may never see why.
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
    refuse_what_cannot_fit(&services.store, headers).await?;
    let (pieces, receiver) = mpsc::channel(PIECES);
    let store = services.store.clone();
    let scheme = BlockScheme::plain();
    let writing =
        tokio::task::spawn_blocking(move || write(&store, &scheme, receiver, filename, mimetype));
    let sent = send(body, pieces).await;
    let written = writing
        .await
        .map_err(|error| TextError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    // A body that broke off says more than the writer, which only saw its end.
    sent?;
    Ok(written?.to_string())
}

/// A body that says that it is longer than there is room is not read at all.
async fn refuse_what_cannot_fit(
    store: &Arc<PackStore>,
    headers: &HeaderMap,
) -> Result<(), TextError> {
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
            "no room for {needed} bytes: {available} are left until max_storage or disk_reserve; \
             raise the limit, or delete something"
        ),
    ))
}

/// Hands the body over, piece by piece. The channel ends with `None` where
/// all of it was there.
async fn send(
    body: &mut BodyDataStream,
    pieces: mpsc::Sender<Option<Bytes>>,
) -> Result<(), TextError> {
    loop {
        let piece = tokio::time::timeout(IDLE_TIMEOUT, body.next()).await.map_err(|_| {
            TextError::new(StatusCode::REQUEST_TIMEOUT, "the body stopped in the middle")
        })?;
        let is_last = piece.is_none();
        let piece = piece.transpose().map_err(|error| {
            TextError::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))
        })?;
        // The writer has gone where it failed: it tells why.
        if pieces.send(piece).await.is_err() || is_last {
            return Ok(());
        }
    }
}

/// Writes the pieces, and the dataset over them; what fails leaves nothing. On
/// a blocking thread, which goes on when the client has gone.
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
        // What it has put is garbage: it goes before the answer.
        if let Err(error) = store.gc(GcOptions::undo(since)) {
            tracing::warn!(%error, "an upload that failed is not cleared away yet");
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
                return Err(TextError::new(StatusCode::BAD_REQUEST, "the body ended too early"));
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
}
