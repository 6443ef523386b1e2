//! `archivist source …`

use anyhow::{Result, bail};
use config::SourcePeer;
use serde::Serialize;
use serde_json::json;

use crate::context::{Context, block_on};
use crate::output::{Align, Out, Table, print_json, print_line, safe};

use super::status::show_sources;

/// Look at the sources that this backup server pulls from.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  archivist source list")]
pub(crate) enum Source {
    List(List),
    Accept(Accept),
}

/// List the sources, and how each is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist source list --json")]
pub(crate) struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Go on with a source whose state was lost or went back.
///
/// Such a source begins to count anew, or has another key. What this backup
/// server holds of it stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist source accept \"My Desktop\"")]
pub(crate) struct Accept {
    /// The name of the source.
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A source of an instance that does not run.
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
            show_sources(&sources, &mut out, "")?;
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
        eprintln!("no instance runs; this is what is configured");
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
            // The name is a text of any kind: it is looked up before it
            // becomes a part of a path.
            let sources: Vec<api::Source> = client.get("/sources").await?;
            if !sources.iter().any(|source| source.name == self.name) {
                bail!("no source is called {:?}; `archivist source list` shows them", self.name);
            }
            let part = api::path_part(&self.name);
            Ok(client.post(&format!("/sources/{part}/accept"), &json!({})).await?)
        })?;
        if self.json {
            return print_json(&accepted);
        }
        print_line(format_args!("{} is accepted as it is now", safe(&accepted.name)))
    }
}
