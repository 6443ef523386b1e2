//! Whether a stream is slower than a compressor, so that compressing saves time.
//!
//! On a fast link compression is what sets the time of a first backup, and
//! nothing is compressed. On a slow one text takes half the time. The link is
//! known by how long what is ready has to wait for it, over some MiB: buffers of
//! both systems take a MiB at once, and then nothing for long, so that one batch
//! tells nothing. Where the link waits for what is read or compressed, nothing is
//! to be had from more of that.

use tokio::time::Instant;

/// Bytes in a second on the wire below which a link is slow, and blocks are
/// compressed: less than one core compresses of text that is hard on it.
pub const SLOW_LINK_BYTES_PER_SEC: f64 = 40e6;

/// Fewer bytes say nothing: the buffers of both systems take them at once.
const TELLS: f64 = 64e3;

/// After so many bytes, what was seen counts half: links change, and the first
/// MiB fill buffers.
const FORGETS: f64 = 4e6;

/// What is asked for when nothing is under way, and is no more bytes than this,
/// is compressed over any link: a save of some files, which nobody waits a
/// millisecond longer for.
pub(super) const FEW: usize = 256 << 10;

/// What zstd does to blocks that go over a slow link.
pub(super) const LEVEL: i32 = 3;

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// Something is ready to be sent: the link, or who reads at its other end.
    Link,
    /// Something is asked for, and nothing is ready: the disk, or the compressor.
    Blocks,
    /// Nothing is asked for.
    Client,
}

/// Watches one stream.
#[derive(Debug)]
pub(super) struct Pace {
    state: WaitsFor,
    since: Instant,
    /// Bytes that were sent, and seconds that were waited.
    sent: f64,
    for_link: f64,
    for_blocks: f64,
    /// What was found last of differences, see [`Pace::is_worth_patching`].
    patches: bool,
}

impl Pace {
    /// Before anything is sent: a link is taken for fast.
    pub(super) fn new() -> Self {
        let since = Instant::now();
        Self {
            state: WaitsFor::Client,
            since,
            sent: 0.0,
            for_link: 0.0,
            for_blocks: 0.0,
            patches: false,
        }
    }

    /// From now on it waits for `state`.
    pub(super) fn waits_for(&mut self, state: WaitsFor) {
        let now = Instant::now();
        let waited = (now - self.since).as_secs_f64();
        match self.state {
            WaitsFor::Link => self.for_link += waited,
            WaitsFor::Blocks => self.for_blocks += waited,
            WaitsFor::Client => {}
        }
        (self.state, self.since) = (state, now);
    }

    /// So many bytes were taken by the system.
    pub(super) fn sent(&mut self, len: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a write is some KiB")]
        let len = len as f64;
        self.sent += len;
        if self.sent >= FORGETS {
            for seen in [&mut self.sent, &mut self.for_link, &mut self.for_blocks] {
                *seen /= 2.0;
            }
        }
    }

    /// Whether what is read from now on is worth compressing.
    pub(super) fn is_slow(&self) -> bool {
        let waited = self.for_link + self.for_blocks;
        self.sent >= TELLS && self.is_waited_for() && self.sent < SLOW_LINK_BYTES_PER_SEC * waited
    }

    fn is_waited_for(&self) -> bool {
        self.for_link > self.for_blocks
    }

    /// Whether what is read from now on is worth comparing with what the client
    /// has. Differences are so few bytes that no link is waited for while they
    /// are sent: what was found before holds as long as they are.
    pub(super) fn is_worth_patching(&mut self, were_patches: bool) -> bool {
        if self.sent >= TELLS && (self.is_waited_for() || !were_patches) {
            self.patches = self.is_slow();
        }
        self.patches
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What is found of a link that takes `burst` bytes at once, and then nothing
    /// for `millis`, of which the blocks are not ready for `unready`.
    async fn found(burst: usize, millis: u64, unready: u64) -> Vec<bool> {
        let mut pace = Pace::new();
        let mut found = Vec::new();
        for _ in 0..40 {
            for _ in 0..8 {
                pace.sent(burst / 8);
            }
            pace.waits_for(WaitsFor::Blocks);
            tokio::time::sleep(Duration::from_millis(unready)).await;
            pace.waits_for(WaitsFor::Link);
            tokio::time::sleep(Duration::from_millis(millis - unready)).await;
            // However long nothing is asked for.
            pace.waits_for(WaitsFor::Client);
            tokio::time::sleep(Duration::from_secs(10)).await;
            pace.waits_for(WaitsFor::Link);
            found.push(pace.is_slow());
        }
        found
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_slow_link_that_is_waited_for_is_slow() {
        assert!(!Pace::new().is_slow(), "nothing is known");
        assert!(!found(1 << 10, 10, 0).await[0], "a KiB tells nothing");
        for burst in [64 << 10, 1 << 20, 3 << 20] {
            let millis = |rate: u64| burst as u64 / rate / 1000;
            let fast = found(burst, millis(100), 0).await;
            assert!(fast.iter().all(|slow| !slow), "100 MB/s");
            let slow = found(burst, millis(12), millis(12) / 10).await;
            assert!(slow.iter().all(|slow| *slow), "12 MB/s: {slow:?}");
            let unready = found(burst, millis(12), millis(12) * 3 / 4).await;
            assert!(unready.iter().all(|slow| !slow), "the reader was slow");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_was_slow_is_while_differences_go_over_it() {
        let mut pace = Pace::new();
        let mut after = async |len: usize, millis: u64, waits: WaitsFor, were_patches: bool| {
            for _ in 0..64 {
                pace.sent(len);
                pace.waits_for(waits);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                pace.waits_for(WaitsFor::Client);
            }
            pace.is_worth_patching(were_patches)
        };
        assert!(!after(1 << 20, 1, WaitsFor::Link, false).await);
        assert!(after(1 << 20, 100, WaitsFor::Link, false).await);
        assert!(after(1 << 10, 5, WaitsFor::Blocks, true).await, "nothing is waited for");
        assert!(after(1 << 10, 100, WaitsFor::Blocks, true).await);
        // Blocks again, and the link takes them at once.
        assert!(!after(1 << 20, 5, WaitsFor::Blocks, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_gets_faster_or_slower_is_seen_to_be_so() {
        let mut pace = Pace::new();
        let mut after = async |millis: u64| {
            for _ in 0..16 {
                pace.sent(1 << 20);
                pace.waits_for(WaitsFor::Link);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                pace.waits_for(WaitsFor::Link);
            }
            pace.is_slow()
        };
        assert!(!after(0).await, "buffers take it");
        assert!(after(100).await);
        assert!(!after(2).await);
        assert!(after(100).await);
    }
}
