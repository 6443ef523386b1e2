//! `cargo xtask bench peers`: measures Archivist beside the programs that people
//! use instead. Builds Archivist and runs the program in `bench/`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::shell::{self, has, root, target};

/// Runs `bench/peers.py` with `arguments` on a release build.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if !has("python3") {
        bail!("bench/peers.py needs `python3`, which is not installed");
    }
    let script = directory().join("peers.py").to_string_lossy().into_owned();
    let only_reads = ["--help", "-h", "--report"];
    let mut all = vec![script.as_str()];
    let program = target().join("release/archivist").to_string_lossy().into_owned();
    if !arguments.iter().any(|argument| only_reads.contains(argument)) {
        let cargo = shell::cargo();
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
