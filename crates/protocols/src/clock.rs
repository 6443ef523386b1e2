//! The time of day behind a trait, so that tests can set it.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// Source of the time of day for the crates of the backup server, and for notifications. Tests use
/// a clock that they set; otherwise [`SystemClock`] is used.
///
/// Intervals are measured by the async runtime instead. The scanner has another clock,
/// `sync::Clock`, which also returns the time of file stamps.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The clock of this computer.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl SystemClock {
    /// Returns the clock as a shared trait object.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}
