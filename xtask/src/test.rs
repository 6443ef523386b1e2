//! `cargo xtask test`: everything that has to pass.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell::{self, cargo, root};
use crate::tools::{self, Scope};
use crate::{bench, deny, npm, tidy, web};

/// Runs the checks and tests of `scope`. The first failure ends the run. The
/// last line names everything that was left out.
pub(crate) fn run(scope: Scope) -> Result<()> {
    let root = root();
    let mut steps = Steps::default();
    let left_out = steps.time("tools", || tools::check(scope))?;
    steps.time("format", || run_cargo(&root, &["fmt", "--all", "--check"]))?;
    steps.time("tidy", tidy::run)?;
    if scope == Scope::All && deny::is_installed() {
        steps.time("dependencies", deny::run)?;
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--keep-going"];
    let clippy = [&clippy[..], &["--", "--deny", "warnings"]].concat();
    steps.time("lints", || run_cargo(&root, &clippy))?;
    if scope == Scope::All {
        steps.time("web UI", || {
            for dir in npm::projects()? {
                npm::install(&dir)?;
            }
            // The build of the program embeds the built UI.
            web::check()?;
            web::build_ui()
        })?;
    }
    // The build includes the programs: the tests start them, and so do the
    // browser tests.
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    if scope == Scope::Fast {
        arguments.extend(["--lib", "--bins"]);
    }
    let build = [&arguments[..], &["--no-run"]].concat();
    steps.time("build", || run_cargo(&root, &build))?;
    steps.time("tests", || run_cargo(&root, &arguments))?;
    if scope == Scope::All {
        if web::has_browser() {
            steps.time("browser", web::browser_tests)?;
        }
        steps.time("benchmark harness", bench::peers::test)?;
        steps.time("documentation", || documentation(&root))?;
    }
    println!("{}", steps.summary());
    println!("{}", verdict(&left_out, steps.total().as_secs()));
    Ok(())
}

/// The duration of each step of a run, in the order in which they ran.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    fn time<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let result = step();
        self.0.push((name, started.elapsed()));
        result
    }

    fn total(&self) -> Duration {
        self.0.iter().map(|(_, duration)| *duration).sum()
    }

    fn summary(&self) -> String {
        let steps = self.0.iter().map(|(name, took)| format!("{name} {} s", took.as_secs()));
        steps.collect::<Vec<_>>().join(", ")
    }
}

/// Returns the last line of the output. A run that left something out never
/// says that everything passed.
fn verdict(left_out: &[String], seconds: u64) -> String {
    if left_out.is_empty() {
        return format!("all passed in {seconds} s");
    }
    format!("PASSED, BUT LEFT OUT: {} ({seconds} s)", left_out.join("; "))
}

/// Kills both sides of a backup `kills` times at random moments, and compares
/// the source with a restore.
pub(crate) fn soak(kills: &str) -> Result<()> {
    println!("$ ARCHIVIST_KILLS={kills} cargo test --release -p cli --test kill -- --nocapture");
    let status = std::process::Command::new(cargo())
        .args(["test", "--release", "-p", "cli", "--test", "kill", "--", "--nocapture"])
        .env("ARCHIVIST_KILLS", kills)
        .current_dir(root())
        .status()
        .context("cannot run cargo test")?;
    if !status.success() {
        bail!("data was lost; set ARCHIVIST_SEED to the value printed above to repeat the run");
    }
    Ok(())
}

/// Runs each fuzz target for `secs` seconds. The targets of a test program run beside
/// each other.
pub(crate) fn fuzz(secs: u64) -> Result<()> {
    println!("$ BOLERO_RANDOM_TEST_TIME_MS={secs}000 cargo test --workspace --no-fail-fast fuzz_");
    let status = std::process::Command::new(cargo())
        .args(["test", "--workspace", "--no-fail-fast", "fuzz_"])
        .env("BOLERO_RANDOM_TEST_TIME_MS", (secs * 1000).to_string())
        // Otherwise the number of runs that each target states would end it earlier.
        .env("BOLERO_RANDOM_ITERATIONS", usize::MAX.to_string())
        .current_dir(root())
        .status()
        .context("cannot run cargo test")?;
    if !status.success() {
        bail!("a fuzz target failed; its output has the input and the seed");
    }
    Ok(())
}

fn run_cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    shell::run(root, &cargo(), arguments)
}

fn documentation(root: &Path) -> Result<()> {
    // Module headers link to private modules for readers of the source.
    let flags = "--deny=warnings --allow=rustdoc::private_intra_doc_links";
    println!("$ RUSTDOCFLAGS='{flags}' cargo doc --workspace --no-deps");
    let status = std::process::Command::new(cargo())
        .args(["doc", "--workspace", "--no-deps", "--quiet", "--keep-going"])
        .env("RUSTDOCFLAGS", flags)
        .current_dir(root)
        .status()
        .context("cannot run cargo doc")?;
    if !status.success() {
        bail!("the documentation has warnings");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_the_last_word() {
        assert_eq!(verdict(&[], 7), "all passed in 7 s");
        let said = verdict(&["the browser".into(), "the rest".into()], 7);
        assert_eq!(said, "PASSED, BUT LEFT OUT: the browser; the rest (7 s)");
        assert!(!said.contains("all passed"));
    }
}
