//! `/metrics`: counters and gauges in the text format of Prometheus.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use node::{ChainStatus, Services};
use store::StoreAdmin as _;

use super::{Problem, blocking, folders};

/// Kind of a metric.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}
use Kind::{Counter, Gauge};

/// A row of a table of metrics: name, kind, description, and value.
type Row<'a, V> = (&'a str, Kind, &'a str, V);

/// The text of the answer.
#[derive(Default)]
struct Text(String);

impl Text {
    /// Adds a metric with its values; each has its labels.
    fn metric(
        &mut self,
        (name, kind, help): (&str, Kind, &str),
        values: impl IntoIterator<Item = (String, u64)>,
    ) {
        let kind = match kind {
            Counter => "counter",
            Gauge => "gauge",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP archivist_{name} {help}");
        let _ = writeln!(self.0, "# TYPE archivist_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "archivist_{name}{labels} {value}");
        }
    }

    /// Adds metrics that have one value each.
    fn rows<'a>(&mut self, rows: impl IntoIterator<Item = Row<'a, u64>>) {
        for (name, kind, help, value) in rows {
            self.metric((name, kind, help), [(String::new(), value)]);
        }
    }
}

/// Returns labels with escaped special characters.
fn labels_of(labels: &[(&str, String)]) -> String {
    let label = |(name, value): &(&str, String)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    format!("{{{}}}", labels.iter().map(label).collect::<Vec<_>>().join(","))
}

/// Returns one label.
fn label(name: &str, value: &str) -> String {
    labels_of(&[(name, value.to_owned())])
}

