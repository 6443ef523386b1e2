//! [`Watchdog`]: enforces minimum progress, so that a peer that sends or reads too
//! slowly loses its stream.
//!
//! While a side waits for its peer, at least [`MIN_PROGRESS`] bytes must pass in each
//! [`PROGRESS_WINDOW`]. The clock stops while the side itself has no room or nothing
//! to request, so a slow disk on this side is not held against the peer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Minimum number of bytes in each [`PROGRESS_WINDOW`]: 68 bytes per second. This is
/// far below the speed of any link, but not free for an attacker.
pub(crate) const MIN_PROGRESS: usize = 4 << 10;

/// Time in which [`MIN_PROGRESS`] bytes must pass. Long enough for a disk of the peer
/// to spin up.
pub(crate) const PROGRESS_WINDOW: Duration = Duration::from_secs(60);

/// Time limit for the greeting.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Watches one direction of a stream.
pub(crate) struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
    bytes: usize,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(PROGRESS_WINDOW)), waiting: false, bytes: 0 }
    }

    /// Sets whether this side waits for the peer. A window starts when it begins to
    /// wait.
    pub(crate) fn set_waiting(&mut self, waiting: bool) {
        if waiting && !self.waiting {
            self.restart();
        }
        self.waiting = waiting;
    }

    /// Records that `bytes` passed.
    pub(crate) fn progress(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn restart(&mut self) {
        self.bytes = 0;
        self.sleep.as_mut().reset(Instant::now() + PROGRESS_WINDOW);
    }

    /// Becomes ready when the peer was too slow.
    pub(crate) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.waiting && self.sleep.as_mut().poll(cx).is_ready() {
            if self.bytes < MIN_PROGRESS {
                return Poll::Ready(());
            }
            self.restart();
        }
        Poll::Pending
    }
}
