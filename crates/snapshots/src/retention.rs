//! The retention rules: which snapshots are kept. No I/O.
//!
//! Up to the age `within`, the snapshots of a folder are only thinned: all of the last hour are
//! kept; for a day, the first and the last of each minute; then the first and the last of each
//! hour. A snapshot is also kept if the next one came some time later: a state that stood for 10
//! seconds (for a day), or for 10 minutes. Beyond that age they are thinned by `keep`: kept are the
//! newest `last`, and the first and the last of each of the last `hourly` hours, `daily` days,
//! `weekly` weeks and `monthly` months that have a snapshot. Hours and days are counted, not ages,
//! so a source that is switched off for some time loses nothing.
//!
//! *Why it cannot be gamed.* Whoever controls a source decides when snapshots are made and what
//! they contain, but cannot change a snapshot or its time. Later snapshots never take the place of
//! the first one of a minute or hour, and cannot shorten the time for which a state stood before
//! they began. So the newest snapshot from before an attack stays for an hour, and for `within` if
//! it stood for 10 minutes; in any case one stays that is at most a minute (for a day) or an hour
//! older.
//!
//! A suspicious snapshot protects the last one before it that is not suspicious, and stays itself,
//! once a day at most.
//!
//! The rules use the backup server's order and clock only. In doubt nothing is removed: if the
//! backup server's clock is behind its newest snapshot or far ahead of it, or if `keep` is empty.
//! If the clock was set back between two snapshots, the hours before and after are different hours,
//! even with the same name.

use std::ops::Range;

use config::{Age, Keep};
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// Maximum correction of the clock that does not put it in doubt.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_mins(5);
/// Time by which the clock may be ahead of the newest snapshot. Beyond it, the clock is wrong or
/// this computer was off for a year. The next snapshot resolves the doubt.
const LEAP_MAX: SignedDuration = SignedDuration::from_hours(24 * 366);

/// The properties of a snapshot that the rules use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Order of arrival of the snapshot.
    pub order: u64,
    /// Time at which it was complete, by the backup server's clock.
    pub received_at: Timestamp,
    /// True if the source or the backup server considers it suspicious.
    pub is_suspicious: bool,
}

/// Reason why a snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The snapshot is the newest.
    Newest,
    /// The snapshot is younger than `within`, and stays when snapshots of this age are thinned.
    Within,
    /// The snapshot is suspicious, and proves that the one before it must stay.
    Suspicious,
    /// The snapshot is the last one before a suspicious one.
    BeforeSuspicious,
    /// The snapshot is one of the last.
    Last,
    /// The snapshot is the first or the last of its hour.
    Hourly,
    /// The snapshot is the first or the last of its day.
    Daily,
    /// The snapshot is the first or the last of its week.
    Weekly,
    /// The snapshot is the first or the last of its month.
    Monthly,
}

impl Reason {
    /// Returns the reason as one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Within => "within",
            Self::Suspicious => "suspicious",
            Self::BeforeSuspicious => "before-suspicious",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }
}

/// Reason why no snapshot of a folder is removed at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Suspension {
    /// The clock is behind the newest snapshot.
    #[error(
        "the system clock is behind the newest snapshot; pruning is suspended until it is \
         corrected"
    )]
    ClockBehind,
    /// The clock is far ahead of the newest snapshot.
    #[error(
        "the system clock is more than a year ahead of the newest snapshot; pruning is suspended \
         until it is corrected or a new snapshot arrives"
    )]
    ClockAhead,
    /// No rule is set.
    #[error("`keep` is empty: set at least one rule before pruning")]
    NoRule,
}

/// The decision about one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Order of arrival of the snapshot.
    pub order: u64,
    /// The reasons to keep it. Without one, it is removed.
    pub reasons: Vec<Reason>,
}

/// The decisions about the snapshots of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPlan {
    /// The decisions by the rules, oldest snapshot first.
    pub decisions: Vec<Decision>,
    /// Reason why nothing is removed in spite of the decisions, if any.
    pub suspension: Option<Suspension>,
}

impl RetentionPlan {
    /// Returns the snapshots to remove now, by their order.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        let is_suspended = self.suspension.is_some();
        let decisions = self.decisions.iter();
        let removed =
            decisions.filter(move |decision| !is_suspended && decision.reasons.is_empty());
        removed.map(|decision| decision.order)
    }
}

