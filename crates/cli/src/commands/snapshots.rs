//! `archivist snapshots`

use anyhow::{Result, bail};
use api::{Client, Query, Snapshot, Status};
use config::Config;
use node::{SnapshotSelector, UnknownName, check_name, folder_names, snapshot_model, source_names};

use super::snapshots_remove::Remove;
use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline::{LIST_INCOMPLETE, Offline};
use crate::offline_write::WritableStore;
use crate::output::{Align, Out, Table, local_time, print_json, safe, size};

/// List the snapshots on this backup server.
///
/// Works with and without a running instance. Exits with 4 if the record of a snapshot
/// cannot be read, or the list is known to be incomplete.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  archivist snapshots --folder Documents"
)]
pub(crate) struct Snapshots {
    #[command(subcommand)]
    action: Option<Action>,
    /// List only the snapshots of this source, by name or peer id.
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// List only the snapshots of this folder, by id or name.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// List the snapshots of this computer's folders on the backup server.
    ///
    /// This is the default if this computer has no snapshots and a backup server is
    /// set.
    #[arg(long)]
    from_backup_server: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Confirm(Confirm),
    Remove(Remove),
}

/// Decide that a suspicious snapshot is intended.
///
/// For the backup server. The snapshot and the earlier ones of its folder are no longer
/// suspicious: restores choose them again, and later changes are compared with this state.
/// Examine the files first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist snapshots confirm 3f2a91c04d")]
struct Confirm {
    /// Id of the snapshot, or the beginning of its id.
    #[arg(value_name = "SNAPSHOT")]
    id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Confirm {
    fn run(&self, context: &Context) -> Result<()> {
        let id = self.id.to_ascii_lowercase();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(End::Usage(format!("{:?} is not the id of a snapshot", self.id)).into());
        }
        let confirmed: Snapshot = match context.instance()? {
            Some(client) => {
                let empty = serde_json::json!({});
                let path = format!("/snapshots/{id}/confirm");
                block_on(async { Ok(client.post(&path, &empty).await?) })?
            }
            None => {
                let Some(store) = WritableStore::open(context)? else {
                    bail!("this computer has no snapshots")
                };
                let list = || -> Result<Vec<_>> { Ok(store.snapshots.list()?.snapshots) };
                let offered = list()?.into_iter().map(backup::remote_snapshot).collect();
                let selector = SnapshotSelector { id: Some(&id), ..SnapshotSelector::default() };
                let found = selector.newest(&store.config, offered)?;
                let is_found = |one: &snapshots::Snapshot| one.id.to_string() == found.id;
                if let Some(snapshot) = list()?.iter().find(|one| is_found(one)) {
                    store.snapshots.confirm(snapshot)?;
                }
                let now = list()?.into_iter().find(is_found).map(backup::remote_snapshot);
                snapshot_model(&store.config, now.unwrap_or(found))
            }
        };
        if self.json {
            return print_json(&confirmed);
        }
        let mut out = Out::new();
        out.line(format_args!(
            "{} of {}: the changes up to snapshot {} are intended",
            safe(&confirmed.folder_name),
            safe(&confirmed.source),
            safe(&confirmed.id)
        ))?;
        out.finish()
    }
}

