//! The log of a simulation: one line for each event, with the simulated time.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// Adds messages of the program to the log, each in one call of `write`.
struct MessageWriter(Log);

impl std::io::Write for MessageWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.line("", String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log. Clones share it. The same seed gives the same log, byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    text: Arc<Mutex<String>>,
    started: Instant,
    /// The runtime of the simulated time, for the few lines from other threads.
    runtime: Handle,
}

impl Log {
    /// Creates an empty log whose time starts now.
    pub(crate) fn new() -> Self {
        Self { text: Arc::default(), started: Instant::now(), runtime: Handle::current() }
    }

    /// Adds a line.
    pub(crate) fn line(&self, who: &str, what: impl std::fmt::Display) {
        let _entered = self.runtime.enter();
        let ms = self.started.elapsed().as_millis();
        // Writing to a string does not fail.
        let _ = writeln!(self.text.lock(), "{:>6}.{:03} {who:<6} {what}", ms / 1000, ms % 1000);
    }

    /// Has the messages of the program on this thread added, until the result is dropped.
    pub(crate) fn add_messages(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_writer(move || MessageWriter(log.clone()))
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Returns all lines.
    pub(crate) fn text(&self) -> String {
        self.text.lock().clone()
    }
}
