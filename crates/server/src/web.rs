//! The files of the web UI, as they were built into the program.
//!
//! **Invariant.** Nothing runs on these pages but what came with them: the
//! Content-Security-Policy allows scripts and styles with the nonce of the
//! answer, not what this origin serves besides (uploads, backups), and nobody
//! may frame them.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Deserialize;

use crate::session::{LoginKeys, Sessions};

/// Every file with its path below `/ui/`; empty where the program was built
/// without them.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/web_assets.rs"));

/// What the built page has where the nonce belongs.
const NONCE_MARK: &str = "CSP_NONCE";

/// What is shown where there are no files.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<title>Archivist</title><h1>This archivist was built without its web UI</h1>\
<p>Build it with <code>cargo xtask build</code>, which needs Node.js and npm. \
The command line can do all of it: <code>archivist --help</code>.</p></html>\n";

/// The routes: `/`, `/ui/…` and the way in.
pub(crate) fn router(keys: LoginKeys, sessions: Sessions) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/ui/") }))
        .route("/ui", get(|| async { Redirect::temporary("/ui/") }))
        .route("/ui/", get(|| async { page(FILES) }))
        .route("/ui/login", get(login))
        .route("/ui/{*path}", get(file))
        .with_state((keys, sessions))
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    key: String,
}

/// Opens a session for whoever has a key that counts.
async fn login(
    State((keys, sessions)): State<(LoginKeys, Sessions)>,
    Query(login): Query<Login>,
) -> Response {
    // Neither the key nor the way goes any further.
    let plain = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if !keys.take(&login.key) {
        return (plain, Redirect::to("/ui/?used")).into_response();
    }
    let begun = sessions.begin(Timestamp::now());
    match HeaderValue::from_str(&begun.cookie) {
        Ok(cookie) => {
            let set = [(header::SET_COOKIE, cookie)];
            // What stands behind the `#` is sent to nobody; the page takes it
            // out of the address.
            let page = Redirect::to(&format!("/ui/#csrf={}", begun.csrf));
            (plain, set, page).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A file, or the page for a path that is one of its own.
async fn file(Path(path): Path<String>) -> Response {
    let is_file = |(name, _): &&(&str, &[u8])| *name == path && path != "index.html";
    match FILES.iter().find(is_file) {
        Some((name, content)) => asset(name, content),
        // Its names carry a hash: one that is not here is of another build.
        None if path.starts_with("assets/") => StatusCode::NOT_FOUND.into_response(),
        None => page(FILES),
    }
}

fn asset(name: &str, content: &'static [u8]) -> Response {
    let is_hashed = name.starts_with("assets/");
    let cache =
        if is_hashed { "public, max-age=31536000, immutable" } else { "public, max-age=3600" };
    let mut response = Body::from(content).into_response();
    let headers = response.headers_mut();
    secure(headers, "default-src 'none'; sandbox");
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime_of(name)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

fn mime_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("html") => "text/html; charset=utf-8",
        Some("woff2") => "font/woff2",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// The page, with a nonce of its own.
fn page(files: &[(&str, &[u8])]) -> Response {
    let index = files.iter().find(|(name, _)| *name == "index.html");
    let Some(text) = index.and_then(|(_, content)| std::str::from_utf8(content).ok()) else {
        let mut response = (StatusCode::NOT_FOUND, NOT_BUILT).into_response();
        secure(response.headers_mut(), "default-src 'none'");
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        return response;
    };
    let nonce = data_encoding::BASE64URL_NOPAD.encode(&rand::random::<[u8; 18]>());
    let mut response = Body::from(text.replace(NONCE_MARK, &nonce)).into_response();
    // Style attributes are set by scripts, which no policy is asked about.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    );
    let headers = response.headers_mut();
    secure(headers, &policy);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What every answer of the UI says to browsers.
fn secure(headers: &mut HeaderMap, policy: &str) {
    let policy = format!("{policy}; frame-ancestors 'none'");
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let same = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-opener-policy", same.clone());
    headers.insert("cross-origin-resource-policy", same);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_page_and_its_policy_carry_one_nonce_a_time() {
        let files: &[(&str, &[u8])] = &[("index.html", b"<script nonce=\"CSP_NONCE\"></script>")];
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2 {
            let response = page(files);
            let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
            assert!(!policy.contains("unsafe"), "{policy}");
            assert!(policy.contains("frame-ancestors 'none'"));
            let html = text(response).await;
            let nonce = html.split('"').nth(1).unwrap().to_owned();
            // The nonce alone: what else this origin serves is no script of its.
            for directive in ["script-src", "style-src"] {
                let expected = format!("; {directive} 'nonce-{nonce}';");
                assert!(policy.contains(&expected), "{policy} {html}");
            }
            assert!(seen.insert(nonce));
        }
    }

    #[tokio::test]
    async fn without_files_the_page_says_how_to_build_them() {
        let response = page(&[]);
        assert_eq!(response.status(), 404);
        assert!(text(response).await.contains("cargo xtask build"));
    }
}
