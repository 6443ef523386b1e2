//! The state of the scrubs for the status of the instance, the speed of a scrub, and the
//! packs that could not be read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use store::{PackId, ScrubSummary};

/// Minimum speed of a scrub in bytes per second, so that a small store is read in
/// minutes when it is due.
const RATE_MIN: u64 = 1 << 20;
/// Maximum speed in bytes per second, unless the store is so large that this does not
/// suffice.
const RATE_MAX: u64 = 32 << 20;
/// Multiple of the speed that suffices for the period: a computer that is on for three
/// hours a day keeps up, and packs that are all due at the same time are spread over an
/// eighth of the period.
const RATE_FACTOR: u64 = 8;

/// Pauses before a pack with unreadable blocks is read again. After the last attempt the
/// blocks are set aside.
const RETRIES: [Duration; 3] =
    [Duration::from_secs(600), Duration::from_secs(3600), Duration::from_secs(6 * 3600)];

/// State of the scrubs of an instance. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ScrubState(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    days: u32,
    is_running: bool,
    summary: ScrubSummary,
    blocks: u64,
    bytes: u64,
    unreadable: u64,
}

impl ScrubState {
    /// Returns the state for the API.
    pub fn to_api(&self) -> api::Scrub {
        let state = self.0.lock();
        api::Scrub {
            days: state.days,
            is_running: state.is_running,
            packs: state.summary.packs,
            bytes: state.summary.bytes,
            scrubbed_bytes: state.summary.scrubbed_bytes,
            never_scrubbed: state.summary.never_scrubbed,
            oldest: state.summary.oldest.and_then(|at| Timestamp::from_second(at).ok()),
            blocks_checked: state.blocks,
            bytes_read: state.bytes,
            unreadable: state.unreadable,
        }
    }

    pub(crate) fn set_summary(&self, days: u32, summary: ScrubSummary) {
        let mut state = self.0.lock();
        state.days = days;
        state.summary = summary;
    }

    pub(crate) fn set_running(&self, is_running: bool) {
        self.0.lock().is_running = is_running;
    }

    pub(crate) fn add(&self, blocks: u64, bytes: u64) {
        let mut state = self.0.lock();
        state.blocks += blocks;
        state.bytes += bytes;
    }

    pub(crate) fn set_unreadable(&self, blocks: u64) {
        self.0.lock().unreadable = blocks;
    }
}

/// The packs that could not be read completely, and are read again later.
#[derive(Debug, Default)]
pub(crate) struct Deferrals(HashMap<PackId, Deferral>);

#[derive(Debug)]
struct Deferral {
    attempts: usize,
    until: Instant,
    blocks: u64,
    reason: String,
}

impl Deferrals {
    /// Adds a failed attempt to read a pack, with the number of unreadable blocks.
    pub(crate) fn add(&mut self, pack: PackId, blocks: u64, reason: String, now: Instant) {
        let attempts = self.0.get(&pack).map_or(0, |deferral| deferral.attempts);
        let until = now + RETRIES[attempts.min(RETRIES.len() - 1)];
        self.0.insert(pack, Deferral { attempts: attempts + 1, until, blocks, reason });
    }

    pub(crate) fn contains(&self, pack: PackId) -> bool {
        self.0.contains_key(&pack)
    }

    /// Reports whether a pack is not read again yet.
    pub(crate) fn is_waiting(&self, pack: PackId, now: Instant) -> bool {
        self.0.get(&pack).is_some_and(|deferral| now < deferral.until)
    }

    /// Reports whether all attempts before the current one have failed, and no pause is
    /// left.
    pub(crate) fn is_last_attempt(&self, pack: PackId) -> bool {
        self.0.get(&pack).is_some_and(|deferral| deferral.attempts >= RETRIES.len())
    }

    pub(crate) fn remove(&mut self, pack: PackId) {
        self.0.remove(&pack);
    }

