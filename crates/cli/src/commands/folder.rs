//! `archivist folder …`

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use api::{AddFolder, Client, LeftOutDir};
use config::{FolderConfig, FolderId, FolderPath, FolderUpdate};
use node::RemovedFolders;
use serde::Serialize;

use crate::context::{Context, block_on};
use crate::output::{Align, Out, Table, print_json, print_line, safe};

use super::status::{show_folders, show_left_out};

/// Manage the folders that are backed up.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  archivist folder add ~/Documents --exclude '*.tmp'")]
pub(crate) enum Folder {
    Add(Add),
    List(List),
    Set(Set),
    Remove(Remove),
    Pause(Pause),
    Resume(Resume),
    Confirm(Confirm),
}

/// Watch a folder and back it up.
///
/// If no instance is running, the folder is watched from the next start on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  archivist folder add ~/Documents --name Documents --exclude '*.tmp' --exclude node_modules/"
)]
pub(crate) struct Add {
    /// Folder to back up. It must exist.
    path: PathBuf,
    /// Display name [default: the last part of PATH].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Pattern of files to exclude, in .gitignore syntax. Can be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    #[command(flatten)]
    limits: Limits,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Settings of a folder that leave entries out.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Limits {
    /// Leave out other local file systems that are mounted in the folder, and btrfs
    /// subvolumes [default: true]. Network file systems and FUSE are always left out.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    one_file_system: Option<bool>,
    /// Leave out the contents of directories with a CACHEDIR.TAG [default: false].
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    exclude_caches: Option<bool>,
}

/// Change which entries of a folder are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist folder set Documents --one-file-system=false")]
pub(crate) struct Set {
    /// Id or name of the folder.
    #[arg(value_name = "ID")]
    folder: String,
    #[command(flatten)]
    limits: Limits,
}

/// List the folders and their state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist folder list")]
pub(crate) struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Stop backing up a folder. Its files and its snapshots are kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist folder remove Documents")]
pub(crate) struct Remove {
    /// Id or name of the folder.
    #[arg(value_name = "ID")]
    folder: String,
}

/// Stop making snapshots of a folder until it is resumed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist folder pause Documents")]
pub(crate) struct Pause {
    /// Id or name of the folder.
    #[arg(value_name = "ID")]
    folder: String,
}

/// Resume a paused folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist folder resume Documents")]
pub(crate) struct Resume {
    /// Id or name of the folder.
    #[arg(value_name = "ID")]
    folder: String,
}

/// Confirm a suspicious change: much of a folder was deleted or rewritten at once.
///
/// Check the folder first. Until the change is confirmed, its snapshots are marked as
/// suspicious: restores pass them over, and the last one before them is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist folder confirm Documents")]
pub(crate) struct Confirm {
    /// Id or name of the folder.
    #[arg(value_name = "ID")]
    folder: String,
}

/// A folder of an instance that is not running.
#[derive(Debug, Serialize)]
struct Configured {
    id: FolderId,
    name: String,
    path: String,
    state: &'static str,
    exclude: Vec<String>,
    one_file_system: bool,
    exclude_caches: bool,
}

impl Configured {
    fn new(folder: &FolderConfig) -> Self {
        Self {
            id: folder.id.clone(),
            name: folder.display_name(),
            path: folder.path.to_string(),
            state: if folder.paused { "paused" } else { "stopped" },
            exclude: folder.exclude.iter().map(ToString::to_string).collect(),
            one_file_system: folder.one_file_system,
            exclude_caches: folder.exclude_caches,
        }
    }
}

impl Folder {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Add(command) => command.run(context),
            Self::List(command) => command.run(context),
            Self::Set(command) => command.run(context),
            Self::Remove(command) => command.run(context),
            Self::Pause(command) => set_paused(context, &command.folder, true),
            Self::Resume(command) => set_paused(context, &command.folder, false),
            Self::Confirm(command) => command.run(context),
        }
    }
}

