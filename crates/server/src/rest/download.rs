//! `GET /data/{cid}`: content that is stored here, with `Range` and `ETag`.

use std::ops::Range;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use node::{Services, roots};
use store::{BlockRead, Content, FileReader, RootsRead as _, StoreError, is_complete, resolve};
use tokio::sync::mpsc;
use types::{Cid, MANIFEST_MIME};

use super::{blocking, parse_cid};
use crate::disposition;
use crate::text_error::TextError;
use types::with_causes;

/// Maximum number of chunks that wait to be sent; a chunk has at most 4 MiB.
const CHUNKS_MAX: usize = 2;

/// Handles `GET /data/{cid}`, without the network.
pub(crate) async fn local(
    State(services): State<Services>,
    Path(cid): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, TextError> {
    let cid = parse_cid(&cid)?;
    let (store, packs) = (services.blocks.clone(), services.store.clone());
    let content = blocking(move || {
        let content = match resolve(&store, cid) {
            Err(StoreError::Damaged { .. }) => None,
            result => result?,
        };
        // A deleted item stays in the store until the next collection.
        let is_deleted = |content: &Content| {
            let dataset = content.dataset.as_ref();
            let is_item = dataset.is_some_and(|one| one.mimetype.as_deref() != Some(MANIFEST_MIME));
            is_item
                && [roots::data(cid), roots::fetch(cid)]
                    .iter()
                    .all(|name| packs.root(name).is_none())
        };
        let content = content.filter(|content| !is_deleted(content));
        let content = content.ok_or_else(|| TextError::not_found(cid))?;
        match is_complete(&store, cid) {
            Ok(true) => Ok(content),
            Ok(false) | Err(StoreError::Damaged { .. }) => Err(TextError::new(
                StatusCode::NOT_FOUND,
                format!(
                    "{cid} is not complete here; use POST /data/{cid}/network to fetch the rest"
                ),
            )),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    let response = ContentResponse::new(cid, &content, &headers)?;
    let store: Arc<dyn BlockRead> = Arc::new(services.blocks.clone());
    Ok(response.into_response(&content, method == Method::HEAD, |range, chunks| {
        let reader = FileReader::new(store, &content).range(range);
        tokio::task::spawn_blocking(move || read(reader, &chunks));
    }))
}

/// Sends the chunks of a file until its end, or until the client disconnects.
fn read(mut reader: FileReader, chunks: &mpsc::Sender<Result<Bytes, StoreError>>) {
    loop {
        let chunk = match reader.read() {
            Ok(Some(chunk)) => Ok(chunk),
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "a download was interrupted");
                Err(error)
            }
        };
        let is_last = chunk.is_err();
        if chunks.blocking_send(chunk).is_err() || is_last {
            return;
        }
    }
}

/// The part of the content that is sent.
#[derive(Debug, PartialEq, Eq)]
enum ContentPart {
    All,
    Range(Range<u64>),
    NotModified,
}

/// The head of a response with content.
#[derive(Debug)]
pub(crate) struct ContentResponse {
    etag: String,
    part: ContentPart,
}

impl ContentResponse {
    /// Decides by the request headers which part is sent.
    pub(crate) fn new(cid: Cid, content: &Content, headers: &HeaderMap) -> Result<Self, TextError> {
        // The CID is a hash of the content, so it is a strong tag.
        let etag = format!("\"{cid}\"");
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if text(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &etag)) {
            return Ok(Self { etag, part: ContentPart::NotModified });
        }
        // With `If-Range`, a range applies only to the content that the client
        // has already.
        let is_same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
        let part = match text(header::RANGE) {
            Some(range) if is_same => match parse_range(range, content.size) {
                RangeHeader::One(range) => ContentPart::Range(range),
                RangeHeader::Ignored => ContentPart::All,
                RangeHeader::Unsatisfiable => {
                    return Err(TextError::new(
                        StatusCode::RANGE_NOT_SATISFIABLE,
                        format!(
                            "the range is not within the content, which has {} bytes",
                            content.size
                        ),
                    ));
                }
            },
            _ => ContentPart::All,
        };
        Ok(Self { etag, part })
    }

    /// Reports whether the client has the content already.
    pub(crate) fn is_not_modified(&self) -> bool {
        self.part == ContentPart::NotModified
    }

    /// Returns the range of the bytes that are sent.
    pub(crate) fn range(&self, content: &Content) -> Range<u64> {
        match &self.part {
            ContentPart::NotModified => 0..0,
            ContentPart::All => 0..content.size,
            ContentPart::Range(range) => range.clone(),
        }
    }

    /// Makes the response. `start` starts to send the bytes of a range.
    pub(crate) fn into_response(
        self,
        content: &Content,
        is_head: bool,
        start: impl FnOnce(Range<u64>, mpsc::Sender<Result<Bytes, StoreError>>),
    ) -> Response {
        let size = content.size;
        let range = self.range(content);
        let status = match self.part {
            ContentPart::NotModified => StatusCode::NOT_MODIFIED,
            ContentPart::All => StatusCode::OK,
            ContentPart::Range(_) => StatusCode::PARTIAL_CONTENT,
        };
        let body = if is_head || range.is_empty() {
            Body::empty()
        } else {
            let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
            start(range.clone(), sender);
            Body::from_stream(chunk_stream(receiver))
        };
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::ETAG, ascii(&self.etag));
        if status == StatusCode::NOT_MODIFIED {
            return response;
        }
        let dataset = content.dataset.as_ref();
        let mimetype = dataset.and_then(|dataset| dataset.mimetype.as_deref());
        let mimetype = mimetype.and_then(|text| HeaderValue::from_str(text).ok());
        let mimetype = mimetype.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_TYPE, mimetype);
        // A browser must not run uploaded content on this origin.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox; default-src 'none'"),
        );
        let filename = dataset.and_then(|dataset| dataset.filename.as_deref());
        headers.insert(header::CONTENT_DISPOSITION, ascii(&disposition::attachment(filename)));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        if status == StatusCode::PARTIAL_CONTENT {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert(header::CONTENT_RANGE, ascii(&text));
        }
        response
    }
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("the text is printable ASCII")
}

