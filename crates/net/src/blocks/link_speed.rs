//! [`LinkSpeed`]: estimates whether a stream is slower than the compressor, so that
//! compression saves time.
//!
//! On a fast link, compression would limit the speed of a first backup, so nothing
//! is compressed. On a slow link, compressed text needs half the time. The estimate
//! compares the bytes that were sent with the time that ready data waited for the
//! link, over several MiB. A single batch proves nothing: the buffers of both
//! systems accept about 1 MiB immediately and then nothing for a while. If the link
//! waits for the disk or the compressor, it does not count as slow, because more
//! compression would not help.

use tokio::time::Instant;

/// Speed below which a link counts as slow and blocks are compressed, in bytes per
/// second. One core compresses even difficult text faster than this.
pub const SLOW_LINK_BYTES_PER_SEC: f64 = 40e6;

/// Number of sent bytes from which on the estimate is valid. The buffers of both
/// systems accept fewer bytes immediately.
const MIN_SAMPLE_LEN: f64 = 64e3;

/// Number of sent bytes after which all observations are halved. Links change, and
/// the first MiB only fill buffers.
const HALVE_AFTER: f64 = 4e6;

/// Maximum length of a batch that is compressed over any link if the stream was
/// idle, in bytes. This is the case when a user saves a few files; one millisecond
/// more does not matter then.
pub(super) const SMALL_BATCH_LEN: usize = 256 << 10;

/// zstd level for blocks that are sent over a slow link.
pub(super) const COMPRESSION_LEVEL: i32 = 3;

/// Thing that a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// Data is ready, and the link or the receiver does not accept it yet.
    Link,
    /// Blocks were requested, but the disk or the compressor has not delivered them.
    Blocks,
    /// No block is requested.
    Client,
}

/// Speed estimate of one stream.
#[derive(Debug)]
pub(super) struct LinkSpeed {
    state: WaitsFor,
    since: Instant,
    /// Bytes that were sent.
    sent: f64,
    /// Seconds of waiting for the link.
    for_link: f64,
    /// Seconds of waiting for blocks.
    for_blocks: f64,
    /// Last result of [`LinkSpeed::is_worth_patching`].
    patches: bool,
}

impl LinkSpeed {
    /// Starts before anything is sent. The link counts as fast.
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

    /// Records that the stream waits for `state` from now on.
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

    /// Records that the system accepted `len` bytes.
    pub(super) fn sent(&mut self, len: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a write is some KiB")]
        let len = len as f64;
        self.sent += len;
        if self.sent >= HALVE_AFTER {
            for seen in [&mut self.sent, &mut self.for_link, &mut self.for_blocks] {
                *seen /= 2.0;
            }
        }
    }

    /// Reports whether the link is slow, so that further blocks should be
    /// compressed.
    pub(super) fn is_slow(&self) -> bool {
        let waited = self.for_link + self.for_blocks;
        self.sent >= MIN_SAMPLE_LEN
            && self.is_waited_for()
            && self.sent < SLOW_LINK_BYTES_PER_SEC * waited
    }

    fn is_waited_for(&self) -> bool {
        self.for_link > self.for_blocks
    }

    /// Reports whether further blocks should be sent as differences to blocks of the
    /// client.
    ///
    /// Differences are so short that the stream does not wait for the link while it
    /// sends them. The last result therefore stays valid while the last batch
    /// consisted of differences (`were_patches`).
    pub(super) fn is_worth_patching(&mut self, were_patches: bool) -> bool {
        if self.sent >= MIN_SAMPLE_LEN && (self.is_waited_for() || !were_patches) {
            self.patches = self.is_slow();
        }
        self.patches
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns the estimates for a link that accepts `burst` bytes immediately and
    /// then nothing for `millis`, during the first `unready` of which no blocks are
    /// ready.
    async fn found(burst: usize, millis: u64, unready: u64) -> Vec<bool> {
        let mut link = LinkSpeed::new();
        let mut found = Vec::new();
        for _ in 0..40 {
            for _ in 0..8 {
                link.sent(burst / 8);
            }
            link.waits_for(WaitsFor::Blocks);
            tokio::time::sleep(Duration::from_millis(unready)).await;
            link.waits_for(WaitsFor::Link);
            tokio::time::sleep(Duration::from_millis(millis - unready)).await;
            // However long nothing is asked for.
            link.waits_for(WaitsFor::Client);
            tokio::time::sleep(Duration::from_secs(10)).await;
            link.waits_for(WaitsFor::Link);
            found.push(link.is_slow());
        }
        found
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_slow_link_that_is_waited_for_is_slow() {
        assert!(!LinkSpeed::new().is_slow(), "nothing is known");
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
        let mut link = LinkSpeed::new();
        let mut after = async |len: usize, millis: u64, waits: WaitsFor, were_patches: bool| {
            for _ in 0..64 {
                link.sent(len);
                link.waits_for(waits);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                link.waits_for(WaitsFor::Client);
            }
            link.is_worth_patching(were_patches)
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
        let mut link = LinkSpeed::new();
        let mut after = async |millis: u64| {
            for _ in 0..16 {
                link.sent(1 << 20);
                link.waits_for(WaitsFor::Link);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                link.waits_for(WaitsFor::Link);
            }
            link.is_slow()
        };
        assert!(!after(0).await, "buffers take it");
        assert!(after(100).await);
        assert!(!after(2).await);
        assert!(after(100).await);
    }
}
