//! Sessions of browsers.
//!
//! `archivist ui` makes a link with a key that is valid once, for a short time. The
//! browser that opens it gets a cookie, which pages of other sites never send
//! (`SameSite=Strict`) and scripts never see (`HttpOnly`), and a CSRF token, which
//! every request that changes something must carry in a header. The CSRF token is
//! sent once, at the start of the session: cookies are not bound to a port, so any
//! server on this computer that the browser visits sees the cookie, and must not be
//! able to get the CSRF token with it.
//!
//! **Invariant.** A session depends on the API token: the cookie is an expiry time
//! with a MAC, whose key is derived from the token. So a session survives a restart
//! of the program, and another token ends all sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;

/// Time for which a link is valid.
const LINK_TIME: Duration = Duration::from_secs(600);
/// Maximum number of valid links; the oldest becomes invalid first.
const LINKS_MAX: usize = 16;
/// Duration of a session in seconds: 30 days.
const SESSION_SECS: i64 = 30 * 24 * 3600;
/// The header with the CSRF token.
const CSRF_HEADER: &str = "x-csrf-token";

/// The keys of links that were not opened yet. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoginKeys(Arc<Mutex<Vec<(String, Instant)>>>);

impl LoginKeys {
    /// Makes a key.
    pub(crate) fn make(&self) -> String {
        let key = hex(&rand::random::<[u8; 32]>());
        let mut keys = self.0.lock();
        keys.retain(|(_, until)| *until > Instant::now());
        if keys.len() >= LINKS_MAX {
            keys.remove(0);
        }
        keys.push((key.clone(), Instant::now() + LINK_TIME));
        key
    }

    /// Reports whether the key is valid, and invalidates it.
    pub(crate) fn use_key(&self, key: &str) -> bool {
        let mut keys = self.0.lock();
        keys.retain(|(_, until)| *until > Instant::now());
        let before = keys.len();
        keys.retain(|(known, _)| !bool::from(known.as_bytes().ct_eq(key.as_bytes())));
        keys.len() < before
    }
}

/// A new session.
#[derive(Debug)]
pub(crate) struct NewSession {
    /// The value of `Set-Cookie`.
    pub(crate) cookie: String,
    /// The CSRF token.
    pub(crate) csrf: String,
}

/// Makes and verifies the sessions of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    key: [u8; 32],
}

impl Sessions {
    /// Derives the key of the sessions from the API token.
    pub(crate) fn new(token: &str) -> Self {
        Self { key: blake3::derive_key("archivist 2026-11 web session", token.as_bytes()) }
    }

    /// Returns the name of the cookie. Cookies are not bound to a port, so two
    /// instances on one computer need different names.
    pub(crate) fn cookie_name(&self) -> String {
        format!("archivist-{}", &self.mac("name")[..16])
    }

    /// Makes a session.
    pub(crate) fn start(&self, now: Timestamp) -> NewSession {
        let end = now.as_second() + SESSION_SECS;
        let body = format!("{end}.{}", hex(&rand::random::<[u8; 16]>()));
        let mac = self.mac(&format!("session {body}"));
        let cookie = self.set_cookie(&format!("{body}.{mac}"), SESSION_SECS);
        NewSession { cookie, csrf: self.csrf_of(&body) }
    }

    fn csrf_of(&self, body: &str) -> String {
        self.mac(&format!("csrf {body}"))
    }

    /// Returns the cookie that ends a session.
    pub(crate) fn end(&self) -> String {
        self.set_cookie("", 0)
    }

    fn set_cookie(&self, value: &str, max_age: i64) -> String {
        let name = self.cookie_name();
        format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict")
    }

    /// Reports whether the request has a valid session.
    pub(crate) fn allows_read(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        self.csrf(headers, now).is_some()
    }

