//! Access control of the API port: programs of this computer may send requests,
//! web pages of other sites may not.
//!
//! The API listens on loopback only, but every page that a browser on this computer
//! shows can send requests there, also through a name of its own that resolves to
//! 127.0.0.1 (DNS rebinding). So the `Host` must be a name of loopback, and an
//! `Origin`, which browsers send with most requests of pages, must be the API's
//! own. Browsers request an image, a script or a link of another site without an
//! `Origin`; such a request is refused because of its `Sec-Fetch-Site`, unless it
//! opens a page of the UI. The answers also tell browsers that no other site may
//! use them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use manifest::error_response;
use node::Services;
use subtle::ConstantTimeEq as _;

use crate::caller::Caller;
use crate::session::Sessions;
use crate::text_error::TextError;

/// Refuses requests of web pages of other sites on all routes.
pub(crate) fn guarded(router: Router) -> Router {
    router
        .fallback(|| async { TextError::new(StatusCode::NOT_FOUND, "this path does not exist") })
        .layer(axum::middleware::from_fn(origin))
}

/// Answers a request only if it comes from a program of this computer or from the
/// UI.
async fn origin(request: Request, next: Next) -> Response {
    let checked = check_origin(request.headers()).and_then(|()| {
        let is_page = matches!(*request.method(), Method::GET | Method::HEAD)
            && is_page(request.uri().path());
        check_site(request.headers(), is_page)
    });
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let same_origin = HeaderValue::from_static("same-origin");
    response.headers_mut().insert("cross-origin-resource-policy", same_origin);
    response
}

/// Reports whether a path is a page of the UI, which any site may link to.
fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/ui") || path.starts_with("/ui/")
}

/// Refuses a request of another site's page. Browsers mark such requests with
/// headers that programs do not send.
fn check_site(headers: &HeaderMap, is_page: bool) -> Result<(), TextError> {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    let is = |name, value: &str| headers.get(name).is_some_and(|given| given == value);
    match (sites.next(), sites.next()) {
        (None, _) => Ok(()),
        // `none` is an address that a person typed, or a bookmark.
        (Some(site), None) if site == "same-origin" || site == "none" => Ok(()),
        (Some(_), None)
            if is_page && is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document") =>
        {
            Ok(())
        }
        _ => Err(forbidden("this API does not answer web pages of other sites")),
    }
}

/// Answers the owner of the instance alone: a request with the token or, unless the
/// configuration requires the token, one of a program of the same user or of root.
pub(crate) async fn owner(
    State(services): State<Services>,
    request: Request,
    next: Next,
) -> Response {
    let caller = request.extensions().get().cloned();
    if has_token(request.headers(), &services.token) || is_own_program(&services, caller).await {
        return next.run(request).await;
    }
    TextError::new(StatusCode::UNAUTHORIZED, unauthorized("this API")).into_response()
}

/// Reports whether a request comes from a program of the user of this instance, or of root, and
/// the configuration allows such programs to read without the token.
pub(crate) async fn is_own_program(services: &Services, caller: Option<Caller>) -> bool {
    match caller {
        Some(caller) if !services.settings.get().node.api_require_token => caller.is_owner().await,
        _ => false,
    }
}

/// Returns the error message of a request for `subject` that does not prove that it comes from
/// the owner.
pub(crate) fn unauthorized(subject: &str) -> String {
    format!(
        "{subject} requires a token; send `Authorization: Bearer` with the content of the file \
         api-token in the data directory. Without it, only programs of the user that archivist \
         runs as may read, if `[node] api_require_token` is false"
    )
}

/// Path by which anyone may find out that a server of this instance answers.
const HEALTH: &str = "/health";

/// Refuses requests over loopback that give a name of another host, as the requests of a web
/// page do whose name was changed to mean this computer. `/health` is for anyone.
pub(crate) async fn loopback_name(request: Request, next: Next) -> Response {
    let is_loopback_client =
        request.extensions().get::<Caller>().is_none_or(|caller| caller.address().is_loopback());
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_named = match (hosts.next(), hosts.next()) {
        // HTTP/1.0 needs no name, and browsers send one.
        (None, _) => true,
        (Some(host), None) => host.to_str().is_ok_and(is_loopback),
        _ => false,
    };
    if is_loopback_client && !is_named && request.uri().path() != HEALTH {
        let message = "requests from this computer must name localhost, 127.0.0.1 or [::1] as \
                       their Host";
        return error_response(StatusCode::FORBIDDEN, message);
    }
    next.run(request).await
}

/// Refuses requests over loopback of other users of this computer, except for `/health`, unless
/// `is_listed` says that the configuration names their address.
pub(crate) async fn own_loopback(
    State(is_listed): State<IsListed>,
    request: Request,
    next: Next,
) -> Response {
    let caller = request.extensions().get::<Caller>().cloned();
    let Some(caller) = caller.filter(|_| request.uri().path() != HEALTH) else {
        return next.run(request).await;
    };
    let address = caller.address();
    if address.is_loopback() && !is_listed.0(address) && !caller.is_owner().await {
        return error_response(
            StatusCode::FORBIDDEN,
            &format!(
                "another user of this computer may not ask; to allow all its users, add {address} \
                 to [manifest_server] whitelisted_ips"
            ),
        );
    }
    next.run(request).await
}

