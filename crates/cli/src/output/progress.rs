//! Progress of long work on standard error: a bar on a terminal, else a line
//! every few seconds.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::text::{safe, size};

/// Interval of the lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Interval at which the bar is redrawn.
const TICK: Duration = Duration::from_millis(150);

const BYTES: &str = "{msg}  [{wide_bar}] {binary_bytes} of {binary_total_bytes}  {eta}";
const COUNTED: &str = "{msg}  [{wide_bar}] {human_pos} of {human_len}  {eta}";
const OPEN: &str = "{spinner} {wide_msg}  {elapsed}";

/// The unit of the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Things,
}

/// The progress of one piece of work.
#[derive(Debug)]
pub(crate) struct Progress {
    unit: Unit,
    /// Set if standard error is a terminal.
    bar: Option<ProgressBar>,
    has_total: bool,
    last_line: Instant,
}

impl Progress {
    /// Starts to show progress, with `message` as its label.
    pub(crate) fn new(unit: Unit, message: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_style(style(OPEN));
            bar.set_message(safe(message));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { unit, bar, has_total: false, last_line: Instant::now() }
    }

    /// Shows the amount done, and the total if it is known.
    pub(crate) fn set(&mut self, done: u64, total: Option<u64>, message: &str) {
        let message = safe(message).replace('\n', " ");
        let Some(bar) = &self.bar else {
            if self.last_line.elapsed() >= LINE_EVERY {
                self.last_line = Instant::now();
                eprintln!("{}", plain(self.unit, done, total, &message));
            }
            return;
        };
        if let Some(total) = total.filter(|total| *total > 0) {
            if !self.has_total {
                self.has_total = true;
                bar.set_style(style(match self.unit {
                    Unit::Bytes => BYTES,
                    Unit::Things => COUNTED,
                }));
            }
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
        bar.set_message(message);
    }

    /// Removes the bar. The caller prints the result.
    pub(crate) fn end(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn plain(unit: Unit, done: u64, total: Option<u64>, message: &str) -> String {
    let shown = |number: u64| match unit {
        Unit::Bytes => size(number),
        Unit::Things => number.to_string(),
    };
    match (done, total.filter(|total| *total > 0)) {
        (_, Some(total)) => format!("{message}: {} of {}", shown(done), shown(total.max(done))),
        (0, None) => format!("{message} …"),
        (_, None) => format!("{message}: {}", shown(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_and_lines_are_sound() {
        for template in [BYTES, COUNTED, OPEN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        assert_eq!(
            plain(Unit::Bytes, 1024, Some(2048), "restoring"),
            "restoring: 1.0 KiB of 2.0 KiB"
        );
        assert_eq!(plain(Unit::Things, 7, None, "checking"), "checking: 7");
        assert_eq!(plain(Unit::Things, 0, Some(0), "checking"), "checking …");
        assert_eq!(plain(Unit::Things, 9, Some(5), "checking"), "checking: 9 of 9");
    }
}
