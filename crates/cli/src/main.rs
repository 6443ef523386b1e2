//! The program `archivist`: both sides of a backup, and what a person does
//! with them.
//!
//! One file a command, in `commands/`. What goes to standard output is the
//! answer; everything else goes to standard error. Exit codes: 0 done,
//! 1 failed, 2 wrong usage, 3 no running instance where one is needed.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod commands;
mod context;
mod exit;
mod offline;
mod output;
mod time;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::commands::Command;
use self::context::Context;

/// Continuous, versioned backup of folders from one machine to another,
/// without a cloud.
#[derive(Debug, Parser)]
#[command(
    name = "archivist",
    version,
    propagate_version = true,
    after_help = "Examples:\n  archivist init\n  archivist daemon\n  archivist folder add ~/Documents\n  \
                  archivist restore --target /tmp/back\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no running instance."
)]
struct Arguments {
    /// Keep configuration and data of this instance below DIR.
    #[arg(long, global = true, env = "ARCHIVIST_HOME", value_name = "DIR")]
    home: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // A wrong usage ends here with 2, help and version with 0.
    let arguments = Arguments::parse();
    let result =
        Context::new(arguments.home.as_deref()).and_then(|context| arguments.command.run(&context));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
