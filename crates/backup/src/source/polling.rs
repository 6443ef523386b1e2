//! When to ask a source, and how: pure.
//!
//! A source that can hold an answer back until there is news (`wait`) is asked
//! again as soon as it has answered; so news comes at once. Where that does
//! not work, it is asked every `poll_interval`. A hint makes the next question
//! plain and immediate. What fails is asked again after a growing while.

use std::time::Duration;

use manifest::PollRequest;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// No source is asked more often, whatever it answers and whoever hints.
pub(super) const GAP: Duration = Duration::from_millis(50);
/// A source holds an answer at most so long (SPEC section 4).
const WAIT_MAX: Duration = Duration::from_secs(60);
/// An answer that had been held comes no sooner, unless it is news.
const HELD_MIN: Duration = Duration::from_secs(1);
/// After so many answers that should have been held and were not …
const STRIKES_MAX: u32 = 3;
/// … the source is not asked to hold any for so long.
const OFF: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Waiting(Duration),
}

/// When to ask, and how.
#[derive(Debug)]
pub(super) struct Polling {
    etag: Option<String>,
    failures: u32,
    next: Instant,
    is_plain_next: bool,
    started: Option<(Instant, Kind)>,
    last_start: Option<Instant>,
    is_hinted: bool,
    strikes: u32,
    off_until: Option<Instant>,
    is_held: bool,
}

