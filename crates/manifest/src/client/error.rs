//! [`ClientError`]: reasons for which a source could not be polled. Each message
//! names the URL and what was found there.

use std::time::Duration;

use types::Retry;
use url::Url;

/// Reasons for which a source did not return a discovery document.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The HTTP client could not be created.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// No connection to the server.
    #[error("cannot connect to {url}")]
    Connect {
        /// Requested URL.
        url: Url,
        /// Error of the connection.
        #[source]
        source: reqwest::Error,
    },
    /// The server did not answer in time.
    #[error("{url} did not answer within {} s", after.as_secs())]
    Timeout {
        /// Requested URL.
        url: Url,
        /// Time limit.
        after: Duration,
    },
    /// The connection broke before the response was complete.
    #[error("the connection to {url} broke during the response")]
    Broken {
        /// Requested URL.
        url: Url,
        /// Error of the connection.
        #[source]
        source: reqwest::Error,
    },
    /// The server redirects. Redirects are not followed.
    #[error("{url} redirects to {target}; it is not a manifest server")]
    Redirect {
        /// Requested URL.
        url: Url,
        /// Target of the redirect.
        target: String,
    },
    /// The address of this computer is not on the whitelist of the source.
    #[error("{url} does not allow this computer ({message})")]
    Forbidden {
        /// Requested URL.
        url: Url,
        /// Message of the server.
        message: String,
    },
    /// The response has another status than 200.
    #[error("{url} responded with HTTP status {status}")]
    Status {
        /// Requested URL.
        url: Url,
        /// HTTP status.
        status: u16,
    },
    /// The response is not of type `application/json`.
    #[error(
        "{url} responded with {}; it is not a manifest server",
        if found.contains("html") {
            "a web page".to_owned()
        } else if found.is_empty() {
            "content of unknown type".to_owned()
        } else {
            format!("content of type {found}")
        }
    )]
    ContentType {
        /// Requested URL.
        url: Url,
        /// Value of `Content-Type`, or an empty text.
        found: String,
    },
    /// The response has a content encoding, although none was requested.
    #[error("the response of {url} is encoded ({encoding}), but no encoding was requested")]
    Encoded {
        /// Requested URL.
        url: Url,
        /// Value of `Content-Encoding`.
        encoding: String,
    },
    /// The response is longer than the limit.
    #[error("the response of {url} is longer than {limit} bytes")]
    TooLong {
        /// Requested URL.
        url: Url,
        /// Limit in bytes.
        limit: usize,
    },
    /// The response has the type `application/json` but is not JSON.
    #[error("the response of {url} is not JSON; it begins with {begins:?}")]
    NotJson {
        /// Requested URL.
        url: Url,
        /// First characters of the response.
        begins: String,
        /// Error of the parser.
        #[source]
        source: serde_json::Error,
    },
    /// The response is JSON but not a list of manifests.
    #[error("the response of {url} is not a list of manifests: {reason}")]
    Schema {
        /// Requested URL.
        url: Url,
        /// First deviation from the format.
        reason: String,
    },
}

impl ClientError {
    /// Reports whether the same request may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. } => Retry::Temporary,
            Self::Status { status, .. } if *status >= 500 || *status == 429 => Retry::Temporary,
            _ => Retry::Permanent,
        }
    }
}
