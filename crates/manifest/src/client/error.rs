//! Why a source could not be asked: each error names the URL and what was
//! found there.

use std::time::Duration;

use url::Url;

/// Whether asking again can help without anybody changing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Somebody has to change something: an address, a whitelist, a server.
    Permanent,
    /// It may pass by itself.
    Temporary,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client itself could not be made.
    #[error("cannot set up HTTP")]
    Setup(#[source] reqwest::Error),
    /// Nobody there, or no way there.
    #[error("cannot reach {url}")]
    Connect {
        /// What was asked.
        url: Url,
        /// What the system said.
        #[source]
        source: reqwest::Error,
    },
    /// It took too long.
    #[error("{url} did not answer within {} s", after.as_secs())]
    Timeout {
        /// What was asked.
        url: Url,
        /// The time that it had.
        after: Duration,
    },
    /// It broke off in the middle.
    #[error("{url} broke off its answer")]
    Broken {
        /// What was asked.
        url: Url,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// It points elsewhere, which is not followed.
    #[error("{url} answers with a redirect to {target}: that is no manifest server")]
    Redirect {
        /// What was asked.
        url: Url,
        /// Where it points.
        target: String,
    },
    /// This machine is not on its whitelist.
    #[error("{url} does not allow this machine ({message})")]
    Forbidden {
        /// What was asked.
        url: Url,
        /// What it said.
        message: String,
    },
    /// Another status than 200.
    #[error("{url} answers with status {status}")]
    Status {
        /// What was asked.
        url: Url,
        /// The status.
        status: u16,
    },
    /// Something else than JSON.
    #[error(
        "{url} answers with {}: that is no manifest server",
        if found.contains("html") {
            "a web page".to_owned()
        } else if found.is_empty() {
            "content of no type".to_owned()
        } else {
            format!("content of type {found}")
        }
    )]
    ContentType {
        /// What was asked.
        url: Url,
        /// The type that it named, or nothing.
        found: String,
    },
    /// It is packed, which was not asked for.
    #[error("{url} packs its answer ({encoding}), which was not asked for")]
    Encoded {
        /// What was asked.
        url: Url,
        /// How.
        encoding: String,
    },
    /// More than any list of manifests has.
    #[error("the answer of {url} is longer than {limit} bytes")]
    TooLong {
        /// What was asked.
        url: Url,
        /// The limit.
        limit: usize,
    },
    /// It says that it is JSON, and is not.
    #[error("the answer of {url} is not JSON; it begins {begins:?}")]
    NotJson {
        /// What was asked.
        url: Url,
        /// How it begins.
        begins: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// JSON, but not a list of manifests.
    #[error("the answer of {url} is not a list of manifests: {reason}")]
    Schema {
        /// What was asked.
        url: Url,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// Whether asking again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. } => Retry::Temporary,
            Self::Status { status, .. } if *status >= 500 || *status == 429 => Retry::Temporary,
            _ => Retry::Permanent,
        }
    }
}
