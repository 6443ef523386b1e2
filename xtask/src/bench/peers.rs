//! `cargo xtask bench peers`: Archivist and what people use instead. The work is
//! done by the program in `bench/`; this builds what it measures.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::shell::{self, has, root, target};

/// Runs `bench/peers.py` with these arguments and a release build.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if !has("python3") {
        bail!("`python3` is missing, which runs bench/peers.py");
    }
    let script = directory().join("peers.py").to_string_lossy().into_owned();
    let only_reads = ["--help", "-h", "--report"];
    let mut all = vec![script.as_str()];
    let program = target().join("release/archivist").to_string_lossy().into_owned();
    if !arguments.iter().any(|argument| only_reads.contains(argument)) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        shell::run(&root(), &cargo, &["build", "--release", "--package", "cli"])?;
        all.extend(["--archivist", program.as_str()]);
    }
    all.extend(arguments);
    shell::run(&root(), "python3", &all)
}

/// Tests the harness itself.
pub(crate) fn test() -> Result<()> {
    shell::run(&directory(), "python3", &["-m", "unittest"])
}

fn directory() -> PathBuf {
    root().join("bench")
}
