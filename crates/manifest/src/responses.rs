//! Answers of the small servers that other machines may ask: JSON, never kept
//! by a cache, never guessed at by a browser.

use axum::http::StatusCode;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// JSON that was written already.
pub fn json_response(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// `{"error": …, "message": …}`: what is wrong, and what to do.
pub fn error_response(status: StatusCode, message: &str) -> Response {
    let name = status.canonical_reason().unwrap_or("Error");
    json_response(status, json!({ "error": name, "message": message }).to_string())
}

/// `GET /health`
pub async fn health_response() -> Response {
    json_response(StatusCode::OK, json!({ "status": "ok" }).to_string())
}

/// Only the `allowed` methods are understood.
pub fn method_not_allowed_response(allowed: &'static str) -> Response {
    let message = format!("only {allowed} is understood here");
    let mut response = error_response(StatusCode::METHOD_NOT_ALLOWED, &message);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
