//! `cargo xtask test`: everything that has to pass.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{self, files, has, root};
use crate::{bench, tidy, web};

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
        // The program takes in what is built.
        web::build_ui()?;
        web::unit_tests()?;
    }
    // The programs that the tests start.
    run_cargo(&root, &["build", "--workspace", "--bins"])?;
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    if scope == Scope::Fast {
        arguments.extend(["--lib", "--bins"]);
    }
    run_cargo(&root, &arguments)?;
    if scope == Scope::All {
        if web::has_browser() {
            web::browser_tests()?;
        } else {
            println!(
                "LEFT OUT: the tests of the UI in a browser, since there is no {} (set CHROMIUM, \
                 or: apt-get install chromium)",
                web::browser().display()
            );
        }
        if has("python3") {
            bench::peers::test()?;
        } else {
            println!("LEFT OUT: the tests of the benchmarks' harness, since there is no python3");
        }
        documentation(&root)?;
    }
    println!("all passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Kills both sides of a backup again and again, and compares what comes out.
pub(crate) fn soak(kills: &str) -> Result<()> {
    println!("$ ARCHIVIST_KILLS={kills} cargo test --release -p cli --test kill -- --nocapture");
    let status = std::process::Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
        .args(["test", "--release", "-p", "cli", "--test", "kill", "--", "--nocapture"])
        .env("ARCHIVIST_KILLS", kills)
        .current_dir(root())
        .status()
        .context("cannot run cargo test")?;
    if !status.success() {
        bail!("something was lost; ARCHIVIST_SEED above repeats it");
    }
    Ok(())
}

fn run_cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    shell::run(root, &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

/// The programs that are needed, why, and Debian's packages that have them.
fn tools(scope: Scope) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut tools =
        vec![("git", "lists the files", "git"), ("cc", "builds zstd and BLAKE3", "gcc libc6-dev")];
    if scope == Scope::All {
        tools.extend([
            ("node", "runs the tests against js-libp2p, the node's SDK and the UI", "nodejs"),
            ("npm", "installs what those tests need", "npm"),
            ("unshare", "mounts the small disk of the full-disk tests", "util-linux"),
        ]);
    }
    tools
}

/// Installs what is missing where that is possible, and says all that is
/// missing still at once. Without a browser, the tests in it are left out.
fn check_tools(scope: Scope) -> Result<()> {
    let lacking = || tools(scope).into_iter().filter(|(tool, ..)| !has(tool));
    let wants_browser = scope == Scope::All && !web::has_browser();
    let mut packages: Vec<&str> = lacking().flat_map(|(.., names)| names.split(' ')).collect();
    packages.extend(wants_browser.then_some("chromium"));
    if !packages.is_empty() {
        install_packages(&packages);
    }
    let missing: Vec<String> =
        lacking().map(|(tool, why, _)| format!("`{tool}`, which {why}")).collect();
    if !missing.is_empty() {
        bail!(
            "these programs are missing: {}. On Debian: apt-get install {}",
            missing.join("; "),
            packages.join(" ")
        );
    }
    Ok(())
}

/// Tries to install packages, where this is Debian and we may.
fn install_packages(packages: &[&str]) {
    if !has("apt-get") || std::fs::metadata("/root/.").is_err() {
        return;
    }
    println!("missing: {}", packages.join(" "));
    let options = ["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60"];
    let install: Vec<&str> =
        std::iter::once("install").chain(options).chain(packages.iter().copied()).collect();
    let dir = Path::new("/");
    if shell::run(dir, "apt-get", &install).is_err() {
        // The lists may be old, or not there at all.
        let updated = shell::run(dir, "apt-get", &["update", "-qq"]);
        if let Err(error) = updated.and_then(|()| shell::run(dir, "apt-get", &install)) {
            println!("they could not be installed: {error:#}");
        }
    }
}

/// The directories with a package-lock.json.
fn npm_projects() -> Result<Vec<PathBuf>> {
    let locks = files()?.into_iter().filter(|path| path.ends_with("package-lock.json"));
    Ok(locks.filter_map(|path| path.parent().map(|dir| root().join(dir))).collect())
}

/// Installs exactly what the lock file names, unless that is there already.
pub(crate) fn install_npm(dir: &Path) -> Result<()> {
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
    // Headers name private modules: whoever reads the source follows them.
    let flags = "--deny=warnings --allow=rustdoc::private_intra_doc_links";
    println!("$ RUSTDOCFLAGS='{flags}' cargo doc --workspace --no-deps");
    let status = std::process::Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
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
