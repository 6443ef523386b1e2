//! The commands, one file per group.

mod backup_now;
mod config;
mod daemon;
mod demo;
mod folder;
mod generate;
mod init;
mod ls;
mod manifest;
mod pair;
mod peers;
mod prune;
mod receipts;
mod recover;
mod restore;
mod snapshots;
mod snapshots_remove;
mod source;
mod status;
mod sync;
mod ui;
mod verify;

use anyhow::Result;

use crate::context::Context;

/// Every command.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Init(init::Init),
    Daemon(daemon::Daemon),
    Status(status::Status),
    #[command(subcommand)]
    Folder(folder::Folder),
    Sync(sync::Sync),
    BackupNow(backup_now::BackupNow),
    Pair(pair::Pair),
    Snapshots(snapshots::Snapshots),
    Receipts(receipts::Receipts),
    Ls(ls::Ls),
    Restore(restore::Restore),
    Verify(verify::Verify),
    Prune(prune::Prune),
    Recover(recover::Recover),
    #[command(subcommand)]
    Source(source::Source),
    Ui(ui::Ui),
    #[command(subcommand)]
    Manifest(manifest::Manifest),
    Peers(peers::Peers),
    Connect(peers::Connect),
    #[command(subcommand)]
    Config(config::Config),
    Demo(demo::Demo),
    Completions(generate::Completions),
    Man(generate::Man),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Init(command) => command.run(context),
            Self::Daemon(command) => command.run(context),
            Self::Status(command) => command.run(context),
            Self::Folder(command) => command.run(context),
            Self::Sync(command) => command.run(context),
            Self::BackupNow(command) => command.run(context),
            Self::Pair(command) => command.run(context),
            Self::Snapshots(command) => command.run(context),
            Self::Receipts(command) => command.run(context),
            Self::Ls(command) => command.run(context),
            Self::Restore(command) => command.run(context),
            Self::Verify(command) => command.run(context),
            Self::Prune(command) => command.run(context),
            Self::Recover(command) => command.run(context),
            Self::Source(command) => command.run(context),
            Self::Ui(command) => command.run(context),
            Self::Manifest(command) => command.run(context),
            Self::Peers(command) => command.run(context),
            Self::Connect(command) => command.run(context),
            Self::Config(command) => command.run(context),
            Self::Demo(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}
