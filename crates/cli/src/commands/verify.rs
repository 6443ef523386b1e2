//! `archivist verify`

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api::{Client, Job, VerifyRequest, VerifyResult};
use snapshots::VerifyProgress;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline::{LIST_INCOMPLETE, Offline};
use crate::output::{Out, Progress, Unit, count, print_json, safe, size};

/// Interval of the progress checks.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Check that no block of any snapshot is missing.
///
/// Works with and without a running instance; `--repair` needs one. Exits with 1 if
/// blocks are damaged or missing, and with 4 if snapshots could not be checked: a newer
/// version of the program wrote them, or the list of snapshots is incomplete.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  archivist verify\n  archivist verify --full --repair")]
pub(crate) struct Verify {
    /// Read and hash every block, instead of only checking that it exists.
    #[arg(long)]
    full: bool,
    /// Pull damaged and missing blocks again from a peer that has them.
    #[arg(long)]
    repair: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const NEWER: &str = "snapshots that a newer version of this program wrote were not checked; use that \
                     version";

impl Verify {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let client = match self.repair {
            true => Some(context.need_instance("`archivist verify --repair`")?),
            false => context.instance_to_read()?,
        };
        match client {
            Some(client) => {
                let result = block_on(self.through(&client))?;
                if result.roots_incomplete {
                    eprintln!("archivist: {LIST_INCOMPLETE}");
                }
                self.print(&result)
            }
            None => self.print(&self.offline(context)?),
        }
    }

    async fn through(&self, client: &Client) -> Result<VerifyResult> {
        let body = VerifyRequest { full: self.full, repair: self.repair };
        let mut job: Job = client.post("/verify", &body).await?;
        let path = format!("/jobs/{}", job.id);
        let mut progress = Progress::new(Unit::Things, "checking");
        while job.state == "running" {
            tokio::time::sleep(ASK_EVERY).await;
            job = client.get(&path).await?;
            progress.set(job.progress_done, job.progress_total, "checking");
        }
        progress.end();
        match (job.state.as_str(), job.result) {
            ("done", Some(result)) => {
                serde_json::from_value(result).context("the instance sent an unknown answer")
            }
            (state, _) => {
                let why = job.error.unwrap_or_else(|| "unknown reason".to_owned());
                bail!("the check ended ({state}): {why}")
            }
        }
    }

    fn offline(&self, context: &Context) -> Result<VerifyResult> {
        let Some(offline) = Offline::open(context)? else { return Ok(VerifyResult::default()) };
        let progress = Progress::new(Unit::Things, "checking");
        let (counts, never) = (VerifyProgress::default(), CancellationToken::new());
        let report = snapshots::verify(offline.snapshots(), self.full, &counts, &never);
        progress.end();
        Ok(node::verify_result(&**offline.store(), offline.roots_incomplete(), &report?, 0))
    }

    /// Prints the result. Returns an error if blocks are damaged or missing.
    fn print(&self, result: &VerifyResult) -> Result<()> {
        let is_ok = result.problems.is_empty();
        if self.json {
            print_json(result)?;
            return if is_ok { unchecked(result) } else { Err(End::Reported.into()) };
        }
        let mut out = Out::new();
        for problem in &result.problems {
            let concerns = match problem.concerns.as_slice() {
                [] => String::new(),
                concerns => format!("; needed by {}", safe(&concerns.join(", "))),
            };
            out.line(format_args!("{}: {}{concerns}", problem.cid, safe(&problem.reason)))?;
        }
        let read = match result.read_bytes {
            0 => String::new(),
            bytes => format!(", {} read and hashed", size(bytes)),
        };
        let checked = count(result.checked, "snapshot or item", "snapshots and items");
        let blocks = count(result.blocks, "block present", "blocks present");
        out.line(format_args!("checked {checked}: {blocks}{read}"))?;
        if result.repaired > 0 {
            let repaired = count(result.repaired, "block was", "blocks were");
            out.line(format_args!("{repaired} pulled again"))?;
        }
        for newer in &result.newer {
            let newer = safe(newer);
            out.line(format_args!("{newer}: written by a newer version of this program"))?;
        }
        out.finish()?;
        if is_ok {
            return unchecked(result);
        }
        let damaged = count(result.problems.len() as u64, "block is", "blocks are");
        if self.repair {
            bail!(
                "{damaged} damaged or missing, and no reachable peer has a copy; a running \
                 instance pulls them again when a peer that has them connects"
            );
        }
        bail!("{damaged} damaged or missing; to pull again now, run `archivist verify --repair`")
    }
}

/// Returns an error if snapshots were not checked. That the list is incomplete was printed.
fn unchecked(result: &VerifyResult) -> Result<()> {
    match (result.newer.is_empty(), result.roots_incomplete) {
        (false, _) => Err(End::Partly(NEWER).into()),
        (true, true) => Err(End::PartlyReported.into()),
        (true, false) => Ok(()),
    }
}
