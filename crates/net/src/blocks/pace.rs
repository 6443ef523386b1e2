//! Whether a stream is slower than a compressor, so that compressing saves time.
//!
//! On a fast link compression is what sets the time of a first backup, and
//! nothing is compressed. On a slow one text takes half the time. The link is
//! known by what it takes while more is waiting for it; where nothing waits,
//! reading or compressing is what is slow, and nothing is to be had from more of
//! that.

use tokio::time::Instant;

/// Bytes in a second on the wire below which blocks are compressed: less than
/// one core compresses of text that is hard on it.
const SLOW: f64 = 40e6;

/// Shorter batches say nothing: the buffers of both systems take them at once.
const TELLS: usize = 64 << 10;

/// What is asked for when nothing is under way, and is no more bytes than this,
/// is compressed over any link: a save of some files, which nobody waits a
/// millisecond longer for.
pub(super) const FEW: usize = 256 << 10;

/// What zstd does to blocks that go over a slow link.
pub(super) const LEVEL: i32 = 3;

/// Watches one stream, batch by batch.
#[derive(Debug)]
pub(super) struct Pace {
    is_slow: bool,
    since: Instant,
    len: usize,
}

impl Pace {
    /// Before the first batch: a link is taken for fast.
    pub(super) fn new() -> Self {
        Self { is_slow: false, since: Instant::now(), len: 0 }
    }

    /// A batch of `len` bytes begins to be sent; `waited`: it was ready before
    /// all of the last one was taken.
    pub(super) fn begins(&mut self, len: usize, waited: bool) {
        let now = Instant::now();
        if self.len >= TELLS {
            let seconds = (now - self.since).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a batch is some MiB")]
            let wanted = SLOW * seconds > self.len as f64;
            self.is_slow = waited && wanted;
        }
        (self.since, self.len) = (now, len);
    }

    /// Whether what is read from now on is worth compressing.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_slow_link_that_is_waited_for_is_slow() {
        const LEN: usize = 1 << 20;
        let mut pace = Pace::new();
        let time = async |millis| tokio::time::sleep(Duration::from_millis(millis)).await;
        pace.begins(LEN, false);
        assert!(!pace.is_slow());
        time(10).await;
        pace.begins(LEN, true);
        assert!(!pace.is_slow(), "100 MB/s");
        time(80).await;
        pace.begins(1000, true);
        assert!(pace.is_slow(), "13 MB/s");
        pace.begins(LEN, true);
        assert!(pace.is_slow(), "a short one changes nothing");
        time(80).await;
        pace.begins(LEN, false);
        assert!(!pace.is_slow(), "the reader was slow");
    }
}