    pub(crate) fn retain(&mut self, exists: impl Fn(PackId) -> bool) {
        self.0.retain(|pack, _| exists(*pack));
    }

    pub(crate) fn packs(&self) -> usize {
        self.0.len()
    }

    /// Returns the number of blocks that were unreadable at the last attempts.
    pub(crate) fn blocks(&self) -> u64 {
        self.0.values().map(|deferral| deferral.blocks).sum()
    }

    pub(crate) fn first_reason(&self) -> Option<&str> {
        self.0.values().next().map(|deferral| deferral.reason.as_str())
    }
}

/// Returns the speed of a scrub in bytes per second, given the length of all packs and
/// the period in seconds.
pub(crate) fn rate(bytes: u64, period: u64) -> u64 {
    let enough = bytes / period.max(1);
    // A quarter more than what suffices without any pause.
    let at_least = enough.saturating_add(enough / 4);
    (enough.saturating_mul(RATE_FACTOR)).clamp(RATE_MIN, RATE_MAX).max(at_least)
}

/// Returns the pause after `bytes` were read in `elapsed`.
pub(crate) fn pause(bytes: u64, elapsed: Duration, rate: u64) -> Duration {
    let millis = bytes.saturating_mul(1000) / rate.max(1);
    Duration::from_millis(millis).saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_suffices_and_is_bounded() {
        const MONTH: u64 = 30 * 24 * 3600;
        const GIB: u64 = 1 << 30;
        assert_eq!(rate(0, MONTH), RATE_MIN);
        assert_eq!(rate(GIB, MONTH), RATE_MIN);
        let tib = rate(1024 * GIB, MONTH);
        assert!(tib > 3 << 20 && tib < 4 << 20, "{tib}");
        assert_eq!(rate(20 * 1024 * GIB, MONTH), RATE_MAX);
        // Too much for the limit: as fast as necessary.
        let huge = 200 * 1024 * GIB;
        assert!(rate(huge, MONTH) > huge / MONTH && rate(huge, MONTH) < 2 * huge / MONTH);
        assert!(rate(u64::MAX, 0) > 0);
    }

    #[test]
    fn a_pack_is_read_again_with_growing_pauses_and_its_blocks_given_up_in_the_end() {
        let (pack, other) =
            (PackId { number: 1, uuid: [1; 16] }, PackId { number: 2, uuid: [2; 16] });
        let mut deferrals = Deferrals::default();
        let mut now = Instant::now();
        for pause in [600, 3600, 6 * 3600] {
            assert!(!deferrals.is_last_attempt(pack));
            deferrals.add(pack, 3, "EIO".into(), now);
            let after = |secs| now + Duration::from_secs(secs);
            assert!(deferrals.is_waiting(pack, after(pause - 1)), "{pause}");
            assert!(!deferrals.is_waiting(pack, after(pause)), "{pause}");
            now = after(pause);
        }
        assert!(deferrals.is_last_attempt(pack) && !deferrals.is_last_attempt(other));
        // The disk as a whole fails: no end, but no shorter pause either.
        deferrals.add(pack, 3, "EIO".into(), now);
        assert!(deferrals.is_waiting(pack, now + Duration::from_secs(6 * 3600 - 1)));
        assert_eq!((deferrals.blocks(), deferrals.first_reason()), (3, Some("EIO")));
        deferrals.retain(|kept| kept == other);
        assert_eq!((deferrals.packs(), deferrals.contains(pack)), (0, false));
    }

    #[test]
    fn pauses_make_up_for_what_was_read_faster() {
        let secs = Duration::from_secs;
        assert_eq!(pause(2 << 20, secs(0), 1 << 20), secs(2));
        assert_eq!(pause(2 << 20, secs(1), 1 << 20), secs(1));
        assert_eq!(pause(2 << 20, secs(9), 1 << 20), secs(0));
        assert!(pause(u64::MAX, secs(0), 0) > secs(0));
    }
}
