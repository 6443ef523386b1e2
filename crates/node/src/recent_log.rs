//! The last lines of the log, in memory, for the web UI.
//!
//! The log belongs to the process, like the subscriber that writes it, so all
//! instances in a process share these lines.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::LazyLock;

use api::LogLine;
use jiff::Timestamp;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Maximum number of lines; the oldest are dropped first.
const LINES_MAX: usize = 1000;
/// Maximum length of a line in bytes; the rest is cut off.
const LINE_LEN_MAX: usize = 2000;

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    lines: VecDeque<LogLine>,
}

impl Lines {
    fn push(&mut self, level: String, mut text: String) {
        if text.len() > LINE_LEN_MAX {
            let end = (0..=LINE_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        self.next += 1;
        self.lines.push_back(LogLine { id: self.next, at: Timestamp::now(), level, text });
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
    }
}

static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(Mutex::default);

/// Returns the last lines of the log, the oldest first.
pub fn lines() -> Vec<LogLine> {
    LINES.lock().lines.iter().cloned().collect()
}

/// A layer of the subscriber that keeps the last lines of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecentLog;

impl<S: Subscriber> Layer<S> for RecentLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = event.metadata().level().as_str().to_lowercase();
        LINES.lock().push(level, text.message + &text.fields);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn lines_have_their_fields_and_a_longest_length() {
        let subscriber = tracing_subscriber::registry().with(RecentLog);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(folder = "x-7", count = 3, "it is so");
            tracing::info!("{}", "é".repeat(LINE_LEN_MAX));
        });
        let all = lines();
        let short = all.iter().find(|line| line.text.starts_with("it is so")).unwrap();
        assert_eq!(
            (short.level.as_str(), short.text.as_str()),
            ("warn", "it is so folder=\"x-7\" count=3")
        );
        let long = all.iter().find(|line| line.text.starts_with('é')).unwrap();
        assert!(long.text.len() < LINE_LEN_MAX + 4 && long.text.ends_with('…'));
    }

    #[test]
    fn the_oldest_lines_go() {
        let mut lines = Lines::default();
        (0..LINES_MAX + 3).for_each(|number| lines.push("info".into(), number.to_string()));
        assert_eq!(lines.lines.len(), LINES_MAX);
        assert_eq!(lines.lines[0].text, "3");
    }
}