/// Returns the chunks as a body. An error closes the connection in the middle of
/// the body, so that no client mistakes an incomplete body for a complete one.
pub(crate) fn chunk_stream(
    receiver: mpsc::Receiver<Result<Bytes, StoreError>>,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((chunk.map_err(|error| std::io::Error::other(with_causes(&error))), receiver))
    })
}

/// Reports whether one of the tags of `If-None-Match` is `etag`.
fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[derive(Debug, PartialEq, Eq)]
enum RangeHeader {
    One(Range<u64>),
    /// Not in bytes, or several ranges: RFC 9110 allows ignoring it.
    Ignored,
    Unsatisfiable,
}

fn parse_range(text: &str, size: u64) -> RangeHeader {
    let Some(ranges) = text.trim().strip_prefix("bytes=") else { return RangeHeader::Ignored };
    let Some((start, end)) = ranges.trim().split_once('-') else { return RangeHeader::Ignored };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A number of more than 64 bits is behind the end of any content.
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    let range = match (start.trim(), end.trim()) {
        ("", end) if is_number(end) => size.saturating_sub(number(end))..size,
        (start, "") if is_number(start) => number(start)..size,
        (start, end) if is_number(start) && is_number(end) => {
            if number(end) < number(start) {
                return RangeHeader::Ignored;
            }
            number(start)..number(end).saturating_add(1).min(size)
        }
        _ => return RangeHeader::Ignored,
    };
    if range.start >= range.end { RangeHeader::Unsatisfiable } else { RangeHeader::One(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_rfc_9110() {
        for (text, expected) in [
            ("bytes=0-499", RangeHeader::One(0..500)),
            ("bytes=500-", RangeHeader::One(500..1000)),
            ("bytes=-1", RangeHeader::One(999..1000)),
            ("bytes=-5000", RangeHeader::One(0..1000)),
            ("bytes=999-99999999999999999999", RangeHeader::One(999..1000)),
            ("bytes=1000-", RangeHeader::Unsatisfiable),
            ("bytes=99999999999999999999-", RangeHeader::Unsatisfiable),
            ("bytes=-0", RangeHeader::Unsatisfiable),
            ("bytes=5-1", RangeHeader::Ignored),
            ("bytes=0-1,3-4", RangeHeader::Ignored),
            ("bytes=a-b", RangeHeader::Ignored),
            ("bytes=-", RangeHeader::Ignored),
            ("items=0-1", RangeHeader::Ignored),
            ("", RangeHeader::Ignored),
        ] {
            assert_eq!(parse_range(text, 1000), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), RangeHeader::Unsatisfiable);
    }

    #[test]
    fn tags_match_in_lists_and_weakly() {
        let etag = "\"abc\"";
        for tags in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert!(matches(tags, etag), "{tags}");
        }
        assert!(!matches("\"ab\"", etag) && !matches("", etag));
    }

    #[test]
    fn fuzz_range() {
        fuzzing::target!(
            &["bytes=0-99", "bytes=-5", "bytes=7-", "W/\"a\", *"],
            |bytes: &[u8]| {
                let text = String::from_utf8_lossy(bytes);
                matches(&text, "\"a\"");
                for size in [0, 1, 100, u64::MAX] {
                    if let RangeHeader::One(range) = parse_range(&text, size) {
                        assert!(
                            range.start < range.end && range.end <= size,
                            "{range:?} of {size}"
                        );
                    }
                }
            }
        );
    }
}
