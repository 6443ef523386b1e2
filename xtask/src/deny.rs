//! The policy for dependencies (`deny.toml`), checked by cargo-deny: licences,
//! sources, banned crates, duplicate versions, and known vulnerabilities if the
//! advisory database is on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::shell::{self, cargo, root};

/// The command that installs the version that `deny.toml` is written for.
/// Without optimisation it compiles in a fraction of the time.
pub(crate) const INSTALL: &str = "cargo install --locked --debug cargo-deny@0.20.2";

/// Returns true if `cargo deny` can be run.
pub(crate) fn is_installed() -> bool {
    let mut command = Command::new(cargo());
    command.args(["deny", "--version"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Tries to install cargo-deny; the caller checks afterwards whether it can be
/// run.
pub(crate) fn install() {
    let arguments: Vec<&str> = INSTALL.split(' ').skip(1).collect();
    if let Err(error) = shell::run(Path::new("/"), &cargo(), &arguments) {
        println!("cannot install cargo-deny: {error:#}");
    }
}

/// Checks the dependencies in Cargo.lock against `deny.toml`.
pub(crate) fn run() -> Result<()> {
    // Packages that no build of this system needs are in the lock file, too.
    // cargo-deny reads all of them.
    if let Err(error) = shell::run(&root(), &cargo(), &["fetch", "--locked", "--quiet"]) {
        println!("cannot fetch the packages: {error:#}");
    }
    let mut arguments = vec!["deny", "--offline", "--log-level", "error", "check"];
    arguments.extend(["bans", "licenses", "sources"]);
    // The database comes from the network: it is used if somebody has fetched
    // it (`cargo deny fetch`).
    arguments.extend(has_advisories().then_some("advisories"));
    shell::run(&root(), &cargo(), &arguments)
}

fn has_advisories() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let databases = home.and_then(|home| std::fs::read_dir(home.join("advisory-dbs")).ok());
    // A failed download leaves the directory, and a file in it.
    databases.is_some_and(|all| all.flatten().any(|entry| entry.path().is_dir()))
}
