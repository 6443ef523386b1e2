//! The schedule of polls of a source. No I/O.
//!
//! A source that supports long polls (`wait`) delays its answer until it has something new. It is
//! polled again as soon as it has answered, so that changes are learned immediately. Other sources
//! are polled every `poll_interval`. A hint causes an immediate short poll. Failed polls are
//! repeated after increasing waiting times.

use std::time::Duration;

use manifest::PollRequest;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// Minimum time between two polls, independent of answers and hints.
pub(super) const POLL_GAP_MIN: Duration = Duration::from_millis(50);
/// Maximum time of a long poll (SPEC section 4).
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Minimum time of a long poll that ends without a change. An earlier answer was not delayed.
const LONG_POLL_MIN: Duration = Duration::from_secs(1);
/// Number of undelayed answers in a row after which long polls are paused.
const STRIKES_MAX: u32 = 3;
/// Duration of that pause.
const LONG_POLL_PAUSE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PollKind {
    Short,
    Long(Duration),
}

/// The schedule of polls of one source.
#[derive(Debug)]
pub(super) struct Polling {
    etag: Option<String>,
    failures: u32,
    next: Instant,
    is_short_next: bool,
    started: Option<(Instant, PollKind)>,
    last_start: Option<Instant>,
    is_hinted: bool,
    strikes: u32,
    paused_until: Option<Instant>,
    /// True if the source has delayed an answer.
    has_long_polls: bool,
}

