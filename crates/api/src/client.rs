//! [`Client`]: calls the API of an instance on this computer.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::listed::ListedEntry;
use crate::model::ApiProblem;

/// Time limit for the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the response to a `GET`. Other calls may do long work and have
/// no limit.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Number of entries of a snapshot that are requested in one call.
const PAGE_LEN: usize = 1000;
/// Maximum length of an error message in characters. A longer one is cut.
const MESSAGE_LEN_MAX: usize = 2000;

/// Query string of a call. Values are percent-encoded.
#[derive(Clone, Debug, Default)]
pub struct Query(String);

impl Query {
    /// Creates an empty query.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key and a value.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        self
    }

    /// Adds a key and a value, if there is a value.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds a path: as `key` if it is UTF-8, otherwise as `key_base64`.
    #[must_use]
    pub fn with_path(self, key: &str, path: &[u8]) -> Self {
        match crate::to_text(path) {
            (text, None) => self.with(key, &text),
            (_, Some(base64)) => self.with(&format!("{key}_base64"), &base64),
        }
    }

    /// Returns the query with its leading `?`, or an empty text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Percent-encodes `text` for use as one segment of the path of a call.
pub fn path_part(text: &str) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Client of one instance. Clones share a pool of connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// Reasons for which a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No instance accepts connections at this address.
    #[error("no instance answers at {address}")]
    NotRunning {
        /// Address of the API.
        address: String,
        /// Error of the connection.
        #[source]
        source: reqwest::Error,
    },
    /// The instance accepted the connection but did not respond in time.
    #[error("the instance at {address} does not respond; read its log, or restart it")]
    Silent {
        /// Address of the API.
        address: String,
    },
    /// The response has an unexpected format.
    #[error(
        "cannot understand the response to {path}; the instance may be of another version than \
         this program"
    )]
    Unknown {
        /// Path of the call.
        path: String,
        /// Error of the parser.
        #[source]
        source: serde_json::Error,
    },
    /// The instance repeats a page of a listing instead of continuing it.
    #[error("the instance does not continue the list of entries of snapshot {snapshot}")]
    Pages {
        /// Id of the snapshot.
        snapshot: String,
    },
    /// The caller's function for the response failed.
    #[error("cannot write the response")]
    Write(#[source] std::io::Error),
    /// The connection broke before the response was complete.
    #[error("the connection to the instance broke")]
    Broken(#[source] reqwest::Error),
    /// The instance responded with an error.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Message of the instance.
        message: String,
    },
}

