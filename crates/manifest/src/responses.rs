//! HTTP responses of the small servers that other machines may call: the
//! manifest server of a source and the trigger server of a backup server.
//!
//! Each response is JSON with `Cache-Control: no-store` and
//! `X-Content-Type-Options: nosniff`.

use axum::http::StatusCode;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Returns a response with `body`, which must be JSON.
pub fn json_response(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Returns an error response: `{"error": NAME, "message": TEXT}` with the standard
/// name of the status.
pub fn error_response(status: StatusCode, message: &str) -> Response {
    let name = status.canonical_reason().unwrap_or("Error");
    json_response(status, json!({ "error": name, "message": message }).to_string())
}

/// Handles `GET /health`: 200 with `{"status":"ok"}`.
pub async fn health_response() -> Response {
    json_response(StatusCode::OK, json!({ "status": "ok" }).to_string())
}

/// Returns a response with status 405 that lists the `allowed` methods.
pub fn method_not_allowed_response(allowed: &'static str) -> Response {
    let message = format!("use {allowed} for this path");
    let mut response = error_response(StatusCode::METHOD_NOT_ALLOWED, &message);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
