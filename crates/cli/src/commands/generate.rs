//! `archivist completions`, `archivist man`: generated from the definitions of
//! the commands.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::Arguments;
use crate::output::Out;

/// Print the completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  archivist completions bash > ~/.local/share/bash-completion/completions/archivist"
)]
pub(crate) struct Completions {
    /// Shell that the script is for.
    shell: Shell,
}

/// Write the manual pages, one per command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist man ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Directory to write to. Created if it does not exist.
    dir: PathBuf,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<()> {
        // `generate` panics if a write fails, as it does on a closed pipe.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "archivist", &mut text);
        let mut out = Out::new();
        out.write_all(&text).context("cannot write to standard output")?;
        out.finish()
    }
}

impl Man {
    pub(crate) fn run(&self) -> Result<()> {
        let shown = self.dir.display();
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {shown}"))?;
        clap_mangen::generate_to(Arguments::command(), &self.dir)
            .with_context(|| format!("cannot write to {shown}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_says_what_it_does_and_gives_an_example() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains("archivist"), "{name} has no example");
            for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        let command = Arguments::command();
        command.clone().debug_assert();
        check(&command);
    }
}
