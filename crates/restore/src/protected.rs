//! Directories that no restore changes.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use types::RelPath;

/// Returns the protected directories below a target, as paths below it. `resolved` is the
/// target, or the part of it that exists, without symbolic links. The error is the protected
/// directory in which the target is.
pub(crate) fn protected_below(
    target: &Path,
    resolved: &Path,
    protected: &[PathBuf],
) -> Result<Vec<RelPath>, PathBuf> {
    let mut below = Vec::new();
    let mut add = |inner: Result<&Path, _>| {
        let inner = inner.ok().and_then(|dir| RelPath::new(dir.as_os_str().as_bytes()).ok());
        below.extend(inner);
    };
    for dir in protected {
        // A symbolic link that leads to the directory is protected, too.
        add(dir.strip_prefix(target));
        // A directory that does not exist has nothing to protect.
        let Ok(dir) = dir.canonicalize() else { continue };
        if resolved.starts_with(&dir) {
            return Err(dir);
        }
        add(dir.strip_prefix(resolved));
    }
    Ok(below)
}
