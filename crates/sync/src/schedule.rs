//! Decides when the work on a folder is due. Pure: no clock, no files, no threads.
//!
//! A hint starts a pause (the *quiet time*), so that a save in several steps is scanned once. A
//! change that the scan finds starts another one (the *delay*), so that a manifest contains a
//! state that the user intended. Both are limited, however long changes continue.

use std::time::Duration;

/// Quiet time without a delay: programs create a file and then fill it.
const QUIET_TIME_MIN: Duration = Duration::from_millis(5);
/// Divisor of the delay that limits the quiet time.
const QUIET_TIME_PART: u32 = 4;
/// Divisor of the delay by which further changes extend it.
const DELAY_EXTENSION_PART: u32 = 10;
/// Maximum pause after a failure.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// The parameters of the schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// See [`crate::Tuning::quiet_time`].
    pub(crate) quiet_time: Duration,
    /// See [`crate::Tuning::quiet_time_max`].
    pub(crate) quiet_time_max: Duration,
    /// See [`crate::SyncSettings::manifest_max_delay`].
    pub(crate) delay: Duration,
    /// See [`crate::SyncSettings::manifest_update_threshold`].
    pub(crate) threshold: u64,
    /// See [`crate::Tuning::publish_interval_max`].
    pub(crate) publish_interval_max: Duration,
    /// Interval of full scans.
    pub(crate) rescan: Duration,
    /// See [`crate::Tuning::alarm_interval`].
    pub(crate) alarm_interval: Duration,
}

impl Times {
    /// Returns the pause after a hint. It is limited by a part of the delay, so that with a
    /// delay of 0 a manifest is made within milliseconds.
    fn quiet_time(&self) -> Duration {
        self.quiet_time.min((self.delay / QUIET_TIME_PART).max(QUIET_TIME_MIN))
    }

    fn quiet_time_max(&self) -> Duration {
        self.quiet_time_max.min(self.delay.max(QUIET_TIME_MIN * QUIET_TIME_PART))
    }

    /// Returns the maximum time between a change and its manifest while further changes
    /// follow: a file that changes all the time delays no other file. Only a short extension
    /// of the delay is possible, for a save in several steps.
    fn publish_delay_max(&self) -> Duration {
        (self.delay + self.delay / DELAY_EXTENSION_PART).min(self.publish_interval_max)
    }
}

/// The first and the last of several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Span {
    /// Returns the span extended to `at`.
    pub(crate) fn with(span: Option<Self>, at: Duration) -> Self {
        let first = span.map_or(at, |span| span.first);
        Self { first, last: at }
    }
}

/// The work that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A full scan.
    ScanAll,
    /// A scan of the hinted places and of files that have to be read again.
    ScanDirty,
    /// A manifest.
    Publish,
    /// Nothing until this time; `None`: until something happens.
    Wait(Option<Duration>),
}

/// The pending work of a folder, and its times.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) times: Times,
    /// When the hints arrived that were not scanned yet.
    pub(crate) hints: Option<Span>,
    /// When the next file has to be read again.
    pub(crate) retry_at: Option<Duration>,
    /// When the unpublished changes arrived.
    changes: Option<Span>,
    /// Number of unpublished changes.
    pending: u64,
    /// When the last full scan ended.
    scanned_at: Option<Duration>,
    /// No work is done before this time.
    blocked_until: Option<Duration>,
    failures: u32,
}

impl Schedule {
    /// Returns the schedule of a folder that needs a full scan first.
    pub(crate) fn new(times: Times) -> Self {
        Self {
            times,
            hints: None,
            retry_at: None,
            changes: None,
            pending: 0,
            scanned_at: None,
            blocked_until: None,
            failures: 0,
        }
    }

    /// Requests a full scan as soon as work is possible.
    pub(crate) fn request_full_scan(&mut self) {
        self.scanned_at = None;
    }

    /// Makes work possible immediately: for a request of the user.
    pub(crate) fn unblock(&mut self) {
        self.blocked_until = None;
    }

    /// Notes the end of a scan. `hints` are the times of the hints that it covers.
    pub(crate) fn scanned(
        &mut self,
        now: Duration,
        is_all: bool,
        hints: Option<Span>,
        pending: u64,
    ) {
        self.failures = 0;
        self.blocked_until = None;
        if is_all {
            self.scanned_at = Some(now);
        }
        if pending == 0 {
            self.changes = None;
        } else if pending > self.pending || self.changes.is_none() {
            // From the first hint on, so that the time until the scan is part of the limit.
            let first = self.changes.map_or(hints.map_or(now, |hints| hints.first), |c| c.first);
            self.changes = Some(Span { first, last: hints.map_or(now, |hints| hints.last) });
        }
        self.pending = pending;
    }

