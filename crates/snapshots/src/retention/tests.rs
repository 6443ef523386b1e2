//! Histories with known outcomes, and histories that an attacker makes.

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
        is_suspicious: false,
    };
    times.iter().enumerate().map(candidate).collect()
}

fn keep(last: u32, hourly: u32, daily: u32, weekly: u32, monthly: u32) -> Keep {
    Keep { within: Age::ZERO, last, hourly, daily, weekly, monthly }
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
    2026-02-01T00:01:00Z monthly
    2026-02-27T12:00:00Z weekly monthly
    2026-03-01T12:00:00Z weekly monthly
    2026-03-02T01:00:00Z daily weekly
    2026-03-08T23:00:00Z daily weekly
    2026-03-09T10:00:00Z hourly daily weekly
    2026-03-09T10:30:00Z hourly
    2026-03-09T11:00:00Z hourly
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
    2031-01-01T00:10:00Z hourly
    2031-01-01T00:20:00Z hourly
    2026-03-09T10:10:00Z hourly
    2026-03-09T10:20:00Z newest hourly
    ");
}

#[test]
fn in_doubt_nothing_goes() {
    let candidates = candidates(&["2026-03-09T10:00:00Z", "2026-03-09T10:10:00Z"]);
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
    assert_eq!(suspension(&candidates, &nothing, "2026-03-09T10:11:00Z"), Some(Suspension::NoRule));
    assert_eq!(decide(&[], &rules, at("2026-03-09T10:11:00Z")).removed().count(), 0);
}

#[test]
fn young_snapshots_are_thinned_by_their_age() {
    let candidates = candidates(&[
        "2026-03-01T11:00:00Z",
        // Older than a day: the first and the last of the hour, and a state that stood for 10
        // minutes.
        "2026-03-07T10:00:00Z",
        "2026-03-07T10:05:00Z",
        "2026-03-07T10:06:00Z",
        "2026-03-07T10:20:00Z",
        "2026-03-07T10:21:00Z",
        // Older than an hour: the same with a minute and 10 seconds.
        "2026-03-09T10:00:00Z",
        "2026-03-09T10:00:01Z",
        "2026-03-09T10:00:05Z",
        "2026-03-09T10:00:20Z",
        "2026-03-09T10:00:21Z",
        // All.
        "2026-03-09T11:59:58Z",
        "2026-03-09T11:59:58.5Z",
        "2026-03-09T11:59:59Z",
    ]);
    let keep = Keep { within: Age::from_days(7), ..keep(1, 0, 0, 0, 0) };
    let plan = decide(&candidates, &keep, at("2026-03-09T12:00:00Z"));
    insta::assert_snapshot!(show(&candidates, &plan), @r"
    2026-03-01T11:00:00Z
    2026-03-07T10:00:00Z within
    2026-03-07T10:05:00Z
    2026-03-07T10:06:00Z within
    2026-03-07T10:20:00Z
    2026-03-07T10:21:00Z within
    2026-03-09T10:00:00Z within
    2026-03-09T10:00:01Z
    2026-03-09T10:00:05Z within
    2026-03-09T10:00:20Z
    2026-03-09T10:00:21Z within
    2026-03-09T11:59:58Z within
    2026-03-09T11:59:58.5Z within
    2026-03-09T11:59:59Z newest within last
    ");
}

#[test]
fn a_suspicious_snapshot_protects_the_one_before_it_once_a_day() {
    let mut candidates = candidates(&[
        "2026-01-01T10:00:00Z",
        "2026-01-01T11:00:00Z",
        "2026-01-02T10:00:00Z",
        "2026-01-02T11:00:00Z",
        "2026-01-02T12:00:00Z",
        "2026-01-02T13:00:00Z",
        "2026-01-03T10:00:00Z",
        "2026-01-03T11:00:00Z",
    ]);
    for at in [2, 3, 5, 7] {
        candidates[at].is_suspicious = true;
    }
    let plan = decide(&candidates, &keep(1, 0, 0, 0, 0), at("2026-03-09T12:00:00Z"));
    insta::assert_snapshot!(show(&candidates, &plan), @r"
    2026-01-01T10:00:00Z
    2026-01-01T11:00:00Z before-suspicious
    2026-01-02T10:00:00Z suspicious
    2026-01-02T11:00:00Z
    2026-01-02T12:00:00Z
    2026-01-02T13:00:00Z
    2026-01-03T10:00:00Z before-suspicious
    2026-01-03T11:00:00Z newest suspicious last
    ");
}

/// A history of a folder: the source is honest up to some time, and then controlled by an
/// attacker who decides when snapshots are made and which are suspicious. The backup server
/// prunes at any time.
fn attack(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0;
    let mut random = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from(state >> 32).unwrap() % below
    };
    // Times between two snapshots in milliseconds: a flood, an editor, a person, a night.
    let pauses: [u32; 5] = [50, 2_000, 40_000, 900_000, 20_000_000];
    let rules = keep(random(3), random(3), random(3), 0, 0);
    let keep = Keep { within: Age::from_days(7), ..rules };
    let mut now: i64 = 1_700_000_000_000 + i64::from(random(86_400_000));
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
    let mut all: Vec<Candidate> = Vec::new();
    let honest = 1 + random(40);
    let (mut newest, mut first_bad) = (0, None);
    for order in 0..honest + 1 + random(60) {
        let longest = pauses[random(5) as usize];
        now += i64::from(random(longest));
        let is_honest = order < honest;
        if is_honest {
            newest = now;
        } else {
            first_bad = first_bad.or(Some(now));
        }
        let is_suspicious = !is_honest && random(4) == 0;
        all.push(Candidate { order: order.into(), received_at: time(now), is_suspicious });
        if random(3) > 0 {
            continue;
        }
        // Prunes with nothing between them, too.
        let longest = pauses[random(5) as usize];
        now += i64::from(random(longest));
        let plan = decide(&all, &keep, time(now));
        let removed: Vec<u64> = plan.removed().collect();
        all.retain(|one| !removed.contains(&one.order));
        let Some(first_bad) = first_bad else { continue };
        let age = now - newest;
        if age >= 7 * 86_400_000 {
            return;
        }
        let stood = first_bad - newest;
        let (granularity, enough) = match age {
            0..3_600_000 => (0, 0),
            3_600_000..86_400_000 => (60_000, 10_000),
            _ => (3_600_000, 600_000),
        };
        let lost = if stood >= enough { 0 } else { granularity };
        let is_there = all.iter().any(|one| {
            let at = one.received_at.as_millisecond();
            one.order < honest.into() && at <= newest && at >= newest - lost
        });
        assert!(is_there, "seed {seed}: age {age} ms, stood {stood} ms: {all:?}");
    }
}

#[test]
fn no_attacker_removes_the_newest_snapshot_from_before_the_attack() {
    (0..5_000).for_each(attack);
}

#[test]
#[ignore = "the same with 100,000 histories: a minute"]
fn no_attacker_removes_it_in_many_histories() {
    (5_000..105_000).for_each(attack);
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
                is_suspicious: false,
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
            let most = 1 + last + 2 * (hourly + daily + weekly + monthly);
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
