//! The npm projects of the repository: finding them, and installing exactly
//! what their lock files name.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::shell::{self, files, root};

/// Returns the directories that contain a package-lock.json.
pub(crate) fn projects() -> Result<Vec<PathBuf>> {
    let locks = files()?.into_iter().filter(|path| path.ends_with("package-lock.json"));
    Ok(locks.filter_map(|path| path.parent().map(|dir| root().join(dir))).collect())
}

/// Installs exactly the packages of the lock file, unless they are installed.
pub(crate) fn install(dir: &Path) -> Result<()> {
    let lock = std::fs::read(dir.join("package-lock.json"))
        .with_context(|| format!("cannot read the lock file in {}", dir.display()))?;
    let stamp = dir.join("node_modules/.installed-lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    shell::run(dir, "npm", &["ci", "--no-audit", "--no-fund"])?;
    std::fs::write(&stamp, lock).with_context(|| format!("cannot write {}", stamp.display()))
}