/// Reports whether the configuration names an address.
#[derive(Clone)]
pub(crate) struct IsListed(pub(crate) Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

fn forbidden(message: &str) -> TextError {
    TextError::new(StatusCode::FORBIDDEN, message)
}

fn check_origin(headers: &HeaderMap) -> Result<(), TextError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(forbidden("a request must have exactly one Host header"));
    };
    let host = host.to_str().map_err(|_| forbidden("the Host header is malformed"))?;
    if !is_loopback(host) {
        return Err(forbidden(
            "this API answers requests to localhost, 127.0.0.1 and [::1] only; to reach it from \
             another computer, use an SSH tunnel",
        ));
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) if origin.to_str().ok() == Some(&format!("http://{host}")) => Ok(()),
        _ => Err(forbidden("this API does not answer web pages of other origins")),
    }
}

/// Reports whether a `Host` header is a name of loopback.
fn is_loopback(host: &str) -> bool {
    let name = if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    } else if let Some(literal) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    } else {
        match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        }
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Reports whether a request with this method changes nothing.
pub(crate) fn is_read_only(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Reports whether a request carries the token, or belongs to a session of the web UI.
pub(crate) fn has_credentials(headers: &HeaderMap, token: &str, sessions: &Sessions) -> bool {
    has_token(headers, token) || {
        let is_allowed = sessions.allow(headers, Timestamp::now());
        if is_allowed {
            sessions.note_uses();
        }
        is_allowed
    }
}

/// Reports whether the request carries the token. The comparison takes constant
/// time.
pub(crate) fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let Some(given) = headers.get(header::AUTHORIZATION) else { return false };
    let given = given.as_bytes();
    let Some((scheme, given)) = given.split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn loopback_by_any_name_is_served() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "127.0.0.1:8080",
            "127.3.2.1",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(check_origin(&headers(&[("host", host)])).is_ok(), "{host}");
            let origin = format!("http://{host}");
            assert!(check_origin(&headers(&[("host", host), ("origin", &origin)])).is_ok());
        }
    }

    #[test]
    fn foreign_hosts_and_origins_are_not() {
        for host in [
            // Without brackets, an address of IPv6 is no host.
            "::1:80",
            "::1",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "localhost:x",
            "[::2]:8080",
            "127.0.0.1.evil.example",
            "user@localhost",
        ] {
            assert!(check_origin(&headers(&[("host", host)])).is_err(), "{host}");
        }
        assert!(check_origin(&headers(&[])).is_err());
        assert!(check_origin(&headers(&[("host", "localhost"), ("host", "evil")])).is_err());
        for origin in [
            "null",
            "http://evil.example",
            "https://localhost:8080",
            "http://localhost",
            "http://localhost:8081",
        ] {
            let pairs = [("host", "localhost:8080"), ("origin", origin)];
            assert!(check_origin(&headers(&pairs)).is_err(), "{origin}");
        }
    }

    #[test]
    fn other_sites_may_lead_to_the_pages_and_get_nothing_else() {
        let check = |site: &str, mode: &str, dest: &str, path: &str| {
            let given =
                [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            check_site(&headers(&given), is_page(path)).is_ok()
        };
        let api = "/api/v1/status";
        for site in ["same-origin", "none"] {
            assert!(check(site, "cors", "empty", api) && check(site, "navigate", "document", api));
        }
        for site in ["cross-site", "same-site", "of-the-future", ""] {
            for (mode, dest) in [("no-cors", "image"), ("no-cors", "script"), ("cors", "empty")] {
                for path in [api, "/metrics", "/", "/ui/", "/ui/assets/x.js"] {
                    assert!(!check(site, mode, dest, path), "{site} {mode} {dest} {path}");
                }
            }
            assert!(!check(site, "navigate", "iframe", "/ui/"));
            assert!(!check(site, "navigate", "document", api));
            assert!(!check(site, "navigate", "document", "/uix"));
            assert!(check(site, "navigate", "document", "/ui/login"));
        }
        let twice = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")];
        assert!(check_site(&headers(&twice), false).is_err());
        assert!(check_site(&headers(&[]), false).is_ok());
    }

    #[test]
    fn a_token_has_to_be_the_token() {
        assert!(has_token(&headers(&[("authorization", "Bearer secret")]), "secret"));
        assert!(has_token(&headers(&[("authorization", "bearer secret")]), "secret"));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Basic secret", "secret", ""] {
            assert!(!has_token(&headers(&[("authorization", wrong)]), "secret"), "{wrong}");
        }
        assert!(!has_token(&headers(&[]), "secret"));
    }

    #[test]
    fn fuzz_host() {
        let examples = ["localhost:8080", "127.0.0.1", "[::1]:80", "127.1.2.3:9"];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            let host = String::from_utf8_lossy(bytes);
            if is_loopback(&host) {
                // No name that a foreign name server answers.
                let host = host.to_ascii_lowercase();
                assert!(host.contains("localhost") || host.contains("127.") || host.contains('['));
                assert!(!host.contains(['/', '@', '\\']) && host.split('.').count() <= 4, "{host}");
            }
        });
    }
}