impl Client {
    /// Creates a client of the instance whose API listens at `address`.
    ///
    /// `token` is the content of the file `api-token` of the instance.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::Broken`] if the HTTP client cannot be created.
    pub fn new(address: SocketAddr, token: &str) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(ClientError::Broken)?;
        Ok(Self { http, base: format!("http://{address}"), token: token.to_owned() })
    }

    /// Calls `GET /api/v1{path}`.
    ///
    /// # Errors
    ///
    /// Returns [`ClientError::NotRunning`], [`ClientError::Silent`] or
    /// [`ClientError::Broken`] if there is no complete response,
    /// [`ClientError::Unknown`] if it has an unexpected format, and
    /// [`ClientError::Refused`] if it is an error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(reqwest::Method::GET, path, None::<&()>).await
    }

    /// Calls `POST /api/v1{path}`. Waits for the response without a time limit.
    ///
    /// # Errors
    ///
    /// Same as [`Client::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(reqwest::Method::POST, path, Some(body)).await
    }

    /// Calls `PATCH /api/v1{path}`. Waits for the response without a time limit.
    ///
    /// # Errors
    ///
    /// Same as [`Client::get`].
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(reqwest::Method::PATCH, path, Some(body)).await
    }

    /// Calls `DELETE /api/v1{path}`. Waits for the response without a time limit.
    ///
    /// # Errors
    ///
    /// Same as [`Client::get`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(reqwest::Method::DELETE, path, None::<&()>).await
    }

    /// Calls `/api/v1{path}` with any method. An empty response is parsed as
    /// `null`.
    ///
    /// # Errors
    ///
    /// Same as [`Client::get`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let bytes = response.bytes().await.map_err(ClientError::Broken)?;
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text)
            .map_err(|error| ClientError::Unknown { path: path.to_owned(), source: error })
    }

    /// Calls `GET /api/v1{path}` and passes each piece of the response to `each` as
    /// it arrives.
    ///
    /// # Errors
    ///
    /// Same as [`Client::get`], and [`ClientError::Write`] if `each` fails.
    pub async fn download(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let mut response = self.send(reqwest::Method::GET, path, None::<&()>).await?;
        while let Some(piece) = response.chunk().await.map_err(ClientError::Broken)? {
            each(&piece).map_err(ClientError::Write)?;
        }
        Ok(())
    }

    /// Lists the entries below `path` in a snapshot and passes them to `each` in
    /// path order. Fetches them page by page.
    ///
    /// Lists only the direct children, unless `recursive`. If `path` is a file,
    /// lists the file itself. The snapshot is stored by this instance, or by its
    /// backup server if `from_backup_server`.
    ///
    /// # Errors
    ///
    /// Same as [`Client::download`], and [`ClientError::Pages`] if the instance
    /// repeats a page.
    pub async fn entries(
        &self,
        snapshot: &str,
        path: &[u8],
        recursive: bool,
        from_backup_server: bool,
        mut each: impl FnMut(ListedEntry) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let base = format!("/snapshots/{}/entries", path_part(snapshot));
        let flag = |value: bool| if value { "true" } else { "false" };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let mut query = Query::new()
                .with_path("path", path)
                .with("recursive", flag(recursive))
                .with("from_backup_server", flag(from_backup_server))
                .with("limit", &PAGE_LEN.to_string());
            if let Some(after) = &after {
                query = query.with_path("after", after);
            }
            let page: Vec<ListedEntry> = self.get(&format!("{base}{}", query.as_str())).await?;
            let is_last = page.len() < PAGE_LEN;
            let last = page.last().and_then(ListedEntry::path_bytes);
            // Without this check, an instance that ignores `after` would be asked
            // without end.
            if !is_last && (last.is_none() || last == after) {
                return Err(ClientError::Pages { snapshot: snapshot.to_owned() });
            }
            after = last;
            for entry in page {
                each(entry).map_err(ClientError::Write)?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Sends a call and returns a response with a success status.
    async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<reqwest::Response, ClientError> {
        let url = format!("{}/api/v1{path}", self.base);
        let mut request = self.http.request(method.clone(), url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let sent = async {
            request.send().await.map_err(|source| {
                if source.is_connect() {
                    ClientError::NotRunning { address: self.base.clone(), source }
                } else {
                    ClientError::Broken(source)
                }
            })
        };
        let response = if method == reqwest::Method::GET {
            match tokio::time::timeout(READ_TIMEOUT, sent).await {
                Ok(response) => response?,
                Err(_) => return Err(ClientError::Silent { address: self.base.clone() }),
            }
        } else {
            sent.await?
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.map_err(ClientError::Broken)?;
        let mut message = message_of(&bytes);
        if message.trim().is_empty() {
            message = format!("the instance responded to {path} with HTTP status {status}");
        }
        Err(ClientError::Refused { status: status.as_u16(), message })
    }
}

/// Returns the message in the body of an error response.
fn message_of(body: &[u8]) -> String {
    let mut message = serde_json::from_slice::<ApiProblem>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |problem| problem.message);
    if let Some((at, _)) = message.char_indices().nth(MESSAGE_LEN_MAX) {
        message.truncate(at);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_api_problem() {
        let problem = serde_json::json!({ "code": "not_found", "message": "no such folder" });
        fuzzing::target!(&[problem.to_string()], |bytes: &[u8]| {
            assert!(message_of(bytes).chars().count() <= MESSAGE_LEN_MAX);
        });
    }
}
