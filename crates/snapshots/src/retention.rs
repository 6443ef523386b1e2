//! The retention rules: which snapshots are kept. No I/O.
//!
//! The snapshots of one folder are thinned by `keep`: kept are the newest `last`, and the newest of
//! each of the last `hourly` hours, `daily` days, `weekly` weeks and `monthly` months that have a
//! snapshot. Hours and days are counted, not ages, so a source that is switched off for some time
//! loses nothing.
//!
//! The rules use the backup server's order and clock only. A source can influence them in one way,
//! which keeps more: `held`. In doubt nothing is removed: if the newest snapshot awaits
//! confirmation, if the backup server's clock is behind its newest snapshot or far ahead of it, or
//! if `keep` is empty. If the clock was set back between two snapshots, the hours before and after
//! are different hours, even with the same name.

use config::Keep;
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
    /// True if the source waits for the user to confirm it.
    pub awaits_confirmation: bool,
}

/// Reason why a snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The snapshot is the newest.
    Newest,
    /// The snapshot is one of the last.
    Last,
    /// The snapshot is the newest of its hour.
    Hourly,
    /// The snapshot is the newest of its day.
    Daily,
    /// The snapshot is the newest of its week.
    Weekly,
    /// The snapshot is the newest of its month.
    Monthly,
}

impl Reason {
    /// Returns the reason as one word.
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

/// Reason why no snapshot of a folder is removed at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Suspension {
    /// The newest snapshot awaits confirmation on the source.
    #[error(
        "the newest snapshot awaits confirmation; pruning is suspended until the change is \
         confirmed on the source with `archivist folder confirm`"
    )]
    AwaitingConfirmation,
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
    RetentionPlan { decisions, suspension: suspension(&sorted, keep, now) }
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
    } else if newest.awaits_confirmation {
        Some(Suspension::AwaitingConfirmation)
    } else if ahead < -CLOCK_SLACK {
        Some(Suspension::ClockBehind)
    } else if ahead > LEAP_MAX {
        Some(Suspension::ClockAhead)
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
            awaits_confirmation: false,
        };
        times.iter().enumerate().map(candidate).collect()
    }

    fn keep(last: u32, hourly: u32, daily: u32, weekly: u32, monthly: u32) -> Keep {
        Keep { last, hourly, daily, weekly, monthly }
    }

    fn show(candidates: &[Candidate], plan: &RetentionPlan) -> String {
        let mut text = String::new();
        for (candidate, decision) in candidates.iter().zip(&plan.decisions) {
            let reasons: Vec<_> = decision.reasons.iter().map(|reason| reason.as_str()).collect();
            let line = format!("{} {}", candidate.received_at, reasons.join(" "));
            writeln!(text, "{}", line.trim_end()).unwrap();
        }
        if let Some(suspension) = plan.suspension {
            writeln!(text, "suspended: {suspension}").unwrap();
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
        let plan = decide(&candidates, &keep(2, 2, 3, 3, 3), at("2026-03-09T11:05:00Z"));
        insta::assert_snapshot!(show(&candidates, &plan), @r"
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
        let plan = decide(&candidates, &keep(0, 5, 0, 0, 0), at("2026-03-09T10:21:00Z"));
        insta::assert_snapshot!(show(&candidates, &plan), @r"
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
        let suspension = |candidates: &[Candidate], keep: &Keep, now: &str| {
            let plan = decide(candidates, keep, at(now));
            assert_eq!(plan.removed().count(), usize::from(plan.suspension.is_none()));
            plan.suspension
        };
        assert_eq!(suspension(&candidates, &rules, "2026-03-09T10:11:00Z"), None);
        assert_eq!(suspension(&candidates, &rules, "2026-03-09T10:06:00Z"), None);
        let behind = suspension(&candidates, &rules, "2026-03-09T10:04:00Z");
        assert_eq!(behind, Some(Suspension::ClockBehind));
        assert_eq!(suspension(&candidates, &rules, "2027-02-09T10:04:00Z"), None);
        let ahead = suspension(&candidates, &rules, "2027-04-09T10:04:00Z");
        assert_eq!(ahead, Some(Suspension::ClockAhead));
        let nothing = keep(0, 0, 0, 0, 0);
        assert_eq!(
            suspension(&candidates, &nothing, "2026-03-09T10:11:00Z"),
            Some(Suspension::NoRule)
        );
        candidates[1].awaits_confirmation = true;
        assert_eq!(
            suspension(&candidates, &rules, "2026-03-09T10:11:00Z"),
            Some(Suspension::AwaitingConfirmation)
        );
        // The user has confirmed the change: the next snapshot does not wait.
        candidates[1].awaits_confirmation = false;
        candidates[0].awaits_confirmation = true;
        assert_eq!(suspension(&candidates, &rules, "2026-03-09T10:11:00Z"), None);
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
                    awaits_confirmation: false,
                })
                .collect();
            let plan = decide(&candidates, &keep, Timestamp::from_second(now).unwrap());
            let removed: Vec<_> = plan.removed().collect();
            let len = candidates.len() as u64;
            prop_assert!(!removed.contains(&(len - 1)));
            for order in len.saturating_sub(last.into())..len {
                prop_assert!(!removed.contains(&order));
            }
            // Never more than the rules allow, and always one.
            let kept = candidates.len() - removed.len();
            prop_assert!(kept >= 1);
            if plan.suspension.is_none() {
                let most = 1 + last + hourly + daily + weekly + monthly;
                prop_assert!(kept <= most as usize);
            }
            // Applying the rules again removes nothing more.
            let left: Vec<_> =
                candidates.iter().filter(|c| !removed.contains(&c.order)).cloned().collect();
            let again = decide(&left, &keep, Timestamp::from_second(now).unwrap());
            if plan.suspension.is_none() {
                prop_assert_eq!(again.removed().count(), 0);
            }
        }
    }
}