    /// Notes that all changes were published.
    pub(crate) fn published(&mut self) {
        self.failures = 0;
        self.changes = None;
        self.pending = 0;
    }

    /// Notes an alarm: the folder is scanned again at a fixed interval.
    pub(crate) fn alarmed(&mut self, now: Duration) {
        self.blocked_until = Some(now + self.times.alarm_interval);
        self.request_full_scan();
    }

    /// Notes a failure: the work is retried after pauses that grow.
    pub(crate) fn failed(&mut self, now: Duration) {
        let pause = self.times.alarm_interval.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.blocked_until = Some(now + pause.min(FAILURE_PAUSE_MAX));
        self.request_full_scan();
    }

    fn scan_all_at(&self) -> Duration {
        self.scanned_at.map_or(Duration::ZERO, |at| at + self.times.rescan)
    }

    fn scan_dirty_at(&self) -> Option<Duration> {
        let hinted = self.hints.map(|hints| {
            let quiet = hints.last + self.times.quiet_time();
            quiet.min(hints.first + self.times.quiet_time_max())
        });
        earliest(hinted, self.retry_at)
    }

    fn publish_at(&self) -> Option<Duration> {
        let changes = self.changes?;
        if self.pending >= self.times.threshold {
            // The hinted places probably belong to the same change, so they are scanned first.
            return Some(self.hints.map_or(Duration::ZERO, |hints| {
                let scanned_at = hints.first + self.times.quiet_time_max();
                scanned_at.min(changes.first + self.times.publish_delay_max())
            }));
        }
        // A hint that was not scanned yet may be a further change.
        let last = self.hints.map_or(changes.last, |hints| hints.last.max(changes.last));
        let quiet = last + self.times.delay;
        Some(quiet.min(changes.first + self.times.publish_delay_max()))
    }

    /// Returns the work that is due at `now`.
    pub(crate) fn next(&self, now: Duration) -> Action {
        if let Some(until) = self.blocked_until
            && now < until
        {
            return Action::Wait(Some(until));
        }
        let scan_all_at = self.scan_all_at();
        if scan_all_at <= now {
            return Action::ScanAll;
        }
        let scan_dirty_at = self.scan_dirty_at();
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if is_due(scan_dirty_at) {
            return Action::ScanDirty;
        }
        let publish_at = self.publish_at();
        if is_due(publish_at) {
            return Action::Publish;
        }
        let next = earliest(earliest(scan_dirty_at, publish_at), Some(scan_all_at));
        Action::Wait(next)
    }
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn times() -> Times {
        Times {
            quiet_time: ms(300),
            quiet_time_max: ms(2000),
            delay: ms(2000),
            threshold: 10,
            publish_interval_max: ms(10_000),
            rescan: ms(3_600_000),
            alarm_interval: ms(10_000),
        }
    }

    /// The schedule of a folder whose first full scan ended at 1 s.
    fn scanned(times: Times) -> Schedule {
        let mut schedule = Schedule::new(times);
        assert_eq!(schedule.next(ms(0)), Action::ScanAll);
        schedule.scanned(ms(1000), true, None, 0);
        schedule
    }

    fn hint(schedule: &mut Schedule, at: u64) {
        schedule.hints = Some(Span::with(schedule.hints, ms(at)));
    }

    fn scan(schedule: &mut Schedule, at: u64, pending: u64) {
        let hints = schedule.hints.take();
        schedule.scanned(ms(at), false, hints, pending);
    }

    #[test]
    fn a_quiet_folder_waits_for_the_next_whole_scan() {
        let schedule = scanned(times());
        assert_eq!(schedule.next(ms(1000)), Action::Wait(Some(ms(3_601_000))));
        assert_eq!(schedule.next(ms(3_601_000)), Action::ScanAll);
    }

    #[test]
    fn a_save_is_scanned_after_a_pause_and_published_after_another() {
        let mut schedule = scanned(times());
        hint(&mut schedule, 5000);
        assert_eq!(schedule.next(ms(5000)), Action::Wait(Some(ms(5300))));
        hint(&mut schedule, 5200);
        assert_eq!(schedule.next(ms(5300)), Action::Wait(Some(ms(5500))));
        assert_eq!(schedule.next(ms(5500)), Action::ScanDirty);
        scan(&mut schedule, 5510, 1);
        assert_eq!(schedule.next(ms(5510)), Action::Wait(Some(ms(7200))));
        assert_eq!(schedule.next(ms(7200)), Action::Publish);
        schedule.published();
        assert_eq!(schedule.next(ms(7200)), Action::Wait(Some(ms(3_601_000))));
    }

