//! The bandwidth limit of one direction, shared by all its streams.
//!
//! It books time: `n` bytes at `rate` take `n / rate` seconds of the line,
//! and whoever has sent or read them waits until the line has caught up. So
//! every stream gets its turn in the order of asking, and what was sent over
//! ten seconds is what the rate allows, whatever the sizes of the pieces.
//! Streams ask for little pieces ([`Limiter::piece`]), so a changed rate is
//! felt at once, and nobody holds the line for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How much unused time may be saved up: what a stream may send at once after
/// a pause. It also bridges the millisecond that a timer may be late.
const BURST: Duration = Duration::from_millis(50);

/// A piece takes this long at most, unless it is smaller than [`MIN_PIECE`].
const PIECE: Duration = Duration::from_millis(20);

/// Smaller pieces would be all overhead.
const MIN_PIECE: usize = 256;

/// Larger pieces would give nothing more.
const MAX_PIECE: usize = 256 << 10;

/// A limit in bytes per second that can be changed while it is in use.
#[derive(Clone, Debug, Default)]
pub struct Limiter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Bytes per second; 0 is no limit.
    rate: AtomicU64,
    /// Until when the line is booked.
    booked_until: Mutex<Option<Instant>>,
}

impl Limiter {
    /// A limit of `rate` bytes per second; 0 is none.
    pub fn new(rate: u64) -> Self {
        let limiter = Self::default();
        limiter.set(rate);
        limiter
    }

    /// Changes the limit; 0 lifts it.
    pub fn set(&self, rate: u64) {
        self.0.rate.store(rate, Ordering::Relaxed);
        // What was booked at the old rate would bind the new one.
        *self.0.booked_until.lock() = None;
    }

    /// The limit in bytes per second; 0 is none.
    pub fn rate(&self) -> u64 {
        self.0.rate.load(Ordering::Relaxed)
    }

    /// How many bytes to send or read at once.
    pub(crate) fn piece(&self) -> usize {
        match self.rate() {
            0 => usize::MAX,
            rate => {
                let bytes = u128::from(rate) * PIECE.as_millis() / 1000;
                bytes.min(MAX_PIECE as u128).max(MIN_PIECE as u128) as usize
            }
        }
    }

    /// Books the time for `bytes` that were sent or read, and tells until
    /// when to wait before the next piece; `None` is not at all.
    pub(crate) fn book(&self, bytes: usize) -> Option<Instant> {
        let rate = self.rate();
        if rate == 0 || bytes == 0 {
            return None;
        }
        let nanos = (bytes as u128).saturating_mul(1_000_000_000) / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let mut booked = self.0.booked_until.lock();
        // Time that nobody used is lost, but for the burst.
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

    /// What `streams` streams send in `span` of virtual time, `size` bytes
    /// wanted at once by each.
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