impl Polling {
    /// Never asked; to be asked now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            etag: None,
            failures: 0,
            next: now,
            is_plain_next: true,
            started: None,
            last_start: None,
            is_hinted: false,
            strikes: 0,
            off_until: None,
            is_held: false,
        }
    }

    /// When to begin the next question; `None` while one is under way.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.started.is_some() {
            return None;
        }
        Some(self.last_start.map_or(self.next, |last| self.next.max(last + GAP)))
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a plain question is under way.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.started, Some((_, Kind::Plain)))
    }

    /// Whether the source has held an answer back until there was news, or the
    /// time was over.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Somebody says that there is something new. `true`: the question that is
    /// under way is to be dropped, since it may be held for long.
    pub(super) fn hint(&mut self, now: Instant) -> bool {
        match self.started {
            Some((_, Kind::Plain)) => {
                self.is_hinted = true;
                false
            }
            Some((_, Kind::Waiting(_))) => {
                self.started = None;
                self.ask_plainly(now);
                true
            }
            None => {
                self.ask_plainly(now);
                false
            }
        }
    }

    fn ask_plainly(&mut self, at: Instant) {
        self.next = at;
        self.is_plain_next = true;
    }

    /// The setting has changed: what was planned by it is planned anew.
    pub(super) fn interval_changed(&mut self, now: Instant, interval: Duration) {
        if self.failures == 0 {
            self.next = self.next.min(now + interval);
        }
    }

    /// Begins a question.
    pub(super) fn start(&mut self, now: Instant, interval: Duration) -> PollRequest {
        let is_off = self.off_until.is_some_and(|until| now < until);
        let wait = interval.clamp(Duration::from_secs(1), WAIT_MAX);
        let kind = if self.is_plain_next || is_off || self.etag.is_none() {
            Kind::Plain
        } else {
            Kind::Waiting(wait)
        };
        self.is_plain_next = false;
        self.started = Some((now, kind));
        self.last_start = Some(now);
        let wait = match kind {
            Kind::Plain => Duration::ZERO,
            Kind::Waiting(wait) => wait,
        };
        PollRequest { since: self.etag.clone(), wait }
    }

    /// There is an answer: with `etag` where it is a list, and with news or
    /// not.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        interval: Duration,
        etag: Option<Option<String>>,
        is_news: bool,
    ) {
        self.failures = 0;
        if let Some(etag) = etag {
            self.etag = etag;
        }
        let Some((started, kind)) = self.started.take() else { return };
        let is_off = self.off_until.is_some_and(|until| now < until);
        let early = |wait: Duration| now - started < HELD_MIN.min(wait / 2);
        match kind {
            Kind::Waiting(wait) if !is_news && early(wait) => self.strike(now, interval),
            Kind::Waiting(_) => {
                self.strikes = 0;
                self.is_held = true;
                self.next = now;
            }
            Kind::Plain if self.etag.is_some() && !is_off => self.next = now,
            Kind::Plain => self.next = started + interval,
        }
        if self.etag.is_none() {
            self.next = self.next.max(started + interval);
        }
        if std::mem::take(&mut self.is_hinted) {
            self.ask_plainly(now);
        }
    }

    fn strike(&mut self, now: Instant, interval: Duration) {
        self.strikes += 1;
        self.next = now + HELD_MIN.min(interval);
        if self.strikes >= STRIKES_MAX {
            self.strikes = 0;
            self.is_held = false;
            self.off_until = Some(now + OFF);
            self.next = now + interval;
        }
    }

    /// There is no answer. `true`: that counts as a failure; a question that
    /// was held and broke off, which anything between may do, does not.
    pub(super) fn failed(&mut self, now: Instant, interval: Duration, is_temporary: bool) -> bool {
        let Some((_, kind)) = self.started.take() else { return false };
        let is_hinted = std::mem::take(&mut self.is_hinted);
        if matches!(kind, Kind::Waiting(_)) && is_temporary {
            self.strike(now, interval);
            self.ask_plainly(now);
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.ask_plainly(if is_hinted { now } else { now + Backoff::FAILURE.after(self.failures) });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn tag(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()))
    }

    /// Past the first answer, with a question held.
    fn holding(now: Instant) -> Polling {
        let mut polling = Polling::new(now);
        assert_eq!(polling.start(now, INTERVAL), PollRequest::default());
        polling.answered(now, INTERVAL, tag("1"), true);
        let now = polling.next().unwrap();
        let ask = polling.start(now, INTERVAL);
        assert_eq!(ask, PollRequest { since: Some("1".into()), wait: INTERVAL });
        polling
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_answer_the_next_is_held() {
        let now = Instant::now();
        let mut polling = holding(now);
        assert_eq!(polling.next(), None);
        let later = now + Duration::from_secs(7);
        polling.answered(later, INTERVAL, tag("2"), true);
        assert_eq!(polling.next(), Some(later));
        assert!(polling.is_held());
        // The wait is over without news: again.
        polling.start(later, INTERVAL);
        polling.answered(later + INTERVAL, INTERVAL, None, false);
        assert_eq!(polling.next(), Some(later + INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_holds_nothing_is_asked_at_the_interval() {
        let mut now = Instant::now();
        let mut polling = holding(now);
        for strike in 1..=STRIKES_MAX {
            polling.answered(now, INTERVAL, None, false);
            let next = polling.next().unwrap();
            if strike == STRIKES_MAX {
                assert_eq!(next, now + INTERVAL);
            }
            now = next;
            polling.start(now, INTERVAL);
        }
        // Plain now, once each interval.
        polling.answered(now, INTERVAL, None, false);
        assert_eq!(polling.next(), Some(now + INTERVAL));
        let much_later = now + OFF;
        assert_eq!(polling.start(much_later, INTERVAL).wait, INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_a_tag_is_not_held_and_not_repeated_at_once() {
        let now = Instant::now();
        let mut polling = Polling::new(now);
        polling.start(now, INTERVAL);
        polling.answered(now, INTERVAL, Some(None), true);
        assert_eq!(polling.next(), Some(now + INTERVAL));
        assert_eq!(polling.start(now + INTERVAL, INTERVAL), PollRequest::default());
    }

    #[tokio::test(start_paused = true)]
    async fn hints_coalesce() {
        let now = Instant::now();
        let mut polling = holding(now);
        let later = now + Duration::from_secs(3);
        assert!(polling.hint(later), "the held question is dropped");
        assert!(!polling.hint(later));
        assert_eq!(polling.next(), Some(later));
        assert_eq!(polling.start(later, INTERVAL).wait, Duration::ZERO);
        for _ in 0..100 {
            assert!(!polling.hint(later), "one runs, one waits");
        }
        let end = later + GAP;
        polling.answered(end, INTERVAL, None, false);
        assert_eq!(polling.next(), Some(end));
        assert_eq!(polling.start(end, INTERVAL).wait, Duration::ZERO);
        polling.answered(end + GAP, INTERVAL, None, false);
        assert_eq!(polling.start(end + GAP, INTERVAL).wait, INTERVAL, "no more");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_a_broken_hold_is_none() {
        let mut now = Instant::now();
        let mut polling = holding(now);
        assert!(!polling.failed(now, INTERVAL, true));
        assert_eq!(polling.failures(), 0);
        let mut last = Duration::ZERO;
        for failure in 1..=12 {
            now = polling.next().unwrap();
            assert_eq!(polling.start(now, INTERVAL).wait, Duration::ZERO);
            assert!(polling.failed(now, INTERVAL, true));
            assert_eq!(polling.failures(), failure);
            let wait = polling.next().unwrap() - now;
            assert!(wait <= Backoff::FAILURE.cap);
            assert!(wait > last || failure > 8, "{failure}: {wait:?} after {last:?}");
            last = wait;
        }
        // A hint does not wait.
        assert!(!polling.hint(now));
        assert_eq!(polling.next(), Some(now + GAP));
    }
}
