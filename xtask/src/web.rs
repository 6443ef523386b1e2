//! The web UI: built before the program, which embeds it, and tested in a real
//! browser.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::npm as packages;
use crate::shell::{self, root};

fn web() -> PathBuf {
    root().join("web")
}

/// Installs the packages of the UI and builds it into `web/dist`.
pub(crate) fn build_ui() -> Result<()> {
    packages::install(&web())?;
    npm(&["run", "build"])
}

/// Checks the UI without building it: `schema.ts` is what `openapi.json`
/// generates, the sources pass the type check and the lints, and the unit tests
/// pass. Writes nothing into the tree.
pub(crate) fn check() -> Result<()> {
    npm(&["run", "api", "--", "--check"])
        .context("web/src/api/schema.ts does not match openapi.json; run `npm run api` in web")?;
    npm(&["run", "check"])?;
    npm(&["run", "test"])
}

/// Runs the browser tests on two instances of the debug build.
pub(crate) fn browser_tests() -> Result<()> {
    npm(&["run", "e2e"])
}

/// Returns the path of the browser for the tests: `CHROMIUM`, or Debian's.
pub(crate) fn browser() -> PathBuf {
    std::env::var_os("CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from)
}

/// Returns true if that browser exists.
pub(crate) fn has_browser() -> bool {
    Path::is_file(&browser())
}

fn npm(arguments: &[&str]) -> Result<()> {
    shell::run(&web(), "npm", arguments)
}
