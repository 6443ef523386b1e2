//! A client of the API of an instance on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::ApiProblem;

/// An instance that does not even accept a connection within this is not
/// there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
        let url = format!("{}/api/v1{path}", self.base);
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|source| {
            if source.is_connect() {
                ClientError::NotRunning { address: self.base.clone(), source }
            } else {
                ClientError::Broken(source)
            }
        })?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(ClientError::Broken)?;
        if status.is_success() {
            let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            return serde_json::from_slice(bytes).map_err(|error| ClientError::Refused {
                status: status.as_u16(),
                message: format!("the instance answered {path} in an unknown form: {error}"),
            });
        }
        let message = serde_json::from_slice::<ApiProblem>(&bytes)
            .map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |told| told.message);
        Err(ClientError::Refused { status: status.as_u16(), message })
    }
}
