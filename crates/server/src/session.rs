//! Sessions of browsers, and the keys of links that work once.
//!
//! `archivist ui` makes a link with a key that is valid once, for a short time. The
//! browser that opens it gets a cookie, which pages of other sites never send
//! (`SameSite=Strict`) and scripts never see (`HttpOnly`), and a CSRF token, which
//! every request must carry in a header. The CSRF token is sent once, at the start of the
//! session: cookies are not bound to a port, so any server on this computer that the
//! browser visits sees the cookie. The cookie alone is therefore worth nothing. For a
//! download, which carries no header, the page gets a ticket for that one address.
//!
//! **Invariant.** A session is valid while it is in the table, which a file keeps, and while
//! the API token is the one that it began with: the cookie has a MAC, whose key is derived
//! from the token. So a session survives a restart of the program, signing out ends it for
//! good, and another token ends all sessions.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use node::JsonFile;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

/// Time for which a link is valid.
const LINK_TIME: Duration = Duration::from_secs(600);
/// Time for which a download can be started.
const TICKET_TIME: Duration = Duration::from_secs(60);
/// Maximum number of valid keys of one kind; the oldest becomes invalid first.
const KEYS_MAX: usize = 64;
/// Duration of a session in seconds: 30 days.
const SESSION_SECS: i64 = 30 * 24 * 3600;
/// Time without a request after which a session ends, in seconds: 12 hours.
const IDLE_SECS: i64 = 12 * 3600;
/// Time between two writes of the time of the last request, in seconds.
const NOTE_SECS: i64 = 600;
/// Maximum number of sessions; the one that was not used for the longest time ends first.
const SESSIONS_MAX: usize = 64;
/// The header with the CSRF token.
const CSRF_HEADER: &str = "x-csrf-token";

/// Keys that are valid once, for a short time, each for one purpose: an address, or
/// the empty text for signing in. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct OneTimeKeys {
    valid_for: Duration,
    keys: Arc<Mutex<Vec<OneTimeKey>>>,
}

#[derive(Debug)]
struct OneTimeKey {
    key: String,
    purpose: String,
    until: Instant,
}

impl OneTimeKeys {
    /// Keys of links to the web UI.
    pub(crate) fn for_links() -> Self {
        Self { valid_for: LINK_TIME, keys: Arc::default() }
    }

    /// Tickets of downloads.
    pub(crate) fn for_downloads() -> Self {
        Self { valid_for: TICKET_TIME, keys: Arc::default() }
    }

    /// Makes a key.
    pub(crate) fn make(&self, purpose: &str) -> String {
        let key = hex(&rand::random::<[u8; 32]>());
        let now = Instant::now();
        let mut keys = self.keys.lock();
        keys.retain(|known| known.until > now);
        if keys.len() >= KEYS_MAX {
            keys.remove(0);
        }
        keys.push(OneTimeKey {
            key: key.clone(),
            purpose: purpose.to_owned(),
            until: now + self.valid_for,
        });
        key
    }

    /// Reports whether the key is valid for the purpose, and invalidates it.
    pub(crate) fn use_key(&self, key: &str, purpose: &str) -> bool {
        let now = Instant::now();
        let mut keys = self.keys.lock();
        keys.retain(|known| known.until > now);
        let is_it = |known: &OneTimeKey| {
            bool::from(known.key.as_bytes().ct_eq(key.as_bytes())) && known.purpose == purpose
        };
        let before = keys.len();
        keys.retain(|known| !is_it(known));
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

/// Makes and verifies the sessions of one instance. Clones share the table.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    key: [u8; 32],
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: JsonFile,
    /// Locked before `table`, while the file is written.
    writing: Mutex<()>,
    table: Mutex<Table>,
}

impl Shared {
    /// Writes the sessions of this moment to the file. Blocks while the disk writes; the table is
    /// free meanwhile.
    fn write(&self) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock();
        let live = self.table.lock().live.clone();
        self.file.write(&live)?;
        self.table.lock().noted = live.into_iter().map(|one| (one.id, one.used)).collect();
        Ok(())
    }
}

/// A session that nobody ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LiveSession {
    /// 32 hexadecimal digits.
    id: String,
    /// Time of the start in seconds since 1970.
    started: i64,
    /// Time of a request in seconds since 1970; later ones within [`NOTE_SECS`] are in memory
    /// only.
    used: i64,
}

