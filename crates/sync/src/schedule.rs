//! When a folder's work is due: no clock, no files, no threads.
//!
//! A hint starts a pause (*settle*), so that a save of many steps is looked at
//! once. A change that was found starts another (*delay*), so that a manifest
//! stands for a state that the user meant. Both have an end, however long
//! changes go on.

use std::time::Duration;

/// A manifest without delay still waits this long after a hint: programs make
/// a file, and then fill it.
const SETTLE_MIN: Duration = Duration::from_millis(5);
/// How much of the delay of a manifest the pause after a hint may take.
const SETTLE_PART: u32 = 4;
/// No pause after a failure is longer.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// The lengths of all pauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// See [`crate::Tuning::settle`].
    pub(crate) settle: Duration,
    /// See [`crate::Tuning::settle_max`].
    pub(crate) settle_max: Duration,
    /// See [`crate::SyncSettings::manifest_max_delay`].
    pub(crate) delay: Duration,
    /// See [`crate::SyncSettings::manifest_update_threshold`].
    pub(crate) threshold: u64,
    /// See [`crate::Tuning::unrest_max`].
    pub(crate) unrest_max: Duration,
    /// How often the whole folder is looked through.
    pub(crate) rescan: Duration,
    /// See [`crate::Tuning::alarm_interval`].
    pub(crate) alarm_interval: Duration,
}

impl Times {
    /// The pause after a hint. It shrinks with the delay of a manifest, which
    /// it is a part of: a delay of 0 is answered within milliseconds.
    fn settle(&self) -> Duration {
        self.settle.min((self.delay / SETTLE_PART).max(SETTLE_MIN))
    }

    fn settle_max(&self) -> Duration {
        self.settle_max.min(self.delay.max(SETTLE_MIN * SETTLE_PART))
    }
}

/// The first and the last of several moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Span {
    /// The span, made longer by a moment.
    pub(crate) fn with(span: Option<Self>, at: Duration) -> Self {
        let first = span.map_or(at, |span| span.first);
        Self { first, last: at }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Look through everything.
    ScanAll,
    /// Look at what was named by hints and at files that are to be tried again.
    ScanDirty,
    /// Make a manifest.
    Publish,
    /// Nothing before this moment; `None`: not before something happens.
    Wait(Option<Duration>),
}

/// What there is to do, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) times: Times,
    /// When hints came that were not looked at yet.
    pub(crate) hints: Option<Span>,
    /// When a file is to be tried again.
    pub(crate) retry_at: Option<Duration>,
    /// When changes came that are in no manifest yet.
    changes: Option<Span>,
    /// How many they are.
    pending: u64,
    /// When everything was last looked through.
    scanned_at: Option<Duration>,
    /// Nothing is done before this.
    blocked_until: Option<Duration>,
    failures: u32,
}

impl Schedule {
    /// Of a folder that has to be looked through first.
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

    /// Everything is to be looked through as soon as nothing forbids it.
    pub(crate) fn want_all(&mut self) {
        self.scanned_at = None;
    }

    /// Somebody asks: what forbids work is tried again now.
    pub(crate) fn unblock(&mut self) {
        self.blocked_until = None;
    }

