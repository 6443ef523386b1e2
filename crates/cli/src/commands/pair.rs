//! `archivist pair`

use std::time::Duration;

use anyhow::{Result, bail};
use api::{JoinReport, JoinRequest, PairingCode, PairingState};
use serde_json::json;

use crate::context::{Context, block_on};
use crate::output::{Out, local_time, print_json, print_line, safe};

/// Interval of the checks whether the code has been entered.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Pair a source with a backup server.
///
/// On the source (the computer with the folders), run it without CODE: it prints a
/// code that works once. On the backup server, run it with that CODE. This configures
/// both computers: peer ids, addresses, permissions, and the source.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  archivist pair                  # on the source\n  archivist pair CODE             # on the backup server"
)]
pub(crate) struct Pair {
    /// Code that the source shows.
    code: Option<String>,
    /// Wait until the code has been entered on the backup server or has expired.
    #[arg(long, conflicts_with = "code")]
    wait: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Pair {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist pair`")?;
        if let Some(code) = self.code {
            let body = JoinRequest { code };
            let report: JoinReport =
                block_on(async { Ok(client.post("/pairing/join", &body).await?) })?;
            return if self.json { print_json(&report) } else { show(&report) };
        }
        let code: PairingCode = block_on(async { Ok(client.post("/pairing", &json!({})).await?) })?;
        if self.json {
            print_json(&code)?;
        } else {
            // Only the code goes to standard output, for scripts.
            print_line(safe(&code.code))?;
            eprintln!(
                "The code works once, until {}. Enter it on the backup server:\n  archivist pair {}",
                local_time(code.expires_at),
                safe(&code.code)
            );
        }
        if !self.wait {
            return Ok(());
        }
        let state = block_on(async {
            loop {
                let state: PairingState = client.get("/pairing").await?;
                if !matches!(state.state.as_str(), "waiting" | "joining") {
                    return Ok(state);
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        })?;
        match (state.state.as_str(), state.peer_id, state.detail) {
            ("joined", peer, changes) => {
                eprintln!("paired with {}", safe(&peer.unwrap_or_default()));
                if let Some(changes) = changes {
                    eprintln!("{}", safe(&changes));
                }
                Ok(())
            }
            ("expired", _, _) => bail!("the code has expired; get a new one: `archivist pair`"),
            (state, _, detail) => {
                bail!("pairing ended ({state}): {}", detail.unwrap_or_default())
            }
        }
    }
}

fn show(report: &JoinReport) -> Result<()> {
    let mut out = Out::new();
    out.line(format_args!("paired with {}", safe(&report.name)))?;
    out.line(format_args!("peer id    {}", safe(&report.peer_id)))?;
    out.line(format_args!("manifests  {}", safe(&report.manifest_server_url)))?;
    for address in &report.addresses {
        out.line(format_args!("address    {}", safe(address)))?;
    }
    for change in &report.changes {
        out.line(format_args!("set        {}", safe(change)))?;
    }
    out.finish()?;
    if !report.needs_restart.is_empty() {
        eprintln!("restart the daemon to apply: {}", safe(&report.needs_restart.join(", ")));
    }
    Ok(())
}
