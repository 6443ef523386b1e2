//! How long to wait before something that failed is tried again: longer each
//! time, up to a cap, and never quite the same, so that many who failed
//! together do not come back together.

use std::time::Duration;

/// Waiting times that double from `first` to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// After the first failure.
    pub(crate) first: Duration,
    /// After many.
    pub(crate) cap: Duration,
}

impl Backoff {
    /// For sources that do not answer, and pulls that fail.
    pub(crate) const FAILURE: Self =
        Self { first: Duration::from_secs(1), cap: Duration::from_secs(300) };
    /// For files that changed on the source: its next manifest is on its way.
    pub(crate) const CHANGED: Self =
        Self { first: Duration::from_millis(500), cap: Duration::from_secs(60) };
    /// For receipts that could not be delivered.
    pub(crate) const RECEIPT: Self =
        Self { first: Duration::from_secs(2), cap: Duration::from_secs(120) };

    /// The wait after so many failures in a row, from 1; three quarters of the
    /// time at least, and the whole at most.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self.first.checked_mul(doubled).map_or(self.cap, |wait| wait.min(self.cap));
        let quarter = whole / 4;
        whole - quarter.mul_f64(f64::from(rand::random::<u16>()) / f64::from(u16::MAX))
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
