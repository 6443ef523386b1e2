//! `archivist init`

use anyhow::{Result, bail};
use serde_json::json;

use crate::context::Context;

/// Create the commented configuration file and the identity of this instance.
///
/// Existing files are not changed. Prints the peer id and the paths in either case.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist init")]
pub(crate) struct Init {
    /// Accept the store as it is: after its disk was replaced, after the store was lost for
    /// good, or after the identity was lost. A missing store and a missing identity are
    /// created.
    #[arg(long)]
    accept_store: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        // An existing configuration that is not valid is an error. Nothing is created
        // then.
        context.config()?;
        context.config_file().create()?;
        let data = context.paths.data_dir();
        node::make_data_dir(data)?;
        let peer_id = if self.accept_store {
            if context.instance()?.is_some() {
                bail!("an instance is running on {}: stop it first", data.display());
            }
            node::accept_store(data)?
        } else {
            node::load_identity(data)?
        };
        let config = context.paths.config_file();
        if self.json {
            println!(
                "{}",
                json!({ "peer_id": peer_id.to_string(), "config": config, "data": data })
            );
        } else {
            println!("peer_id: {peer_id}");
            println!("config:  {}", config.display());
            println!("data:    {}", data.display());
        }
        Ok(())
    }
}
