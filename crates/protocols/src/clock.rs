//! The time, as it is told to what keeps it: so that a test can tell another.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// Tells the time of day. Intervals are the runtime's business.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl SystemClock {
    /// The clock, to be shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}
