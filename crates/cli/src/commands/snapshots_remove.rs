//! `archivist snapshots remove`

use std::io::{BufRead as _, Write as _};

use anyhow::{Context as _, Result, bail};
use api::{Client, Snapshot};
use jiff::Timestamp;
use node::{RulesFile, snapshot_model};
use snapshots::{Removal, SnapshotId};
use store::{GcOptions, StoreAdmin as _};

use crate::context::{Context, block_on};
use crate::offline_write::WritableStore;
use crate::output::{Out, local_time, print_json, safe, size};

/// Remove snapshots from this backup server for good.
///
/// For the owner of the backup server. A snapshot is locked for `backup_server.lock_days` after it
/// was received, and cannot be removed before. Asks for the id of each snapshot as confirmation.
/// The backup server does not pull a removed state of a folder again; it pulls the next one. Blocks
/// that no other snapshot needs are deleted soon after.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist snapshots remove 3f2a91c04d")]
pub(crate) struct Remove {
    /// Ids of the snapshots, or the beginnings of their ids.
    #[arg(value_name = "SNAPSHOT", required = true)]
    ids: Vec<String>,
    /// Remove a snapshot even if it is the newest of its folder.
    #[arg(long)]
    newest: bool,
    /// Do not ask for confirmation. For scripts.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Print JSON: the removed snapshots.
    #[arg(long)]
    json: bool,
}

/// The snapshots of an instance: through its API, or in its store while it does not run.
enum Snapshots {
    Running(Client),
    Stopped(Box<WritableStore>),
}

impl Snapshots {
    fn open(context: &Context) -> Result<Self> {
        if let Some(client) = context.instance()? {
            return Ok(Self::Running(client));
        }
        match WritableStore::open(context)? {
            Some(store) => Ok(Self::Stopped(Box::new(store))),
            None => bail!("this computer has no snapshots"),
        }
    }

    fn list(&self, context: &Context) -> Result<Vec<Snapshot>> {
        match self {
            Self::Running(client) => block_on(async { Ok(client.get("/snapshots").await?) }),
            Self::Stopped(store) => {
                let config = context.config()?;
                let all = store.snapshots.list()?.snapshots.into_iter();
                Ok(all.map(|one| snapshot_model(&config, backup::remote_snapshot(one))).collect())
            }
        }
    }

    fn remove(&self, context: &Context, snapshot: &Snapshot, newest_too: bool) -> Result<()> {
        let id = &snapshot.id;
        let store = match self {
            Self::Running(client) => {
                let path = format!("/snapshots/{id}?newest={newest_too}");
                return block_on(async { Ok(client.delete::<Snapshot>(&path).await.map(drop)?) });
            }
            Self::Stopped(store) => store,
        };
        let all = store.snapshots.list()?.snapshots;
        let stored = all.iter().find(|one| one.id.as_str() == id);
        let stored = stored.with_context(|| format!("snapshot {id} was removed already"))?;
        let (rules, now) = (RulesFile::open(context.need_data_dir()?), Timestamp::now());
        let lock_days = rules.in_force(&store.config.backup_server, now).0.lock_days;
        let removal = Removal { lock_days, newest_too, now };
        Ok(store.snapshots.remove_by_hand(stored, &removal)?)
    }

    /// Frees the space of removed snapshots. A running instance does it automatically.
    fn collect(&self) -> Result<()> {
        if let Self::Stopped(store) = self {
            store.packs.gc(GcOptions::default()).context("no space could be freed")?;
        }
        Ok(())
    }
}

impl Remove {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let snapshots = Snapshots::open(context)?;
        let mut removed = Vec::new();
        let mut result = Ok(());
        for id in &self.ids {
            match self.remove(context, &snapshots, id) {
                Ok(snapshot) => removed.push(snapshot),
                Err(error) => {
                    result = Err(error.context(format!("cannot remove snapshot {}", safe(id))));
                    break;
                }
            }
        }
        if self.json {
            print_json(&removed)?;
        } else if !removed.is_empty() {
            let mut out = Out::new();
            for snapshot in &removed {
                out.line(format_args!("removed {}", describe(snapshot)))?;
            }
            out.finish()?;
        }
        if removed.is_empty() { result } else { snapshots.collect().and(result) }
    }

    fn remove(&self, context: &Context, snapshots: &Snapshots, id: &str) -> Result<Snapshot> {
        let id: SnapshotId = id.parse()?;
        let all = snapshots.list(context)?;
        let same_folder = |one: &Snapshot, other: &Snapshot| {
            (&one.source_peer_id, &one.folder_id) == (&other.source_peer_id, &other.folder_id)
        };
        let is_it = |at: &usize| all[*at].id.starts_with(id.as_str());
        let mut found = (0..all.len()).filter(is_it);
        let at = match (found.next(), found.next()) {
            (Some(at), None) => at,
            (None, _) => bail!("there is no such snapshot; `archivist snapshots` lists them"),
            (Some(_), Some(_)) => bail!("more than one snapshot id begins with {id}"),
        };
        let snapshot = &all[at];
        // The list has the snapshots of a folder in the order of arrival.
        let is_newest = !all[at + 1..].iter().any(|later| same_folder(later, snapshot));
        let mut newest = self.newest;
        if !self.yes {
            eprintln!("This removes {} for good.", describe(snapshot));
            confirm("Type the id of the snapshot to remove it", &snapshot.id)?;
            if is_newest && !newest {
                eprintln!("It is the newest snapshot of the folder.");
                confirm("Type yes to remove it all the same", "yes")?;
                newest = true;
            }
        }
        snapshots.remove(context, snapshot, newest)?;
        Ok(snapshot.clone())
    }
}

fn describe(snapshot: &Snapshot) -> String {
    format!(
        "snapshot {} of folder {} of {}, received {} ({} files, {})",
        snapshot.id,
        safe(&snapshot.folder_name),
        safe(&snapshot.source),
        local_time(snapshot.received_at),
        snapshot.files,
        size(snapshot.bytes)
    )
}

/// Asks for a text, and fails if another one is typed.
pub(super) fn confirm(question: &str, expected: &str) -> Result<()> {
    eprint!("{question}: ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() == expected {
        return Ok(());
    }
    bail!("it was not confirmed: {expected:?} was not typed; nothing was removed")
}
