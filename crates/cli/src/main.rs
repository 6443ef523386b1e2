//! The program `archivist`: the daemon of both sides of a backup, and the
//! commands for its user.
//!
//! Each command is a file in `commands/`. Results go to standard output,
//! everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong
//! usage, 3 no running instance although the command needs one, 4 done, but not
//! everything could be set or read.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod commands;
mod context;
mod exit;
mod offline;
mod offline_write;
mod output;
mod time;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::commands::Command;
use self::context::Context;

/// Continuous, versioned backup of folders from one computer to another,
/// without a cloud.
#[derive(Debug, Parser)]
#[command(
    name = "archivist",
    version,
    propagate_version = true,
    after_help = "Examples:\n  archivist init\n  archivist daemon\n  archivist folder add ~/Documents\n  \
                  archivist restore --target /tmp/back\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, \
                  3 the command needs a running instance, \
                  4 done, but not everything could be set or read."
)]
struct Arguments {
    /// Use the instance in DIR: DIR/config.toml and DIR/data
    /// [default: the XDG directories].
    #[arg(long, global = true, env = "ARCHIVIST_HOME", value_name = "DIR")]
    home: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Wrong usage exits here with 2, `--help` and `--version` with 0.
    let arguments = Arguments::parse();
    let result =
        Context::new(arguments.home.as_deref()).and_then(|context| arguments.command.run(&context));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
