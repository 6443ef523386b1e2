//! `cargo xtask test`: everything that has to pass.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{self, files, has, root};
use crate::{bench, tidy};

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of it.
    All,
    /// What needs nothing but cargo.
    Fast,
}

/// Runs it; the first failure ends it.
pub(crate) fn run(scope: Scope) -> Result<()> {
    let started = Instant::now();
    let root = root();
    check_tools(scope)?;
    run_cargo(&root, &["fmt", "--all", "--check"])?;
    tidy::run()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--keep-going"];
    run_cargo(&root, &[&clippy[..], &["--", "--deny", "warnings"]].concat())?;
    if scope == Scope::All {
        for dir in npm_projects()? {
            install_npm(&dir)?;
        }
    }
    // The programs that the tests start.
    run_cargo(&root, &["build", "--workspace", "--bins"])?;
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    if scope == Scope::Fast {
        arguments.extend(["--lib", "--bins"]);
    }
    run_cargo(&root, &arguments)?;
    if scope == Scope::All {
        bench::peers::test()?;
        documentation(&root)?;
    }
    println!("all passed in {} s", started.elapsed().as_secs());
    Ok(())
}

fn run_cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    shell::run(root, &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

/// Says all that is missing at once.
fn check_tools(scope: Scope) -> Result<()> {
    let mut missing = Vec::new();
    for (tool, why) in [("git", "lists the files"), ("cc", "builds zstd and BLAKE3")] {
        if !has(tool) {
            missing.push(format!("`{tool}`, which {why}"));
        }
    }
    if scope == Scope::All {
        for (tool, why) in [
            ("node", "runs the tests against js-libp2p and the node's SDK"),
            ("npm", "installs what those tests need"),
            ("python3", "tests the harness of the benchmarks"),
            ("unshare", "mounts the small disk of the full-disk tests (util-linux)"),
        ] {
            if !has(tool) {
                missing.push(format!("`{tool}`, which {why}"));
            }
        }
    }
    if !missing.is_empty() {
        bail!(
            "these programs are missing: {}. On Debian: \
             apt-get install git gcc nodejs npm python3 util-linux",
            missing.join("; ")
        );
    }
    Ok(())
}

/// The directories with a package-lock.json.
fn npm_projects() -> Result<Vec<PathBuf>> {
    let locks = files()?.into_iter().filter(|path| path.ends_with("package-lock.json"));
    Ok(locks.filter_map(|path| path.parent().map(|dir| root().join(dir))).collect())
}

/// Installs exactly what the lock file names, unless that is there already.
fn install_npm(dir: &Path) -> Result<()> {
    let lock = std::fs::read(dir.join("package-lock.json"))
        .with_context(|| format!("cannot read the lock file in {}", dir.display()))?;
    let stamp = dir.join("node_modules/.installed-lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    shell::run(dir, "npm", &["ci", "--no-audit", "--no-fund"])?;
    std::fs::write(&stamp, lock).with_context(|| format!("cannot write {}", stamp.display()))
}

fn documentation(root: &Path) -> Result<()> {
    println!("$ RUSTDOCFLAGS=--deny=warnings cargo doc --workspace --no-deps");
    let status = std::process::Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
        .args(["doc", "--workspace", "--no-deps", "--quiet"])
        .env("RUSTDOCFLAGS", "--deny=warnings")
        .current_dir(root)
        .status()
        .context("cannot run cargo doc")?;
    if !status.success() {
        bail!("the documentation has warnings");
    }
    Ok(())
}