    #[test]
    fn many_changes_wait_for_hinted_places_but_not_permanently() {
        let mut schedule = scanned(times());
        schedule.scanned(ms(5000), false, Some(Span { first: ms(4900), last: ms(4900) }), 10);
        assert_eq!(schedule.next(ms(5000)), Action::Publish);
        // More hints arrived during the scan.
        schedule.hints = Some(Span { first: ms(5000), last: ms(5000) });
        assert_eq!(schedule.next(ms(5001)), Action::Wait(Some(ms(5300))));
        assert_eq!(schedule.next(ms(5300)), Action::ScanDirty);
        // The hints do not end.
        schedule.hints = Some(Span { first: ms(6900), last: ms(7050) });
        schedule.scanned(ms(6900), false, Some(Span { first: ms(5000), last: ms(6800) }), 500);
        assert_eq!(schedule.next(ms(7099)), Action::Wait(Some(ms(7100))));
        assert_eq!(schedule.next(ms(7100)), Action::Publish);
    }

    #[test]
    fn many_changes_are_published_immediately() {
        let mut schedule = scanned(times());
        hint(&mut schedule, 5000);
        scan(&mut schedule, 5300, 10);
        assert_eq!(schedule.next(ms(5300)), Action::Publish);
    }

    /// A log gets a line every 50 ms, and another file is saved at any moment.
    #[test]
    fn changes_that_never_end_delay_no_other_change() {
        for saved in (7000..11_000).step_by(50) {
            let mut schedule = scanned(times());
            let (mut scans, mut unpublished, mut published) = (Vec::new(), false, None);
            for at in (5000..20_000).step_by(10) {
                if at % 50 == 0 {
                    hint(&mut schedule, at);
                }
                match schedule.next(ms(at)) {
                    Action::ScanDirty => {
                        unpublished |= at >= saved;
                        scans.push(at);
                        scan(&mut schedule, at, 1);
                    }
                    Action::Publish => {
                        if unpublished && published.is_none() {
                            published = Some(at);
                        }
                        schedule.published();
                    }
                    _ => {}
                }
            }
            let published = published.unwrap();
            assert!(published - saved <= 2200, "saved at {saved}, published at {published}");
            assert!(scans.windows(2).all(|pair| pair[1] - pair[0] <= 2100), "{scans:?}");
        }
    }

    #[test]
    fn without_delay_everything_is_done_within_milliseconds() {
        let mut schedule = scanned(Times { delay: ms(0), ..times() });
        hint(&mut schedule, 5000);
        assert_eq!(schedule.next(ms(5000)), Action::Wait(Some(ms(5005))));
        for at in 5001..5020 {
            hint(&mut schedule, at);
        }
        assert_eq!(schedule.next(ms(5020)), Action::ScanDirty);
        scan(&mut schedule, 5020, 1);
        assert_eq!(schedule.next(ms(5020)), Action::Publish);
    }

    #[test]
    fn an_alarm_delays_all_work() {
        let mut schedule = scanned(times());
        hint(&mut schedule, 5000);
        schedule.alarmed(ms(5300));
        assert_eq!(schedule.next(ms(9000)), Action::Wait(Some(ms(15_300))));
        assert_eq!(schedule.next(ms(15_300)), Action::ScanAll);
        schedule.unblock();
        assert_eq!(schedule.next(ms(5400)), Action::ScanAll);
    }

    #[test]
    fn failures_are_retried_after_growing_pauses() {
        let mut schedule = scanned(times());
        let mut now = ms(0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.failed(now);
            let Action::Wait(Some(until)) = schedule.next(now) else { panic!("work is due") };
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        schedule.scanned(now, true, None, 0);
        schedule.failed(now);
        assert_eq!(schedule.next(now), Action::Wait(Some(now + ms(10_000))));
    }

    #[test]
    fn files_are_read_again_when_they_are_due() {
        let mut schedule = scanned(times());
        schedule.retry_at = Some(ms(3000));
        assert_eq!(schedule.next(ms(2000)), Action::Wait(Some(ms(3000))));
        assert_eq!(schedule.next(ms(3000)), Action::ScanDirty);
    }
}
