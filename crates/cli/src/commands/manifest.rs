//! `archivist manifest …`

use std::io::Write as _;

use anyhow::{Result, bail};
use types::Cid;

use crate::context::{Context, block_on};
use crate::offline::Offline;
use crate::output::Out;

/// Inspect manifests.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  archivist manifest show bafyr4i…")]
pub(crate) enum Manifest {
    Show(Show),
}

/// Print a complete manifest: one JSON document with a `files` array.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist manifest show bafyr4i… | jq '.files[].path'")]
pub(crate) struct Show {
    /// CID of the manifest, as `status --json` and `snapshots --json` show it.
    cid: Cid,
}

impl Manifest {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let Self::Show(Show { cid }) = self;
        let mut out = Out::new();
        match context.instance_to_read()? {
            Some(client) => block_on(async {
                let path = format!("/manifests/{cid}");
                Ok(client.download(&path, |piece| out.write_all(piece)).await?)
            })?,
            None => {
                let Some(offline) = Offline::open_to_restore(context)? else {
                    bail!("manifest {cid} not found: this computer has no snapshots");
                };
                restore::Manifest::open(offline.blocks(), cid)?.write_json(&mut out)?;
            }
        }
        out.finish()
    }
}