    /// Returns the CSRF token of the request's session, or `None` if the request
    /// has no valid session. No answer may contain it.
    fn csrf(&self, headers: &HeaderMap, now: Timestamp) -> Option<String> {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).iter();
        let pairs = cookies.filter_map(|cookie| cookie.to_str().ok()).flat_map(|c| c.split(';'));
        pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(given, _)| *given == name)
            .find_map(|(_, value)| self.check(value, now))
    }

    fn check(&self, value: &str, now: Timestamp) -> Option<String> {
        let (body, mac) = value.rsplit_once('.')?;
        let expected = self.mac(&format!("session {body}"));
        if !bool::from(expected.as_bytes().ct_eq(mac.as_bytes())) {
            return None;
        }
        let end: i64 = body.split('.').next()?.parse().ok()?;
        (now.as_second() < end).then(|| self.csrf_of(body))
    }

    /// Reports whether the request may change something: it has a valid session
    /// and the CSRF token of that session.
    pub(crate) fn allows_change(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        let Some(expected) = self.csrf(headers, now) else { return false };
        let mut given = headers.get_all(CSRF_HEADER).iter();
        match (given.next(), given.next()) {
            (Some(given), None) => expected.as_bytes().ct_eq(given.as_bytes()).into(),
            _ => false,
        }
    }

    fn mac(&self, text: &str) -> String {
        blake3::keyed_hash(&self.key, text.as_bytes()).to_hex().to_string()
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn request(sessions: &Sessions, set_cookie: &str, csrf: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let cookie = set_cookie.split(';').next().unwrap();
        headers.append("cookie", format!("other=1; {cookie}; more=2").parse().unwrap());
        if let Some(csrf) = csrf {
            headers.append(CSRF_HEADER, csrf.parse().unwrap());
        }
        assert!(set_cookie.starts_with(&sessions.cookie_name()));
        headers
    }

    #[test]
    fn a_key_counts_once() {
        let keys = LoginKeys::default();
        let key = keys.make();
        assert!(!keys.use_key("") && !keys.use_key(&key[1..]));
        assert!(keys.use_key(&key));
        assert!(!keys.use_key(&key));
        let first = keys.make();
        (0..LINKS_MAX).for_each(|_| drop(keys.make()));
        assert!(!keys.use_key(&first));
    }

    #[test]
    fn a_session_allows_changes_only_with_what_belongs_to_it() {
        let sessions = Sessions::new("token");
        let NewSession { cookie, csrf } = sessions.start(at(1000));
        assert!(cookie.contains("; HttpOnly; SameSite=Strict"));
        assert!(!cookie.contains(&csrf));
        let looks = request(&sessions, &cookie, None);
        assert!(sessions.allows_read(&looks, at(1000)));
        assert!(!sessions.allows_change(&looks, at(1000)));
        let changes = request(&sessions, &cookie, Some(&csrf));
        assert!(sessions.allows_change(&changes, at(1000)));
        assert!(!sessions.allows_change(&request(&sessions, &cookie, Some("")), at(1000)));
        // The CSRF token of another session is not accepted.
        let other = sessions.start(at(1000)).cookie;
        assert!(!sessions.allows_change(&request(&sessions, &other, Some(&csrf)), at(1000)));
        // A session expires, and another API token ends it.
        assert!(sessions.allows_change(&changes, at(999 + SESSION_SECS)));
        assert!(!sessions.allows_change(&changes, at(1000 + SESSION_SECS)));
        assert!(!sessions.allows_read(&changes, at(1000 + SESSION_SECS)));
        assert!(!Sessions::new("other").allows_read(&changes, at(1000)));
    }

    #[test]
    fn a_forged_cookie_is_none() {
        let sessions = Sessions::new("token");
        let cookie = sessions.start(at(1000)).cookie;
        let value = cookie.split(['=', ';']).nth(1).unwrap();
        let (body, code) = value.rsplit_once('.').unwrap();
        let later = body.replacen(body.split('.').next().unwrap(), "99999999999", 1);
        for forged in [
            format!("{later}.{code}"),
            format!("{body}."),
            body.to_owned(),
            String::new(),
            ".".into(),
        ] {
            let mut headers = HeaderMap::new();
            let pair = format!("{}={forged}", sessions.cookie_name());
            headers.append("cookie", pair.parse().unwrap());
            assert!(!sessions.allows_read(&headers, at(1000)), "{forged}");
        }
    }

    #[test]
    fn fuzz_session_cookie() {
        let sessions = Sessions::new("token");
        let good = sessions.start(at(100)).cookie;
        let value = good.split_once('=').unwrap().1.split(';').next().unwrap().to_owned();
        assert!(sessions.check(&value, at(101)).is_some());
        fuzzing::target!(std::slice::from_ref(&value), |bytes: &[u8]| {
            let found = String::from_utf8_lossy(bytes);
            assert!(sessions.check(&found, at(101)).is_none() || found == value, "forged");
        });
    }
}
