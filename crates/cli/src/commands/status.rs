//! `archivist status`

use anyhow::Result;
use api::{LeftOutDir, Notice, NoticeLevel};

use crate::context::{Context, block_on};
use crate::output::{Align, Out, Table, count, local_time, print_json, safe, size};

/// Show the state of this instance: notices, folders, sources and storage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist status")]
pub(crate) struct Status {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist status`")?;
        if self.json {
            // Printed as received, including fields that this program does not know.
            let status: serde_json::Value = block_on(async { Ok(client.get("/status").await?) })?;
            return print_json(&status);
        }
        let status: api::Status = block_on(async { Ok(client.get("/status").await?) })?;
        let mut out = Out::new();
        show(&status, &mut out)?;
        out.finish()
    }
}

fn show(status: &api::Status, out: &mut Out) -> Result<()> {
    out.line(format_args!("peer id    {}", safe(&status.peer_id)))?;
    out.line(format_args!("version    {}", safe(&status.version)))?;
    out.line(format_args!("data       {}", safe(&status.data)))?;
    for (number, address) in status.addresses.iter().enumerate() {
        let label = if number == 0 { "addresses" } else { "" };
        out.line(format_args!("{label:9}  {}", safe(address)))?;
    }
    let storage = &status.storage;
    let limit = storage.max_bytes.map_or(String::new(), |max| format!(" of {}", size(max)));
    out.line(format_args!(
        "storage    {}{limit} in {}; {} free for backups",
        size(storage.used_bytes),
        count(storage.blocks, "block", "blocks"),
        size(storage.available_bytes)
    ))?;
    show_integrity(&status.integrity, out)?;
    if !status.notices.is_empty() {
        out.line("\nNotices")?;
    }
    for notice in &status.notices {
        let level = match notice.level {
            NoticeLevel::Error => "error",
            NoticeLevel::Warning => "warning",
            NoticeLevel::Info => "info",
        };
        out.line(format_args!("  {level}: {}", safe(&notice.message)))?;
        if let Some(action) = &notice.action {
            out.line(format_args!("    {}", safe(action)))?;
        }
    }
    if !status.folders.is_empty() {
        out.line("\nFolders")?;
        show_folders(&status.folders, &status.notices, out, "  ")?;
    }
    if !status.sources.is_empty() {
        out.line("\nSources")?;
        show_sources(&status.sources, &status.notices, out, "  ")?;
    }
    Ok(())
}

/// Maximum number of damaged blocks shown. `--json` prints more.
const BLOCKS_SHOWN: usize = 10;

/// Prints the scrubs, the damage and the last verification.
fn show_integrity(integrity: &api::Integrity, out: &mut Out) -> Result<()> {
    let (scrub, healing) = (&integrity.scrub, &integrity.healing);
    if scrub.packs > 0 {
        let percent = scrub.scrubbed_bytes.saturating_mul(100) / scrub.bytes.max(1);
        let oldest = match scrub.oldest {
            Some(oldest) if scrub.never_scrubbed == 0 => {
                format!("; oldest {}", local_time(oldest))
            }
            _ => String::new(),
        };
        match scrub.days {
            0 => out.line("scrub      off (backup_server.scrub_days = 0)")?,
            days => out.line(format_args!(
                "scrub      {percent} % of the stored data read again within {days} days{oldest}"
            ))?,
        }
    }
    if let Some(last) = &integrity.last_verification {
        let kind = if last.is_full { "all data" } else { "presence only" };
        let problems = match last.problems {
            0 => "no problems".to_owned(),
            problems => count(problems, "block damaged or missing", "blocks damaged or missing"),
        };
        let at = local_time(last.ended_at);
        out.line(format_args!("verified   {at} ({kind}): {problems}"))?;
    }
    if healing.found > 0 {
        out.line(format_args!(
            "damage     {} found, {} healed, {} outstanding",
            count(healing.found, "block", "blocks"),
            healing.healed,
            healing.outstanding
        ))?;
    }
    for block in healing.blocks.iter().take(BLOCKS_SHOWN) {
        let needed = match block.concerns.as_slice() {
            [] => String::new(),
            concerns => format!("; needed by {}", safe(&concerns.join(", "))),
        };
        let error = block.error.as_deref().map(|error| format!("; {}", safe(error)));
        let (reason, error) = (safe(&block.reason), error.unwrap_or_default());
        out.line(format_args!("           {}: {reason}{error}{needed}", block.cid))?;
    }
    let shown = healing.blocks.len().min(BLOCKS_SHOWN) as u64;
    if healing.outstanding > shown {
        let more = count(healing.outstanding - shown, "more block", "more blocks");
        out.line(format_args!("           {more}"))?;
    }
    Ok(())
}

/// Maximum number of errors shown per folder. `--json` prints more.
const ERRORS_SHOWN: usize = 10;
/// Maximum number of left-out directories shown per folder. `--json` prints more.
const LEFT_OUT_SHOWN: usize = 10;

/// Reports whether one of the notices contains the text.
fn is_noticed(notices: &[Notice], text: &str) -> bool {
    notices.iter().any(|notice| notice.message.contains(text))
}

/// Prints the directories that are not backed up.
pub(super) fn show_left_out(dirs: &[LeftOutDir], out: &mut Out, start: &str) -> Result<()> {
    for dir in dirs.iter().take(LEFT_OUT_SHOWN) {
        let path = safe(&dir.path).replace('\n', "\\n");
        out.line(format_args!("{start}{path}: not backed up: {}", safe(&dir.reason)))?;
    }
    if dirs.len() > LEFT_OUT_SHOWN {
        let more = count((dirs.len() - LEFT_OUT_SHOWN) as u64, "directory", "directories");
        out.line(format_args!("{start}and {more} more"))?;
    }
    Ok(())
}

/// Prints the folders as a table, followed by their problems that are not in `notices`.
pub(super) fn show_folders(
    folders: &[api::Folder],
    notices: &[Notice],
    out: &mut Out,
    indent: &str,
) -> Result<()> {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        ("PENDING", Align::Right),
        ("SEQUENCE", Align::Right),
        ("BACKED UP", Align::Left),
        ("PATH", Align::Left),
    ]);
    for folder in folders {
        let backed_up = match (folder.backed_up_sequence, folder.backed_up_at) {
            (Some(sequence), Some(at)) => format!("{sequence} at {}", local_time(at)),
            (Some(sequence), None) => sequence.to_string(),
            (None, _) => "not yet".to_owned(),
        };
        table.row([
            folder.id.to_string(),
            folder.name.clone(),
            folder.state.clone(),
            folder.files.to_string(),
            size(folder.bytes),
            folder.pending_changes.to_string(),
            folder.sequence.map_or("-".to_owned(), |sequence| sequence.to_string()),
            backed_up,
            folder.path.clone(),
        ]);
    }
    table.print(out, indent)?;
    for folder in folders {
        let name = safe(&folder.name);
        let is_new = |text: &&String| !is_noticed(notices, text);
        if let Some(detail) = folder.detail.as_ref().filter(is_new) {
            out.line(format_args!("{indent}{name}: {}", safe(detail)))?;
        }
        if let Some(held) = folder.held.as_ref().filter(is_new) {
            let id = &folder.id;
            out.line(format_args!("{indent}{name}: suspicious change: {}", safe(held)))?;
            out.line(format_args!(
                "{indent}  if this change is intended: archivist folder confirm {id}"
            ))?;
        }
        if folder.is_polled {
            out.line(format_args!(
                "{indent}{name}: scanned every minute, because the file system ({}) does not \
                 report every change",
                safe(&folder.file_system)
            ))?;
        }
        show_left_out(&folder.left_out, out, &format!("{indent}{name}: "))?;
        for error in folder.errors.iter().take(ERRORS_SHOWN) {
            let (path, error) = (safe(&error.path).replace('\n', "\\n"), safe(&error.error));
            out.line(format_args!("{indent}{name}: {path}: {error}"))?;
        }
        let listed = folder.errors.len().min(ERRORS_SHOWN) as u64;
        if folder.error_count > listed {
            let more = count(folder.error_count - listed, "more error", "more errors");
            out.line(format_args!("{indent}{name}: {more}"))?;
        }
    }
    Ok(())
}

/// Prints the sources as a table, followed by their problems that are not in `notices`, and their
/// running pulls.
pub(super) fn show_sources(
    sources: &[api::Source],
    notices: &[Notice],
    out: &mut Out,
    indent: &str,
) -> Result<()> {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("LAST POLL", Align::Left),
        ("PEER ID", Align::Left),
        ("URL", Align::Left),
    ]);
    for source in sources {
        table.row([
            source.name.clone(),
            source.state.clone(),
            source.last_poll.map_or("never".to_owned(), local_time),
            source.peer_id.clone(),
            source.manifest_server_url.clone(),
        ]);
    }
    table.print(out, indent)?;
    for source in sources {
        let name = safe(&source.name);
        let is_new = |text: &&String| !is_noticed(notices, text);
        // The detail of a failure is usually part of an error.
        let is_error = |detail: &str| source.errors.iter().any(|error| error.contains(detail));
        let detail = source.detail.as_ref().filter(|detail| !is_error(detail));
        for error in detail.into_iter().chain(&source.errors).filter(is_new) {
            out.line(format_args!("{indent}{name}: {}", safe(error)))?;
        }
        for pull in &source.pulls {
            out.line(format_args!(
                "{indent}{name}: pulling {} {}: {} of {} files, {} of {}",
                safe(&pull.folder_name),
                pull.sequence,
                pull.files_done,
                pull.files_total,
                size(pull.bytes_done),
                size(pull.bytes_total)
            ))?;
        }
    }
    Ok(())
}
