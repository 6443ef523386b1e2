//! Detects that the answers of a source are old ones that something between the two computers
//! repeats. No I/O.
//!
//! A source signs each answer with the nonce of the request and its time. An answer with the nonce
//! is new, whatever the clocks say. If the nonce is lost on the way, the time must keep pace with
//! this computer's clock. A source that never signed (an older version) is not judged.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use manifest::AnswerAge;
use tokio::time::Instant;

/// Time without a new answer after which an answer that is not new is reported.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// Time by which an answer without the nonce may be older than the answers before.
const LATE_MAX: SignedDuration = SignedDuration::from_secs(60);
/// Assumed difference of the clocks before the first answer, at most.
const CLOCKS_MAX: SignedDuration = SignedDuration::from_mins(10);

/// The age of a source's answers, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// Time at which the last new answer arrived.
    proved_at: Option<Instant>,
    /// The smallest time by which the clock of the source was behind this one, travel included.
    behind: Option<SignedDuration>,
    is_stale: bool,
}

impl Freshness {
    /// Records an answer that arrived at `now`, which is `wall` by the clock of this computer.
    /// Returns whether it is proved to be the answer to this request.
    pub(super) fn answered(&mut self, now: Instant, wall: Timestamp, age: AnswerAge) -> bool {
        let is_new = match age {
            AnswerAge::Now => {
                // The clocks may have been set.
                self.behind = None;
                true
            }
            AnswerAge::At(time) => {
                let behind = wall.duration_since(time);
                let known = self.behind.unwrap_or(CLOCKS_MAX - LATE_MAX);
                let keeps_pace = behind <= known + LATE_MAX;
                if keeps_pace {
                    self.behind = Some(known.min(behind));
                }
                keeps_pace
            }
            AnswerAge::Unknown => false,
        };
        if is_new {
            self.proved_at = Some(now);
        }
        let is_old = |proved_at: Instant| now.duration_since(proved_at) > STALE_AFTER;
        self.is_stale = self.proved_at.is_some_and(is_old);
        age == AnswerAge::Now
    }

    /// Returns the error for the user while the source repeats old answers.
    pub(super) fn error(&self) -> Option<&'static str> {
        self.is_stale.then_some(
            "the manifest server answers, but its answers are old or their signature was removed: \
             something between the two computers repeats them, such as a proxy, or an attacker. \
             New snapshots may be missing; connect the two computers directly",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Setup {
        freshness: Freshness,
        start: Instant,
    }

    impl Setup {
        fn new() -> Self {
            Self { freshness: Freshness::default(), start: Instant::now() }
        }

        fn wall(second: i64) -> Timestamp {
            Timestamp::from_second(1_800_000_000 + second).unwrap()
        }

        /// Records an answer, and returns whether the source is stale.
        fn answer(&mut self, second: u64, age: AnswerAge) -> bool {
            let now = self.start + Duration::from_secs(second);
            self.freshness.answered(now, Self::wall(second.cast_signed()), age);
            self.freshness.error().is_some()
        }

        fn at(second: i64) -> AnswerAge {
            AnswerAge::At(Self::wall(second))
        }
    }

    #[test]
    fn answers_that_are_not_new_are_reported_after_a_while() {
        let mut setup = Setup::new();
        assert!(!setup.answer(0, AnswerAge::Now));
        assert!(!setup.answer(5, AnswerAge::Unknown));
        assert!(setup.answer(31, AnswerAge::Unknown));
        assert!(setup.answer(60, AnswerAge::Unknown));
        assert!(!setup.answer(61, AnswerAge::Now), "taken back");
        // Rare answers are judged as well.
        assert!(!setup.answer(4000, AnswerAge::Now));
        assert!(setup.answer(8000, AnswerAge::Unknown));
    }

    #[test]
    fn a_source_that_never_signed_is_not_judged() {
        let mut setup = Setup::new();
        assert!(!setup.answer(0, AnswerAge::Unknown));
        assert!(!setup.answer(1000, AnswerAge::Unknown));
    }

    #[test]
    fn without_the_nonce_the_time_must_keep_pace() {
        let mut setup = Setup::new();
        // The clock of the source is five minutes behind.
        assert!(!setup.answer(0, Setup::at(-300)));
        assert!(!setup.answer(1000, Setup::at(700)));
        // An answer is repeated, or old ones arrive one after the other.
        assert!(!setup.answer(1020, Setup::at(700)));
        assert!(setup.answer(1100, Setup::at(700)));
        assert!(setup.answer(1200, Setup::at(800)));
        assert!(!setup.answer(1300, Setup::at(1000)), "taken back");
        // One with the nonce is new although the clock was set.
        assert!(!setup.answer(1400, AnswerAge::Now));
        assert!(!setup.answer(1500, Setup::at(1000)));
        // The first answer after the start is not much older than this computer's time.
        assert!(!setup.freshness.answered(setup.start, Setup::wall(0), Setup::at(-100)));
        let mut late = Setup::new();
        late.answer(0, Setup::at(-3600));
        assert_eq!(late.freshness.proved_at, None);
    }
}
