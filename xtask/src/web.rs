//! The web UI: built before the program, which takes it in, and tested in a
//! real browser.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::shell::{self, root};
use crate::test::install_npm;

fn web() -> PathBuf {
    root().join("web")
}

/// Builds the web UI, and then the program with it in it.
pub(crate) fn build(is_release: bool) -> Result<()> {
    build_ui()?;
    let mut arguments = vec!["build", "--package", "cli"];
    arguments.extend(is_release.then_some("--release"));
    shell::run(&root(), &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), &arguments)
}

/// Installs what the UI is made of, and builds it.
pub(crate) fn build_ui() -> Result<()> {
    install_npm(&web())?;
    npm(&["run", "build"])
}

/// Checks the UI without building it: its types are those of the API (the
/// tree is not written to), it keeps them, and its unit tests pass.
pub(crate) fn check() -> Result<()> {
    npm(&["run", "api", "--", "--check"])
        .context("web/src/api/schema.ts is not made of openapi.json: `npm run api` in web")?;
    npm(&["run", "check"])?;
    npm(&["run", "test"])
}

/// The story in a real browser, on two instances of the program as it is built.
pub(crate) fn browser_tests() -> Result<()> {
    npm(&["run", "e2e"])
}

/// The browser of the tests: `CHROMIUM`, or Debian's.
pub(crate) fn browser() -> PathBuf {
    std::env::var_os("CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from)
}

/// Whether that browser is there.
pub(crate) fn has_browser() -> bool {
    Path::is_file(&browser())
}

fn npm(arguments: &[&str]) -> Result<()> {
    shell::run(&web(), "npm", arguments)
}
