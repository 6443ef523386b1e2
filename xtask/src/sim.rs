//! `cargo xtask sim`: simulations of both sides, each from a seed (docs/testing.md).

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, root};

/// Distance between the first seeds of two runs that start in two different seconds, more
/// than any run simulates in that time.
const SEEDS_PER_SECOND: u64 = 1_000;

/// Runs the simulations that the arguments describe.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    println!("$ cargo run -p sim -- {}", arguments.join(" "));
    let status = std::process::Command::new(cargo())
        .args(["run", "--quiet", "--package", "sim", "--"])
        .args(arguments)
        .current_dir(root())
        .status()
        .context("cannot run the simulation")?;
    if !status.success() {
        bail!("the simulation failed; repeat a seed with `cargo xtask sim --seed N --detailed`");
    }
    Ok(())
}

/// Simulates seeds for hours that no run before has simulated.
pub(crate) fn soak(hours: &str) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = now.as_secs().saturating_mul(SEEDS_PER_SECOND).to_string();
    run(&["--hours", hours, "--start", &start])
}
