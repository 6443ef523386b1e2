//! [`ManifestClient`]: polls a source for its list of manifests.
//!
//! Role: one request and one response, within limits. The caller decides when to
//! poll again; [`crate::check`] decides what to believe.
//!
//! Invariants: the client follows no redirect and uses no proxy, so the
//! configured server itself answers. It decompresses nothing. A response needs at
//! most [`BODY_LEN_MAX`] bytes of memory and ends within its time limit.

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

use crate::proof::{AnswerProof, PROOF_HEADER};
use crate::wire::{Discovery, PEER_HEADER, ParseError};

pub use self::error::ClientError;

/// Maximum length of a response in bytes. A list of a thousand folders needs less
/// than one million.
const BODY_LEN_MAX: usize = 4 << 20;
/// Maximum length of an ETag in bytes. A longer one is ignored.
const ETAG_LEN_MAX: usize = 256;

/// Parameters of one poll. The default requests the list immediately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollRequest {
    /// ETag of the last response, if any.
    pub since: Option<String>,
    /// Time for which the source may delay the response until the list changes,
    /// rounded down to whole seconds.
    pub wait: Duration,
}

/// Response of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollResponse {
    /// The list has not changed since [`PollRequest::since`].
    Unchanged {
        /// Proof of the age of the answer, if it has one.
        proof: Option<AnswerProof>,
    },
    /// The list has changed, or the request had no ETag.
    Changed {
        /// Unverified list.
        discovery: Box<Discovery>,
        /// ETag for [`PollRequest::since`] of the next poll.
        etag: Option<String>,
        /// Proof of the age of the answer, if it has one.
        proof: Option<AnswerProof>,
    },
}

/// Time limits for a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Time limit for the connection.
    pub connect: Duration,
    /// Maximum time without new data while the response is read.
    pub read: Duration,
    /// Time limit for the complete response, in addition to
    /// [`PollRequest::wait`].
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), read: seconds(15), total: seconds(30) }
    }
}

/// Polls sources. Clones share a pool of connections.
#[derive(Clone, Debug)]
pub struct ManifestClient {
    http: reqwest::Client,
    timeouts: Timeouts,
    #[cfg(feature = "sim")]
    simulated: Option<SimulatedExchange>,
}

/// Future response of a [`SimulatedExchange`].
#[cfg(feature = "sim")]
pub type SimulatedResponse = std::pin::Pin<
    Box<dyn Future<Output = Result<axum::http::Response<Vec<u8>>, ClientError>> + Send>,
>;

/// Function that takes the place of the HTTP connection in a simulation: it answers the
/// request for a URL with an ETag, if there is one.
#[cfg(feature = "sim")]
#[derive(Clone)]
pub struct SimulatedExchange(
    /// The function.
    pub std::sync::Arc<dyn Fn(Url, Option<HeaderValue>) -> SimulatedResponse + Send + Sync>,
);

#[cfg(feature = "sim")]
impl std::fmt::Debug for SimulatedExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedExchange").finish_non_exhaustive()
    }
}

impl ManifestClient {
    /// Creates a client with the default time limits: 10 s to connect, 15 s without
    /// new data, 30 s in total.
    ///
    /// `peer` is the peer id of this instance. The client sends it in the header
    /// [`PEER_HEADER`].
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Setup`] if the HTTP client cannot be created.
    pub fn new(peer: Option<PeerId>) -> Result<Self, ClientError> {
        Self::with_timeouts(peer, Timeouts::default())
    }

    /// Creates a client with other time limits.
    ///
    /// # Errors
    ///
    /// Same as [`ManifestClient::new`].
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
            // One for a long poll, one for a request that does not wait.
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(90))
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self {
            http,
            timeouts,
            #[cfg(feature = "sim")]
            simulated: None,
        })
    }

    /// Returns a client that sends its requests to `exchange` instead of a network.
    ///
    /// # Errors
    ///
    /// Same as [`ManifestClient::new`].
    #[cfg(feature = "sim")]
    pub fn simulated(exchange: SimulatedExchange) -> Result<Self, ClientError> {
        Ok(Self { simulated: Some(exchange), ..Self::new(None)? })
    }

    /// Requests the list of manifests once from the source at `url`.
    ///
    /// # Errors
    ///
    /// Returns any [`ClientError`] but [`ClientError::Setup`].
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
        let nonce = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
        url.query_pairs_mut().append_pair("nonce", &nonce);
        let within = self.timeouts.total + poll.wait;
        match tokio::time::timeout(within, self.exchange(&url, poll, &nonce, within)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { url, after: within }),
        }
    }

    async fn exchange(
        &self,
        url: &Url,
        poll: &PollRequest,
        nonce: &str,
        within: Duration,
    ) -> Result<PollResponse, ClientError> {
        let response = self.send(url, poll, within).await?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED
            && let Some(since) = &poll.since
        {
            // The tag that was sent: the answer says that this one is current.
            let proof = response.headers().get(PROOF_HEADER).and_then(|proof| proof.to_str().ok());
            let proof = proof.and_then(|text| AnswerProof::from_header(text, since, nonce));
            return Ok(PollResponse::Unchanged { proof });
        }
        if status.is_redirection() {
            let target = header(&response, &LOCATION).unwrap_or_else(|| "nowhere".to_owned());
            return Err(ClientError::Redirect { url: url.clone(), target });
        }
        if status == StatusCode::FORBIDDEN {
            return Err(ClientError::Forbidden {
                url: url.clone(),
                message: error_message(response, self.timeouts.read).await,
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
                reason: format!("peerId {peer:?} is not a peer id"),
            },
        })?;
        let proof = AnswerProof::of_document(
            &bytes,
            etag.as_deref().unwrap_or_default(),
            discovery.timestamp,
            discovery.nonce.as_deref(),
            nonce,
        );
        Ok(PollResponse::Changed { discovery: Box::new(discovery), etag, proof })
    }
}

impl ManifestClient {
    /// Sends the request, and returns the response without its body.
    async fn send(
        &self,
        url: &Url,
        poll: &PollRequest,
        within: Duration,
    ) -> Result<Response, ClientError> {
        let etag = poll.since.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok());
        #[cfg(feature = "sim")]
        if let Some(SimulatedExchange(exchange)) = &self.simulated {
            return exchange(url.clone(), etag).await.map(Response::from);
        }
        let mut request = self.http.get(url.clone());
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        request.send().await.map_err(|source| failed(url, source, within))
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

/// Reads the body. `every` is the maximum time between two pieces.
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

/// Returns the message in the body of an error response.
async fn error_message(mut response: Response, every: Duration) -> String {
    const MESSAGE_LEN_MAX: usize = 4096;
    let mut bytes = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(every, response.chunk()).await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MESSAGE_LEN_MAX {
            break;
        }
    }
    message_of(&bytes).unwrap_or_else(|| "status 403".to_owned())
}

/// Returns the message in the body of an error response, as one printable line.
fn message_of(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value.get("message")?.as_str().map(printable_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_error_message() {
        let example = r#"{"error":"Forbidden","message":"192.0.2.1 is not\u001b[2J allowed"}"#;
        fuzzing::target!(&[example], |bytes: &[u8]| {
            if let Some(message) = message_of(bytes) {
                assert!(!message.contains(char::is_control), "{message:?}");
            }
            is_json(&String::from_utf8_lossy(bytes));
        });
    }
}
