//! `archivist prune`

use anyhow::{Result, bail};
use api::{PruneReport, PruneRequest};

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline_write::WritableStore;
use crate::output::{Align, Out, Progress, Table, Unit, count, local_time, print_json, safe, size};

/// Remove the snapshots that no rule in `backup_server.keep` keeps, and free their
/// disk space.
///
/// A running instance does this automatically from time to time. The newest snapshot
/// of each folder is always kept. Works with and without a running instance, also on a
/// full disk.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist prune --dry-run")]
pub(crate) struct Prune {
    /// Show the snapshots that would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Confirm that `archivist snapshots` lists every snapshot to keep. Needed after the
    /// list of snapshots was damaged: until then no space is freed.
    /// Refused while the store has complete snapshots that are not listed; see
    /// `archivist recover`.
    #[arg(long, conflicts_with = "dry_run")]
    accept_roots: bool,
    /// With --accept-roots: delete the snapshots and data items that are not listed, also
    /// those that `archivist recover` finds. Remove listed snapshots whose record is missing
    /// or damaged, or that were removed before and are incomplete. Give up snapshots that
    /// this backup server has confirmed to a source, and that are lost. Run `archivist
    /// recover` before.
    #[arg(long, requires = "accept_roots")]
    discard: bool,
    /// After the snapshots are removed, compress the blocks that are stored uncompressed,
    /// and wait until that is done. The content of the snapshots stays the same. Without
    /// this option, the instance compresses them while it is idle.
    #[arg(long, conflicts_with = "dry_run")]
    recompress: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Prune {
    fn offline(&self, context: &Context) -> Result<PruneReport> {
        let Some(store) = WritableStore::open(context)? else {
            return Ok(PruneReport { dry_run: self.dry_run, ..PruneReport::default() });
        };
        let WritableStore { packs, snapshots, config } = &store;
        let data_dir = context.paths.data_dir();
        Ok(node::prune_in(packs, snapshots, data_dir, config, self.request())?)
    }

    fn request(&self) -> PruneRequest {
        PruneRequest {
            dry_run: self.dry_run,
            accept_roots: self.accept_roots,
            discard: self.discard,
            recompress: self.recompress,
        }
    }

    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let progress = Progress::new(Unit::Bytes, "pruning");
        let report = match context.instance()? {
            Some(client) => block_on(async { Ok(client.post("/prune", &self.request()).await?) }),
            None => self.offline(context),
        };
        progress.end();
        let report: PruneReport = report?;
        if self.json {
            print_json(&report)?;
            return if report.not_collected.is_some() { Err(End::Reported.into()) } else { Ok(()) };
        }
        let mut out = Out::new();
        if !report.removed.is_empty() {
            let mut table = Table::new(&[
                ("SNAPSHOT", Align::Left),
                ("FOLDER", Align::Left),
                ("RECEIVED", Align::Left),
            ]);
            for one in &report.removed {
                let received = local_time(one.received_at);
                table.row([one.snapshot.clone(), one.folder_name.clone(), received]);
            }
            table.print(&mut out, "")?;
        }
        let removed = count(report.removed.len() as u64, "snapshot", "snapshots");
        let kept = report.kept.len();
        if report.dry_run {
            out.line(format_args!("{removed} would be removed, {kept} kept"))?;
        } else {
            let freed = size(report.freed_bytes);
            out.line(format_args!("{removed} removed, {kept} kept, {freed} freed"))?;
        }
        if let Some(done) = &report.recompressed {
            let (before, after) = (size(done.before_bytes), size(done.after_bytes));
            let packs = count(done.packs, "pack", "packs");
            out.line(format_args!("{packs} compressed: {before} before, {after} after"))?;
            for problem in &done.problems {
                out.line(format_args!("could not be compressed: {}", safe(problem)))?;
            }
        }
        for discarded in &report.discarded {
            out.line(format_args!("discarded: {}", safe(discarded)))?;
        }
        for hold in &report.holds {
            out.line(format_args!("not pruned: {}", safe(hold)))?;
        }
        out.finish()?;
        match &report.not_collected {
            Some(error) => bail!("no space could be freed: {error}"),
            None => Ok(()),
        }
    }
}