/// Applies the rules to the snapshots of one folder.
pub fn decide(candidates: &[Candidate], keep: &Keep, now: Timestamp) -> RetentionPlan {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| candidate.order);
    let eras = eras(&sorted);
    let mut decisions: Vec<Decision> = sorted
        .iter()
        .map(|candidate| Decision { order: candidate.order, reasons: Vec::new() })
        .collect();
    if let Some(newest) = decisions.last_mut() {
        newest.reasons.push(Reason::Newest);
    }
    for at in young(&sorted, &eras, keep, now) {
        decisions[at].reasons.push(Reason::Within);
    }
    for (at, reason) in protected(&sorted) {
        decisions[at].reasons.push(reason);
    }
    for decision in decisions.iter_mut().rev().take(keep.last as usize) {
        decision.reasons.push(Reason::Last);
    }
    type Bucket = fn(DateTime) -> DateTime;
    let rules: [(Reason, u32, Bucket); 4] = [
        (Reason::Hourly, keep.hourly, |time| time.date().at(time.hour(), 0, 0, 0)),
        (Reason::Daily, keep.daily, |time| time.date().at(0, 0, 0, 0)),
        (Reason::Weekly, keep.weekly, |time| {
            let days = time.weekday().since(Weekday::Monday);
            let monday = time.date().checked_sub(days.days());
            monday.unwrap_or(time.date()).at(0, 0, 0, 0)
        }),
        (Reason::Monthly, keep.monthly, |time| time.date().first_of_month().at(0, 0, 0, 0)),
    ];
    for (reason, count, bucket) in rules {
        let key = |at: usize| (eras[at], bucket(TimeZone::UTC.to_datetime(sorted[at].received_at)));
        let ranges = ranges(sorted.len(), key);
        for range in ranges.into_iter().rev().take(count as usize) {
            let (first, last) = (range.start, range.end - 1);
            decisions[first].reasons.push(reason);
            if last != first {
                decisions[last].reasons.push(reason);
            }
        }
    }
    RetentionPlan { decisions, suspension: suspension(&sorted, keep, now) }
}

/// Splits `0..len` into ranges of neighbours with the same key.
fn ranges<K: PartialEq>(len: usize, key: impl Fn(usize) -> K) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut last = None;
    for at in 0..len {
        let key = Some(key(at));
        match ranges.last_mut() {
            Some(range) if key == last => range.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
        last = key;
    }
    ranges
}

/// How the snapshots of one age are thinned.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Thinning {
    /// Length of the periods whose first and last snapshot are kept, in seconds.
    period: i64,
    /// Minimum time until the next snapshot for which a snapshot is kept in any case.
    stood: SignedDuration,
}

impl Thinning {
    /// Returns the thinning at this age, or `None` if all snapshots are kept.
    fn at(age: SignedDuration) -> Option<Self> {
        if age < SignedDuration::from_hours(1) {
            None
        } else if age < SignedDuration::from_hours(24) {
            Some(Self { period: 60, stood: SignedDuration::from_secs(10) })
        } else {
            Some(Self { period: 3600, stood: SignedDuration::from_mins(10) })
        }
    }
}

/// Returns the snapshots that are younger than `within` and stay when they are thinned.
fn young(sorted: &[&Candidate], eras: &[u32], keep: &Keep, now: Timestamp) -> Vec<usize> {
    if keep.within == Age::ZERO {
        return Vec::new();
    }
    let within = i64::try_from(keep.within.seconds()).unwrap_or(i64::MAX);
    let age = |at: usize| now.duration_since(sorted[at].received_at);
    let thinning = |at: usize| Thinning::at(age(at));
    let key = |at: usize| {
        let second = sorted[at].received_at.as_second();
        let period = thinning(at).map(|thinning| second.div_euclid(thinning.period));
        (eras[at], period, thinning(at).map(|thinning| thinning.period))
    };
    let mut kept = Vec::new();
    for range in ranges(sorted.len(), key) {
        for at in range.clone() {
            let stood = |thinning: Thinning| {
                let next = sorted.get(at + 1).map(|next| next.received_at);
                next.is_none_or(|next| {
                    // A clock that was set back says nothing about the time in between.
                    let time = next.duration_since(sorted[at].received_at);
                    time >= thinning.stood || time.is_negative()
                })
            };
            let is_kept =
                at == range.start || at + 1 == range.end || thinning(at).is_none_or(stood);
            if is_kept && age(at) < SignedDuration::from_secs(within) {
                kept.push(at);
            }
        }
    }
    kept
}

/// Returns the suspicious snapshots that start a row of such, and the snapshots before them; the
/// first row of each day, so that a source cannot fill the disk with them.
fn protected(sorted: &[&Candidate]) -> Vec<(usize, Reason)> {
    let mut protected = Vec::new();
    let mut last_day = None;
    for at in 1..sorted.len() {
        let day = sorted[at].received_at.as_second().div_euclid(86_400);
        let starts = sorted[at].is_suspicious && !sorted[at - 1].is_suspicious;
        if starts && last_day != Some(day) {
            last_day = Some(day);
            protected.push((at - 1, Reason::BeforeSuspicious));
            protected.push((at, Reason::Suspicious));
        }
    }
    protected
}

/// Numbers the periods in which the clock was not set back; returns that number for each snapshot.
fn eras(sorted: &[&Candidate]) -> Vec<u32> {
    let mut era = 0;
    let mut latest: Option<Timestamp> = None;
    let number = |candidate: &&Candidate| {
        match latest {
            Some(before)
                if candidate.received_at < before.saturating_sub(CLOCK_SLACK).unwrap_or(before) =>
            {
                era += 1;
                latest = Some(candidate.received_at);
            }
            Some(before) => latest = Some(before.max(candidate.received_at)),
            None => latest = Some(candidate.received_at),
        }
        era
    };
    sorted.iter().map(number).collect()
}

/// Returns the reason to remove nothing, if there is one.
fn suspension(sorted: &[&Candidate], keep: &Keep, now: Timestamp) -> Option<Suspension> {
    let newest = sorted.last()?;
    let ahead = now.duration_since(newest.received_at);
    if keep.is_nothing() {
        Some(Suspension::NoRule)
    } else if ahead < -CLOCK_SLACK {
        Some(Suspension::ClockBehind)
    } else if ahead > LEAP_MAX {
        Some(Suspension::ClockAhead)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
