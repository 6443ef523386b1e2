//! The web UI: its files, which are part of the program, and the login page.
//!
//! Any program of this computer may read the files. The data that they show and
//! change needs a session (see `session`).
//!
//! **Invariant.** Only the UI's own scripts and styles run on its pages: the
//! Content-Security-Policy allows scripts and styles with the nonce of the
//! answer, not the other content of this origin (uploads, backups), and no page
//! may embed the UI in a frame.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Deserialize;

use crate::state::SignIn;

/// Every file with its path below `/ui/`; empty if the program was built without
/// the UI.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/web_assets.rs"));

/// The placeholder of the nonce in the built page.
const NONCE_MARK: &str = "CSP_NONCE";

/// The page of a program that was built without the UI.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<title>Archivist</title><h1>This archivist was built without its web UI</h1>\
<p>Build it with <code>cargo xtask build</code>, which needs Node.js and npm. \
The command line has the same functions: <code>archivist --help</code>.</p></html>\n";

/// Returns the routes `/`, `/ui/…` and `/ui/login`.
pub(crate) fn router(sign_in: SignIn) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/ui/") }))
        .route("/ui", get(|| async { Redirect::temporary("/ui/") }))
        .route("/ui/", get(|| async { page(FILES) }))
        .route("/ui/login", get(login))
        .route("/ui/{*path}", get(file))
        .with_state(sign_in)
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    key: String,
}

/// Starts a session for a request with a valid key.
async fn login(
    State(SignIn { sessions, links, .. }): State<SignIn>,
    method: Method,
    Query(login): Query<Login>,
) -> Response {
    // Neither the key nor the address may go anywhere else.
    let plain = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    // Programs that show a preview of a link must not use it up.
    if method == Method::HEAD {
        return plain.into_response();
    }
    if !links.use_key(&login.key, "") {
        return (plain, Redirect::to("/ui/?used")).into_response();
    }
    let session = tokio::task::spawn_blocking(move || {
        let session = sessions.start(Timestamp::now())?;
        let cookie = HeaderValue::from_str(&session.cookie).map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>((session, cookie))
    });
    match session.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok((session, cookie)) => {
            let set = [(header::SET_COOKIE, cookie)];
            // Browsers do not send the part after `#` to servers, and the page
            // removes it from the address.
            let page = Redirect::to(&format!("/ui/#csrf={}", session.csrf));
            (plain, set, page).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot start a session of the web UI");
            let message = format!("cannot start a session: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, plain, message).into_response()
        }
    }
}

/// Returns a file, or the page for any other path.
async fn file(Path(path): Path<String>) -> Response {
    let is_file = |(name, _): &&(&str, &[u8])| *name == path && path != "index.html";
    match FILES.iter().find(is_file) {
        Some((name, content)) => asset(name, content),
        // These names contain a hash: a missing file belongs to another build.
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

/// Returns the page with a new nonce.
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
    // The policy does not apply to style attributes that scripts set.
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

/// Adds the security headers of every answer of the UI.
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
            // Only the nonce: other content of this origin must not run as a
            // script.
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