impl Add {
    fn run(self, context: &Context) -> Result<()> {
        let path = existing_dir(&self.path)?;
        let (id, label, state, json) = match context.instance()? {
            Some(client) => {
                let text = path.to_str().map(str::to_owned).unwrap_or_default();
                let Limits { one_file_system, exclude_caches } = self.limits;
                let (name, exclude) = (self.name, self.exclude);
                let body = AddFolder { path: text, name, exclude, one_file_system, exclude_caches };
                let added: serde_json::Value =
                    block_on(async { Ok(client.post("/folders", &body).await?) })?;
                let field = |name: &str| added[name].as_str().unwrap_or_default().to_owned();
                (field("id"), field("name"), "is now watched", added)
            }
            None => {
                let folder = FolderConfig {
                    id: FolderId::from_random(rand::random()),
                    path: FolderPath::new(&path)?,
                    name: self.name.as_deref().map(str::parse).transpose().context("--name")?,
                    exclude: self
                        .exclude
                        .iter()
                        .map(|pattern| {
                            pattern.parse().with_context(|| format!("--exclude {pattern:?}"))
                        })
                        .collect::<Result<_>>()?,
                    paused: false,
                    one_file_system: self.limits.one_file_system.unwrap_or(true),
                    exclude_caches: self.limits.exclude_caches.unwrap_or(false),
                    before_publish: Vec::new(),
                    after_publish: Vec::new(),
                };
                node::check_new_folder(&context.config()?, &folder)?;
                context.config_file().edit(|draft| draft.add_folder(&folder))?;
                let added = Configured::new(&folder);
                let state = "is added; start `archivist daemon` to back it up";
                (added.id.to_string(), added.name.clone(), state, serde_json::to_value(&added)?)
            }
        };
        if self.json {
            return print_json(&json);
        }
        print_line(format_args!("{} {state} (folder id {})", safe(&label), safe(&id)))?;
        let left_out: Vec<LeftOutDir> =
            serde_json::from_value(json["left_out"].clone()).unwrap_or_default();
        let mut out = Out::new();
        show_left_out(&left_out, &mut out, "  ")?;
        out.finish()
    }
}

impl Set {
    fn run(self, context: &Context) -> Result<()> {
        let Limits { one_file_system, exclude_caches } = self.limits;
        if one_file_system.is_none() && exclude_caches.is_none() {
            bail!("nothing to change; give --one-file-system=BOOL or --exclude-caches=BOOL");
        }
        let label = match context.instance()? {
            Some(client) => block_on(async {
                let (id, name) = resolve(&client, &self.folder).await?;
                let body = serde_json::json!({
                    "one_file_system": one_file_system,
                    "exclude_caches": exclude_caches,
                });
                let _: serde_json::Value = client.patch(&format!("/folders/{id}"), &body).await?;
                Ok(name)
            })?,
            None => {
                let folder = configured(context, &self.folder)?;
                let update =
                    FolderUpdate { one_file_system, exclude_caches, ..FolderUpdate::default() };
                context.config_file().edit(|draft| draft.update_folder(&folder.id, &update))?;
                folder.display_name()
            }
        };
        print_line(format_args!("{} is changed", safe(&label)))
    }
}

impl List {
    fn run(&self, context: &Context) -> Result<()> {
        let Some(client) = context.instance()? else { return self.run_offline(context) };
        if self.json {
            let folders: serde_json::Value = block_on(async { Ok(client.get("/folders").await?) })?;
            return print_json(&folders);
        }
        let folders: Vec<api::Folder> = block_on(async { Ok(client.get("/folders").await?) })?;
        let mut out = Out::new();
        if folders.is_empty() {
            eprintln!("no folder is watched; `archivist folder add PATH` adds one");
        } else {
            show_folders(&folders, &[], &mut out, "")?;
        }
        out.finish()
    }

    fn run_offline(&self, context: &Context) -> Result<()> {
        let config = context.config()?;
        let folders: Vec<_> = config.sync.folders.iter().map(Configured::new).collect();
        if self.json {
            return print_json(&folders);
        }
        eprintln!("no instance is running; these folders are configured");
        let mut table = Table::new(&[
            ("ID", Align::Left),
            ("NAME", Align::Left),
            ("STATE", Align::Left),
            ("PATH", Align::Left),
        ]);
        for folder in folders {
            table.row([folder.id.to_string(), folder.name, folder.state.into(), folder.path]);
        }
        let mut out = Out::new();
        table.print(&mut out, "")?;
        out.finish()
    }
}

impl Remove {
    fn run(&self, context: &Context) -> Result<()> {
        let label = match context.instance()? {
            Some(client) => block_on(async {
                let (id, name) = resolve(&client, &self.folder).await?;
                let _: serde_json::Value = client.delete(&format!("/folders/{id}")).await?;
                Ok(name)
            })?,
            None => {
                let folder = configured(context, &self.folder)?;
                // The next start of the instance deletes its data about the folder.
                let data = context.paths.data_dir();
                RemovedFolders::new(data)
                    .note(&folder.id)
                    .with_context(|| format!("cannot write to {}", data.display()))?;
                context.config_file().edit(|draft| draft.remove_folder(&folder.id))?;
                folder.display_name()
            }
        };
        print_line(format_args!("{} is no longer watched", safe(&label)))
    }
}

