//! `cargo xtask build`: the web UI, and then the program that embeds it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::shell::{self, cargo, root, target};
use crate::web;

/// Maximum size of the program in the `dist` profile, in bytes.
const DIST_LEN_MAX: u64 = 45_000_000;

/// The profile of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build.
    Dev,
    /// Optimised, with line tables in the program.
    Release,
    /// Optimised for installation: the debug information is in a file of its
    /// own beside the program.
    Dist,
}

/// Builds the web UI and the program.
pub(crate) fn run(profile: Profile) -> Result<()> {
    web::build_ui()?;
    let mut arguments = vec!["build", "--package", "cli"];
    match profile {
        Profile::Dev => {}
        Profile::Release => arguments.push("--release"),
        Profile::Dist => arguments.extend(["--profile", "dist"]),
    }
    shell::run(&root(), &cargo(), &arguments)?;
    if profile == Profile::Dist { split_debug_information(&target().join("dist")) } else { Ok(()) }
}

/// Moves the debug information of the program into `archivist.debug` beside it.
/// The program names that file (GNU debug link), so that debuggers and its own
/// backtraces find the lines as long as both are in one directory.
fn split_debug_information(dir: &Path) -> Result<()> {
    // The file that cargo built stays as it is: stripping it would make the
    // next build link it again.
    let built = dir.join("archivist");
    let dir = dir.join("install");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let objcopy = |arguments: &[&str]| shell::run(&dir, "objcopy", arguments);
    let built = built.to_str().context("the path of the target directory is not UTF-8")?;
    objcopy(&["--only-keep-debug", built, "archivist.debug"])?;
    // The link is a checksum and a name, which is taken relative to `dir`.
    objcopy(&["--strip-debug", "--add-gnu-debuglink=archivist.debug", built, "archivist"])?;
    let program = dir.join("archivist");
    let len =
        program.metadata().with_context(|| format!("cannot read {}", program.display()))?.len();
    ensure!(
        len <= DIST_LEN_MAX,
        "{} has {len} bytes; the limit is {DIST_LEN_MAX}",
        program.display()
    );
    println!("{}: {:.1} MB", program.display(), len as f64 / 1e6);
    Ok(())
}
