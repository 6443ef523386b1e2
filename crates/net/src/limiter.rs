//! [`Limiter`]: the bandwidth limit of one direction, shared by all its streams.
//!
//! The limiter books time on the line: `n` bytes at `rate` occupy it for
//! `n / rate` seconds. A stream that has sent or read a piece waits until the end
//! of its booking. Streams thus take turns in the order of their requests, and the
//! bytes of any ten seconds are what the rate allows, whatever the sizes of the
//! pieces. Pieces are small ([`Limiter::piece`]), so that a new rate takes effect
//! immediately and no stream occupies the line for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Maximum unused time that is saved for later, that is, the burst that is possible
/// after a pause. Also makes up for timers that are a millisecond late.
const BURST: Duration = Duration::from_millis(50);

/// Maximum time on the line for a piece, unless it is shorter than [`MIN_PIECE`].
const PIECE: Duration = Duration::from_millis(20);

/// Minimum length of a piece in bytes. Shorter pieces would be mostly overhead.
const MIN_PIECE: usize = 256;

/// Maximum length of a piece in bytes. Longer pieces have no benefit.
const MAX_PIECE: usize = 256 << 10;

/// Limit in bytes per second that can change while it is in use. Clones share the
/// limit.
#[derive(Clone, Debug, Default)]
pub struct Limiter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Bytes per second; 0 means no limit.
    rate: AtomicU64,
    /// End of the last booking.
    booked_until: Mutex<Option<Instant>>,
}

impl Limiter {
    /// Creates a limit of `rate` bytes per second; 0 means no limit.
    pub fn new(rate: u64) -> Self {
        let limiter = Self::default();
        limiter.set(rate);
        limiter
    }

    /// Changes the limit; 0 removes it.
    pub fn set(&self, rate: u64) {
        self.0.rate.store(rate, Ordering::Relaxed);
        // Bookings at the old rate must not delay streams at the new one.
        *self.0.booked_until.lock() = None;
    }

    /// Returns the limit in bytes per second; 0 means no limit.
    pub fn rate(&self) -> u64 {
        self.0.rate.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of bytes to send or read in one piece.
    pub(crate) fn piece(&self) -> usize {
        match self.rate() {
            0 => usize::MAX,
            rate => {
                let bytes = u128::from(rate) * PIECE.as_millis() / 1000;
                bytes.min(MAX_PIECE as u128).max(MIN_PIECE as u128) as usize
            }
        }
    }

    /// Books the time for `bytes` that were sent or read. Returns the time until
    /// which the stream must wait before its next piece, or `None` if it need not
    /// wait.
    pub(crate) fn book(&self, bytes: usize) -> Option<Instant> {
        let rate = self.rate();
        if rate == 0 || bytes == 0 {
            return None;
        }
        let nanos = (bytes as u128).saturating_mul(1_000_000_000) / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let mut booked = self.0.booked_until.lock();
        // Unused time is lost, except for the burst.
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = booked.map_or(earliest, |until| until.max(earliest));
        let until = from + cost;
        *booked = Some(until);
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of bytes that `streams` streams send in `span` of virtual time.
    /// Each takes the lengths of its writes from `sizes`, in turn.
    async fn sent(limiter: &Limiter, streams: usize, sizes: &[usize], span: Duration) -> u64 {
        let total = Arc::new(AtomicU64::new(0));
        let end = Instant::now() + span;
        let tasks: Vec<_> = (0..streams)
            .map(|n| {
                let (limiter, total) = (limiter.clone(), Arc::clone(&total));
                let sizes = sizes.to_vec();
                tokio::spawn(async move {
                    for turn in n.. {
                        let bytes = sizes[turn % sizes.len()].min(limiter.piece());
                        if Instant::now() >= end {
                            break;
                        }
                        total.fetch_add(bytes as u64, Ordering::Relaxed);
                        if let Some(until) = limiter.book(bytes) {
                            tokio::time::sleep_until(until).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        total.load(Ordering::Relaxed)
    }

    fn assert_within(found: u64, wanted: u64, percent: u64, what: &str) {
        let slack = wanted * percent / 100;
        assert!(
            (wanted - slack..=wanted + slack).contains(&found),
            "{what}: {found} is not within {percent} % of {wanted}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn ten_seconds_are_exact_to_a_tenth() {
        let span = Duration::from_secs(10);
        for rate in [10_000, 123_456, 1_000_000, 10_000_000, 100_000_000] {
            for streams in [1, 3, 16] {
                for sizes in [&[64 << 10][..], &[10, 4096, 300, 1 << 20], &[9000]] {
                    let found = sent(&Limiter::new(rate), streams, sizes, span).await;
                    let what = format!("{rate} B/s, {streams} streams, pieces {sizes:?}");
                    assert_within(found, rate * 10, 10, &what);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_saved_up() {
        let limiter = Limiter::new(1_000_000);
        limiter.book(1000);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let found = sent(&limiter, 2, &[4096], Duration::from_secs(10)).await;
        assert_within(found, 10_000_000, 10, "after an hour of silence");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_holds_at_once() {
        let limiter = Limiter::new(10_000);
        let changer = limiter.clone();
        let change = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            changer.set(1_000_000);
        });
        let found = sent(&limiter, 4, &[64 << 10], Duration::from_secs(10)).await;
        change.await.unwrap();
        assert_within(found, 5 * 10_000 + 5 * 1_000_000, 10, "10 kB/s, then 1 MB/s");

        limiter.set(20_000);
        let found = sent(&limiter, 4, &[64 << 10], Duration::from_secs(10)).await;
        assert_within(found, 200_000, 10, "and 20 kB/s");
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_never_waits() {
        let limiter = Limiter::new(0);
        assert_eq!(limiter.piece(), usize::MAX);
        assert_eq!(limiter.book(usize::MAX), None);
        // An absurd rate or size does not overflow.
        limiter.set(1);
        assert!(limiter.book(usize::MAX >> 8).is_some());
        limiter.set(u64::MAX);
        assert_eq!(limiter.piece(), MAX_PIECE);
        limiter.book(usize::MAX);
    }
}