/// Handles `GET /metrics`.
pub(crate) async fn metrics(State(services): State<Services>) -> Result<Response, Problem> {
    let text = blocking(move || Ok(text_of(&services))).await?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn text_of(services: &Services) -> String {
    let mut text = Text::default();
    for (name, help, value) in services.net.metrics().counters() {
        text.rows([(&*format!("net_{name}_total"), Counter, help.trim(), value)]);
    }
    if let Ok(usage) = services.store.usage() {
        text.rows([
            ("store_blocks", Gauge, "Blocks in the store.", usage.blocks),
            ("store_used_bytes", Gauge, "Size of the store in bytes.", usage.used_bytes),
            (
                "store_available_bytes",
                Gauge,
                "Bytes that can be written until a limit is reached.",
                usage.available_bytes,
            ),
        ]);
    }
    let (before, after) = services.store.recompressed();
    text.rows([
        (
            "store_recompressed_before_bytes_total",
            Counter,
            "Bytes recompressed since the start, before compression.",
            before,
        ),
        (
            "store_recompressed_after_bytes_total",
            Counter,
            "Bytes recompressed since the start, after compression.",
            after,
        ),
    ]);
    add_integrity(&mut text, &services.integrity());
    add_folders(&mut text, &folders::all(services));
    add_receipts(&mut text, &services.receipts.chains());
    let totals = services.backup_daemon.totals();
    text.rows([
        ("snapshots", Gauge, "Stored snapshots.", totals.snapshots),
        (
            "snapshots_committed_total",
            Counter,
            "Snapshots completed since the start.",
            totals.committed,
        ),
        ("pulls_failed_total", Counter, "Pulls failed since the start.", totals.failed_attempts),
    ]);
    let sources = services.backup_daemon.sources();
    let last_polls =
        sources.iter().map(|source| (label("source", &source.name), seconds(source.last_poll)));
    let help = "Time of the last answer of the source, in seconds since 1970.";
    text.metric(("source_last_poll_seconds", Gauge, help), last_polls);
    text.0
}

/// Returns the value of a metric of a folder.
type FolderValue = fn(&api::Folder) -> u64;

/// Adds the metrics of the folders.
fn add_folders(text: &mut Text, folders: &[api::Folder]) {
    let rows: [Row<'_, FolderValue>; 6] = [
        ("folder_files", Gauge, "Files in the folder.", |folder| folder.files),
        ("folder_bytes", Gauge, "Total length of the files in the folder.", |folder| folder.bytes),
        ("folder_pending_changes", Gauge, "Changes that are not published yet.", |folder| {
            folder.pending_changes
        }),
        ("folder_errors", Gauge, "Files that could not be read.", |folder| folder.error_count),
        ("folder_sequence", Gauge, "Sequence number of the newest manifest.", |folder| {
            folder.sequence.map_or(0, |sequence| sequence.0)
        }),
        (
            "folder_backed_up_sequence",
            Gauge,
            "Sequence number of the newest confirmed manifest.",
            |folder| folder.backed_up_sequence.map_or(0, |sequence| sequence.0),
        ),
    ];
    for (name, kind, help, value) in rows {
        let values =
            folders.iter().map(|folder| (label("folder", folder.id.as_str()), value(folder)));
        text.metric((name, kind, help), values);
    }
}

/// Returns the value of a metric of a chain of receipts.
type ChainValue = fn(&ChainStatus) -> u64;

/// Adds the metrics of the receipts, for each folder and backup server.
fn add_receipts(text: &mut Text, chains: &[ChainStatus]) {
    let rows: [Row<'_, ChainValue>; 3] = [
        ("receipts", Gauge, "Stored receipts of the backup server.", |chain| chain.count),
        (
            "receipt_last_seconds",
            Gauge,
            "Time at which the newest receipt arrived, in seconds since 1970; 0 if there is none.",
            |chain| seconds(chain.newest.as_ref().map(|newest| newest.arrived_at)),
        ),
        (
            "receipt_problems",
            Gauge,
            "Problems with the receipts of the backup server; `archivist status` lists them.",
            |chain| chain.problems.len() as u64,
        ),
    ];
    for (name, kind, help, value) in rows {
        let values = chains.iter().map(|chain| {
            let id = &chain.id;
            let labels = [
                ("folder", id.folder.to_string()),
                ("backup_server", id.backup_server.to_string()),
            ];
            (labels_of(&labels), value(chain))
        });
        text.metric((name, kind, help), values);
    }
}

/// Adds the metrics of scrubs and healing.
fn add_integrity(text: &mut Text, integrity: &api::Integrity) {
    let (scrub, healing) = (&integrity.scrub, &integrity.healing);
    text.rows([
        (
            "scrub_blocks_total",
            Counter,
            "Blocks that a scrub has read and checked since the start.",
            scrub.blocks_checked,
        ),
        (
            "scrub_read_bytes_total",
            Counter,
            "Bytes that a scrub has read since the start.",
            scrub.bytes_read,
        ),
        ("scrub_bytes", Gauge, "Size of the packs in bytes.", scrub.bytes),
        (
            "scrub_done_bytes",
            Gauge,
            "Size in bytes of the packs that were scrubbed within scrub_days.",
            scrub.scrubbed_bytes,
        ),
        (
            "scrub_never_scrubbed_packs",
            Gauge,
            "Packs that were never scrubbed.",
            scrub.never_scrubbed,
        ),
        (
            "scrub_oldest_seconds",
            Gauge,
            "Time of the oldest scrub of a pack, in seconds since 1970; 0 before the first.",
            seconds(scrub.oldest),
        ),
        (
            "scrub_unreadable_blocks",
            Gauge,
            "Blocks that the disk could not deliver at the last attempt.",
            scrub.unreadable,
        ),
        (
            "blocks_damaged_total",
            Counter,
            "Blocks that were found damaged or missing.",
            healing.found,
        ),
        (
            "blocks_healed_total",
            Counter,
            "Damaged or missing blocks that were fetched again.",
            healing.healed,
        ),
        ("blocks_outstanding", Gauge, "Blocks that are damaged or missing.", healing.outstanding),
    ]);
    if let Some(last) = &integrity.last_verification {
        text.rows([
            (
                "verify_last_seconds",
                Gauge,
                "End of the last verification, in seconds since 1970.",
                seconds(Some(last.ended_at)),
            ),
            (
                "verify_last_problems",
                Gauge,
                "Blocks that the last verification found damaged or missing.",
                last.problems,
            ),
        ]);
    }
}

/// Returns the seconds since 1970; 0 if there is no time.
fn seconds(at: Option<Timestamp>) -> u64 {
    at.map_or(0, |at| at.as_second().max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_line() {
        assert_eq!(label("a", "x\"\n\\"), r#"{a="x\"\n\\"}"#);
        let two = [("a", "1".to_owned()), ("b", "\"".to_owned())];
        assert_eq!(labels_of(&two), r#"{a="1",b="\""}"#);
    }
}