impl Polling {
    /// Creates a schedule with an immediate first poll.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            etag: None,
            failures: 0,
            next: now,
            is_short_next: true,
            started: None,
            last_start: None,
            is_hinted: false,
            strikes: 0,
            paused_until: None,
            has_long_polls: false,
        }
    }

    /// Returns the time of the next poll, or `None` during a poll.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.started.is_some() {
            return None;
        }
        Some(self.last_start.map_or(self.next, |last| self.next.max(last + POLL_GAP_MIN)))
    }

    /// Returns the number of failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Reports whether a short poll is running.
    pub(super) fn is_polling(&self) -> bool {
        matches!(self.started, Some((_, PollKind::Short)))
    }

    /// Reports whether the source supports long polls, as far as is known.
    pub(super) fn has_long_polls(&self) -> bool {
        self.has_long_polls
    }

    /// Schedules an immediate poll after a hint. Returns `true` if the caller must abort the
    /// running long poll.
    pub(super) fn hint(&mut self, now: Instant) -> bool {
        match self.started {
            Some((_, PollKind::Short)) => {
                self.is_hinted = true;
                false
            }
            Some((_, PollKind::Long(_))) => {
                self.started = None;
                self.poll_at(now);
                true
            }
            None => {
                self.poll_at(now);
                false
            }
        }
    }

    /// Schedules a short poll.
    fn poll_at(&mut self, at: Instant) {
        self.next = at;
        self.is_short_next = true;
    }

    /// Applies a changed poll interval to the scheduled poll.
    pub(super) fn interval_changed(&mut self, now: Instant, interval: Duration) {
        if self.failures == 0 {
            self.next = self.next.min(now + interval);
        }
    }

    /// Starts a poll and returns its request.
    pub(super) fn start(&mut self, now: Instant, interval: Duration) -> PollRequest {
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        let wait = interval.clamp(Duration::from_secs(1), WAIT_MAX);
        let kind = if self.is_short_next || is_paused || self.etag.is_none() {
            PollKind::Short
        } else {
            PollKind::Long(wait)
        };
        self.is_short_next = false;
        self.started = Some((now, kind));
        self.last_start = Some(now);
        let wait = match kind {
            PollKind::Short => Duration::ZERO,
            PollKind::Long(wait) => wait,
        };
        PollRequest { since: self.etag.clone(), wait }
    }

    /// Records an answer. `etag` is that of a changed list; `is_news` is true if it has something
    /// to pull.
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
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        let is_early = |wait: Duration| now - started < LONG_POLL_MIN.min(wait / 2);
        match kind {
            PollKind::Long(wait) if !is_news && is_early(wait) => self.strike(now, interval),
            PollKind::Long(_) => {
                self.strikes = 0;
                self.has_long_polls = true;
                self.next = now;
            }
            PollKind::Short if self.etag.is_some() && !is_paused => self.next = now,
            PollKind::Short => self.next = started + interval,
        }
        if self.etag.is_none() {
            self.next = self.next.max(started + interval);
        }
        if std::mem::take(&mut self.is_hinted) {
            self.poll_at(now);
        }
    }

    /// Records an answer that the source should have delayed.
    fn strike(&mut self, now: Instant, interval: Duration) {
        self.strikes += 1;
        self.next = now + LONG_POLL_MIN.min(interval);
        if self.strikes >= STRIKES_MAX {
            self.strikes = 0;
            self.has_long_polls = false;
            self.paused_until = Some(now + LONG_POLL_PAUSE);
            self.next = now + interval;
        }
    }

    /// Records a failed poll. Returns whether it is a failure of the source. An aborted long poll
    /// is not, because devices on the way may close idle connections.
    pub(super) fn failed(&mut self, now: Instant, interval: Duration, is_temporary: bool) -> bool {
        let Some((_, kind)) = self.started.take() else { return false };
        let is_hinted = std::mem::take(&mut self.is_hinted);
        if matches!(kind, PollKind::Long(_)) && is_temporary {
            self.strike(now, interval);
            self.poll_at(now);
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.poll_at(if is_hinted { now } else { now + Backoff::FAILURE.after(self.failures) });
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

    /// Returns a schedule after the first answer, during a long poll.
    fn long_polling(now: Instant) -> Polling {
        let mut polling = Polling::new(now);
        assert_eq!(polling.start(now, INTERVAL), PollRequest::default());
        polling.answered(now, INTERVAL, tag("1"), true);
        let now = polling.next().unwrap();
        let request = polling.start(now, INTERVAL);
        assert_eq!(request, PollRequest { since: Some("1".into()), wait: INTERVAL });
        polling
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_answer_the_next_poll_is_long() {
        let now = Instant::now();
        let mut polling = long_polling(now);
        assert_eq!(polling.next(), None);
        let later = now + Duration::from_secs(7);
        polling.answered(later, INTERVAL, tag("2"), true);
        assert_eq!(polling.next(), Some(later));
        assert!(polling.has_long_polls());
        // The long poll ended without a change: poll again.
        polling.start(later, INTERVAL);
        polling.answered(later + INTERVAL, INTERVAL, None, false);
        assert_eq!(polling.next(), Some(later + INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_without_long_polls_is_polled_at_the_interval() {
        let mut now = Instant::now();
        let mut polling = long_polling(now);
        for strike in 1..=STRIKES_MAX {
            polling.answered(now, INTERVAL, None, false);
            let next = polling.next().unwrap();
            if strike == STRIKES_MAX {
                assert_eq!(next, now + INTERVAL);
            }
            now = next;
            polling.start(now, INTERVAL);
        }
        // Now short polls, one in each interval.
        polling.answered(now, INTERVAL, None, false);
        assert_eq!(polling.next(), Some(now + INTERVAL));
        let much_later = now + LONG_POLL_PAUSE;
        assert_eq!(polling.start(much_later, INTERVAL).wait, INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_answer_without_a_tag_the_next_poll_waits_for_the_interval() {
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
        let mut polling = long_polling(now);
        let later = now + Duration::from_secs(3);
        assert!(polling.hint(later), "the long poll is aborted");
        assert!(!polling.hint(later));
        assert_eq!(polling.next(), Some(later));
        assert_eq!(polling.start(later, INTERVAL).wait, Duration::ZERO);
        for _ in 0..100 {
            assert!(!polling.hint(later), "one runs, one waits");
        }
        let end = later + POLL_GAP_MIN;
        polling.answered(end, INTERVAL, None, false);
        assert_eq!(polling.next(), Some(end));
        assert_eq!(polling.start(end, INTERVAL).wait, Duration::ZERO);
        polling.answered(end + POLL_GAP_MIN, INTERVAL, None, false);
        assert_eq!(polling.start(end + POLL_GAP_MIN, INTERVAL).wait, INTERVAL, "no more");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_an_aborted_long_poll_is_none() {
        let mut now = Instant::now();
        let mut polling = long_polling(now);
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
        // A hint polls immediately.
        assert!(!polling.hint(now));
        assert_eq!(polling.next(), Some(now + POLL_GAP_MIN));
    }
}
