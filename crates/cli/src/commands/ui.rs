//! `archivist ui`

use anyhow::Result;
use api::UiLink;
use serde_json::json;

use crate::context::{Context, block_on};
use crate::output::{print_json, print_line, safe};

/// Print a link that opens the web UI. The link works once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  xdg-open \"$(archivist ui)\"")]
pub(crate) struct Ui {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// End the sessions of all browsers instead.
    #[arg(long)]
    sign_out_all: bool,
}

impl Ui {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist ui`")?;
        if self.sign_out_all {
            block_on(async { Ok(client.delete::<()>("/ui/sessions").await?) })?;
            return if self.json {
                print_json(&json!({ "signed_out": true }))
            } else {
                print_line("All browsers are signed out.")
            };
        }
        let link: UiLink = block_on(async { Ok(client.post("/ui/link", &json!({})).await?) })?;
        if self.json { print_json(&link) } else { print_line(safe(&link.url)) }
    }
}
