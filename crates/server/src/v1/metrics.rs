//! `/metrics`: counters and gauges in the text format of Prometheus.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use node::Services;
use store::StoreAdmin as _;

use super::{Problem, blocking, folders};

/// The text of the answer.
#[derive(Default)]
struct Text(String);

impl Text {
    fn metric(&mut self, name: &str, kind: &str, help: &str, values: &[(String, f64)]) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP archivist_{name} {help}");
        let _ = writeln!(self.0, "# TYPE archivist_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "archivist_{name}{labels} {value}");
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a float is what the format has")]
    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.metric(name, kind, help, &[(String::new(), value as f64)]);
    }
}

/// Returns a label with escaped special characters.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{name}=\"{value}\"}}")
}

/// Handles `GET /metrics`.
#[expect(clippy::cast_precision_loss, reason = "a float is what the format has")]
pub(crate) async fn metrics(State(services): State<Services>) -> Result<Response, Problem> {
    let text = blocking(move || {
        let mut text = Text::default();
        for (name, help, value) in services.net.metrics().counters() {
            text.one(&format!("net_{name}_total"), "counter", help.trim(), value);
        }
        if let Ok(usage) = services.store.usage() {
            text.one("store_blocks", "gauge", "Blocks in the store.", usage.blocks);
            text.one("store_used_bytes", "gauge", "Size of the store in bytes.", usage.used_bytes);
            let help = "Bytes that can be written until a limit is reached.";
            text.one("store_available_bytes", "gauge", help, usage.available_bytes);
        }
        let (before, after) = services.store.recompressed();
        let help = "Bytes recompressed since the start, before compression.";
        text.one("store_recompressed_before_bytes_total", "counter", help, before);
        let help = "Bytes recompressed since the start, after compression.";
        text.one("store_recompressed_after_bytes_total", "counter", help, after);
        integrity(&mut text, &services.integrity());
        let all = folders::all(&services);
        let of = |value: fn(&api::Folder) -> u64| -> Vec<(String, f64)> {
            all.iter().map(|f| (label("folder", f.id.as_str()), value(f) as f64)).collect()
        };
        text.metric("folder_files", "gauge", "Files in the folder.", &of(|f| f.files));
        text.metric(
            "folder_bytes",
            "gauge",
            "Total length of the files in the folder.",
            &of(|f| f.bytes),
        );
        let help = "Changes that are not published yet.";
        text.metric("folder_pending_changes", "gauge", help, &of(|f| f.pending_changes));
        let help = "Files that could not be read.";
        text.metric("folder_errors", "gauge", help, &of(|f| f.error_count));
        let help = "Sequence number of the newest manifest.";
        text.metric("folder_sequence", "gauge", help, &of(|f| f.sequence.map_or(0, |s| s.0)));
        let help = "Sequence number of the newest confirmed manifest.";
        let confirmed = of(|f| f.backed_up_sequence.map_or(0, |s| s.0));
        text.metric("folder_backed_up_sequence", "gauge", help, &confirmed);
        let totals = services.backup_daemon.totals();
        text.one("snapshots", "gauge", "Stored snapshots.", totals.snapshots);
        let help = "Snapshots completed since the start.";
        text.one("snapshots_committed_total", "counter", help, totals.committed);
        let help = "Pulls failed since the start.";
        text.one("pulls_failed_total", "counter", help, totals.failed_attempts);
        let sources: Vec<(String, f64)> = services
            .backup_daemon
            .sources()
            .iter()
            .map(|source| {
                let last = source.last_poll.map_or(0, jiff::Timestamp::as_second);
                (label("source", &source.name), last as f64)
            })
            .collect();
        let help = "Time of the last answer of the source, in seconds since 1970.";
        text.metric("source_last_poll_seconds", "gauge", help, &sources);
        Ok(text.0)
    })
    .await?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Adds the metrics of scrubs and healing.
fn integrity(text: &mut Text, integrity: &api::Integrity) {
    let (scrub, healing) = (&integrity.scrub, &integrity.healing);
    let help = "Blocks that a scrub has read and checked since the start.";
    text.one("scrub_blocks_total", "counter", help, scrub.blocks_checked);
    let help = "Bytes that a scrub has read since the start.";
    text.one("scrub_read_bytes_total", "counter", help, scrub.bytes_read);
    let help = "Size of the packs in bytes.";
    text.one("scrub_bytes", "gauge", help, scrub.bytes);
    let help = "Size in bytes of the packs that were scrubbed within scrub_days.";
    text.one("scrub_done_bytes", "gauge", help, scrub.scrubbed_bytes);
    let help = "Packs that were never scrubbed.";
    text.one("scrub_never_scrubbed_packs", "gauge", help, scrub.never_scrubbed);
    let help = "Time of the oldest scrub of a pack, in seconds since 1970; 0 before the first.";
    let oldest = scrub.oldest.map_or(0, |at| at.as_second().max(0).unsigned_abs());
    text.one("scrub_oldest_seconds", "gauge", help, oldest);
    let help = "Blocks that the disk could not deliver at the last attempt.";
    text.one("scrub_unreadable_blocks", "gauge", help, scrub.unreadable);
    let help = "Blocks that were found damaged or missing.";
    text.one("blocks_damaged_total", "counter", help, healing.found);
    let help = "Damaged or missing blocks that were fetched again.";
    text.one("blocks_healed_total", "counter", help, healing.healed);
    let help = "Blocks that are damaged or missing.";
    text.one("blocks_outstanding", "gauge", help, healing.outstanding);
    if let Some(last) = &integrity.last_verification {
        let help = "End of the last verification, in seconds since 1970.";
        let ended_at = last.ended_at.as_second().max(0).unsigned_abs();
        text.one("verify_last_seconds", "gauge", help, ended_at);
        let help = "Blocks that the last verification found damaged or missing.";
        text.one("verify_last_problems", "gauge", help, last.problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_line() {
        assert_eq!(label("a", "x\"\n\\"), r#"{a="x\"\n\\"}"#);
    }
}