impl Snapshots {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        match &self.action {
            Some(Action::Confirm(confirm)) => return confirm.run(context),
            Some(Action::Remove(remove)) => return remove.run(context),
            None => {}
        }
        let (snapshots, is_complete) = match context.instance_to_read()? {
            Some(client) => block_on(async {
                let snapshots = self.through(context, &client).await?;
                let is_complete = self.from_backup_server || print_missing(&client).await?;
                Ok((snapshots, is_complete))
            })?,
            None => self.offline(context)?,
        };
        if self.json {
            print_json(&snapshots)?;
        } else if snapshots.is_empty() {
            eprintln!("no snapshots found");
        } else {
            print_table(&snapshots)?;
        }
        if is_complete { Ok(()) } else { Err(End::PartlyReported.into()) }
    }

    /// Checks that the folder and the source exist: in the configuration, or in one of `all`
    /// snapshots.
    fn check_names(&self, config: &Config, all: &[Snapshot]) -> Result<(), UnknownName> {
        if let Some(source) = &self.source {
            let stored = all.iter().map(|one| (one.source_peer_id.clone(), one.source.clone()));
            check_name("source", source, source_names(config).chain(stored))?;
        }
        if let Some(folder) = &self.folder {
            let stored = all.iter().map(|one| (one.folder_id.to_string(), one.folder_name.clone()));
            check_name("folder", folder, folder_names(config).chain(stored))?;
        }
        Ok(())
    }

    async fn through(&self, context: &Context, client: &Client) -> Result<Vec<Snapshot>> {
        let config = context.config()?;
        let filter = Query::new()
            .with_some("source", self.source.as_deref())
            .with_some("folder", self.folder.as_deref());
        let of_server = |query: &Query| query.clone().with("from_backup_server", "true");
        let mut is_remote = self.from_backup_server;
        if !is_remote {
            let own = list(client, &filter).await?;
            if !own.is_empty() {
                return Ok(own);
            }
            let all = list(client, &Query::new()).await?;
            is_remote = all.is_empty() && config.sync.backup_peer_address.is_some();
            if !is_remote {
                self.check_names(&config, &all)?;
                return Ok(own);
            }
        }
        let found = list(client, &of_server(&filter)).await?;
        if found.is_empty() {
            self.check_names(&config, &list(client, &of_server(&Query::new())).await?)?;
        }
        Ok(found)
    }

    fn offline(&self, context: &Context) -> Result<(Vec<Snapshot>, bool)> {
        let need = "`archivist snapshots` of the backup server";
        if self.from_backup_server {
            context.need_instance(need)?;
        }
        let offline = Offline::open(context)?;
        let (mut snapshots, damaged) =
            offline.as_ref().map(Offline::list).transpose()?.unwrap_or_default();
        let config = context.config()?;
        let is_kept_elsewhere = config.sync.backup_peer_address.is_some();
        if snapshots.is_empty() && damaged.is_empty() && is_kept_elsewhere {
            context.need_instance(need)?;
        }
        for one in &damaged {
            print_unreadable(&one.root, &one.reason);
        }
        self.check_names(&config, &snapshots)?;
        let is_complete =
            damaged.is_empty() && !offline.as_ref().is_some_and(Offline::roots_incomplete);
        snapshots.retain(|one| {
            let is_source = |source: &str| one.source == source || one.source_peer_id == source;
            let is_folder =
                |folder: &str| one.folder_id.as_str() == folder || one.folder_name == folder;
            self.source.as_deref().is_none_or(is_source)
                && self.folder.as_deref().is_none_or(is_folder)
        });
        Ok((snapshots, is_complete))
    }
}

/// Prints snapshots as a table. `last` is the heading of the last column, and each snapshot has its
/// text in that column.
pub(super) fn show_snapshots<'a>(
    snapshots: impl IntoIterator<Item = (&'a Snapshot, String)>,
    last: &'static str,
    out: &mut Out,
) -> Result<()> {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("SOURCE", Align::Left),
        ("FOLDER", Align::Left),
        ("SEQUENCE", Align::Right),
        ("RECEIVED", Align::Left),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        (last, Align::Left),
    ]);
    for (snapshot, text) in snapshots {
        table.row([
            snapshot.id.clone(),
            snapshot.source.clone(),
            snapshot.folder_name.clone(),
            snapshot.sequence.to_string(),
            local_time(snapshot.received_at),
            snapshot.files.to_string(),
            size(snapshot.bytes),
            text,
        ]);
    }
    table.print(out, "")
}

fn print_table(snapshots: &[Snapshot]) -> Result<()> {
    let held = |one: &Snapshot| {
        let held = |reason: &String| match one.is_part {
            true => "a part: the first scan of the folder had not ended".to_owned(),
            false => format!("suspicious: {reason}"),
        };
        one.held.as_ref().map_or(String::new(), held)
    };
    let mut out = Out::new();
    show_snapshots(snapshots.iter().map(|one| (one, held(one))), "", &mut out)?;
    out.finish()
}

/// Prints what is missing in the list of a running instance. Returns whether it is
/// complete.
async fn print_missing(client: &Client) -> Result<bool> {
    let status: Status = client.get("/status").await?;
    let integrity = status.integrity;
    for one in &integrity.unreadable_snapshots {
        print_unreadable(&one.root, &one.reason);
    }
    if integrity.roots_incomplete {
        eprintln!("archivist: {LIST_INCOMPLETE}");
    }
    Ok(integrity.unreadable_snapshots.is_empty() && !integrity.roots_incomplete)
}

fn print_unreadable(root: &str, reason: &str) {
    eprintln!("archivist: snapshot {} cannot be read: {}", safe(root), safe(reason));
}

/// Requests snapshots from the running instance.
pub(super) async fn list(client: &Client, query: &Query) -> Result<Vec<Snapshot>> {
    Ok(client.get(&format!("/snapshots{}", query.as_str())).await?)
}