fn set_paused(context: &Context, folder: &str, paused: bool) -> Result<()> {
    let label = match context.instance()? {
        Some(client) => block_on(async {
            let (id, name) = resolve(&client, folder).await?;
            let verb = if paused { "pause" } else { "resume" };
            let _: serde_json::Value =
                client.post(&format!("/folders/{id}/{verb}"), &serde_json::json!({})).await?;
            Ok(name)
        })?,
        None => {
            let folder = configured(context, folder)?;
            let update = FolderUpdate { paused: Some(paused), ..FolderUpdate::default() };
            context.config_file().edit(|draft| draft.update_folder(&folder.id, &update))?;
            folder.display_name()
        }
    };
    let state = if paused { "is paused" } else { "is resumed" };
    print_line(format_args!("{} {state}", safe(&label)))
}

impl Confirm {
    fn run(&self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist folder confirm`")?;
        let name = block_on(async {
            let (id, name) = resolve(&client, &self.folder).await?;
            let _: serde_json::Value =
                client.post(&format!("/folders/{id}/confirm"), &serde_json::json!({})).await?;
            Ok(name)
        })?;
        print_line(format_args!("the current state of {} is confirmed", safe(&name)))
    }
}

/// Finds a folder of the running instance by id or name. Returns its id and name.
async fn resolve(client: &Client, given: &str) -> Result<(FolderId, String)> {
    let folders: Vec<api::Folder> = client.get("/folders").await?;
    let folders = folders.into_iter().map(|folder| (folder.id, folder.name));
    choose(folders.collect(), given)
}

/// Finds a folder of the configuration by id or name.
fn configured(context: &Context, given: &str) -> Result<FolderConfig> {
    let config = context.config()?;
    let folders = config.sync.folders.iter();
    let (id, _) = choose(folders.map(|one| (one.id.clone(), one.display_name())).collect(), given)?;
    config.folder(&id).cloned().with_context(|| format!("there is no folder {id}"))
}

/// Selects the folder with the given id, else the only one with the given name.
fn choose(folders: Vec<(FolderId, String)>, given: &str) -> Result<(FolderId, String)> {
    if let Some(found) = folders.iter().find(|(id, _)| id.as_str() == given) {
        return Ok(found.clone());
    }
    let mut named = folders.iter().filter(|(_, name)| name == given);
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => bail!(
            "more than one folder is called {given:?}; use its id, which `archivist folder list` shows"
        ),
        (None, _) => {
            bail!(node::unknown_name("folder", given, folders.into_iter().map(|(_, name)| name)))
        }
    }
}

/// Returns the absolute path of a directory, after a check that it exists and can be
/// listed.
fn existing_dir(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let mut absolute =
        std::path::absolute(path).with_context(|| format!("cannot resolve {shown}"))?;
    // Only the system can resolve `..`: the path may lead through symlinks.
    if absolute.components().any(|part| part == Component::ParentDir) {
        absolute = absolute.canonicalize().with_context(|| format!("cannot find {shown}"))?;
    }
    let shown = absolute.display();
    let metadata = std::fs::metadata(&absolute).with_context(|| format!("cannot find {shown}"))?;
    if !metadata.is_dir() {
        bail!("{shown} is not a directory; only a directory can be watched");
    }
    std::fs::read_dir(&absolute)
        .with_context(|| format!("cannot read {shown}, so it cannot be backed up"))?;
    if absolute.to_str().is_none() {
        bail!(
            "the path {shown} is not valid UTF-8, so the configuration cannot store it: rename \
             the folder, or back up its parent"
        );
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_before_a_name_and_two_names_are_one_too_many() {
        let folder = |id: &str, name: &str| (id.parse::<FolderId>().unwrap(), name.to_owned());
        let folders = vec![folder("a", "x"), folder("b", "a"), folder("c", "x")];
        assert_eq!(choose(folders.clone(), "a").unwrap().0.as_str(), "a");
        assert!(choose(folders.clone(), "x").unwrap_err().to_string().contains("more than one"));
        assert!(choose(folders, "y").is_err());
    }
}
