//! Who may call: programs of this machine, and no web page.
//!
//! The API listens on loopback alone, but every page that a browser on this
//! machine shows can send requests there too, also through a name of its own
//! that resolves to 127.0.0.1 (DNS rebinding). So the `Host` has to be a name
//! of loopback, and an `Origin`, which browsers send with what pages do, has
//! to be the API's own.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::{ApiError, NodeState};

/// Lets a request through, or says why not.
pub(crate) async fn guard(
    State(state): State<NodeState>,
    request: Request,
    next: Next,
) -> Response {
    if let Err(error) = check_origin(request.headers()) {
        return error.into_response();
    }
    let must_have_token = state.settings.get().node.api_require_token;
    if must_have_token && !has_token(request.headers(), &state.token) {
        return ApiError::new(
            StatusCode::UNAUTHORIZED,
            "this API asks for a token: send `Authorization: Bearer` with the content of the \
             api-token file in the data directory",
        )
        .into_response();
    }
    next.run(request).await
}

fn forbidden(message: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, message)
}

fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(forbidden("a request has exactly one Host header"));
    };
    let host = host.to_str().map_err(|_| forbidden("the Host header cannot be read"))?;
    if !is_loopback(host) {
        return Err(forbidden(
            "this API answers to localhost, 127.0.0.1 and [::1] alone; to reach it from another \
             machine, use an SSH tunnel",
        ));
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) if origin.to_str().ok() == Some(&format!("http://{host}")) => Ok(()),
        _ => Err(forbidden("this API does not answer to pages of other origins")),
    }
}

/// Whether a `Host` header names this machine's loopback.
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
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the request carries the token, compared in constant time.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
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
    fn a_token_has_to_be_the_token() {
        assert!(has_token(&headers(&[("authorization", "Bearer secret")]), "secret"));
        assert!(has_token(&headers(&[("authorization", "bearer secret")]), "secret"));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Basic secret", "secret", ""] {
            assert!(!has_token(&headers(&[("authorization", wrong)]), "secret"), "{wrong}");
        }
        assert!(!has_token(&headers(&[]), "secret"));
    }
}
