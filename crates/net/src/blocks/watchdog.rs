//! The rule of minimum progress: a peer that trickles loses its stream.
//!
//! While a side waits for the other, at least [`MIN_PROGRESS`] bytes have to
//! pass in every [`PROGRESS_WINDOW`]. The clock stands while it is this side
//! that has no room or nothing to ask, so a slow disk is nobody's fault.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What has to pass within [`PROGRESS_WINDOW`]: 68 bytes a second. It is far
/// below any link, and above what costs an attacker nothing.
pub(crate) const MIN_PROGRESS: usize = 4 << 10;

/// See [`MIN_PROGRESS`]. Also what a disk that spins up may take.
pub(crate) const PROGRESS_WINDOW: Duration = Duration::from_secs(60);

/// The greeting has to be over within this.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Watches one direction.
pub(crate) struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
    bytes: usize,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(PROGRESS_WINDOW)), waiting: false, bytes: 0 }
    }

    /// Says whether the other side has the word. A window begins when it
    /// gets it.
    pub(crate) fn set_waiting(&mut self, waiting: bool) {
        if waiting && !self.waiting {
            self.restart();
        }
        self.waiting = waiting;
    }

    /// Counts what passed.
    pub(crate) fn progress(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn restart(&mut self) {
        self.bytes = 0;
        self.sleep.as_mut().reset(Instant::now() + PROGRESS_WINDOW);
    }

    /// Ready when the other side was too slow.
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
