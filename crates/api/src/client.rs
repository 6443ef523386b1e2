//! A client of the API of an instance on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::listed::ListedEntry;
use crate::model::ApiProblem;

/// An instance that does not even accept a connection within this is not
/// there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What only looks, or only asks for something to begin, is answered within
/// this.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Entries of a snapshot that are asked for at once.
const ENTRIES_AT_ONCE: usize = 1000;
/// The longest message of an error that is shown, in characters.
const MESSAGE_LEN_MAX: usize = 2000;

/// The query of a call: keys and values, escaped.
#[derive(Clone, Debug, Default)]
pub struct Query(String);

impl Query {
    /// Without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this too.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        self
    }

    /// With this too, where there is a value.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// With a path of any bytes: as `key`, or as `key_base64` where it is not
    /// UTF-8.
    #[must_use]
    pub fn with_path(self, key: &str, path: &[u8]) -> Self {
        match crate::to_text(path) {
            (text, None) => self.with(key, &text),
            (_, Some(base64)) => self.with(&format!("{key}_base64"), &base64),
        }
    }

    /// As it stands after the path of a call.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text of any kind as one part of the path of a call.
pub fn path_part(text: &str) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Talks to one instance.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no instance answers at {address}")]
    NotRunning {
        /// Where one was expected.
        address: String,
        /// What happened instead.
        #[source]
        source: reqwest::Error,
    },
    /// It accepts connections, and does not answer.
    #[error("the instance at {address} does not answer; look at its log, or restart it")]
    Silent {
        /// Where it is.
        address: String,
    },
    /// An answer of a form that this program does not know.
    #[error("the instance answered {path} in an unknown form; is it of another version?")]
    Unknown {
        /// What was asked for.
        path: String,
        /// What is unknown about it.
        #[source]
        source: serde_json::Error,
    },
    /// The pages of a listing have no end.
    #[error("the instance does not go on with the list of snapshot {snapshot}")]
    Pages {
        /// The snapshot.
        snapshot: String,
    },
    /// What was answered could not be written to where it should go.
    #[error("cannot write the answer")]
    Write(#[source] std::io::Error),
    /// The connection broke.
    #[error("the instance did not answer whole")]
    Broken(#[source] reqwest::Error),
    /// The instance says no, and why.
    #[error("{message}")]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// Its words.
        message: String,
    },
}

impl Client {
    /// A client of the instance whose API listens at `address`.
    ///
    /// # Errors
    ///
    /// Those of setting up TLS roots and the like: none on a sane system.
    pub fn new(address: SocketAddr, token: &str) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(ClientError::Broken)?;
        Ok(Self { http, base: format!("http://{address}"), token: token.to_owned() })
    }

    /// `GET /api/v1{path}`
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(reqwest::Method::GET, path, None::<&()>).await
    }

    /// `POST /api/v1{path}`
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(reqwest::Method::POST, path, Some(body)).await
    }

    /// `DELETE /api/v1{path}`
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(reqwest::Method::DELETE, path, None::<&()>).await
    }

    /// Any call of `/api/v1`.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, path, body).await?;
        let bytes = answer.bytes().await.map_err(ClientError::Broken)?;
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text)
            .map_err(|error| ClientError::Unknown { path: path.to_owned(), source: error })
    }

    /// `GET /api/v1{path}`: the answer as it comes, piece by piece.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn download(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let mut answer = self.send(reqwest::Method::GET, path, None::<&()>).await?;
        while let Some(piece) = answer.chunk().await.map_err(ClientError::Broken)? {
            each(&piece).map_err(ClientError::Write)?;
        }
        Ok(())
    }

    /// The entries below `path` in a snapshot, in their order, page by page.
    /// Only what is directly in it, unless `recursive`; of a file, itself. The
    /// snapshot is one that is held here, or on the backup server.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn entries(
        &self,
        snapshot: &str,
        path: &[u8],
        recursive: bool,
        from_backup_server: bool,
        mut each: impl FnMut(ListedEntry) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let base = format!("/snapshots/{}/entries", path_part(snapshot));
        let word = |is_so: bool| if is_so { "true" } else { "false" };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let mut query = Query::new()
                .with_path("path", path)
                .with("recursive", word(recursive))
                .with("from_backup_server", word(from_backup_server))
                .with("limit", &ENTRIES_AT_ONCE.to_string());
            if let Some(after) = &after {
                query = query.with_path("after", after);
            }
            let page: Vec<ListedEntry> = self.get(&format!("{base}{}", query.as_str())).await?;
            let is_last = page.len() < ENTRIES_AT_ONCE;
            let last = page.last().and_then(ListedEntry::path_bytes);
            // Without this, an instance that ignores `after` would be asked
            // for ever.
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

    /// Sends a call; an answer is one of success.
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
        // What works may take its time; what looks may not.
        let answer = if method == reqwest::Method::GET {
            match tokio::time::timeout(READ_TIMEOUT, sent).await {
                Ok(answer) => answer?,
                Err(_) => return Err(ClientError::Silent { address: self.base.clone() }),
            }
        } else {
            sent.await?
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.map_err(ClientError::Broken)?;
        let mut message = serde_json::from_slice::<ApiProblem>(&bytes)
            .map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |told| told.message);
        if let Some((at, _)) = message.char_indices().nth(MESSAGE_LEN_MAX) {
            message.truncate(at);
        }
        if message.trim().is_empty() {
            message = format!("the instance answered {path} with {status}");
        }
        Err(ClientError::Refused { status: status.as_u16(), message })
    }
}
