//! Sessions of browsers.
//!
//! `archivist ui` makes a link with a key that counts once, for a short time.
//! The browser that opens it gets a cookie that pages of other sites never
//! send (`SameSite=Strict`) and scripts never see (`HttpOnly`), and a code that
//! every change has to carry in a header besides. The code is handed over once,
//! at the beginning: cookies do not know ports, so any server on this machine
//! that the browser visits sees the cookie, and must not get the code for it.
//!
//! **Invariant.** A session is worth no more than the token: the cookie is an
//! end and a code over it, made with a key that comes from the token. So it
//! goes on when the program is started anew, and with another token all
//! sessions are over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;

/// How long a link counts.
const LINK_TIME: Duration = Duration::from_secs(600);
/// Links that count at a time; the oldest goes first.
const LINKS_MAX: usize = 16;
/// How long a session lasts, in seconds: 30 days.
const SESSION_SECS: i64 = 30 * 24 * 3600;
/// Where a change carries what belongs to its session.
const CSRF_HEADER: &str = "x-csrf-token";

/// Keys of links that were not opened yet. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoginKeys(Arc<Mutex<Vec<(String, Instant)>>>);

impl LoginKeys {
    /// A new key.
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

    /// Whether the key counts; it does not any more after that.
    pub(crate) fn take(&self, key: &str) -> bool {
        let mut keys = self.0.lock();
        keys.retain(|(_, until)| *until > Instant::now());
        let before = keys.len();
        keys.retain(|(known, _)| !bool::from(known.as_bytes().ct_eq(key.as_bytes())));
        keys.len() < before
    }
}

/// A session that begins.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The cookie, as `Set-Cookie` has it.
    pub(crate) cookie: String,
    /// What every change of the session has to carry.
    pub(crate) csrf: String,
}

/// Makes and checks the sessions of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    key: [u8; 32],
}

impl Sessions {
    /// The sessions that this token is good for.
    pub(crate) fn new(token: &str) -> Self {
        Self { key: blake3::derive_key("archivist 2026-11 web session", token.as_bytes()) }
    }

    /// The name of the cookie: cookies do not know ports, so two instances on
    /// one machine need names of their own.
    pub(crate) fn cookie_name(&self) -> String {
        format!("archivist-{}", &self.code("name")[..16])
    }

    /// A new session.
    pub(crate) fn begin(&self, now: Timestamp) -> Begun {
        let end = now.as_second() + SESSION_SECS;
        let body = format!("{end}.{}", hex(&rand::random::<[u8; 16]>()));
        let code = self.code(&format!("session {body}"));
        let cookie = self.set_cookie(&format!("{body}.{code}"), SESSION_SECS);
        Begun { cookie, csrf: self.csrf_of(&body) }
    }

    fn csrf_of(&self, body: &str) -> String {
        self.code(&format!("csrf {body}"))
    }

    /// The cookie that ends a session.
    pub(crate) fn end(&self) -> String {
        self.set_cookie("", 0)
    }

    fn set_cookie(&self, value: &str, max_age: i64) -> String {
        let name = self.cookie_name();
        format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict")
    }

    /// Whether the request has a session that counts: enough to look.
    pub(crate) fn allows_looking(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        self.csrf(headers, now).is_some()
    }

    /// What changes of the session have to carry; `None` where the request
    /// has no session that counts. It goes into no answer.
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
        let (body, code) = value.rsplit_once('.')?;
        let expected = self.code(&format!("session {body}"));
        if !bool::from(expected.as_bytes().ct_eq(code.as_bytes())) {
            return None;
        }
        let end: i64 = body.split('.').next()?.parse().ok()?;
        (now.as_second() < end).then(|| self.csrf_of(body))
    }

    /// Whether the request may change something: it has a session, and what
    /// belongs to it.
    pub(crate) fn allows_change(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        let Some(expected) = self.csrf(headers, now) else { return false };
        let mut given = headers.get_all(CSRF_HEADER).iter();
        match (given.next(), given.next()) {
            (Some(given), None) => expected.as_bytes().ct_eq(given.as_bytes()).into(),
            _ => false,
        }
    }

    fn code(&self, text: &str) -> String {
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
        assert!(!keys.take("") && !keys.take(&key[1..]));
        assert!(keys.take(&key));
        assert!(!keys.take(&key));
        let first = keys.make();
        (0..LINKS_MAX).for_each(|_| drop(keys.make()));
        assert!(!keys.take(&first));
    }

    #[test]
    fn a_session_allows_changes_only_with_what_belongs_to_it() {
        let sessions = Sessions::new("token");
        let Begun { cookie, csrf } = sessions.begin(at(1000));
        assert!(cookie.contains("; HttpOnly; SameSite=Strict"));
        assert!(!cookie.contains(&csrf));
        let looks = request(&sessions, &cookie, None);
        assert!(sessions.allows_looking(&looks, at(1000)));
        assert!(!sessions.allows_change(&looks, at(1000)));
        let changes = request(&sessions, &cookie, Some(&csrf));
        assert!(sessions.allows_change(&changes, at(1000)));
        assert!(!sessions.allows_change(&request(&sessions, &cookie, Some("")), at(1000)));
        // That of another session does not do.
        let other = sessions.begin(at(1000)).cookie;
        assert!(!sessions.allows_change(&request(&sessions, &other, Some(&csrf)), at(1000)));
        // It has an end, and another token ends it too.
        assert!(sessions.allows_change(&changes, at(999 + SESSION_SECS)));
        assert!(!sessions.allows_change(&changes, at(1000 + SESSION_SECS)));
        assert!(!sessions.allows_looking(&changes, at(1000 + SESSION_SECS)));
        assert!(!Sessions::new("other").allows_looking(&changes, at(1000)));
    }

    #[test]
    fn a_forged_cookie_is_none() {
        let sessions = Sessions::new("token");
        let cookie = sessions.begin(at(1000)).cookie;
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
            assert!(!sessions.allows_looking(&headers, at(1000)), "{forged}");
        }
    }
}