impl LiveSession {
    fn is_over(&self, now: i64) -> bool {
        now >= self.started.saturating_add(SESSION_SECS)
            || now >= self.used.saturating_add(IDLE_SECS)
    }
}

#[derive(Debug)]
struct Table {
    live: Vec<LiveSession>,
    /// The times of the last requests that are in the file.
    noted: Vec<(String, i64)>,
}

impl Table {
    fn remove_ended(&mut self, now: i64) {
        self.live.retain(|session| !session.is_over(now));
    }

    /// Reports whether a session is valid, and takes note of its use.
    fn use_session(&mut self, id: &str, now: i64) -> bool {
        self.remove_ended(now);
        let Some(session) = self.live.iter_mut().find(|session| session.id == id) else {
            return false;
        };
        // A clock that was set back does not end a session.
        session.used = session.used.max(now);
        true
    }

    /// Reports whether the file has a time of a last request that is too old.
    fn is_outdated(&self) -> bool {
        self.live.iter().any(|session| {
            let noted = self.noted.iter().find(|(id, _)| *id == session.id);
            noted.is_none_or(|(_, used)| used.saturating_add(NOTE_SECS) <= session.used)
        })
    }
}

impl Sessions {
    /// Derives the key of the sessions from the API token. Reads the sessions of an earlier
    /// run from `data_dir`.
    pub(crate) fn open(token: &str, data_dir: &Path) -> Self {
        let consequence = "browsers have to sign in again: archivist ui";
        let file = JsonFile::new(data_dir.join("ui-sessions.json"));
        let live: Vec<LiveSession> = file.read_cache(consequence).unwrap_or_default();
        let noted = live.iter().map(|one| (one.id.clone(), one.used)).collect();
        Self {
            key: blake3::derive_key("archivist 2026-11 web session", token.as_bytes()),
            shared: Arc::new(Shared {
                file,
                writing: Mutex::new(()),
                table: Mutex::new(Table { live, noted }),
            }),
        }
    }

    /// Returns the name of the cookie. Cookies are not bound to a port, so two
    /// instances on one computer need different names.
    pub(crate) fn cookie_name(&self) -> String {
        format!("archivist-{}", &self.mac("name")[..16])
    }

    /// Makes a session. Blocks while the disk writes.
    ///
    /// # Errors
    ///
    /// Returns an error if the list of sessions cannot be written.
    pub(crate) fn start(&self, now: Timestamp) -> io::Result<NewSession> {
        let id = hex(&rand::random::<[u8; 16]>());
        let now = now.as_second();
        {
            let mut table = self.shared.table.lock();
            table.remove_ended(now);
            if table.live.len() >= SESSIONS_MAX
                && let Some(oldest) = (0..table.live.len()).min_by_key(|at| table.live[*at].used)
            {
                table.live.remove(oldest);
            }
            table.live.push(LiveSession { id: id.clone(), started: now, used: now });
        }
        self.shared.write()?;
        let mac = self.mac(&format!("session {id}"));
        let cookie = self.set_cookie(&format!("{id}.{mac}"), SESSION_SECS);
        Ok(NewSession { cookie, csrf: self.csrf_of(&id) })
    }

    fn csrf_of(&self, id: &str) -> String {
        self.mac(&format!("csrf {id}"))
    }

    /// Ends the session of a request, and returns the cookie that removes it from the
    /// browser. Blocks while the disk writes.
    ///
    /// # Errors
    ///
    /// Returns an error if the list of sessions cannot be written. The session is valid again
    /// after a restart of the program then.
    pub(crate) fn end(&self, headers: &HeaderMap) -> io::Result<String> {
        let ids: Vec<String> =
            self.cookies(headers).filter_map(|value| self.check(value)).collect();
        self.shared.table.lock().live.retain(|session| !ids.contains(&session.id));
        self.shared.write()?;
        Ok(self.set_cookie("", 0))
    }

    /// Ends all sessions. Blocks while the disk writes.
    ///
    /// # Errors
    ///
    /// Same as [`Sessions::end`].
    pub(crate) fn end_all(&self) -> io::Result<()> {
        self.shared.table.lock().live.clear();
        self.shared.write()
    }

