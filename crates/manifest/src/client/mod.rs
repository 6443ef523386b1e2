//! Asking a source what there is to pull.
//!
//! Role: one request, one answer, within bounds; the caller decides when to
//! ask again, and [`crate::check`] what to believe.
//!
//! Invariants: no redirect is followed and no proxy used, so what answers is
//! what was configured; nothing is unpacked; no answer takes more than
//! [`BODY_LEN_MAX`] bytes or its time, however it comes.

mod error;

use std::time::Duration;

use config::ManifestUrl;
use libp2p_identity::PeerId;
use reqwest::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, LOCATION,
};
use reqwest::{Response, StatusCode};
use types::printable_line;
use url::Url;

use crate::wire::{Discovery, PEER_HEADER, ParseError};

pub use self::error::{ClientError, Retry};

/// The longest answer that is read, in bytes: a thousand folders take less
/// than one million.
const BODY_LEN_MAX: usize = 4 << 20;
/// The longest ETag that is kept, in bytes.
const ETAG_LEN_MAX: usize = 256;

/// What to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollRequest {
    /// The ETag of the last answer.
    pub since: Option<String>,
    /// How long the source may hold the answer back until something changes.
    pub wait: Duration,
}

/// What a source answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollResponse {
    /// What it had answered before.
    Unchanged,
    /// A list.
    Changed {
        /// The list, unchecked.
        discovery: Discovery,
        /// What to give as [`PollRequest::since`] next.
        etag: Option<String>,
    },
}

/// How long a source may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection has to be there within this.
    pub connect: Duration,
    /// Bytes of the body have to come at least this often.
    pub read: Duration,
    /// The whole answer has to be there within this, besides the time that it
    /// was asked to wait.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), read: seconds(15), total: seconds(30) }
    }
}

/// Asks sources. Clones share connections.
#[derive(Clone, Debug)]
pub struct ManifestClient {
    http: reqwest::Client,
    timeouts: Timeouts,
}

impl ManifestClient {
    /// A client that says that it asks for `peer`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setup`].
    pub fn new(peer: Option<PeerId>) -> Result<Self, ClientError> {
        Self::with_timeouts(peer, Timeouts::default())
    }

    /// A client with other timeouts.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setup`].
    pub fn with_timeouts(peer: Option<PeerId>, timeouts: Timeouts) -> Result<Self, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(peer) = peer.and_then(|peer| HeaderValue::from_str(&peer.to_string()).ok()) {
            headers.insert(HeaderName::from_static(PEER_HEADER), peer);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("archivist/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(timeouts.connect)
            // One for a request that waits, one for one that does not.
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(90))
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self { http, timeouts })
    }

    /// Asks once.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn poll(
        &self,
        url: &ManifestUrl,
        poll: &PollRequest,
    ) -> Result<PollResponse, ClientError> {
        let mut url = url.endpoint("manifests");
        if !poll.wait.is_zero() {
            url.query_pairs_mut().append_pair("wait", &poll.wait.as_secs().to_string());
            if let Some(since) = &poll.since {
                url.query_pairs_mut().append_pair("since", since);
            }
        }
        let within = self.timeouts.total + poll.wait;
        match tokio::time::timeout(within, self.exchange(&url, poll, within)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { url, after: within }),
        }
    }

    async fn exchange(
        &self,
        url: &Url,
        poll: &PollRequest,
        within: Duration,
    ) -> Result<PollResponse, ClientError> {
        let mut request = self.http.get(url.clone());
        if let Some(etag) = poll.since.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok())
        {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(|source| failed(url, source, within))?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && poll.since.is_some() {
            return Ok(PollResponse::Unchanged);
        }
        if status.is_redirection() {
            let target = header(&response, &LOCATION).unwrap_or_else(|| "nowhere".to_owned());
            return Err(ClientError::Redirect { url: url.clone(), target });
        }
        if status == StatusCode::FORBIDDEN {
            return Err(ClientError::Forbidden {
                url: url.clone(),
                message: said(response, self.timeouts.read).await,
            });
        }
        if status != StatusCode::OK {
            return Err(ClientError::Status { url: url.clone(), status: status.as_u16() });
        }
        let found = header(&response, &CONTENT_TYPE).unwrap_or_default();
        if !is_json(&found) {
            return Err(ClientError::ContentType { url: url.clone(), found });
        }
        if let Some(encoding) = header(&response, &CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Err(ClientError::Encoded { url: url.clone(), encoding });
        }
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.filter(|etag| etag.len() <= ETAG_LEN_MAX).map(str::to_owned);
        let bytes = body(url, response, self.timeouts.read).await?;
        let discovery = Discovery::parse(&bytes).map_err(|error| match error {
            ParseError::Json(source) => {
                let begins =
                    printable_line(&String::from_utf8_lossy(&bytes[..bytes.len().min(80)]));
                ClientError::NotJson { url: url.clone(), begins, source }
            }
            ParseError::Schema(error) => {
                ClientError::Schema { url: url.clone(), reason: printable_line(&error.to_string()) }
            }
            ParseError::Peer(peer) => ClientError::Schema {
                url: url.clone(),
                reason: format!("{peer:?} is not a peer id"),
            },
        })?;
        Ok(PollResponse::Changed { discovery, etag })
    }
}

fn header(response: &Response, name: &HeaderName) -> Option<String> {
    let value = response.headers().get(name)?;
    Some(printable_line(&String::from_utf8_lossy(value.as_bytes())))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn failed(url: &Url, source: reqwest::Error, within: Duration) -> ClientError {
    let url = url.clone();
    let source = source.without_url();
    if source.is_connect() {
        ClientError::Connect { url, source }
    } else if source.is_timeout() {
        ClientError::Timeout { url, after: within }
    } else {
        ClientError::Broken { url, source }
    }
}

/// Reads the body up to the limit.
async fn body(url: &Url, mut response: Response, every: Duration) -> Result<Vec<u8>, ClientError> {
    let too_long = || ClientError::TooLong { url: url.clone(), limit: BODY_LEN_MAX };
    if response.content_length().is_some_and(|len| len > BODY_LEN_MAX as u64) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::time::timeout(every, response.chunk()).await;
        let chunk = chunk.map_err(|_| ClientError::Timeout { url: url.clone(), after: every })?;
        match chunk.map_err(|source| failed(url, source, every))? {
            Some(chunk) if bytes.len() + chunk.len() > BODY_LEN_MAX => return Err(too_long()),
            Some(chunk) => bytes.extend_from_slice(&chunk),
            None => return Ok(bytes),
        }
    }
}

/// What the source says with a status that is no success.
async fn said(mut response: Response, every: Duration) -> String {
    const SAID_MAX: usize = 4096;
    let mut bytes = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(every, response.chunk()).await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > SAID_MAX {
            break;
        }
    }
    let message = serde_json::from_slice::<serde_json::Value>(&bytes)
        .ok()
        .and_then(|value| value.get("message").and_then(|text| text.as_str()).map(printable_line));
    message.unwrap_or_else(|| "status 403".to_owned())
}
