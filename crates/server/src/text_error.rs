//! Error answers in plain text, for the node API and for refused requests.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use store::{Limit, StoreError};
use types::with_causes;

/// An error answer in plain text. The SDK of the node API shows it unchanged.
#[derive(Debug)]
pub(crate) struct TextError {
    status: StatusCode,
    message: String,
}

impl TextError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} is not stored here"))
    }

    /// An unexpected error, which is logged too.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = with_causes(error), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, with_causes(error))
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the text of the answer.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<StoreError> for TextError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Full { limit, .. } => {
                let status = match limit {
                    Limit::Quota | Limit::Reserve | Limit::Disk => StatusCode::INSUFFICIENT_STORAGE,
                };
                Self::new(status, error.to_string())
            }
            StoreError::Missing(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            StoreError::Node { .. } => Self::new(StatusCode::NOT_FOUND, with_causes(&error)),
            _ => Self::internal(&error),
        }
    }
}

impl IntoResponse for TextError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.message).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
