//! The clock of a simulated computer.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Time of day at the start of every simulation, in seconds since 1970.
const START: i64 = 1_790_000_000;

/// The clock of one computer: the simulated time, and a time of day that may be wrong.
#[derive(Clone, Debug)]
pub(crate) struct SimClock {
    started: Instant,
    offset: Arc<Mutex<SignedDuration>>,
}

impl SimClock {
    /// Creates a clock that shows the right time.
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, offset: Arc::default() }
    }

    /// Changes the difference from the right time of day.
    pub(crate) fn set_offset(&self, offset: SignedDuration) {
        *self.offset.lock() = offset;
    }

    /// Returns the right time of day.
    pub(crate) fn right_time(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap();
        Timestamp::from_second(START).unwrap() + elapsed
    }

    fn time_of_day(&self) -> Timestamp {
        self.right_time() + *self.offset.lock()
    }
}

impl protocols::Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.time_of_day()
    }
}

impl sync::Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.time_of_day()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns a time long after the last change of each file. The simulation gives each
    /// change another mtime, so no change is hidden by the resolution of the real clock.
    fn file_time(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_hours(1)
    }
}
