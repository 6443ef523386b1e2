//! Which snapshots stay: pure.
//!
//! Snapshots of one folder, in B's order, are thinned by `keep`: the newest
//! `last`, and the newest of each of the last `hourly` hours, `daily` days,
//! `weekly` weeks and `monthly` months in which there is one. Hours and days
//! are counted, not ages, so a source that is away loses nothing.
//!
//! Only B's order and B's clock count; nothing that a source says but one
//! thing, which keeps more: `held`. In doubt nothing is removed: where the
//! newest manifest is held, where B's clock is behind its newest snapshot or
//! far ahead of it, where no rule keeps anything. Where the clock had gone back
//! between two snapshots, the hours before and after it are different hours,
//! whatever they are called.

use config::Keep;
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// A clock may be put right by so much without being in doubt.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_mins(5);
/// A clock that is so far ahead of the newest snapshot is in doubt: it is
/// wrong, or this machine has slept for a year. The next snapshot settles it.
const LEAP_MAX: SignedDuration = SignedDuration::from_hours(24 * 366);

/// What retention has to know of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in B's order.
    pub order: u64,
    /// When it was complete, by B's clock.
    pub received_at: Timestamp,
    /// Whether the source holds it for doubtful.
    pub is_held: bool,
}

/// Why a snapshot stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is the newest.
    Newest,
    /// It is one of the last.
    Last,
    /// It is the newest of its hour.
    Hourly,
    /// … of its day.
    Daily,
    /// … of its week.
    Weekly,
    /// … of its month.
    Monthly,
}

impl Reason {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }
}

/// Why nothing is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// The newest manifest is held.
    #[error("the newest manifest is held until the change is confirmed on the source")]
    Held,
    /// The clock is behind.
    #[error("the clock of this machine says a time before that of the newest snapshot")]
    ClockBehind,
    /// The clock is ahead.
    #[error("the clock of this machine is more than a year ahead of the newest snapshot")]
    ClockAhead,
    /// Nothing is to be kept.
    #[error("no rule of `keep` keeps anything")]
    NoRule,
}

/// What is decided of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its place in B's order.
    pub order: u64,
    /// Why it stays; it goes where there is no reason.
    pub reasons: Vec<Reason>,
}

/// What is decided of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the rules say, oldest first.
    pub decisions: Vec<Decision>,
    /// Why nothing is removed all the same.
    pub hold: Option<Hold>,
}

impl Verdict {
    /// The snapshots that go now, by their place in B's order.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        let is_on_hold = self.hold.is_some();
        let gone = self.decisions.iter().filter(move |one| !is_on_hold && one.reasons.is_empty());
        gone.map(|one| one.order)
    }
}

/// Decides over the snapshots of one folder.
pub fn decide(candidates: &[Candidate], keep: &Keep, now: Timestamp) -> Verdict {
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
        let mut left = count;
        let mut last = None;
        for (at, candidate) in sorted.iter().enumerate().rev() {
            let key = (eras[at], bucket(TimeZone::UTC.to_datetime(candidate.received_at)));
            if last == Some(key) {
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            last = Some(key);
            decisions[at].reasons.push(reason);
        }
    }
    Verdict { decisions, hold: hold(&sorted, keep, now) }
}

/// Numbers the stretches in which the clock only went forward.
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