    /// A look at the folder has come to an end. `last_hint` is the last of the
    /// hints that it answers.
    pub(crate) fn scanned(
        &mut self,
        now: Duration,
        is_all: bool,
        last_hint: Option<Duration>,
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
            self.changes = Some(Span::with(self.changes, last_hint.unwrap_or(now)));
        }
        self.pending = pending;
    }

    /// All changes are in a manifest.
    pub(crate) fn published(&mut self) {
        self.failures = 0;
        self.changes = None;
        self.pending = 0;
    }

    /// The folder is in alarm: it is looked at again at an even pace.
    pub(crate) fn alarmed(&mut self, now: Duration) {
        self.blocked_until = Some(now + self.times.alarm_interval);
        self.want_all();
    }

    /// Something failed that is not the folder's: tried again after pauses that
    /// grow.
    pub(crate) fn failed(&mut self, now: Duration) {
        let pause = self.times.alarm_interval.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.blocked_until = Some(now + pause.min(FAILURE_PAUSE_MAX));
        self.want_all();
    }

    fn scan_all_at(&self) -> Duration {
        self.scanned_at.map_or(Duration::ZERO, |at| at + self.times.rescan)
    }

    fn scan_dirty_at(&self) -> Option<Duration> {
        let hinted = self.hints.map(|hints| {
            let quiet = hints.last + self.times.settle();
            quiet.min(hints.first + self.times.settle_max())
        });
        earliest(hinted, self.retry_at)
    }

    fn publish_at(&self) -> Option<Duration> {
        let changes = self.changes?;
        if self.pending >= self.times.threshold {
            // What a hint names is a part of the same work, most likely: it is
            // looked at first.
            return Some(self.hints.map_or(Duration::ZERO, |hints| {
                let looked_at = hints.first + self.times.settle_max();
                looked_at.min(changes.first + self.times.unrest_max)
            }));
        }
        // A hint that is not looked at yet is a further change, perhaps.
        let last = self.hints.map_or(changes.last, |hints| hints.last.max(changes.last));
        let quiet = last + self.times.delay;
        Some(quiet.min(changes.first + self.times.unrest_max))
    }

    /// What is to be done.
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
            settle: ms(300),
            settle_max: ms(2000),
            delay: ms(2000),
            threshold: 10,
            unrest_max: ms(10_000),
            rescan: ms(3_600_000),
            alarm_interval: ms(10_000),
        }
    }

    /// A folder that was looked through at 1 s.
    fn scanned(times: Times) -> Schedule {
        let mut schedule = Schedule::new(times);
        assert_eq!(schedule.next(ms(0)), Action::ScanAll);
        schedule.scanned(ms(1000), true, None, 0);
        schedule
    }

    fn hint(schedule: &mut Schedule, at: u64) {
        schedule.hints = Some(Span::with(schedule.hints, ms(at)));
    }

    fn look(schedule: &mut Schedule, at: u64, pending: u64) {
        let last = schedule.hints.take().map(|hints| hints.last);
        schedule.scanned(ms(at), false, last, pending);
    }

    #[test]
    fn a_quiet_folder_waits_for_the_next_whole_scan() {
        let schedule = scanned(times());
        assert_eq!(schedule.next(ms(1000)), Action::Wait(Some(ms(3_601_000))));
        assert_eq!(schedule.next(ms(3_601_000)), Action::ScanAll);
    }

    #[test]
    fn a_save_is_looked_at_after_a_pause_and_published_after_another() {
        let mut schedule = scanned(times());
        hint(&mut schedule, 5000);
        assert_eq!(schedule.next(ms(5000)), Action::Wait(Some(ms(5300))));
        hint(&mut schedule, 5200);
        assert_eq!(schedule.next(ms(5300)), Action::Wait(Some(ms(5500))));
        assert_eq!(schedule.next(ms(5500)), Action::ScanDirty);
        look(&mut schedule, 5510, 1);
        assert_eq!(schedule.next(ms(5510)), Action::Wait(Some(ms(7200))));
        assert_eq!(schedule.next(ms(7200)), Action::Publish);
        schedule.published();
        assert_eq!(schedule.next(ms(7200)), Action::Wait(Some(ms(3_601_000))));
    }

    #[test]
    fn many_changes_wait_for_what_was_hinted_but_not_for_ever() {
        let mut schedule = scanned(times());
        schedule.scanned(ms(5000), false, Some(ms(4900)), 10);
        assert_eq!(schedule.next(ms(5000)), Action::Publish);
        // More came while they were looked at.
        schedule.hints = Some(Span { first: ms(5000), last: ms(5000) });
        assert_eq!(schedule.next(ms(5001)), Action::Wait(Some(ms(5300))));
        assert_eq!(schedule.next(ms(5300)), Action::ScanDirty);
        // It goes on and on.
        schedule.hints = Some(Span { first: ms(14_800), last: ms(14_950) });
        schedule.scanned(ms(14_800), false, Some(ms(14_700)), 500);
        assert_eq!(schedule.next(ms(14_899)), Action::Wait(Some(ms(14_900))));
        assert_eq!(schedule.next(ms(14_900)), Action::Publish);
    }

    #[test]
    fn many_changes_are_published_at_once() {
        let mut schedule = scanned(times());
        hint(&mut schedule, 5000);
        look(&mut schedule, 5300, 10);
        assert_eq!(schedule.next(ms(5300)), Action::Publish);
    }

    #[test]
    fn changes_that_never_end_are_looked_at_and_published_all_the_same() {
        let mut schedule = scanned(times());
        let (mut scans, mut manifests) = (Vec::new(), Vec::new());
        for at in (5000..60_000).step_by(100) {
            hint(&mut schedule, at);
            match schedule.next(ms(at)) {
                Action::ScanDirty => {
                    scans.push(at);
                    look(&mut schedule, at, 1);
                }
                Action::Publish => {
                    manifests.push(at);
                    schedule.published();
                }
                _ => {}
            }
        }
        assert!(scans.windows(2).all(|pair| pair[1] - pair[0] <= 2200), "{scans:?}");
        assert!(manifests.len() >= 4, "{manifests:?}");
        assert!(manifests.windows(2).all(|pair| pair[1] - pair[0] <= 12_500), "{manifests:?}");
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
        look(&mut schedule, 5020, 1);
        assert_eq!(schedule.next(ms(5020)), Action::Publish);
    }

    #[test]
    fn an_alarm_holds_everything_back_for_a_while() {
        let mut schedule = scanned(times());
        hint(&mut schedule, 5000);
        schedule.alarmed(ms(5300));
        assert_eq!(schedule.next(ms(9000)), Action::Wait(Some(ms(15_300))));
        assert_eq!(schedule.next(ms(15_300)), Action::ScanAll);
        schedule.unblock();
        assert_eq!(schedule.next(ms(5400)), Action::ScanAll);
    }

    #[test]
    fn failures_are_tried_again_after_growing_pauses() {
        let mut schedule = scanned(times());
        let mut now = ms(0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.failed(now);
            let Action::Wait(Some(until)) = schedule.next(now) else { panic!("it goes on") };
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        schedule.scanned(now, true, None, 0);
        schedule.failed(now);
        assert_eq!(schedule.next(now), Action::Wait(Some(now + ms(10_000))));
    }

    #[test]
    fn files_are_tried_again_when_it_is_time() {
        let mut schedule = scanned(times());
        schedule.retry_at = Some(ms(3000));
        assert_eq!(schedule.next(ms(2000)), Action::Wait(Some(ms(3000))));
        assert_eq!(schedule.next(ms(3000)), Action::ScanDirty);
    }
}
