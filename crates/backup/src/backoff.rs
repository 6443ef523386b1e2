//! Waiting times before retries: they double with each failure up to a cap, and are randomized, so
//! that many callers that failed together do not retry together.

use std::time::Duration;

/// Waiting times that double from `first` to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Waiting time after the first failure.
    pub(crate) first: Duration,
    /// Maximum waiting time.
    pub(crate) cap: Duration,
}

impl Backoff {
    /// For sources that do not answer, and pulls that fail.
    pub(crate) const FAILURE: Self =
        Self { first: Duration::from_secs(1), cap: Duration::from_secs(300) };
    /// For files that changed on the source, whose next manifest follows soon.
    pub(crate) const CHANGED: Self =
        Self { first: Duration::from_millis(500), cap: Duration::from_secs(60) };
    /// For receipts that were not delivered.
    pub(crate) const RECEIPT: Self =
        Self { first: Duration::from_secs(2), cap: Duration::from_secs(120) };

    /// Returns the waiting time after a number of failures in a row (at least 1): between three
    /// quarters of the doubled time and all of it.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.first.checked_mul(doubled).map_or(self.cap, |wait| wait.min(self.cap));
        let quarter = full / 4;
        full - quarter.mul_f64(net::random_fraction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_differ() {
        let second = Duration::from_secs(1);
        for (failures, whole) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (40, 300)] {
            for _ in 0..100 {
                let wait = Backoff::FAILURE.after(failures);
                assert!(wait <= second * whole, "{failures}: {wait:?}");
                assert!(wait >= second * whole * 3 / 4, "{failures}: {wait:?}");
            }
        }
        assert!(Backoff::FAILURE.after(u32::MAX) <= Backoff::FAILURE.cap);
        let some: std::collections::BTreeSet<_> =
            (0..100).map(|_| Backoff::FAILURE.after(9)).collect();
        assert!(some.len() > 50);
    }
}
