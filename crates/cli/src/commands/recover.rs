//! `archivist recover`

use anyhow::Result;
use api::{FoundState, RecoverReport, RecoverRequest};
use tokio_util::sync::CancellationToken;

use super::snapshots::show_snapshots;
use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline::Offline;
use crate::offline_write::WritableStore;
use crate::output::{Align, Out, Progress, Table, Unit, count, print_json, safe, size};

/// Find snapshots and data items that are stored but no longer listed.
///
/// Reads the packs of the store alone, so it also works if the list of snapshots (the
/// root records) is lost. The signature of each snapshot and the presence of its blocks
/// are checked. Nothing is changed without --yes.
///
/// A snapshot that is not listed is not always lost: it may have been removed by the
/// retention rules or by you, and wait for its space to be freed. Such snapshots are
/// marked and not listed again, unless they are named. The retention rules apply to
/// snapshots that are listed again, too.
///
/// Names and types of uploaded data items are found again. Data items that were fetched
/// from the network without a name cannot be found.
///
/// Works with and without a running instance. Exits with 4 if something is stored but not
/// listed, if a listed snapshot has no record, or if parts of the store could not be read,
/// so that there may be more.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  archivist recover\n  archivist recover --yes\n  \
                        archivist recover 1d16b0b030 --yes")]
pub(crate) struct Recover {
    /// List only these snapshots (ids) and data items (CIDs) again. Default: everything
    /// that is complete and was not removed.
    #[arg(value_name = "ID")]
    only: Vec<String>,
    /// List again what was found.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Recover {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let request = RecoverRequest { yes: self.yes, only: self.only.clone() };
        let progress = Progress::new(Unit::Things, "searching the packs");
        let report = match context.instance()? {
            Some(client) => block_on(async { Ok(client.post("/recover", &request).await?) }),
            None => offline(context, &request),
        };
        progress.end();
        let report = report?;
        if self.json {
            print_json(&report)?;
        } else {
            self.print(&report)?;
        }
        if !report.complete {
            return Err(End::Partly(PARTLY).into());
        }
        // With --yes, only what was not named is left.
        if lost(&report) > 0 && !self.yes { Err(End::PartlyReported.into()) } else { Ok(()) }
    }

    fn print(&self, report: &RecoverReport) -> Result<()> {
        for problem in &report.problems {
            eprintln!("archivist: {}", safe(problem));
        }
        let mut out = Out::new();
        print_snapshots(&mut out, report)?;
        print_items(&mut out, report)?;
        for record in &report.unusable {
            out.line(format_args!("record {}: {}", record.cid, safe(&record.reason)))?;
        }
        for cid in &report.manifests {
            out.line(format_args!("manifest {cid} has no snapshot record"))?;
        }
        let known = report.snapshots.iter().filter(|one| one.state == FoundState::Known).count();
        let lost = lost(report);
        let things = |number| count(number, "snapshot or data item", "snapshots and data items");
        if self.yes {
            let recovered = things(report.recovered);
            out.line(format_args!("{recovered} listed again"))?;
        } else if lost > 0 {
            let lost = things(lost);
            out.line(format_args!(
                "{lost} stored but not listed; to list again, run `archivist recover --yes`"
            ))?;
        } else {
            let known = count(known as u64, "listed snapshot", "listed snapshots");
            out.line(format_args!("nothing is lost: {known} found"))?;
        }
        out.finish()
    }
}

const PARTLY: &str = "parts of the store are missing or could not be read: there may be more \
                      snapshots and data items than were found";

/// Returns the number of snapshots and data items that can be taken over.
fn lost(report: &RecoverReport) -> u64 {
    let states = report.snapshots.iter().map(|one| one.state);
    let states = states.chain(report.items.iter().map(|one| one.state));
    let is_lost = |state: &FoundState| matches!(state, FoundState::Lost | FoundState::Conflict);
    states.filter(is_lost).count() as u64
}

fn offline(context: &Context, request: &RecoverRequest) -> Result<RecoverReport> {
    let never = CancellationToken::new();
    let nothing = || RecoverReport { complete: true, ..RecoverReport::default() };
    // Another user may read the store, but not the identity: nothing is known then.
    let issued = node::issued_receipts(context.paths.data_dir()).ok().flatten();
    // Before the search, which then finds what was confirmed.
    let confirmed = issued.map_or(Ok(Vec::new()), |issued| issued.confirmed());
    if !request.yes {
        let Some(store) = Offline::open(context)? else { return Ok(nothing()) };
        let (snapshots, config) = (store.snapshots(), store.config());
        let only = &request.only;
        let packs = store.packs();
        return Ok(node::search_in(snapshots, packs, None, &confirmed, config, only, &never)?);
    }
    let Some(store) = WritableStore::open(context)? else { return Ok(nothing()) };
    let WritableStore { packs, snapshots, config } = &store;
    Ok(node::recover_in(snapshots, &**packs, &confirmed, config, request, &never)?)
}

/// Prints the snapshots that are not known.
fn print_snapshots(out: &mut Out, report: &RecoverReport) -> Result<()> {
    let found = report.snapshots.iter().filter(|found| found.state != FoundState::Known);
    let found = found.map(|found| (&found.snapshot, state(found.state, found.detail.as_deref())));
    let found: Vec<_> = found.collect();
    if found.is_empty() { Ok(()) } else { show_snapshots(found, "STATE", out) }
}

/// Prints the data items that are not known.
fn print_items(out: &mut Out, report: &RecoverReport) -> Result<()> {
    let columns = [
        ("DATA ITEM", Align::Left),
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("STATE", Align::Left),
    ];
    let mut table = Table::new(&columns);
    let mut is_empty = true;
    for found in report.items.iter().filter(|found| found.state != FoundState::Known) {
        let name = found.filename.clone().unwrap_or_default();
        let state = state(found.state, found.detail.as_deref());
        table.row([found.cid.to_string(), name, size(found.bytes), state]);
        is_empty = false;
    }
    if is_empty { Ok(()) } else { table.print(out, "") }
}

fn state(state: FoundState, detail: Option<&str>) -> String {
    let detail = detail.unwrap_or_default();
    match state {
        FoundState::Known => "listed".to_owned(),
        FoundState::Lost => "complete".to_owned(),
        FoundState::Removed => "removed".to_owned(),
        FoundState::Incomplete => format!("incomplete: {detail}"),
        FoundState::Unreadable => format!("cannot be read at present: {detail}"),
        FoundState::Duplicate => format!("same as {detail}"),
        FoundState::Conflict => format!("complete, older than {detail}"),
        FoundState::Recovered => "listed again".to_owned(),
    }
}