    /// Writes the times of the last requests if the file has older ones, on a thread that may
    /// block.
    pub(crate) fn note_uses(&self) {
        if !self.shared.table.lock().is_outdated() {
            return;
        }
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = shared.write() {
                tracing::warn!(%error, "cannot write the list of browser sessions");
            }
        });
    }

    fn set_cookie(&self, value: &str, max_age: i64) -> String {
        let name = self.cookie_name();
        format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict")
    }

    /// Reports whether the request belongs to a valid session: it has the cookie and the CSRF
    /// token of that session. [`Sessions::note_uses`] makes the use durable.
    pub(crate) fn allow(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        let mut given = headers.get_all(CSRF_HEADER).iter();
        let (Some(given), None) = (given.next(), given.next()) else { return false };
        let is_given =
            |id: &String| bool::from(self.csrf_of(id).as_bytes().ct_eq(given.as_bytes()));
        let id = self.cookies(headers).filter_map(|value| self.check(value)).find(is_given);
        id.is_some_and(|id| self.shared.table.lock().use_session(&id, now.as_second()))
    }

    /// Returns the values of the request's cookies that have the name of this instance.
    fn cookies<'a>(&self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).iter();
        let pairs = cookies.filter_map(|cookie| cookie.to_str().ok()).flat_map(|c| c.split(';'));
        pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(move |(given, _)| *given == name)
            .map(|(_, value)| value)
    }

    /// Returns the id in the value of a cookie if its MAC is right.
    fn check(&self, value: &str) -> Option<String> {
        let (id, mac) = value.rsplit_once('.')?;
        let expected = self.mac(&format!("session {id}"));
        bool::from(expected.as_bytes().ct_eq(mac.as_bytes())).then(|| id.to_owned())
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

    fn sessions() -> (tempfile::TempDir, Sessions) {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::open("token", dir.path());
        (dir, sessions)
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
    fn a_key_counts_once_and_for_its_purpose() {
        let keys = OneTimeKeys::for_links();
        let key = keys.make("a");
        assert!(!keys.use_key("", "a") && !keys.use_key(&key[1..], "a"));
        assert!(!keys.use_key(&key, "b") && !keys.use_key(&key, ""));
        assert!(keys.use_key(&key, "a"));
        assert!(!keys.use_key(&key, "a"));
        let first = keys.make("a");
        (0..KEYS_MAX).for_each(|_| drop(keys.make("a")));
        assert!(!keys.use_key(&first, "a"));
    }

    #[test]
    fn a_session_takes_both_parts_that_belong_to_it() {
        let (dir, sessions) = sessions();
        let NewSession { cookie, csrf } = sessions.start(at(1000)).unwrap();
        assert!(cookie.contains("; HttpOnly; SameSite=Strict"));
        assert!(!cookie.contains(&csrf));
        assert!(!sessions.allow(&request(&sessions, &cookie, None), at(1000)));
        let whole = request(&sessions, &cookie, Some(&csrf));
        assert!(sessions.allow(&whole, at(1000)));
        assert!(!sessions.allow(&request(&sessions, &cookie, Some("")), at(1000)));
        let mut twice = whole.clone();
        twice.append(CSRF_HEADER, csrf.parse().unwrap());
        assert!(!sessions.allow(&twice, at(1000)));
        // The CSRF token of another session is not accepted.
        let other = sessions.start(at(1000)).unwrap().cookie;
        assert!(!sessions.allow(&request(&sessions, &other, Some(&csrf)), at(1000)));
        // It survives a restart, and another API token ends it.
        assert!(Sessions::open("token", dir.path()).allow(&whole, at(1001)));
        assert!(!Sessions::open("other", dir.path()).allow(&whole, at(1001)));
    }

    #[test]
    fn a_session_ends_after_its_time_and_when_it_is_idle() {
        let (dir, sessions) = sessions();
        let NewSession { cookie, csrf } = sessions.start(at(0)).unwrap();
        let whole = request(&sessions, &cookie, Some(&csrf));
        let mut now = 0;
        while now + IDLE_SECS - 1 < SESSION_SECS {
            now += IDLE_SECS - 1;
            assert!(sessions.allow(&whole, at(now)), "{now}");
        }
        // The time of the last request survives a restart, give or take ten minutes.
        sessions.shared.write().unwrap();
        let again = Sessions::open("token", dir.path());
        assert!(again.allow(&whole, at(SESSION_SECS - 1)));
        assert!(!again.allow(&whole, at(SESSION_SECS)));
        assert!(!again.allow(&whole, at(SESSION_SECS - 1)), "it is over");

        let NewSession { cookie, csrf } = sessions.start(at(0)).unwrap();
        let whole = request(&sessions, &cookie, Some(&csrf));
        assert!(!sessions.allow(&whole, at(IDLE_SECS)));
    }

    #[test]
    fn a_use_is_noted_every_ten_minutes() {
        let (_dir, sessions) = sessions();
        let NewSession { cookie, csrf } = sessions.start(at(0)).unwrap();
        let whole = request(&sessions, &cookie, Some(&csrf));
        let is_outdated = |now| {
            assert!(sessions.allow(&whole, at(now)));
            sessions.shared.table.lock().is_outdated()
        };
        assert!(!is_outdated(NOTE_SECS - 1) && is_outdated(NOTE_SECS));
        sessions.shared.write().unwrap();
        assert!(!is_outdated(2 * NOTE_SECS - 1) && is_outdated(2 * NOTE_SECS));
    }

    #[test]
    fn who_signs_out_stays_signed_out() {
        let (dir, sessions) = sessions();
        let [first, second, third] = [1, 2, 3].map(|second| {
            let NewSession { cookie, csrf } = sessions.start(at(second)).unwrap();
            request(&sessions, &cookie, Some(&csrf))
        });
        let cookie = sessions.end(&first).unwrap();
        assert!(cookie.contains("=; ") && cookie.contains("Max-Age=0"));
        for sessions in [&sessions, &Sessions::open("token", dir.path())] {
            assert!(!sessions.allow(&first, at(4)));
            assert!(sessions.allow(&second, at(4)));
        }
        sessions.end_all().unwrap();
        for sessions in [&sessions, &Sessions::open("token", dir.path())] {
            assert!(!sessions.allow(&second, at(4)) && !sessions.allow(&third, at(4)));
        }
    }

    #[test]
    fn the_number_of_sessions_is_limited() {
        let (_dir, sessions) = sessions();
        let NewSession { cookie, csrf } = sessions.start(at(0)).unwrap();
        let first = request(&sessions, &cookie, Some(&csrf));
        for second in 1..SESSIONS_MAX {
            sessions.start(at(second as i64)).unwrap();
        }
        assert!(sessions.allow(&first, at(100)));
        sessions.start(at(101)).unwrap();
        assert!(sessions.allow(&first, at(102)), "one that was used less recently has ended");
        assert_eq!(sessions.shared.table.lock().live.len(), SESSIONS_MAX);
    }

    #[test]
    fn a_forged_cookie_is_none() {
        let (_dir, sessions) = sessions();
        let NewSession { cookie, csrf } = sessions.start(at(1000)).unwrap();
        let value = cookie.split(['=', ';']).nth(1).unwrap();
        let (body, mac) = value.rsplit_once('.').unwrap();
        for forged in [
            format!("{}.{mac}", "0".repeat(32)),
            format!("{body}."),
            body.to_owned(),
            String::new(),
            ".".into(),
        ] {
            let mut headers = HeaderMap::new();
            let pair = format!("{}={forged}", sessions.cookie_name());
            headers.append("cookie", pair.parse().unwrap());
            headers.append(CSRF_HEADER, csrf.parse().unwrap());
            assert!(!sessions.allow(&headers, at(1000)), "{forged}");
        }
    }

    #[test]
    fn fuzz_session_cookie() {
        let (_dir, sessions) = sessions();
        let good = sessions.start(at(100)).unwrap().cookie;
        let value = good.split_once('=').unwrap().1.split(';').next().unwrap().to_owned();
        assert!(sessions.check(&value).is_some());
        fuzzing::target!(std::slice::from_ref(&value), |bytes: &[u8]| {
            let found = String::from_utf8_lossy(bytes);
            assert!(sessions.check(&found).is_none() || found == value, "forged");
        });
    }
}
