//! `archivist sync`

use std::time::Duration;

use anyhow::Result;
use api::{Client, FolderChoice, Registered};

use crate::context::{Context, block_on};
use crate::output::{Align, Out, Progress, Table, Unit, print_json};

/// Interval of the progress checks.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Scan folders and publish their manifests now.
///
/// Returns when the manifests are registered. Does not wait for the backup server.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist sync Documents")]
pub(crate) struct Sync {
    /// Id or name of the folder [default: all folders that are not paused].
    folder: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Sync {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist sync`")?;
        let body = FolderChoice { folder: self.folder };
        let registered: Vec<Registered> = block_on(async {
            let work = async { Ok(client.post("/sync", &body).await?) };
            watching(&client, "scanning", work).await
        })?;
        if self.json {
            return print_json(&registered);
        }
        let mut out = Out::new();
        if registered.is_empty() {
            eprintln!("no folder is watched; `archivist folder add PATH` adds one");
        } else {
            show(&registered, &mut out)?;
        }
        out.finish()
    }
}

/// Prints the registered manifests as a table.
pub(super) fn show(registered: &[Registered], out: &mut Out) -> Result<()> {
    let mut table = Table::new(&[
        ("FOLDER", Align::Left),
        ("SEQUENCE", Align::Right),
        ("BACKED UP", Align::Right),
        ("MANIFEST", Align::Left),
    ]);
    for one in registered {
        table.row([
            one.folder_name.clone(),
            one.sequence.to_string(),
            one.backed_up_sequence.map_or("-".to_owned(), |sequence| sequence.to_string()),
            one.manifest_cid.to_string(),
        ]);
    }
    table.print(out, "")
}

/// Awaits `work` and shows the state of the folders meanwhile.
pub(super) async fn watching<T>(
    client: &Client,
    message: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut progress = Progress::new(Unit::Things, message);
    let mut ask = tokio::time::interval(ASK_EVERY);
    ask.tick().await;
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = ask.tick() => {}
        }
        let asked = tokio::select! {
            result = &mut work => break result,
            asked = client.get::<Vec<api::Folder>>("/folders") => asked,
        };
        // Only for display: errors are ignored.
        let busy = asked.unwrap_or_default();
        let busy: Vec<String> = busy
            .iter()
            .filter(|folder| folder.state != "idle" && folder.state != "paused")
            .map(|folder| format!("{}: {}, {} files", folder.name, folder.state, folder.files))
            .collect();
        let shown = if busy.is_empty() { message.to_owned() } else { busy.join("; ") };
        progress.set(0, None, &shown);
    };
    progress.end();
    result
}