fn hold(sorted: &[&Candidate], keep: &Keep, now: Timestamp) -> Option<Hold> {
    let newest = sorted.last()?;
    let ahead = now.duration_since(newest.received_at);
    if keep.is_nothing() {
        Some(Hold::NoRule)
    } else if newest.is_held {
        Some(Hold::Held)
    } else if ahead < -CLOCK_SLACK {
        Some(Hold::ClockBehind)
    } else if ahead > LEAP_MAX {
        Some(Hold::ClockAhead)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn candidates(times: &[&str]) -> Vec<Candidate> {
        let candidate = |(order, time): (usize, &&str)| Candidate {
            order: order as u64 + 1,
            received_at: at(time),
            is_held: false,
        };
        times.iter().enumerate().map(candidate).collect()
    }

    fn keep(last: u32, hourly: u32, daily: u32, weekly: u32, monthly: u32) -> Keep {
        Keep { last, hourly, daily, weekly, monthly }
    }

    fn show(candidates: &[Candidate], verdict: &Verdict) -> String {
        let mut text = String::new();
        for (candidate, decision) in candidates.iter().zip(&verdict.decisions) {
            let reasons: Vec<_> = decision.reasons.iter().map(|reason| reason.as_str()).collect();
            let line = format!("{} {}", candidate.received_at, reasons.join(" "));
            writeln!(text, "{}", line.trim_end()).unwrap();
        }
        if let Some(hold) = verdict.hold {
            writeln!(text, "hold: {hold}").unwrap();
        }
        text
    }

    #[test]
    fn each_rule_keeps_its_own() {
        let candidates = candidates(&[
            "2026-01-31T23:59:00Z",
            "2026-02-01T00:01:00Z",
            "2026-02-27T12:00:00Z",
            "2026-03-01T12:00:00Z",
            "2026-03-02T01:00:00Z",
            "2026-03-08T23:00:00Z",
            "2026-03-09T10:00:00Z",
            "2026-03-09T10:30:00Z",
            "2026-03-09T11:00:00Z",
            "2026-03-09T11:00:02Z",
            "2026-03-09T11:00:04Z",
        ]);
        let verdict = decide(&candidates, &keep(2, 2, 3, 3, 3), at("2026-03-09T11:05:00Z"));
        insta::assert_snapshot!(show(&candidates, &verdict), @r"
        2026-01-31T23:59:00Z monthly
        2026-02-01T00:01:00Z
        2026-02-27T12:00:00Z monthly
        2026-03-01T12:00:00Z weekly
        2026-03-02T01:00:00Z daily
        2026-03-08T23:00:00Z daily weekly
        2026-03-09T10:00:00Z
        2026-03-09T10:30:00Z hourly
        2026-03-09T11:00:00Z
        2026-03-09T11:00:02Z last
        2026-03-09T11:00:04Z newest last hourly daily weekly monthly
        ");
    }

    #[test]
    fn a_clock_that_went_back_between_snapshots_merges_no_hours() {
        let candidates = candidates(&[
            "2026-03-09T10:00:00Z",
            "2031-01-01T00:10:00Z",
            "2031-01-01T00:20:00Z",
            "2026-03-09T10:10:00Z",
            "2026-03-09T10:20:00Z",
        ]);
        let verdict = decide(&candidates, &keep(0, 5, 0, 0, 0), at("2026-03-09T10:21:00Z"));
        insta::assert_snapshot!(show(&candidates, &verdict), @r"
        2026-03-09T10:00:00Z hourly
        2031-01-01T00:10:00Z
        2031-01-01T00:20:00Z hourly
        2026-03-09T10:10:00Z
        2026-03-09T10:20:00Z newest hourly
        ");
    }

    #[test]
    fn in_doubt_nothing_goes() {
        let mut candidates = candidates(&["2026-03-09T10:00:00Z", "2026-03-09T10:10:00Z"]);
        let rules = keep(1, 0, 0, 0, 0);
        let hold = |candidates: &[Candidate], keep: &Keep, now: &str| {
            let verdict = decide(candidates, keep, at(now));
            assert_eq!(verdict.removed().count(), usize::from(verdict.hold.is_none()));
            verdict.hold
        };
        assert_eq!(hold(&candidates, &rules, "2026-03-09T10:11:00Z"), None);
        assert_eq!(hold(&candidates, &rules, "2026-03-09T10:06:00Z"), None);
        let behind = hold(&candidates, &rules, "2026-03-09T10:04:00Z");
        assert_eq!(behind, Some(Hold::ClockBehind));
        assert_eq!(hold(&candidates, &rules, "2027-02-09T10:04:00Z"), None);
        let ahead = hold(&candidates, &rules, "2027-04-09T10:04:00Z");
        assert_eq!(ahead, Some(Hold::ClockAhead));
        let nothing = keep(0, 0, 0, 0, 0);
        assert_eq!(hold(&candidates, &nothing, "2026-03-09T10:11:00Z"), Some(Hold::NoRule));
        candidates[1].is_held = true;
        assert_eq!(hold(&candidates, &rules, "2026-03-09T10:11:00Z"), Some(Hold::Held));
        // It was confirmed: the next manifest is not held.
        candidates[1].is_held = false;
        candidates[0].is_held = true;
        assert_eq!(hold(&candidates, &rules, "2026-03-09T10:11:00Z"), None);
        assert_eq!(decide(&[], &rules, at("2026-03-09T10:11:00Z")).removed().count(), 0);
    }

    proptest! {
        #[test]
        fn the_newest_and_the_last_always_stay(
            seconds in prop::collection::vec(0..200_000_000_i64, 1..60),
            rules in prop::array::uniform5(0..8_u32),
            now in 0..400_000_000_i64,
        ) {
            let [last, hourly, daily, weekly, monthly] = rules;
            let keep = keep(last, hourly, daily, weekly, monthly);
            let candidates: Vec<_> = seconds
                .iter()
                .enumerate()
                .map(|(order, second)| Candidate {
                    order: order as u64,
                    received_at: Timestamp::from_second(*second).unwrap(),
                    is_held: false,
                })
                .collect();
            let verdict = decide(&candidates, &keep, Timestamp::from_second(now).unwrap());
            let removed: Vec<_> = verdict.removed().collect();
            let len = candidates.len() as u64;
            prop_assert!(!removed.contains(&(len - 1)));
            for order in len.saturating_sub(last.into())..len {
                prop_assert!(!removed.contains(&order));
            }
            // Never more than the rules allow, never fewer than one.
            let kept = candidates.len() - removed.len();
            prop_assert!(kept >= 1);
            if verdict.hold.is_none() {
                let most = 1 + last + hourly + daily + weekly + monthly;
                prop_assert!(kept <= most as usize);
            }
            // What is removed once stays removed, and nothing else goes: the
            // rules are stable.
            let left: Vec<_> =
                candidates.iter().filter(|c| !removed.contains(&c.order)).cloned().collect();
            let again = decide(&left, &keep, Timestamp::from_second(now).unwrap());
            if verdict.hold.is_none() {
                prop_assert_eq!(again.removed().count(), 0);
            }
        }
    }
}
