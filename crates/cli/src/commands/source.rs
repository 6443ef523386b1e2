//! `archivist source …`

use anyhow::{Result, bail};
use config::SourcePeer;
use serde::Serialize;
use serde_json::json;

use crate::context::{Context, block_on};
use crate::output::{Align, Out, Table, print_json, print_line, safe};

use super::status::show_sources;

/// Manage the sources that this backup server pulls from.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  archivist source list")]
pub(crate) enum Source {
    List(List),
    Accept(Accept),
}

/// List the sources and their state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist source list --json")]
pub(crate) struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Accept a source again whose state was lost or reset.
///
/// Such a source restarts its sequence numbers, or has another key. Its snapshots on
/// this backup server are kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist source accept \"My Desktop\"")]
pub(crate) struct Accept {
    /// Name of the source.
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A source of an instance that is not running.
#[derive(Debug, Serialize)]
struct Configured {
    name: String,
    peer_id: String,
    manifest_server_url: String,
    state: &'static str,
}

impl Configured {
    fn new(source: &SourcePeer) -> Self {
        Self {
            name: source.name.to_string(),
            peer_id: source.peer_id.to_string(),
            manifest_server_url: source.manifest_server_url.to_string(),
            state: "stopped",
        }
    }
}

impl Source {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::List(command) => command.run(context),
            Self::Accept(command) => command.run(context),
        }
    }
}

impl List {
    fn run(&self, context: &Context) -> Result<()> {
        let Some(client) = context.instance()? else { return self.run_offline(context) };
        let sources: Vec<api::Source> = block_on(async { Ok(client.get("/sources").await?) })?;
        if self.json {
            return print_json(&sources);
        }
        let mut out = Out::new();
        if sources.is_empty() {
            eprintln!("no source is configured; `archivist pair CODE` adds one");
        } else {
            show_sources(&sources, &[], &mut out, "")?;
        }
        out.finish()
    }

    fn run_offline(&self, context: &Context) -> Result<()> {
        let config = context.config()?;
        let sources = config.backup_server.source_peers.iter().map(Configured::new);
        let sources: Vec<_> = sources.collect();
        if self.json {
            return print_json(&sources);
        }
        eprintln!("no instance is running; these sources are configured");
        let mut table =
            Table::new(&[("NAME", Align::Left), ("PEER ID", Align::Left), ("URL", Align::Left)]);
        for source in sources {
            table.row([source.name, source.peer_id, source.manifest_server_url]);
        }
        let mut out = Out::new();
        table.print(&mut out, "")?;
        out.finish()
    }
}

impl Accept {
    fn run(&self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist source accept`")?;
        let accepted: api::Source = block_on(async {
            // The name can be any text: check it before it becomes part of a URL path.
            let sources: Vec<api::Source> = client.get("/sources").await?;
            if !sources.iter().any(|source| source.name == self.name) {
                bail!(
                    "no source is called {:?}; `archivist source list` lists all sources",
                    self.name
                );
            }
            let part = api::path_part(&self.name);
            Ok(client.post(&format!("/sources/{part}/accept"), &json!({})).await?)
        })?;
        if self.json {
            return print_json(&accepted);
        }
        print_line(format_args!("{} is accepted in its current state", safe(&accepted.name)))
    }
}
